"""Settings that can only be wrong are refused first, before torch is imported."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from dogscats.base.errors import UserError
from dogscats.base.files import check_exists
from dogscats.base.install import command
from dogscats.base.rules import SWITCH, Rule, whole
from dogscats.base.text import home_expanded, names_as_text
from dogscats.data.photos.arguments import check_arguments, check_decisions, check_root
from dogscats.lesson.stage import Stage, make_stages
from dogscats.runs.resume import continues, resumed_config

RULES: dict[str, Rule] = {
    "seed": whole(0, 2**32 - 1),
    "heads": whole(1, 1000),
    "activations.views": (whole(0, 10_000)[0], "a whole number of at least 0"),
    "trust": SWITCH,
}
"""Settings with what is expected of them. Stages and data have their own rules; other groups check when built."""

FOLDERS, SAMPLE = "dogscats.DogsCatsDataModule", "dogscats.SampleDataModule"
"""Names of the data module that needs `data.root`, unless it downloads the photos, and of the one that draws them."""


@dataclass(frozen=True)
class Settings:
    """Checked settings of a run.

    Attributes:
        cfg: config of the run; of a resumed run, the saved one.
        values: the same config, resolved to plain containers.
        stages: stages of the recipe.
        run_dir: run directory.
        resumed: whether the run directory holds a run to continue.
    """

    cfg: DictConfig
    values: dict[str, Any]
    stages: list[Stage]
    run_dir: Path
    resumed: bool


def check_settings(cfg: DictConfig) -> Settings:
    """Check what needs no torch of a new run's config, or of the config of the run named by `resume`.

    Raises:
        UserError: with the key, the value and what is expected.
    """
    names_as_text(cfg)
    if isinstance(cfg.get("data"), DictConfig) and cfg.data.get("decisions") == "none":
        cfg.data.decisions = None
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    if cfg.resume is None:
        resumed = continues(cfg, run_dir)
    else:
        run_dir, cfg, resumed = home_expanded(cfg.resume), resumed_config(cfg), True
    values: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    for group in ("model", "data"):
        _check_node(values.get(group), group)
    for group in ("augment", "activations"):
        if not isinstance(values.get(group), Mapping):
            raise UserError(f"{group}: the config group is missing. Run {command('train')} --help for the choices.")
    if not isinstance(values["model"].get("weights", "none"), str):
        raise UserError(f"model.weights={values['model']['weights']}: expected imagenet, none or a file.")
    for key, (good, expected) in RULES.items():
        group, _, name = key.rpartition(".")
        value = (values[group] if group else values).get(name)
        if not good(value):
            raise UserError(f"{key}={value}: expected {expected}.")
    data = values["data"]
    if data["_target_"] in (FOLDERS, SAMPLE):
        check_arguments(data)
        found_later = data["_target_"] == SAMPLE or data.get("download") or resumed  # a finished run needs no photos
        if "root" in data and not found_later:
            check_root(Path(data["root"]).expanduser())
        if data.get("decisions") and not resumed:
            check_decisions(data["decisions"])
    if values.get("load") and not resumed:
        check_exists(Path(values["load"]).expanduser())
    stages = make_stages(values["recipe"])
    if (values.get("trainer") or {}).get("limit_val_batches") == 0:
        for stage in stages:
            if stage.keep == "best":
                raise UserError(
                    f"trainer.limit_val_batches=0: recipe.{stage.name}.keep=best needs the validation loss."
                )
    return Settings(cfg, values, stages, run_dir, resumed)


def _check_node(node: Any, group: str) -> None:
    if not isinstance(node, dict) or "_target_" not in node:
        raise UserError(f"{group}: the config group is missing, or has no _target_. See {command('train')} --help.")
    if missing := next((key for key, value in node.items() if value == "???"), None):
        raise UserError(f"{group}.{missing}: it is missing. Set {group}.{missing}=<value>.")
