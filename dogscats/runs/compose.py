"""Callbacks and backbones, built by Hydra from config nodes with a `_target_`."""

import inspect
import logging
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Callback

from dogscats.base.errors import UserError, as_user_error
from dogscats.base.text import did_you_mean
from dogscats.base.trust import current_names, instantiate_as, with_weights
from dogscats.lesson.backbone import Backbone
from dogscats.lesson.lr_finder import LRFinder
from dogscats.lesson.sgdr import LRSchedule
from dogscats.lesson.stage import Stage, make_stages
from dogscats.lesson.tta import TTA
from dogscats.runs.trainer_settings import check_trainer

log = logging.getLogger(__name__)

REFUSED_CALLBACKS = {
    "BackboneFinetuning": "the stages freeze layers; set recipe.<stage>.freeze_to",
    "BatchSizeFinder": "set data.batch_size",
    "LearningRateFinder": "set callbacks.lr_finder.before, or lr=find",
    "ModelPruning": "it cannot prune weights in channels_last memory order",
    "OnExceptionCheckpoint": "an interrupted run keeps its state; continue it with resume=<run>",
    "StochasticWeightAveraging": "its learning rates conflict with the stage's schedule; use "
    "pytorch_lightning.callbacks.WeightAveraging",
}
"""Callbacks of Lightning that cannot work here, with an alternative for each."""

OPTIONAL_MODEL = ("features", "size")

OPTIONAL_DATA = {
    **dict.fromkeys(("labels", "columns", "extension", "group", "decisions", "strangers", "add")),
    **dict.fromkeys(("shrink", "resident"), "auto"),
}
"""Arguments that a user's own data module may lack, with the value at which they are dropped."""

FIT_HOOKS = ("on_fit", "on_train", "on_validation", "on_sanity", "on_before", "on_after")
"""Starts of the names of the hooks that act in a stage."""


def use_own_modules() -> None:
    """Make modules in the working directory importable by `_target_`, like `python -m`."""
    if str(Path.cwd()) not in sys.path:  # appended last, so it shadows no other module
        sys.path.append(str(Path.cwd()))


def accepted(node: Mapping[str, Any], group: str, optional: Sequence[str]) -> dict[str, Any]:
    """Drop arguments that a recipe or group may set from a node whose target has no such argument; refuse others.

    Args:
        node: config node with a `_target_`.
        group: its key.
        optional: arguments that may be dropped.

    Raises:
        UserError: for a target that cannot be imported, or that has no such argument.
    """
    with as_user_error(f"{group}._target_={node['_target_']}"):  # importing a module can raise anything
        target = get_object(node["_target_"])
    try:
        known = inspect.signature(target).parameters
    except ValueError:  # of a class in C
        return dict(node)
    any_key = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values())
    slips = [key for key in node if any_key and key not in known and get_close_matches(key, known, 1, 0.85)]
    unknown = [key for key in node if key not in known and not re.fullmatch("_[a-z]+_", key)]
    # A data module with **kwargs passes them on to DogsCatsDataModule; a builder of models may not.
    dropped = [key for key in optional if key in unknown and not (any_key and group == "data")]
    if refused := next((key for key in unknown if key not in dropped and (not any_key or key in slips)), None):
        similar = did_you_mean(refused, known, f"{group}.")
        raise UserError(f"{group}.{refused}: {node['_target_']} has no such argument.{similar}")
    if node.get("features", "last") != "last" and "features" in dropped:
        log.info("%s has no argument features: its own features are used", node["_target_"])
    return {key: value for key, value in node.items() if key not in dropped}


def check_nodes(config: DictConfig) -> None:
    """Refuse settings of a composed config that nothing takes, before any job of a sweep.

    Raises:
        UserError: naming the first.
    """
    use_own_modules()
    plain = current_names(OmegaConf.to_container(config))
    for group, optional in (("model", OPTIONAL_MODEL), ("data", ("changed", *OPTIONAL_DATA)), ("augment", ())):
        if "_target_" in (plain.get(group) or {}):
            accepted(plain[group], group, optional)
    for group in ("callbacks", "logger"):
        list(nodes(plain.get(group), group))
    trainer: Any = OmegaConf.to_container(config.trainer, resolve=True)
    check_trainer(trainer, training="recipe" in plain)
    if "recipe" in plain:
        recipe: Any = OmegaConf.to_container(config.recipe, resolve=True)
        make_stages(recipe)


def accepted_model(node: dict[str, Any]) -> dict[str, Any]:
    """Drop `features` and `size` from a config group `model`, or from its members, where they are not taken."""
    if "bodies" in node:
        node = {**node, "bodies": [accepted_model(body) for body in node["bodies"]]}
    return accepted(node, "model", OPTIONAL_MODEL)


