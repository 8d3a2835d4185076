"""A stage of a recipe: what one `fit` of the lesson was told."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from dogscats.errors import UserError

GROUPS = ("early", "late", "head")
"""The layer groups, from the input to the output."""


@dataclass(frozen=True)
class Stage:
    """One stage, with its own optimizer and schedule; checked on construction.

    Attributes:
        name: its key in the recipe.
        lr: learning rate, multiplied by `lr_mult` for each layer group; or one a group, used as they are; or
            `find`, for the LR finder's suggestion in place of a number.
        lr_mult: factors of `lr` for the groups early, late and head.
        epochs: with a constant learning rate. Either this or `cycles`.
        cycles: SGDR: number of cosine cycles.
        cycle_len: epochs in the first cycle.
        cycle_mult: how many times as long as its predecessor each cycle is.
        freeze_to: first layer group that is trained: 0 all, 1 late and head, 2 head.
        train_batchnorm: whether BatchNorm of the body's trained groups normalises by the statistics of each
            batch and learns new running ones, as in the lesson; if not, it keeps the pretrained ones.
        precompute: train the head on activations computed once.
        augment: train on augmented photos.
        save: name of the checkpoint to save at the end.

    Raises:
        UserError: for a bad value, naming the key as `recipe.<name>.<key>`.
    """

    name: str
    lr: float | str | Sequence[float]
    lr_mult: Sequence[float] = (0.01, 0.1, 1.0)
    epochs: int | None = None
    cycles: int | None = None
    cycle_len: int = 1
    cycle_mult: int = 1
    freeze_to: int = 2
    train_batchnorm: bool = True
    precompute: bool = False
    augment: bool = False
    save: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+", self.name):
            raise UserError(f"recipe.{self.name}: a stage's name has only letters, digits, _, - and .")
        self._check(
            "lr",
            all(map(_is_positive, self.lr)) and len(self.lr) == len(GROUPS)
            if isinstance(self.lr, Sequence) and not isinstance(self.lr, str)
            else self.lr == "find" or _is_positive(self.lr),
            f"a positive number, find, or a list of {len(GROUPS)} for the groups {', '.join(GROUPS)}",
        )
        self._check(
            "lr_mult",
            isinstance(self.lr_mult, Sequence)
            and len(self.lr_mult) == len(GROUPS)
            and all(map(_is_positive, self.lr_mult)),
            f"a list of {len(GROUPS)} positive factors for the groups {', '.join(GROUPS)}",
        )
        if (self.epochs is None) == (self.cycles is None):
            raise UserError(
                f"recipe.{self.name}: give either epochs or cycles (with cycle_len and cycle_mult), not "
                f"{'neither' if self.epochs is None else 'both'}."
            )
        for key in ("epochs", "cycles", "cycle_len", "cycle_mult"):
            value = getattr(self, key)
            whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
            self._check(key, value is None or whole, "a whole number of at least 1")
        self._check("freeze_to", self.freeze_to in range(len(GROUPS)), "0 (all), 1 (late, head) or 2 (head)")
        for key in ("train_batchnorm", "precompute", "augment"):
            self._check(key, isinstance(getattr(self, key), bool), "true or false")
        if self.precompute and self.freeze_to != 2:
            raise UserError(
                f"recipe.{self.name}.freeze_to={self.freeze_to}: with precompute=true only the head can be "
                "trained; set freeze_to=2 or precompute=false."
            )
        if self.precompute and self.augment:
            raise UserError(
                f"recipe.{self.name}.augment=true has no effect on precomputed activations; set "
                "augment=false or precompute=false."
            )
        self._check(
            "save",
            self.save is None or (bool(re.fullmatch(r"[\w.-]+", str(self.save))) and self.save != "last"),
            "a file name of letters, digits, _, - and ., other than 'last'",
        )

    @property
    def total_epochs(self) -> int:
        """Epochs of all cycles together."""
        if self.epochs is not None:
            return self.epochs
        assert self.cycles is not None
        return sum(self.cycle_len * self.cycle_mult**i for i in range(self.cycles))

    @property
    def summary(self) -> str:
        """The stage in a few words."""
        cycles = f" in {self.cycles} cycles" if self.cycles else ""
        trained = ", ".join(GROUPS[self.freeze_to :])
        inputs = "precomputed activations" if self.precompute else "photos"
        return (
            f"{self.total_epochs} epochs{cycles}, training {trained} on "
            f"{'augmented ' if self.augment else ''}{inputs}"
        )

    @property
    def group_lrs(self) -> tuple[float, ...]:
        """Highest learning rate of each layer group."""
        if isinstance(self.lr, str):
            raise RuntimeError(f"The learning rate of stage {self.name} has not been found yet.")
        if isinstance(self.lr, int | float):
            return tuple(self.lr * factor for factor in self.lr_mult)
        return tuple(self.lr)

    @property
    def lr_ratios(self) -> tuple[float, ...]:
        """Learning rate of each layer group relative to that of the last one."""
        rates: Sequence[float] = self.lr_mult if isinstance(self.lr, str) else self.group_lrs
        return tuple(rate / rates[-1] for rate in rates)

    def _check(self, key: str, good: bool, expected: str) -> None:
        if not good:
            raise UserError(f"recipe.{self.name}.{key}={getattr(self, key)}: expected {expected}.")


def make_stages(recipe: Mapping[str, Mapping[str, Any]]) -> list[Stage]:
    """Make the stages of a recipe, in order, from plain containers.

    Raises:
        UserError: for an empty recipe, and for a stage that is not a valid one.
    """
    if not recipe:
        raise UserError("recipe: it has no stages; choose one, for example recipe=head_only.")
    allowed = {field.name for field in fields(Stage)} - {"name"}
    stages = []
    for name, keys in recipe.items():
        if not isinstance(keys, Mapping):
            raise UserError(f"recipe.{name}={keys}: expected a stage, with the keys {sorted(allowed)}.")
        for key in keys:
            if key not in allowed:
                raise UserError(f"recipe.{name}.{key}: a stage has no such key, only {sorted(allowed)}.")
        if "lr" not in keys:
            raise UserError(f"recipe.{name}.lr is missing: give it a learning rate, for example ${{lr}}.")
        stages.append(Stage(name, **keys))
    return stages


def _is_positive(value: object) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and value > 0 and math.isfinite(value)
    )
