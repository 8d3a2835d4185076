"""Builders that record their arguments in the config of the built object, and the rebuilding of such an object."""

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar

import dogscats
from dogscats.base.errors import UserError
from dogscats.base.trust import build, needs_trust


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


def rebuild(kind: type[T], config: Mapping[str, Any], source: str | Path, trust: bool = False) -> T:
    """Build an object again, with random weights, from the config recorded in a checkpoint.

    Args:
        kind: class of the object, such as `Backbone`.
        config: plain containers with a `_target_`.
        source: file name for the error message.
        trust: allow any target.

    Raises:
        UserError: if the target is missing, needs trust, or gives something else.
    """
    if source == "checkpoint" and not trust and needs_trust(config):  # Classifier.load_from_checkpoint
        raise UserError(
            f"{source}: it names {', '.join(needs_trust(config))}; give the model itself: model=<{kind.__name__}>."
        )
    if not isinstance(config, Mapping) or "_target_" not in config:
        raise UserError(f"{source}: it has no model config; give the model itself: model=<{kind.__name__}>.")
    random_weights = {"weights": "none"} if "weights" in config else {}
    built = build(config, source, trust, **random_weights)
    if not isinstance(built, kind):
        raise UserError(f"{source}: {config['_target_']} gives a {type(built).__name__}, not a {kind.__name__}.")
    built.config = dict(config)
    return built