def build_body(config: dict[str, Any], size: int, random: bool = False) -> Backbone:
    """Build the backbone of a run, and check its layer groups and features on one black image.

    Args:
        config: config group `model`, as plain containers.
        size: side of the image, in pixels.
        random: build it with random weights, as others will be loaded.

    Raises:
        UserError: for an object that is not a Backbone, or whose layer groups or features are not as declared.
    """
    target = f"model: {config['_target_']}"
    node = with_weights(config, lambda _: "none") if random else config
    body = instantiate_as(Backbone, node, "model", "a dogscats.Backbone")
    if body.last_early not in dict(body.network.named_modules()):
        raise UserError(f"{target}: last_early={body.last_early!r} is not a module of its network.")
    failure = f"it cannot compute features of an image of {size} x {size} pixels"
    advice = "Its network must map images (B, 3, H, W) to feature maps (B, C, h, w), or a list of them."
    with as_user_error(target, failure, advice), torch.inference_mode():
        features = body.eval()(torch.zeros(1, 3, size, size, dtype=torch.uint8))
        found, expected = features.shape, (1, body.num_features)
    if found != expected:
        raise UserError(f"{target}: its feature maps have {found[1] // 2} channels, not channels={expected[1] // 2}.")
    body.config = config
    return body


def nodes(config: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Yield the nodes with a `_target_`, at any depth, with their dotted keys.

    Raises:
        UserError: for a value outside such nodes, which would have no effect, and as `accepted`.
    """
    if config is None:
        return
    if not isinstance(config, Mapping):
        raise UserError(f"{key}={config}: this has no effect. A node needs a _target_: the class to build.")
    if "_target_" in config:
        accepted(config, key, ())
        yield key, config
        return
    for name, node in config.items():
        yield from nodes(node, f"{key}.{name}")


def build_callbacks(config: Any, stage: Stage | None = None, trains: bool = True) -> dict[str, Callback]:
    """Build the callbacks of a stage, or of the final prediction.

    The hooks of a callback decide where it is used: `on_train_...` and similar in the stages, `on_predict_...` in the
    final prediction; only others, such as `setup`, in both. The callback `sgdr` is used in stages with that schedule.

    Args:
        config: config group `callbacks`.
        stage: stage to build for; `None` for the final prediction.
        trains: whether there are stages; if not, callbacks for stages are refused.

    Returns:
        Callbacks by dotted key, without the LR finder, which runs in its own Trainer.

    Raises:
        UserError: for a node that is not a callback, or that cannot take effect.
    """
    found: dict[str, Callback] = {}
    for key, node in nodes(config, "callbacks"):
        arguments = {}
        if key == "callbacks.sgdr" and stage is not None:
            if stage.schedule_name != "sgdr":
                continue
            arguments = {"cycle_len": stage.cycle_len, "cycle_mult": stage.cycle_mult}
        callback: Callback = instantiate_as(Callback, node, key, "a callback of Lightning", **arguments)
        for base in type(callback).__mro__:
            if base.__name__ in REFUSED_CALLBACKS and base.__module__.startswith("pytorch_lightning."):
                raise UserError(f"{key}: {base.__name__} cannot be used here: {REFUSED_CALLBACKS[base.__name__]}.")
        if isinstance(callback, TTA) and any(isinstance(other, TTA) for other in found.values()):
            raise UserError(f"{key}: there is test-time augmentation already; set callbacks.tta.n_aug.")
        if not isinstance(callback, LRFinder) and _is_for(callback, stage is not None, key):
            found[key] = callback
        elif not trains:
            raise UserError(
                f"{key}: this has no effect: it acts when training, but nothing is trained here. Remove it."
            )
    if stage is not None and stage.schedule_name == "sgdr" and "callbacks.sgdr" not in found:
        raise UserError(
            f"callbacks.sgdr: it is missing, but stage {stage.name} has cycles. For a constant learning rate set "
            f"recipe.{stage.name}.cycles=null +recipe.{stage.name}.epochs={stage.total_epochs}."
        )
    if stage is not None and stage.schedule_name not in ("constant", "sgdr"):
        found["schedule"] = LRSchedule(stage.schedule_name)
    return found


def build_lr_finder(config: Any) -> LRFinder:
    """Build the LR finder; without a node for it, one that never runs."""
    built = [instantiate(node) for key, node in nodes(config, "callbacks") if key != "callbacks.sgdr"]
    finders = [callback for callback in built if isinstance(callback, LRFinder)]
    if len(finders) > 1:
        raise UserError("callbacks: there are several LR finders; set callbacks.lr_finder.before.")
    return finders[0] if finders else LRFinder("none")


def _is_for(callback: Callback, fits: bool, key: str) -> bool:
    every = [name for name in dir(Callback) if name.startswith("on_") or name in ("setup", "teardown")]
    # LambdaCallback sets functions on the instance, which have no __func__.
    hooks = [n for n in every if getattr(getattr(callback, n), "__func__", None) is not getattr(Callback, n)]
    if not hooks:
        own = [name for name in dir(callback) if not hasattr(Callback, name)]
        similar = next(filter(None, (did_you_mean(name, every) for name in own if name.startswith("on"))), "")
        raise UserError(f"{key}: this has no effect: it has none of the hooks that Lightning calls.{similar}")
    for_fit, for_predict, for_test = (
        any(name.startswith(prefixes) for name in hooks) for prefixes in (FIT_HOOKS, "on_predict", "on_test")
    )
    if for_fit or for_predict:
        return for_fit if fits else for_predict
    if for_test:
        raise UserError(f"{key}: this has no effect: it acts when testing, but nothing is tested here. Remove it.")
    return True
