"""Operations without a deterministic implementation, as some networks have on a GPU; see `trainer.deterministic`."""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dogscats.base.errors import UserError

log = logging.getLogger(__name__)

NONDETERMINISTIC = re.compile(r"(\S+) does not have a deterministic implementation")
"""What PyTorch's warning and error start with."""


@contextmanager
def nondeterminism_named() -> Iterator[None]:
    """Log each such operation once with `trainer.deterministic=warn`; refuse it with `true`.

    Python's own filters cannot do this: any change of them, as by `warnings.catch_warnings`, shows a warning again.

    Raises:
        UserError: instead of PyTorch's RuntimeError.
    """
    show, named = warnings.showwarning, set()

    def show_once(message: Warning | str, *arguments: Any, **options: Any) -> None:
        found = NONDETERMINISTIC.match(str(message))
        if found is None:
            show(message, *arguments, **options)
        elif found[1] not in named:
            named.add(found[1])
            log.warning(
                "Warning   %s has no deterministic implementation on this device: equal runs may differ slightly",
                found[1],
            )

    warnings.showwarning = show_once
    try:
        yield
    except RuntimeError as error:
        found = NONDETERMINISTIC.match(str(error))
        if found is None:
            raise
        raise UserError(
            f"trainer.deterministic=true: {found[1]} has no deterministic implementation on this device. Set "
            "trainer.deterministic=warn; equal runs may then differ slightly."
        ) from error
    finally:
        warnings.showwarning = show
