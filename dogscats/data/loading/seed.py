"""Seeds derived from a key."""

import hashlib


def stable_seed(*key: object) -> int:
    """Hash `key` to a 63-bit seed that is the same in every process and on every machine."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
