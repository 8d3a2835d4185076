"""User errors, reported as one message instead of a traceback."""

import errno
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from dogscats.base.text import setting, shown, shown_lines

log = logging.getLogger(__name__)

USERS_FULL_ERROR = "DOGSCATS_HYDRA_FULL_ERROR"
"""Environment variable with the user's own HYDRA_FULL_ERROR, while `hydra_errors_exit` sets another."""

LIBRARIES = {"pytorch_lightning": "Lightning", "lightning_fabric": "Lightning", "hydra": "Hydra", "omegaconf": "Hydra"}
"""Packages whose own errors are about settings, and their names."""

DISK_FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
"""Error numbers of a full disk."""

FILE_UNUSABLE = {
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE),
    *(errno.EMFILE, errno.ENFILE, errno.ENOTDIR, errno.EISDIR),
}
"""Error numbers of other causes outside the program."""


class UserError(ValueError):
    """A user error: the message names the file or key, says what is wrong, and what to do next."""


class ArgumentError(UserError):
    """A bad argument of a class or function that a config group builds.

    Args:
        group: config group of the class or function.
        message: message that starts with `<argument>=<value>: `. The command line adds the group, `data.size=0: ...`;
            Python shows it unchanged, `size=0: ...`.
    """

    def __init__(self, group: str, message: str):
        super().__init__(message)
        self.group = group

    def __reduce__(self) -> tuple[type["ArgumentError"], tuple[str, str]]:
        return ArgumentError, (self.group, str(self))  # picklable, to cross process boundaries


class Failure(UserError):
    """A failure that settings did not cause, such as a full disk: the run can be resumed."""


class Diverged(UserError):
    """A stage whose loss is no longer a finite number."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its class name if the text is empty."""
    return str(error).strip().split("\n")[0] or type(error).__name__


@contextmanager
def as_user_error(
    subject: object,
    what: str = "",
    advice: str = "",
    errors: type[Exception] | tuple[type[Exception], ...] = Exception,
    raises: Callable[[str], BaseException] = UserError,
) -> Iterator[None]:
    """Turn any error in the block into `<subject>: <what> (<reason>). <advice>`; user errors pass unchanged.

    A damaged file, for example, can raise almost anything:

        with as_user_error(path, "it is damaged", "Remove it, or restore it."):
            return json.loads(path.read_text())

    Args:
        subject: file or setting.
        what: what is wrong, without the reason, which is the first line of the error; if empty, the message is
            `<subject>: <text of the error>`.
        advice: what to do next.
        errors: errors to turn; others pass unchanged.
        raises: class of the new error, or a function that makes it from the message.

    Raises:
        UserError: or what `raises` makes.
    """
    try:
        yield
    except UserError:
        raise
    except errors as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        message = f"{what} ({reason}). {advice}" if what else " ".join(str(error).split()) or reason
        raise raises(f"{subject}: {message}".rstrip()) from error


