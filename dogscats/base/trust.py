"""Trust: a loaded config may build only the targets listed below, unless the user trusts it.

A run directory or checkpoint from someone else contains a config, and a config names functions to call:
`_target_: torch.hub.load` would run their code. Therefore each `_target_` of a loaded config, at any depth, must equal
an entry of an allowlist before anything is built. Interpolations, such as `${oc.env:PASSWORD}`, are never resolved.
Targets that users name on the command line or in their own config files need no trust.

A builder of backbones records its arguments in the config of what it builds, so that a checkpoint rebuilds it.
"""

import functools
import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar

import yaml  # type: ignore[import-untyped]
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

import dogscats
from dogscats.base.errors import UserError, as_user_error

T = TypeVar("T")

TRUSTED = frozenset(
    {
        *("dogscats.DogsCatsDataModule", "dogscats.SampleDataModule"),
        *("dogscats.crops", "dogscats.none", "dogscats.side_on", "dogscats.top_down"),
        *("dogscats.efficientnet_lite0", "dogscats.efficientnet_lite1", "dogscats.efficientnet_lite2"),
        *("dogscats.resnet34", "dogscats.timm_backbone", "dogscats.Members"),
        *("dogscats.History", "dogscats.LRFinder", "dogscats.LRTrace", "dogscats.SGDR", "dogscats.TTA"),
        *("dogscats.Pictures", "dogscats.Report"),
        "pytorch_lightning.Trainer",
        "pytorch_lightning.callbacks.EMAWeightAveraging",
        "pytorch_lightning.callbacks.EarlyStopping",
        "pytorch_lightning.callbacks.LearningRateMonitor",
        "pytorch_lightning.callbacks.WeightAveraging",
        "pytorch_lightning.loggers.CSVLogger",
        "pytorch_lightning.loggers.TensorBoardLogger",
        "pytorch_lightning.plugins.MixedPrecision",
        "torch.amp.GradScaler",
        "torch.optim.swa_utils.get_ema_avg_fn",
    }
)
"""Allowlist for loaded configs: these targets neither run code chosen by the config nor send data elsewhere."""

MOVED_FROM = {
    "backbone": ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "resnet34", "timm_backbone"),
    "callbacks.history": ("History",),
    "callbacks.lr_finder": ("LRFinder",),
    "callbacks.lr_schedule": ("SGDR",),
    "callbacks.lr_trace": ("LRTrace",),
    "callbacks.pictures": ("Pictures",),
    "callbacks.report": ("Report",),
    "callbacks.tta": ("TTA",),
    "data": ("DogsCatsDataModule",),
    "data.datamodule": ("DogsCatsDataModule",),
    "data.sample": ("SampleDataModule",),
    "transforms": ("crops", "none", "side_on", "top_down"),
}
"""Former modules of the names that are now those of the package itself."""

MOVED = {
    **{f"dogscats.{module}.{n}": {"_target_": f"dogscats.{n}"} for module, names in MOVED_FROM.items() for n in names},
    "dogscats.callbacks.confusion_matrix.ConfusionMatrix": {"_target_": "dogscats.Report", "draw": "confusion_matrix"},
    "dogscats.callbacks.reliability.Reliability": {"_target_": "dogscats.Report", "draw": "reliability"},
}
"""What replaces each moved target in the configs of earlier runs and of users: its former name to keys of a node."""


