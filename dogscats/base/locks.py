"""Locks between processes."""

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from dogscats.base.errors import UserError

log = logging.getLogger(__name__)

UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
"""Error numbers of file systems without locks, such as some network file systems."""

SECONDS_BEFORE_NOTICE = 3.0
"""Seconds after which a process that waits for a lock says so."""


@contextmanager
def locked(file: Path, what: str, timeout: float = -1) -> Iterator[None]:
    """Hold a lock, which ends with the process that holds it.

    Waits for another process that holds it, and says so. Without locks on the file system, or if it is read-only, the
    block runs without the lock: all files are written atomically, so at worst work is done twice.

    Args:
        file: lock file.
        what: name of the locked folder or file, for the message.
        timeout: seconds to wait; -1 for as long as it takes.

    Raises:
        UserError: if another process still holds the lock.
    """
    lock = FileLock(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=SECONDS_BEFORE_NOTICE if timeout < 0 else min(SECONDS_BEFORE_NOTICE, timeout))
        except Timeout:
            log.info("Waiting for another process, which uses %s", what)
            lock.acquire(timeout=timeout)
    except NotImplementedError:  # filelock 3.12 raises this for ENOSYS
        log.warning("%s cannot be locked: its file system has no locks. Do not use it from several processes.", what)
    except Timeout as error:
        raise UserError(f"{what}: another process is working on it. Wait until it ends, or stop it.") from error
    except OSError as error:
        if error.errno not in UNSUPPORTED | {errno.EROFS, errno.EACCES, errno.EPERM}:
            raise
        if error.errno in UNSUPPORTED:
            log.warning("%s cannot be locked (%s). Do not use it from several processes.", what, error.strerror)
    try:
        yield
    finally:
        lock.release()
