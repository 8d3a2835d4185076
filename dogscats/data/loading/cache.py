"""Cache folder, file fingerprints and checked arrays, for data derived from photos."""

import hashlib
import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from dogscats.base.content import file_versions
from dogscats.base.errors import UserError
from dogscats.base.files import digest, read_json, write_json

LINES = 1000
"""Files whose lines are hashed at once."""

PART = 1 << 20
"""Bytes of an array that are verified at once: a whole number of values, and little enough for the CPU's cache."""

_blake2b = partial(hashlib.blake2b, digest_size=16)


def cache_folder(root: Path, configured: str | None = None) -> Path:
    """Choose and create the folder for data derived from the photos in `root`.

    In order: `configured`; `<root>/tmp`, as in the lesson; if `root` is read-only, a folder in the user's cache, named
    after `root`. A folder without any write permission counts as read-only even for the root user.

    Raises:
        UserError: if the folder cannot be created.
    """
    if configured:
        folder = Path(configured).expanduser()
    elif os.access(root, os.W_OK) and root.stat().st_mode & 0o222:
        folder = root / "tmp"
    else:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        name = f"{root.name}-{hashlib.blake2b(bytes(root.resolve()), digest_size=4).hexdigest()}"
        folder = home / "dogscats" / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: the cache folder cannot be created ({error.strerror}). Choose another one with "
            "activations.dir=<folder>."
        ) from error
    return folder


def fingerprint(root: Path, paths: Iterable[str]) -> str:
    """Hash relative paths, sizes in bytes, modification times in ns and samples of the content: 32 hex digits.

    For a missing file, such as the target of a broken link, only the path counts.
    """
    digest, paths = _blake2b(), list(paths)
    for start in range(0, len(paths), LINES):
        group = paths[start : start + LINES]
        lines = (
            f"{path}\0{version[0]}\0{version[1]}\0{version[2]}\n" if version else f"{path}\0\n"
            for path, version in zip(group, file_versions(root, group), strict=True)
        )
        digest.update("".join(lines).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def seal_array(file: Path) -> None:
    """Write the checksum of an array, `<file>.json`; without it, `read_array` does not use the array."""
    write_json(file.with_suffix(".json"), {"sha256": digest(file)})


def read_array(file: Path, shape: tuple[int, ...]) -> torch.Tensor | None:
    """Memory-map a float32 array; `None` if it is missing, fails its checksum, or is not what is expected."""
    try:
        expected: dict[str, str] = read_json(file.with_suffix(".json"))
        if not file.is_file():
            return None
        # Copy-on-write: torch requires writable memory, but the file must not change.
        array = np.load(file, mmap_mode="c")
        good = array.shape == shape and array.dtype == np.float32 and _is_whole(file, array.offset, expected)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, EOFError):
        return None
    return torch.from_numpy(array) if good else None


def _is_whole(file: Path, offset: int, expected: dict[str, str]) -> bool:
    """Return whether the checksum holds and all values are finite. A part at a time is in memory."""
    # SHA-256, for which CPUs have instructions, is twice as fast as BLAKE2b, the checksum of older versions.
    kind = "sha256" if "sha256" in expected else "blake2b"
    checksum, finite = hashlib.sha256() if kind == "sha256" else _blake2b(), True
    with file.open("rb") as content:
        checksum.update(content.read(offset))
        while part := content.read(PART):
            checksum.update(part)
            finite = finite and bool(np.isfinite(np.frombuffer(part, np.float32)).all())
    return finite and checksum.hexdigest() == expected[kind]
