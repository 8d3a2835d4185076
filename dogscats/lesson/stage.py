"""A recipe is a list of stages (`conf/recipe/`); each stage is one fit with its own Trainer, optimizer and schedule.

The lesson's fits are in the recipe `lesson1`; after them, test-time augmentation averages five versions of each photo:
    precompute   head, on activations of the plain photos; 2 epochs at a constant rate
    augmented    head, on augmented photos; 3 cosine cycles of 1 epoch
    finetune     early, late and head at lr/100, lr/10 and lr, on augmented photos; cosine cycles of 1, 2 and 4 epochs
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from dogscats.base.errors import UserError
from dogscats.base.rules import SWITCH, Rule, check_values, is_number, one_of, or_none, whole
from dogscats.base.text import counted, did_you_mean
from dogscats.lesson.schedules import SCHEDULES

GROUPS = ("early", "late", "head")
"""The layer groups, from the input to the output."""

OPTIMIZERS = ("sgd", "adamw")


def _is_positive(value: Any) -> bool:
    return is_number(value) and 0 < value < math.inf


def _are_positive(values: Any) -> bool:
    sequence = isinstance(values, Sequence) and not isinstance(values, str)
    return sequence and len(values) == len(GROUPS) and all(map(_is_positive, values))


RULES: dict[str, Rule] = {
    "lr": (
        lambda value: value == "find" or _is_positive(value) or _are_positive(value),
        f"a positive number, find, or a list of {len(GROUPS)} for the groups {', '.join(GROUPS)}",
    ),
    "lr_mult": (_are_positive, f"a list of {len(GROUPS)} positive factors for the groups {', '.join(GROUPS)}"),
    **dict.fromkeys(("epochs", "cycles"), or_none(whole(1))),
    **dict.fromkeys(("cycle_len", "cycle_mult"), whole(1)),
    "freeze_to": (lambda value: value in range(len(GROUPS)), "0 (all), 1 (late, head) or 2 (head)"),
    **dict.fromkeys(("train_batchnorm", "precompute", "augment"), SWITCH),
    "optimizer": one_of(*OPTIMIZERS),
    "keep": one_of("last", "best"),
    "fit": one_of("gradient", "closed_form"),
    "weight_decay": (lambda value: value == 0 or _is_positive(value), "a number, 0 or more"),
    "save": (
        lambda value: value is None or re.fullmatch(r"(?!last$|resume_)[\w.-]+", str(value)) is not None,
        "a file name of letters, digits, _, - and ., other than 'last' and 'resume_...'",
    ),
}
"""Rule of each key of a stage, except `schedule`: which ones are allowed depends on `epochs` and `cycles`."""


@dataclass(frozen=True)
class Stage:
    """One stage, with its own optimizer and schedule; validated on construction.

    Attributes:
        name: key in the recipe.
        lr: base learning rate, multiplied by `lr_mult`; or a list with the rate of each layer group; or `find`, for
            the LR finder's suggestion.
        lr_mult: factors of `lr` for the groups early, late and head.
        epochs: number of epochs; set either this or `cycles`.
        cycles: number of cosine cycles (SGDR).
        cycle_len: length of the first cycle, in epochs.
        cycle_mult: length of each cycle relative to the previous one.
        schedule: name of a learning-rate schedule in `dogscats.lesson.schedules`; `None` for `sgdr` with `cycles` and
            `constant` with `epochs`.
        freeze_to: first layer group to train: 0 all, 1 late and head, 2 head.
        train_batchnorm: whether BatchNorm in the body's trained groups uses batch statistics and updates its running
            statistics, as in the lesson; otherwise it keeps the pretrained ones.
        precompute: whether to train the head on precomputed activations.
        augment: whether to train on augmented photos.
        optimizer: `sgd`, with momentum 0.9, as in the lesson; or `adamw`.
        weight_decay: weight decay of the optimizer.
        keep: `last` for the weights after the last epoch, as in the lesson; `best` for those with the lowest
            validation loss: after some epoch, or before the first.
        fit: `gradient` descent; or `closed_form` for the kernel head, which takes no epochs. Not in the lesson.
        save: name of the checkpoint saved at the end; `None` for none.

    Raises:
        UserError: for a bad value, with its key `recipe.<name>.<key>`.
    """

    name: str
    lr: float | str | Sequence[float] = 0.01
    lr_mult: Sequence[float] = (0.01, 0.1, 1.0)
    epochs: int | None = None
    cycles: int | None = None
    cycle_len: int = 1
    cycle_mult: int = 1
    schedule: str | None = None
    freeze_to: int = 2
    train_batchnorm: bool = True
    precompute: bool = False
    augment: bool = False
    optimizer: str = "sgd"
    weight_decay: float = 0.0
    keep: str = "last"
    fit: str = "gradient"
    save: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+", self.name):
            raise UserError(f"recipe.{self.name}: a stage name may contain only letters, digits, _, - and .")
        key = f"recipe.{self.name}"
        check_values(RULES, vars(self), f"{key}.")
        if self.is_closed_form:
            if not self.precompute:
                raise UserError(f"{key}.fit=closed_form: it needs precomputed activations; set precompute=true.")
        elif self.epochs is None and self.cycles is None:
            raise UserError(f"{key}: neither epochs nor cycles is set. Set one of them.")
        if self.epochs is not None and self.cycles is not None:
            raise UserError(
                f"{key}.epochs={self.epochs}: both epochs and cycles are set. Set the length of the first cycle, "
                f"{key}.cycle_len, instead, or {key}.cycles=null."
            )
        others = [name for name in SCHEDULES if name != "sgdr"]
        allowed, expected = one_of("sgdr") if self.cycles else one_of(*others)
        since = f"{expected}, since the stage has {'cycles' if self.cycles else 'epochs'}"
        check_values({"schedule": or_none((allowed, since))}, vars(self), f"{key}.")
        if self.precompute and self.freeze_to != 2:
            raise UserError(
                f"{key}.freeze_to={self.freeze_to}: with precompute=true only the head can be "
                "trained; set freeze_to=2 or precompute=false."
            )
        if self.precompute and self.augment:
            raise UserError(
                f"{key}.augment=true has no effect on precomputed activations; set augment=false or precompute=false."
            )

    @property
    def is_closed_form(self) -> bool:
        """Whether the head is fitted in closed form, without epochs."""
        return self.fit == "closed_form"

    @property
    def trains_body(self) -> bool:
        """Whether layers of the body are trained, not the head alone."""
        return self.freeze_to < GROUPS.index("head")

    @property
    def unused(self) -> list[str]:
        """Keys that were set, but have no effect on a fit in closed form."""
        if not self.is_closed_form:
            return []
        used = ("name", "fit", "save", "precompute", "freeze_to", "augment")
        return [
            field.name
            for field in fields(self)
            if field.name not in used and getattr(self, field.name) != field.default
        ]

    @property
    def total_epochs(self) -> int:
        """Total number of epochs, over all cycles."""
        if self.is_closed_form:
            return 0
        if self.epochs is not None:
            return self.epochs
        assert self.cycles is not None
        return sum(self.cycle_len * self.cycle_mult**i for i in range(self.cycles))

    @property
    def schedule_name(self) -> str:
        """Name of the learning-rate schedule."""
        return self.schedule or ("sgdr" if self.cycles else "constant")

    @property
    def summary(self) -> str:
        """One-line summary for the console."""
        if self.is_closed_form:
            return "the kernel head, in closed form on precomputed activations"
        cycles = f" in {counted(self.cycles, 'cycle')}" if self.cycles else ""
        schedule = "" if self.schedule is None else f" ({self.schedule})"
        trained = ", ".join(GROUPS[self.freeze_to :])
        inputs = "precomputed activations" if self.precompute else "photos"
        return (
            f"{counted(self.total_epochs, 'epoch')}{cycles}{schedule}, training {trained} on "
            f"{'augmented ' if self.augment else ''}{inputs}"
        )

    def group_lrs(self, found: Mapping[str, float | None] | None = None) -> tuple[float, ...]:
        """Peak learning rate of each layer group.

        Args:
            found: suggestions of the LR finder by stage, for `lr: find`: that for this stage is used, or the latest.
        """
        suggested = [lr for lr in (found or {}).values() if lr is not None]
        own = (found or {}).get(self.name) or [None, *suggested][-1]
        lr = own if isinstance(self.lr, str) else self.lr
        if lr is None:
            raise RuntimeError(f"The learning rate of stage {self.name} has not been found yet.")
        return tuple(lr) if isinstance(lr, Sequence) else tuple(lr * factor for factor in self.lr_mult)

    @property
    def lr_ratios(self) -> tuple[float, ...]:
        """Learning rate of each layer group, relative to the last group."""
        rates: Sequence[float] = self.lr_mult if isinstance(self.lr, str) else self.group_lrs()
        return tuple(rate / rates[-1] for rate in rates)


def final_stage(stages: Sequence[Stage], rows: Mapping[str, Mapping[str, Any]], final: str) -> Stage:
    """Choose the stage with whose weights a run ends.

    Args:
        stages: finished stages, in order.
        rows: their metrics by name, as in `metrics.json`.
        final: `last`, as in the lesson; or `best` for the lowest validation loss: the last stage if none was validated.
    """

    def loss(stage: Stage) -> float:
        value = rows[stage.name].get("valid_loss")
        return math.inf if value is None or math.isnan(value) else value

    return min(reversed(stages), key=loss) if final == "best" else stages[-1]  # of equal ones, the later


def make_stages(recipe: Mapping[str, Mapping[str, Any]]) -> list[Stage]:
    """Make the stages of a recipe, in order, from plain dicts and lists.

    Raises:
        UserError: for an empty recipe, an invalid stage, or one after a fit in closed form.
    """
    if not recipe:
        raise UserError("recipe: it has no stages. Choose a recipe, for example recipe=head_only.")
    allowed = {field.name for field in fields(Stage)} - {"name"}
    stages: list[Stage] = []
    for name, keys in recipe.items():
        if not isinstance(keys, Mapping):
            raise UserError(f"recipe.{name}={keys}: expected a stage with the keys {', '.join(sorted(allowed))}.")
        for key in keys:
            if key not in allowed:
                similar = did_you_mean(str(key), allowed, f"recipe.{name}.")
                raise UserError(
                    f"recipe.{name}.{key}: a stage has no such key.{similar} Choose from {', '.join(sorted(allowed))}."
                )
        similar = did_you_mean(name, [other for other in recipe if other != name], "recipe.")
        if len(keys) == 1 and similar:
            raise UserError(f"recipe.{name}: there is no such stage.{similar} A new one needs more keys.")
        if "lr" not in keys and keys.get("fit") != "closed_form":
            raise UserError(f"recipe.{name}.lr is missing. Set a learning rate, for example ${{lr}}.")
        if stages and stages[-1].is_closed_form:
            raise UserError(
                f"recipe.{name}: no stage can follow recipe.{stages[-1].name}, whose kernel head cannot be trained. "
                "Remove one of them; recipe=adapt trains heads, then all layers."
            )
        stages.append(Stage(name, **keys))
    return stages
