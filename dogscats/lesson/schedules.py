"""Learning-rate schedules: pure functions of the position in a stage. The lesson uses `constant` and `sgdr`.

Each function in `SCHEDULES` returns a factor of the peak learning rate, from 0 to 1; each in `MOMENTA` a momentum. To
add a schedule, write one function and list it in `SCHEDULES`. A stage with `epochs` selects it by
`recipe.<stage>.schedule=<function>` (a stage with `cycles` always uses `sgdr`); the callback `LRSchedule` applies it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from dogscats.base.errors import ArgumentError


@dataclass(frozen=True)
class Position:
    """Position within a stage.

    Attributes:
        step: optimizer steps since the start of the stage.
        steps_per_epoch: optimizer steps in an epoch.
        total_steps: optimizer steps in the stage; 0 if unknown.
    """

    step: int
    steps_per_epoch: int
    total_steps: int


def constant(position: Position) -> float:
    """Constant at the peak learning rate."""
    return 1.0


def sgdr(position: Position, cycle_len: int = 1, cycle_mult: int = 1, fastai_start: bool = False) -> float:
    """Cosine annealing with warm restarts.

    `1/2 (1 + cos(pi t / T_i))`, where `t` is the number of steps since the start of cycle `i` and
    `T_i = T_0 cycle_mult^i` its length: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm
    Restarts", https://arxiv.org/abs/1608.03983, equation 5 with a minimum rate of 0.

    Args:
        position: position in the stage.
        cycle_len: length of the first cycle, `T_0`, in epochs.
        cycle_mult: length of each cycle relative to the previous one.
        fastai_start: whether to hold 1/100 of the rate for the first twentieth of the first cycle, then jump onto
            the cosine, as in fastai 0.7.
    """
    step, length = position.step, cycle_len * position.steps_per_epoch
    if fastai_start and step < length / 20:
        return 0.01
    while step >= length:
        step -= length
        length *= cycle_mult
    return (1 + math.cos(math.pi * step / length)) / 2


def one_cycle(position: Position, pct_start: float = 0.25, div: float = 25, div_final: float = 1e5) -> float:
    """1cycle policy with cosine warm-up and annealing: fastai's `fit_one_cycle` with its defaults.

    Equals `torch.optim.lr_scheduler.OneCycleLR` with `div_factor=div, final_div_factor=div_final / div`. The policy
    is from Smith and Topin, "Super-Convergence", https://arxiv.org/abs/1708.07120.

    Args:
        position: position in the stage.
        pct_start: fraction of the steps in which the rate rises.
        div: ratio of the peak rate to the initial rate.
        div_final: ratio of the peak rate to the final rate.
    """
    return _up_and_down(position, pct_start, (1 / div, 1.0, 1 / div_final))


def one_cycle_momentum(position: Position, pct_start: float = 0.25, **others: float) -> float:
    """Momentum of `one_cycle` with the same options: from 0.95 to 0.85 while the rate rises, then back."""
    return _up_and_down(position, pct_start, (0.95, 0.85, 0.95))


def warmup_cosine(position: Position, warmup: float = 0.1) -> float:
    """Linear warm-up, then half a cosine to 0: Goyal et al., https://arxiv.org/abs/1706.02677, section 2.2, and `sgdr`.

    Args:
        position: position in the stage.
        warmup: fraction of the steps in which the rate rises.
    """
    _check_total(position, "warmup_cosine")
    rising = warmup * position.total_steps
    if position.step < rising:
        return (position.step + 1) / (rising + 1)
    return (1 + math.cos(math.pi * (position.step - rising) / (position.total_steps - rising))) / 2


def _check_total(position: Position, schedule: str) -> None:
    if position.total_steps < 1:
        wrong = f"schedule={schedule}: set max_epochs or max_steps, since it needs the number of steps."
        raise ArgumentError("", wrong)


def _up_and_down(position: Position, pct_start: float, values: tuple[float, float, float]) -> float:
    """Interpolate from the first value to the second, then to the third, each along half a cosine."""
    _check_total(position, "one_cycle")
    last = position.total_steps - 1
    peak = pct_start * (last + 1) - 1
    if position.step <= peak:
        start, end, share = values[0], values[1], position.step / peak if peak > 0 else 1.0
    else:
        start, end, share = values[1], values[2], min((position.step - peak) / (last - peak), 1.0)
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


SCHEDULES: dict[str, Callable[..., float]] = {
    function.__name__: function for function in (constant, sgdr, one_cycle, warmup_cosine)
}
"""Schedules by name."""

MOMENTA: dict[str, Callable[..., float]] = {"one_cycle": one_cycle_momentum}
"""Momentum schedules by the name of the learning-rate schedule; with other schedules momentum is constant."""
