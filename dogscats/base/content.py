"""Hashes of files and keys, and the cache folder for results that they name.

Fingerprints of files include samples of their content, so a photo that replaces another is noticed. Unchanged files are
read only once.
"""

import hashlib
import os
import stat
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path

from dogscats.base.errors import Failure, as_user_error
from dogscats.base.files import atomic_path

SAMPLE = 4096
"""Bytes of each sample of a file: a page, the least that a disk reads."""

RECENT = 2_000_000_000
"""Nanoseconds for which a change is recent: another one may get the same time, as times are coarse. A file that has
just changed is read every time."""

KEY = struct.Struct("<Qqqq")
"""Inode, size in bytes, modification time and change time in ns: they name a version of a file's content."""

RECORD = KEY.size + 8
"""Bytes of what is remembered of a version: its key, and a hash of its samples."""

GROUP = 1000
"""Number of files whose lines are hashed at once."""

MOST_OTHERS = 10
"""How many times as many records of other files are kept as of the files of this process."""

_known: dict[bytes, bytes] = {}
_others: dict[bytes, bytes] = {}
_loaded: set[Path] = set()


def users_cache() -> Path:
    """Return the folder of this project in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dogscats"


def cache_folder(root: Path, configured: str | None = None, trains: bool = True, of_run: Path | None = None) -> Path:
    """Choose and create the folder for data derived from the photos in `root`.

    In order:

    - `configured`
    - for a training: `<root>/tmp`, as in the lesson, unless `root` is read-only; the user's cache
    - for any other command, which leaves the photos' folder as it was: `of_run`, if it can be written; the user's
      cache; `<root>/tmp`, if that cannot be written

    A folder without any write permission counts as read-only even for the root user.

    Args:
        root: folder of the photos.
        configured: `activations.dir`.
        trains: whether the command trains on the photos.
        of_run: cache folder of the run that is used.

    Raises:
        UserError: if the folder cannot be created.
    """
    key = hashlib.blake2b(bytes(root.resolve()), digest_size=4).hexdigest()
    beside, users = root / "tmp", users_cache() / f"{root.resolve().name}-{key}"
    if configured:
        choices = [Path(configured).expanduser()]
    elif trains:
        choices = [beside if _writable(root) else users]
    else:
        choices = [*([of_run] if of_run else []), users, beside]
    *preferred, last = choices
    for folder in preferred:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if _writable(folder):
                return folder
    advice = "Choose another one with activations.dir=<folder>."
    with as_user_error(last, "the cache folder cannot be created", advice, OSError):
        last.mkdir(parents=True, exist_ok=True)
    return last


def _writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK) and bool(folder.stat().st_mode & 0o222)


def stable_seed(*key: object) -> int:
    """Hash `key` to a 63-bit seed that is the same in every process and on every machine."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def fingerprint(root: Path, paths: Iterable[str]) -> str:
    """Hash relative paths, sizes in bytes, modification times in ns and samples of the content: 32 hex digits.

    For a missing file, such as the target of a broken link, only the path counts.
    """
    digest, paths = hashlib.blake2b(digest_size=16), list(paths)
    for start in range(0, len(paths), GROUP):
        group = paths[start : start + GROUP]
        lines = (
            f"{path}\0{version[0]}\0{version[1]}\0{version[2]}\n" if version else f"{path}\0\n"
            for path, version in zip(group, file_versions(root, group), strict=True)
        )
        digest.update("".join(lines).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def file_versions(root: Path, paths: Iterable[str]) -> Iterator[tuple[int, int, str] | None]:
    """Yield the modification time of each file in ns, its size in bytes, and a hash of three samples of its content.

    The samples are those of an earlier time if since then neither the inode of the file changed, nor its size, nor the
    time of the last change of content or permissions, which no program can set.

    Args:
        root: folder that `paths` are relative to.
        paths: paths of the files, or absolute ones.

    Yields:
        `None` for a file that cannot be read, such as the target of a broken link.
    """
    folder = os.path.join(root, "")  # noqa: PTH118  # a Path for each file would take most of the time
    for path in paths:
        try:
            yield _version(path if path.startswith("/") else folder + path)
        except OSError:
            yield None


def _version(file: str) -> tuple[int, int, str]:
    status = os.stat(file)  # noqa: PTH116
    size, modified, changed = status.st_size, status.st_mtime_ns, status.st_ctime_ns
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
        return modified, size, ""
    key = KEY.pack(status.st_ino, size, modified, changed)
    sample = _known.get(key)
    if sample is None:
        sample = _others.pop(key, None) or _sampled(file, size)
        if time.time_ns() - max(modified, changed) > RECENT:
            _known[key] = sample
    return modified, size, sample.hex()


def _sampled(file: str, size: int) -> bytes:
    """Hash the start, middle and end of a file."""
    digest = hashlib.blake2b(digest_size=8)
    if not size:
        return digest.digest()
    descriptor = os.open(file, os.O_RDONLY)
    try:
        for start in sorted({0, max(size // 2 - SAMPLE // 2, 0), max(size - SAMPLE, 0)}):
            digest.update(os.pread(descriptor, SAMPLE, start))
    finally:
        os.close(descriptor)
    return digest.digest()


def load_samples(file: Path) -> None:
    """Read the samples that earlier processes have taken; a damaged file is removed."""
    if file in _loaded:
        return
    _loaded.add(file)
    with suppress(OSError):
        content = file.read_bytes() if file.is_file() else b""
        if content[:16] != hashlib.blake2b(content[16:], digest_size=16).digest():
            file.unlink()
            return
        records = (content[start : start + RECORD] for start in range(16, len(content), RECORD))
        _others.update({record[: KEY.size]: record[KEY.size :] for record in records})


def save_samples(file: Path) -> None:
    """Write the samples for later processes if there are new ones; not in a read-only folder."""
    others = _others if len(_others) <= MOST_OTHERS * len(_known) else {}
    content = b"".join(chain.from_iterable(chain(others.items(), _known.items())))
    if file.is_file() and file.stat().st_size == 16 + len(content):
        return
    with suppress(Failure), atomic_path(file) as temporary:
        temporary.write_bytes(hashlib.blake2b(content, digest_size=16).digest() + content)
