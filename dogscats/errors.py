"""What a user did wrong, said in one message instead of a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

from hydra.errors import InstantiationException
from omegaconf.errors import OmegaConfBaseException


class UserError(Exception):
    """A mistake in the input: its message names the file or the key, and says what to do next."""


def user_message(error: BaseException) -> str | None:
    """The message for the user, if `error` is a user's mistake.

    That is a `UserError`, also one that `hydra.utils.instantiate` wrapped, or one of OmegaConf's own errors,
    which name the key.
    """
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    return str(error) if isinstance(error, UserError | OmegaConfBaseException) else None


@contextmanager
def user_errors_exit() -> Iterator[None]:
    """Turn a user's mistake into one message on stderr and exit code 1.

    Raises:
        SystemExit: in place of the user's mistake.
    """
    try:
        yield
    except Exception as error:
        message = user_message(error)
        if message is None:
            raise
        raise SystemExit(f"error: {message}") from error
