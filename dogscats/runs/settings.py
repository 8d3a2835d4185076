"""Settings of a new or resumed run: those that can only be wrong are refused, before torch is imported."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from dogscats.base.environment import CONF, command
from dogscats.base.errors import UserError
from dogscats.base.newest import newest_named
from dogscats.base.rules import SWITCH, Rule, check_values, normalize, one_of, or_none, values_by_key, whole
from dogscats.base.text import home_expanded
from dogscats.base.trust import load_config
from dogscats.data.photos.arguments import MOST_PIXELS, check_arguments, check_decisions, check_root
from dogscats.lesson.stage import Stage, make_stages
from dogscats.runs.directory import checkpoint_of, plain_config

UNITS = {"s": 1, "m": 60, "h": 3600}
"""Units of `budget`, in seconds."""


def seconds_of(budget: object) -> float | None:
    """Return the seconds of a time such as `10m`; `None` if it is not one, or less than a minute."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", str(budget))
    seconds = float(found[1]) * UNITS[found[2]] if found else 0
    return seconds if seconds >= UNITS["m"] else None


RULES: dict[str, Rule] = {
    "seed": whole(0, 2**32 - 1),
    "epochs": or_none(whole(1)),
    "heads": whole(1, 1000),
    "final": one_of("best", "last"),
    "budget": or_none((seconds_of, "a time of at least 1m, with its unit: 90s, 10m or 2h")),  # type: ignore[arg-type]
    "activations.views": (whole(0, 10_000)[0], "a whole number of at least 0"),
    "model.weights": (lambda value: isinstance(value, str), "imagenet, none or a file"),
    "trust": SWITCH,
}
"""Rules for single settings. Stages and data have their own; other groups are checked when they are built."""

FOLDER_DATA, SAMPLE_DATA = "dogscats.DogsCatsDataModule", "dogscats.SampleDataModule"
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


def check_settings(cfg: DictConfig, here: bool = True) -> Settings:
    """Check the config of a new run, or of the run named by `resume`, as far as that needs no torch.

    Args:
        cfg: composed config; some of its values are set to their standard form.
        here: whether the run is on this machine; if not, its photos are not looked for.

    Raises:
        UserError: with the key, the value and the expected values.
    """
    normalize(cfg)
    set_epochs(cfg)
    if cfg.get("resume") is None:
        check_auto(cfg)
        set_members(cfg)
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
    views, weights = values["activations"].get("views"), values["model"].get("weights", "none")
    given = {"activations.views": views, "model.weights": weights}
    check_values(RULES, {**dict.fromkeys(RULES), **values, **given})
    data = values["data"]
    if data["_target_"] in (FOLDER_DATA, SAMPLE_DATA):
        check_arguments(data)
        # The photos may be drawn or downloaded later, and a finished run needs none.
        found_later = data["_target_"] == SAMPLE_DATA or data.get("download") or resumed or not here
        if "root" in data and not found_later:
            check_root(Path(data["root"]).expanduser())
        if data.get("decisions") and not resumed and here:
            check_decisions(data["decisions"])
    if values.get("load") and not resumed:
        cfg.load = values["load"] = str(checkpoint_of(values["load"]))
    stages = make_stages(values["recipe"])
    if "bodies" in values["model"] and (trained := next((s for s in stages if not s.is_closed_form), None)):
        raise UserError(f"members: stage {trained.name} cannot train several networks. Choose recipe=small.")
    for stage, later in combinations(stages, 2):
        if later.save and later.save == stage.save and values["final"] == "best":
            raise UserError(
                f"recipe.{later.name}.save={later.save}: it would overwrite the weights of stage {stage.name}. Choose "
                "another name, or null."
            )
    best = [stage.name for stage in stages if stage.keep == "best"]
    if best and (values.get("trainer") or {}).get("limit_val_batches") == 0:
        raise UserError(f"trainer.limit_val_batches=0: recipe.{best[0]}.keep=best needs the validation loss.")
    return Settings(cfg, values, stages, run_dir, resumed)


