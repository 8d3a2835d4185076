"""User errors, reported as one message instead of a traceback."""

import errno
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from omegaconf.errors import OmegaConfBaseException


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


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its class name if the text is empty."""
    return str(error).strip().split("\n")[0] or type(error).__name__


def user_message(error: BaseException) -> str | None:
    """Return the message if `error` is a user error, else `None`.

    User errors are: `UserError`, also if wrapped by `hydra.utils.instantiate`; errors raised while a `_target_` is
    built; configuration errors of OmegaConf and Lightning; and a full disk.
    """
    if isinstance(error, InstantiationException):
        cause = error.__cause__
        if cause is not None and user_message(cause):
            return user_message(cause)
        lines = [line for line in str(error).splitlines() if line.strip()]
        key = next((line.removeprefix("full_key: ") for line in lines if line.startswith("full_key: ")), "")
        text = " ".join(line for line in lines if not line.startswith("full_key: "))
        if cause is not None and text.startswith("Error locating target"):
            text = f"{text.split(',')[0]}: {' '.join(str(cause).split())}"
        return f"{key}: {text}" if key else text
    if isinstance(error, ArgumentError):
        return f"{error.group}.{error}" if error.group else str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        run_dir = HydraConfig.get().runtime.output_dir if HydraConfig.initialized() else "file"
        where = error.filename or run_dir
        return f"{where}: it cannot be written ({error.strerror}). Free some space, or choose another folder."
    if isinstance(error, UserError | OmegaConfBaseException | HydraException):
        return str(error)
    # Compared by name, to avoid importing Lightning where it is not needed.
    kinds = ValueError | TypeError | RuntimeError | ImportError | AttributeError
    if type(error).__name__ == "MisconfigurationException" or (
        isinstance(error, kinds) and _raised_in_lightning(error)
    ):
        return f"Lightning: {first_line(error)} (HYDRA_FULL_ERROR=1 shows where.)"
    return None


def _raised_in_lightning(error: BaseException) -> bool:
    """Return whether Lightning itself raised the error, as it does for invalid settings."""
    frames = traceback.extract_tb(error.__traceback__)
    parts = Path(frames[-1].filename).parts if frames else ()
    return "pytorch_lightning" in parts or "lightning_fabric" in parts


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
        if message is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        raise SystemExit(f"error: {message}") from error
