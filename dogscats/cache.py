"""Where derived data is kept, and what it was derived from."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path


def cache_folder(root: Path, configured: str | None = None) -> Path:
    """Choose the folder for data derived from the photos in `root`, and create it.

    This is `configured`, or else the lesson's `<root>/tmp`, or else, where `root` is read-only, a folder in
    the user's cache named after it. A folder without any write permission was meant to stay as it is:
    not even root's processes write to it.
    """
    if configured:
        folder = Path(configured).expanduser()
    elif os.access(root, os.W_OK) and root.stat().st_mode & 0o222:
        folder = root / "tmp"
    else:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        name = f"{root.name}-{hashlib.blake2b(bytes(root.resolve()), digest_size=4).hexdigest()}"
        folder = home / "dogscats" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def fingerprint(root: Path, paths: Iterable[str]) -> str:
    """Hash the relative paths, sizes in bytes and modification times in ns of files: 32 hex digits.

    A file that is not there, at the end of a broken link, has neither.
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