def set_epochs(cfg: DictConfig) -> None:
    """Set the epochs of the one stage of a recipe to those at the top, `epochs`, if they are given.

    Raises:
        UserError: for a recipe of several stages or cycles, with the settings of each; or if the stage's epochs are
            given too.
    """
    epochs, recipe = cfg.get("epochs"), cfg.get("recipe")
    if epochs is None or not isinstance(recipe, DictConfig) or cfg.get("resume") is not None:
        return
    check_values(RULES, {"epochs": epochs})
    stages = {name: stage for name, stage in recipe.items() if isinstance(stage, DictConfig)}
    lengths = {
        f"recipe.{name!s}.{length}": stage
        for name, stage in stages.items()
        for key, length in (("epochs", "epochs"), ("cycles", "cycle_len"))
        if stage.get(key) is not None
    }
    if [key.rpartition(".")[2] for key in lengths] != ["epochs"]:
        named = f"set {', '.join(lengths)} (cycle_len: epochs of the first cycle)"
        instead = f"; {named}" if lengths else f". {', '.join(map(str, stages))} is fitted without epochs"
        raise UserError(f"epochs={epochs}: it is for recipes of one stage that is trained by epochs{instead}.")
    ((key, stage),) = lengths.items()
    if any(typed.lstrip("+") == key for typed in values_by_key(HydraConfig.get().overrides.task)):
        raise UserError(f"epochs={epochs}: {key} is given too. Give one of them.")
    stage.epochs = epochs


def check_auto(cfg: DictConfig) -> None:
    """Refuse settings that do not go with `recipe=auto`, or have no effect without it.

    Raises:
        UserError: with what to do.
    """
    hydra = HydraConfig.get()
    typed = values_by_key(hydra.overrides.task)
    if hydra.runtime.choices.get("recipe") != "auto":
        if other := next((key for key in ("budget", "candidates") if cfg.get(key) is not None), None):
            raise UserError(f"{other}={cfg[other]}: it is for recipe=auto. Add that, or drop {other}.")
        return
    if hydra.mode is RunMode.MULTIRUN:
        raise UserError("recipe=auto: it cannot be swept, as it chooses settings by itself. Run it without -m.")
    if other := next((key for key in ("members", "load", "data.size") if typed.get(key, "null") != "null"), None):
        advice = "Drop it; candidates=[{model: <name>, size: <pixels>}, ...] says what to choose from."
        raise UserError(f"{other}={typed[other]}: recipe=auto chooses network and size itself. {advice}")
    if cfg.get("budget") is None:
        raise UserError("recipe=auto: it needs a time. Set budget=10m, for example.")
    if cfg.get("candidates") is not None:
        check_entries("candidates", cfg.candidates, 1)


def check_entries(key: str, entries: Any, least: int) -> None:
    """Refuse `members` or `candidates` that are not a list of models with their sizes.

    Raises:
        UserError: with what is expected.
    """
    good, _ = whole(1, MOST_PIXELS)
    expected, number = "{model: <name>, size: <pixels>}", "at least two of " if least > 1 else ""
    if not isinstance(entries, ListConfig) or len(entries) < least:
        raise UserError(f"{key}={entries}: expected a list, {number}[{expected}, ...].")
    for row, entry in enumerate(entries):
        is_entry = isinstance(entry, DictConfig) and entry.keys() == {"model", "size"} and good(entry["size"])
        model = entry["model"] if is_entry else None
        if not isinstance(model, str) and not (isinstance(model, DictConfig) and "_target_" in model):
            raise UserError(
                f"{key}[{row}]={entry}: expected {expected}. A name is that of model=<name>, or timm's; a network of "
                "your own is a node with _target_."
            )


def set_members(cfg: DictConfig) -> None:
    """Make the config group `model` that of several networks, if `members` are given, and set the largest size.

    Raises:
        UserError: for bad members, or if the size is given too.
    """
    if cfg.get("members") is None:
        return
    check_entries("members", cfg.members, 2)
    if "data.size" in values_by_key(HydraConfig.get().overrides.task):
        raise UserError(f"data.size={cfg.data.size}: each of members has its size. Drop data.size.")
    set_models(cfg, [(model_node(cfg.model, entry.model, entry.size), entry.size) for entry in cfg.members])