def entries(config: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each key and value in nested dicts and lists, in order; the key of a list's item is `None`."""
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(config, Mapping):
        items = config.items()
    elif isinstance(config, list | tuple):
        items = ((None, value) for value in config)
    for key, value in items:
        yield key, value
        yield from entries(value)


def targets(config: Any) -> list[Any]:
    """List each value of `_target_` in nested dicts and lists, in order."""
    return [value for key, value in entries(config) if key == "_target_"]


def needs_trust(config: Any, named: Collection[str] = ()) -> list[str]:
    """List the targets in a plain config that are neither in `TRUSTED` nor in `named`."""
    found = dict.fromkeys(map(str, targets(current_names(config))))
    return [target for target in found if target not in TRUSTED and target not in named]


def checked(
    config: Mapping[str, Any], source: str | Path, trust: bool = False, named: Collection[str] = ()
) -> dict[str, Any]:
    """Check a config loaded from a file, before anything in it is built.

    Args:
        config: loaded config, as plain containers.
        source: file name for the error message.
        trust: allow any target.
        named: targets also named by the user, for example on the command line.

    Returns:
        The config, with names of moved classes replaced.

    Raises:
        UserError: for a target that needs trust, or an interpolation.
    """
    current: dict[str, Any] = current_names(config)
    if not trust and (untrusted := needs_trust(current, named)):
        raise UserError(
            f"{source}: it names {', '.join(untrusted)}, which is code that does not belong to dogscats. If you trust "
            "the origin of this file, add trust=true (in Python trust=True)."
        )
    # The names of classes are text: a class may be named ${x}.
    built = current if "_target_" in current else {key: value for key, value in current.items() if key != "classes"}
    texts = (text for entry in entries(built) for text in entry if isinstance(text, str))
    if interpolation := next((text for text in texts if "${" in text), None):
        raise UserError(
            f"{source}: it has the interpolation {interpolation}, which is not resolved in a saved config. Replace it "
            "by its value."
        )
    return current


def load_config(path: Path, trust: bool = False) -> DictConfig:
    """Read and check the config of a run.

    Raises:
        UserError: if it cannot be read, or names a target that needs trust.
    """
    errors = (OSError, ValueError, AssertionError, TypeError, yaml.YAMLError, RecursionError)
    with as_user_error(path, "it cannot be read", errors=errors):
        text = path.read_text(encoding="utf-8")
        # Nested aliases could unpack to any size; a saved config has none.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise ValueError("it has YAML aliases")
        created: Any = OmegaConf.create(text)
        config = OmegaConf.to_container(created, resolve=False)
    if not isinstance(config, dict):
        raise UserError(f"{path}: it is not the config of a run.")
    return OmegaConf.create(checked(config, path, trust))  # type: ignore[arg-type]


def instantiate_as(kind: type[T], node: Mapping[str, Any], key: object, called: str = "", **arguments: Any) -> T:
    """Build a node with a `_target_`.

    Args:
        kind: class of the object to build.
        node: config of the object.
        key: key of the node, or file, for the error message.
        called: name of `kind` in the message; empty for that of the class.
        arguments: arguments that override the node's.

    Raises:
        UserError: for an object of another class.
    """
    built = instantiate(node, **arguments)
    if not isinstance(built, kind):
        expected = called or f"a {kind.__name__}"
        raise UserError(f"{key}: {node['_target_']} gives a {type(built).__name__}, not {expected}.")
    return built


def current_names(value: Any) -> Any:
    """Copy plain nested containers, with the names of moved targets replaced."""
    if isinstance(value, Mapping):
        node = {key: current_names(inner) for key, inner in value.items()}
        target = node.get("_target_")
        return node | MOVED[target] if isinstance(target, str) and target in MOVED else node
    return [current_names(inner) for inner in value] if isinstance(value, list | tuple) else value


def use_current_names(config: DictConfig | ListConfig) -> None:
    """Replace moved targets in a composed config; see `MOVED`."""
    for key in range(len(config)) if isinstance(config, ListConfig) else list(config):
        if OmegaConf.is_missing(config, key) or OmegaConf.is_interpolation(config, key):
            continue
        value = config[key]
        if isinstance(value, DictConfig | ListConfig):
            use_current_names(value)
        elif key == "_target_" and value in MOVED:
            with open_dict(config):
                config.update(MOVED[value])


def with_weights(config: Any, change: Callable[[Any], Any]) -> Any:
    """Copy the config of a model, or of several members, with each of its `weights` changed."""
    if isinstance(config, Mapping):
        return {
            key: change(value) if key == "weights" else with_weights(value, change) for key, value in config.items()
        }
    return [with_weights(member, change) for member in config] if isinstance(config, list | tuple) else config


class Recorded(Protocol):
    """Anything with a config."""

    config: dict[str, Any] | None


P = ParamSpec("P")
R = TypeVar("R", bound=Recorded)


def records_config(builder: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function that builds a Backbone to record its name and arguments in `Backbone.config`."""

    @functools.wraps(builder)
    def recording(*args: P.args, **kwargs: P.kwargs) -> R:
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

    return recording


def rebuild(kind: type[R], config: Mapping[str, Any], source: str | Path, trust: bool = False) -> R:
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
    random = with_weights(checked(config, source, trust), lambda _: "none")
    built = instantiate_as(kind, random, source)
    built.config = dict(config)
    return built
