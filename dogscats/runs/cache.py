"""Cache folder and file fingerprints for data derived from photos."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from dogscats.runs.errors import UserError


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
    """Hash relative paths, sizes in bytes and modification times in ns: 32 hex digits.

    For a missing file, such as the target of a broken link, only the path counts.
    """
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        try:
            status = (root / path).stat()
            version = f"{status.st_size}\0{status.st_mtime_ns}"
        except OSError:
            version = ""
        digest.update(f"{path}\0{version}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
