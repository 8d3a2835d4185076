"""Trust: a loaded config may build only the targets listed below, unless the user trusts it.

A run directory or checkpoint from someone else contains a config, and a config names functions to call:
`_target_: torch.hub.load` would run their code. Therefore each `_target_` of a loaded config, at any depth, must equal
an entry of an allowlist before anything is built. Interpolations, such as `${oc.env:PASSWORD}`, are never resolved.
Targets that users name on the command line or in their own config files need no trust.
"""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml  # type: ignore[import-untyped]
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from dogscats.runs.errors import UserError, first_line

if TYPE_CHECKING:  # torch is imported where a body is built: configs are checked before
    from dogscats.backbone import Backbone

TRUSTED = frozenset(
    {
        "dogscats.SGDR",
        "dogscats.TTA",
        "dogscats.backbone.efficientnet_lite0",
        "dogscats.backbone.efficientnet_lite1",
        "dogscats.backbone.efficientnet_lite2",
        "dogscats.backbone.resnet34",
        "dogscats.backbone.timm_backbone",
        "dogscats.callbacks.confusion_matrix.ConfusionMatrix",
        "dogscats.callbacks.history.History",
        "dogscats.callbacks.lr_finder.LRFinder",
        "dogscats.callbacks.lr_schedule.SGDR",
        "dogscats.callbacks.lr_trace.LRTrace",
        "dogscats.callbacks.pictures.Pictures",
        "dogscats.callbacks.reliability.Reliability",
        "dogscats.callbacks.tta.TTA",
        "dogscats.data.DogsCatsDataModule",
        "dogscats.data.sample.SampleDataModule",
        "dogscats.sample.SampleDataModule",
        "dogscats.transforms.crops",
        "dogscats.transforms.none",
        "dogscats.transforms.side_on",
        "dogscats.transforms.top_down",
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

MOVED = {"dogscats.sample.SampleDataModule": "dogscats.data.sample.SampleDataModule"}
"""Moved classes: old name in saved configs to current name."""


def targets(config: Any) -> Iterator[Any]:
    """Yield each value of `_target_` in nested dicts and lists, in order."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            if key == "_target_":
                yield value
            yield from targets(value)
    elif isinstance(config, list | tuple):
        for value in config:
            yield from targets(value)


def needs_trust(config: Any, named: Collection[str] = ()) -> list[str]:
    """List the targets in a plain config that are neither in `TRUSTED` nor in `named`."""
    found = dict.fromkeys(str(target) for target in targets(config))
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
    if not trust and (untrusted := needs_trust(config, named)):
        raise UserError(
            f"{source}: it names {', '.join(untrusted)}, which is code that does not belong to dogscats. If you trust "
            "the origin of this file, add trust=true (in Python trust=True)."
        )
    # The names of classes are text: a class may be named ${x}.
    built = config if "_target_" in config else {key: value for key, value in config.items() if key != "classes"}
    if interpolation := next(_interpolations(built), None):
        raise UserError(
            f"{source}: it has the interpolation {interpolation}, which is not resolved in a saved config. Replace it "
            "by its value."
        )
    current: dict[str, Any] = _with_current_names(config)
    return current


def load_config(path: Path, trust: bool = False) -> DictConfig:
    """Read and check the config of a run.

    Raises:
        UserError: if it cannot be read, or names a target that needs trust.
    """
    try:
        text = path.read_text(encoding="utf-8")
        # Nested aliases could unpack to any size; a saved config has none.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise ValueError("it has YAML aliases")
        created: Any = OmegaConf.create(text)
        config = OmegaConf.to_container(created, resolve=False)
    except (OSError, ValueError, AssertionError, TypeError, yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{path}: it cannot be read ({first_line(error)}).") from error
    if not isinstance(config, dict):
        raise UserError(f"{path}: it is not the config of a run.")
    return OmegaConf.create(checked(config, path, trust))  # type: ignore[arg-type]


def build(config: Mapping[str, Any], source: str | Path, trust: bool = False, **arguments: Any) -> Any:
    """Check and build a node loaded from a file.

    Args:
        config: plain containers with a `_target_`.
        source: file name for the error message.
        trust: allow any target.
        arguments: arguments that override the config's.

    Raises:
        UserError: for a target that needs trust.
    """
    return instantiate(checked(config, source, trust), **arguments)


def build_body(config: Mapping[str, Any], source: str | Path, trust: bool = False) -> "Backbone":
    """Build a body with random weights from the config in a checkpoint.

    Args:
        config: plain containers with a `_target_`.
        source: file name for the error message.
        trust: allow any target.

    Raises:
        UserError: if the target is missing or needs trust.
    """
    from dogscats.backbone import Backbone

    if source == "checkpoint" and not trust and needs_trust(config):  # Classifier.load_from_checkpoint
        raise UserError(
            f"{source}: it names {', '.join(needs_trust(config))}; give the model itself: model=<Backbone>."
        )
    if not isinstance(config, Mapping) or "_target_" not in config:
        raise UserError(f"{source}: it has no model config; give the model itself: model=<Backbone>.")
    random_weights = {"weights": "none"} if "weights" in config else {}
    body = build(config, source, trust, **random_weights)
    if not isinstance(body, Backbone):
        raise UserError(f"{source}: {config['_target_']} gives a {type(body).__name__}, not a Backbone.")
    body.config = dict(config)
    return body


def _interpolations(config: Any) -> Iterator[str]:
    if isinstance(config, Mapping):
        for key, value in config.items():
            yield from _interpolations(key)
            yield from _interpolations(value)
    elif isinstance(config, list | tuple):
        for value in config:
            yield from _interpolations(value)
    elif isinstance(config, str) and "${" in config:
        yield config


def _with_current_names(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            key: MOVED.get(inner, inner) if key == "_target_" and isinstance(inner, str) else _with_current_names(inner)
            for key, inner in value.items()
        }
    return [_with_current_names(inner) for inner in value] if isinstance(value, list | tuple) else value
