"""Files that are either whole or absent."""

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dogscats.errors import UserError

CANNOT_WRITE = {
    getattr(errno, name)
    for name in ("ENOSPC", "EFBIG", "EDQUOT", "EROFS", "EACCES", "EPERM", "EIO", "ENOTDIR")
    if hasattr(errno, name)
}
"""What the system says when a file cannot be written, whoever asks."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; put it in place of `path` once the block has succeeded.

    The file is flushed to the disk before it is renamed, so that not even a power cut leaves half of it
    under the final name. If the block raises, `path` is as it was and the temporary file is removed.
    The temporary name keeps the suffix, by which matplotlib and others choose a format.

    Raises:
        UserError: if the disk is full or not writable.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno in CANNOT_WRITE:
            raise cannot_write(path, error.strerror) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path, name: str = "*") -> None:
    """Remove what a killed process has left of files in `folder` named `name`."""
    for file in folder.glob(f".{name}.*.part*"):
        file.unlink(missing_ok=True)


def cannot_write(path: Path | str, reason: str | None) -> UserError:
    """Make the error for a file that cannot be written."""
    return UserError(f"{path}: it cannot be written ({reason}). Free some space, or choose another folder.")