def user_message(error: BaseException) -> str | None:
    """Return the message if `error` is a user error, else `None`.

    User errors are: `UserError`, also if wrapped by `hydra.utils.instantiate`; errors raised while a `_target_` is
    built; configuration errors of OmegaConf and Lightning; a full disk, a file that cannot be used, a dead worker, and
    exhausted memory.
    """
    if isinstance(error, InstantiationException):
        cause = error.__cause__
        if cause is not None and _raised_in(cause) != "Hydra" and user_message(cause):
            return user_message(cause)
        lines = [line for line in str(error).splitlines() if line.strip()]
        key = next((line.removeprefix("full_key: ") for line in lines if line.startswith("full_key: ")), "")
        text = " ".join(line for line in lines if not line.startswith("full_key: "))
        if cause is not None and text.startswith("Error locating target"):
            text = f"{text.split(',')[0]}: {' '.join(str(cause).split())}"
        return f"{key}: {text}" if key else text
    if isinstance(error, ArgumentError):
        return f"{error.group}.{error}" if error.group else str(error)
    if isinstance(error, OSError) and error.errno in DISK_FULL | FILE_UNUSABLE:
        run_dir = HydraConfig.get().runtime.output_dir if HydraConfig.initialized() else "file"
        full = error.errno in DISK_FULL
        what, advice = ("written", "Free some space") if full else ("used", "Fix it")
        return (
            f"{error.filename or run_dir}: it cannot be {what} ({error.strerror}). {advice}, or choose another folder."
        )
    if isinstance(error, MemoryError) or re.search("out of memory|can't allocate memory|bad alloc", str(error)):
        return (
            f"Not enough memory ({first_line(error)}). Set a smaller data.batch_size, fewer data.num_workers, or a "
            "smaller data.size."
        )
    if re.search("shared memory|bus error|/torch_[0-9]+", str(error)) and "worker" in str(error):
        return (
            "A worker process had no room for its photos in /dev/shm, the shared memory. Set fewer data.num_workers (0 "
            "needs none) or a smaller data.batch_size, or enlarge it: docker run --shm-size=2g."
        )
    if died := re.search(r"DataLoader worker \(pid.*", str(error)):
        return (
            f"A worker process that decodes photos died: {died[0]} If it was killed for lack of memory, set fewer "
            "data.num_workers (0 needs none) or a smaller data.batch_size."
        )
    if isinstance(error, OverrideParseException):
        key, _, value = error.override.partition("=")
        return (
            f"{error.override}: Hydra cannot read this argument. Text with characters other than letters, digits and "
            f"/-_. is quoted for Hydra, and once more for the shell: {setting(key, value)}"
        )
    if type(error).__name__ == "TerminatedWorkerError":  # of joblib
        return "The process of a job was killed, perhaps for lack of memory. Set fewer hydra.launcher.n_jobs."
    if isinstance(error, MissingConfigException):
        return " ".join(str(error).partition("Config search path")[0].split())
    if isinstance(error, UserError | OmegaConfBaseException | HydraException):
        return str(error)
    # Compared by name, to avoid importing Lightning where it is not needed.
    kinds = ValueError | TypeError | RuntimeError | ImportError | AttributeError | OverflowError
    library = _raised_in(error)
    if type(error).__name__ == "MisconfigurationException" or (isinstance(error, kinds) and library == "Lightning"):
        return f"Lightning: {first_line(error)} (HYDRA_FULL_ERROR=1 shows where.)"
    if isinstance(error, kinds) and library == "Hydra":
        groups = [argument for argument in sys.argv[1:] if "." not in argument.partition("=")[0]]
        hint = f" Is it one of {', '.join(groups)}?" if "group" in str(error) else ""
        return f"Hydra: {' '.join(str(error).split())}.{hint} (HYDRA_FULL_ERROR=1 shows where.)"
    return None


def is_mistake(error: BaseException) -> bool:
    """Return whether an error is about the settings or photos of a command, which a corrected one avoids."""
    built = isinstance(error, InstantiationException) and error.__cause__ is not None
    cause = (built and error.__cause__) or error
    if isinstance(cause, Failure | OSError | MemoryError) or not isinstance(cause, Exception):
        return False
    of_settings = isinstance(cause, UserError | HydraException | OmegaConfBaseException)
    return built or of_settings or (user_message(cause) or "").startswith("Lightning: ")


@contextmanager
def optional(what: str, done: str = "drawn") -> Iterator[None]:
    """Warn in the log if a figure or file cannot be made, instead of failing."""
    try:
        yield
    except Exception as error:  # a user's own function can raise anything
        log.warning("%s could not be %s: %s", what, done, shown(user_message(error) or repr(error)))
        log.debug("", exc_info=True)


def _raised_in(error: BaseException) -> str | None:
    """Return the library that itself raised the error, as it does for invalid settings."""
    frames = traceback.extract_tb(error.__traceback__)
    parts = Path(frames[-1].filename).parts if frames else ()
    return next((LIBRARIES[part] for part in parts if part in LIBRARIES), None)


@contextmanager
def user_errors_exit() -> Iterator[None]:
    """Turn a user error into one message on stderr and exit code 1. `HYDRA_FULL_ERROR=1` shows the traceback.

    Raises:
        SystemExit: instead of the user error.
    """
    try:
        yield
    except Exception as error:
        message = user_message(error)
        if message is None or os.environ.get(USERS_FULL_ERROR, os.environ.get("HYDRA_FULL_ERROR")) == "1":
            raise
        raise SystemExit(f"error: {shown_lines(message)}") from error


@contextmanager
def hydra_errors_exit() -> Iterator[None]:
    """Like `user_errors_exit`, also for errors of Hydra itself, which prints them with hints for programmers."""
    before = os.environ.get("HYDRA_FULL_ERROR", "")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra passes errors on
    os.environ[USERS_FULL_ERROR] = before
    try:
        with user_errors_exit():
            yield
    finally:
        os.environ["HYDRA_FULL_ERROR"] = before
        del os.environ[USERS_FULL_ERROR]
