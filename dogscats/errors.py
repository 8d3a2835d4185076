"""What a user did wrong, said in one message instead of a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

from hydra.errors import InstantiationException
from omegaconf.errors import OmegaConfBaseException


class UserError(Exception):
    """A mistake in the input: its message names the file or the key, and says what to do next."""


@contextmanager
def user_errors_exit() -> Iterator[None]:
    """Turn a user's mistake into one message on stderr and exit code 1.

    Raises:
        SystemExit: in place of a `UserError` (also one that `hydra.utils.instantiate` wrapped) and of
            OmegaConf's own errors, which name the key.
    """
    try:
        yield
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
    except OmegaConfBaseException as error:
        raise SystemExit(f"error: {error}") from error
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError | OmegaConfBaseException):
            raise SystemExit(f"error: {error.__cause__}") from error
        raise