def set_models(cfg: DictConfig, models: Sequence[tuple[dict[str, Any], int]]) -> None:
    """Set the config group `model` and the size of the images.

    Args:
        cfg: config of the run.
        models: config and image size of one network, or of each of several.
    """
    bodies, sizes = zip(*models, strict=True)
    with open_dict(cfg):
        several = {"_target_": "dogscats.Members", "bodies": list(bodies), "sizes": list(sizes)}
        cfg.model = bodies[0] if len(bodies) == 1 else several
        cfg.data.size = max(sizes)


def model_node(own: DictConfig, model: str | DictConfig, size: int) -> dict[str, Any]:
    """Return the config of a network by its name, with features of all depths.

    Args:
        own: config group `model` of the command, whose settings are those of the network of that name.
        model: name in `conf/model/`, or of timm; or a node with `_target_`.
        size: side of its images, in pixels.

    Raises:
        UserError: for a node without `_target_`.
    """
    if isinstance(model, str):
        file = CONF / "model" / f"{model}.yaml"
        node: Any = OmegaConf.to_container(OmegaConf.load(file if file.is_file() else CONF / "model" / "timm.yaml"))
        node |= {"name": model} if node.get("name") == "???" else {}
        if all(own.get(key) == node.get(key) for key in ("_target_", "name")):
            node["weights"] = own.get("weights", "imagenet")
    else:
        node = OmegaConf.to_container(model, resolve=True)
        _check_node(node, "model")
    if isinstance(weights := node.get("weights"), str) and home_expanded(weights).is_file():
        node["weights"] = str(home_expanded(weights))  # as the run may be resumed elsewhere
    features = "all" if isinstance(model, str) else node.get("features", "all")
    return {**node, "features": features, "size": size}


def resumed_config(cfg: DictConfig) -> DictConfig:
    """Read the config of the run to resume.

    Args:
        cfg: composed config, for `resume`, `trust`, `data.root` and `data.changed`.

    Raises:
        UserError: if `resume` is not a run directory, other settings were given, or the config names code that needs
            trust.
    """
    typed = {override.lstrip("+").partition("=")[0]: override for override in HydraConfig.get().overrides.task}
    if others := [typed[key] for key in typed if key not in ("resume", "trust", "data.root", "data.changed")]:
        raise UserError(f"resume={cfg.resume}: a run resumes with its own settings; drop {' '.join(others)}.")
    file = home_expanded(cfg.resume) / "config.yaml"
    if not file.is_file():
        advice = f"Give the directory of a run of train.py.{newest_named(finished=False)}"
        raise UserError(f"resume={cfg.resume}: it has no config.yaml. {advice}")
    saved = load_config(file, cfg.trust)
    nested = ("activations", "augment", "callbacks", "data", "model", "recipe", "trainer")
    values = ("class_weights", "heads", "load", "lr", "optimized_metric", "resume", "seed", "trust")
    broken = [key for key in nested if not isinstance(saved.get(key), DictConfig)]
    if broken := broken + [key for key in values if key not in saved]:
        raise UserError(f"{file}: it is not the config of a run: {', '.join(broken)} missing or of another type.")
    saved["trust"] = cfg.trust  # for the checkpoint that the run may load
    saved["final"] = saved.get("final", "last")  # older runs lack it
    for key in ("root", "changed"):
        if f"data.{key}" in typed:
            saved.data[key] = cfg.data[key]
    return saved


def continues(cfg: DictConfig, run_dir: Path) -> bool:
    """Return whether a job of a sweep finds its own run directory, of an earlier start of the same sweep."""
    file = run_dir / "config.yaml"
    if HydraConfig.get().mode is not RunMode.MULTIRUN or not file.is_file():
        return False
    current, saved = plain_config(cfg), load_config(file, trust=True)
    return OmegaConf.to_container(OmegaConf.merge(current, saved), resolve=False) == current  # may have newer defaults


def _check_node(node: Any, group: str) -> None:
    if not isinstance(node, dict) or "_target_" not in node:
        raise UserError(f"{group}: the config group is missing, or has no _target_. See {command('train')} --help.")
    if missing := next((key for key, value in node.items() if value == "???"), None):
        raise UserError(f"{group}.{missing}: it is missing. Set {group}.{missing}=<value>.")
