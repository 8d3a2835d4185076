"""Functions that record how they were called, so that a checkpoint can call them again."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar

import dogscats


class Recorded(Protocol):
    """Anything with a config."""

    config: dict[str, Any] | None


P = ParamSpec("P")
T = TypeVar("T", bound=Recorded)


def records_config(builder: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function that builds a Backbone to record its name and arguments in `Backbone.config`."""

    @functools.wraps(builder)
    def build(*args: P.args, **kwargs: P.kwargs) -> T:
        backbone = builder(*args, **kwargs)
        bound = inspect.signature(builder).bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = {
            key: value if value is None or isinstance(value, int) else str(value)
            for key, value in bound.arguments.items()
        }
        module = "dogscats" if hasattr(dogscats, builder.__qualname__) else builder.__module__
        backbone.config = {"_target_": f"{module}.{builder.__qualname__}", **arguments}
        return backbone

    return build
