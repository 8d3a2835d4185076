"""Trust: a loaded config may build only the targets listed below, unless the user trusts it.

A run directory or checkpoint from someone else contains a config, and a config names functions to call:
`_target_: torch.hub.load` would run their code. Therefore each `_target_` of a loaded config, at any depth, must equal
an entry of an allowlist before anything is built. Interpolations, such as `${oc.env:PASSWORD}`, are never resolved.
Targets that users name on the command line or in their own config files need no trust.
"""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from dogscats.base.errors import UserError, as_user_error

TRUSTED = frozenset(
    {
        *("dogscats.DogsCatsDataModule", "dogscats.SampleDataModule"),
        *("dogscats.crops", "dogscats.none", "dogscats.side_on", "dogscats.top_down"),
        *("dogscats.efficientnet_lite0", "dogscats.efficientnet_lite1", "dogscats.efficientnet_lite2"),
        *("dogscats.resnet34", "dogscats.timm_backbone"),
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
    "callbacks.tta": ("TTA",),
    "data": ("DogsCatsDataModule",),
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
    if interpolation := next(_interpolations(built), None):
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
