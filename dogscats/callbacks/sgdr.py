"""SGDR: cosine annealing with warm restarts."""

import math
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from dogscats.classifier import Classifier


def sgdr_factor(step: int, first_cycle: int, cycle_mult: int = 1, fastai_start: bool = False) -> float:
    """Compute what the learning rate is multiplied by: a pure function of the step.

    `1/2 (1 + cos(pi t / T_i))`, with `t` the steps since the start of cycle `i` and `T_i` its length,
    `T_0 cycle_mult^i`: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts",
    https://arxiv.org/abs/1608.03983, equation 5 with a lowest rate of 0.

    Args:
        step: optimizer steps since the start of the stage.
        first_cycle: `T_0`, in steps.
        cycle_mult: how many times as long as its predecessor each cycle is.
        fastai_start: do as fastai 0.7, which holds the first twentieth of the first cycle at a hundredth of
            the rate, and then jumps onto the cosine.

    Returns:
        From 1 at the start of a cycle towards 0 at its end.
    """
    if fastai_start and step < first_cycle / 20:
        return 0.01
    length = first_cycle
    while step >= length:
        step -= length
        length *= cycle_mult
    return (1 + math.cos(math.pi * step / length)) / 2


class SGDR(Callback):
    """Sets the learning rates of all layer groups before every step; their ratios never change.

    Args:
        cycle_len: epochs in the first cycle.
        cycle_mult: how many times as long as its predecessor each cycle is.
        fastai_start: see `sgdr_factor`.
    """

    def __init__(self, cycle_len: int, cycle_mult: int = 1, fastai_start: bool = False):
        self.cycle_len, self.cycle_mult, self.fastai_start = cycle_len, cycle_mult, fastai_start

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Multiply each group's highest rate by this step's factor."""
        assert isinstance(pl_module, Classifier)
        first_cycle = self.cycle_len * int(trainer.num_training_batches)
        factor = sgdr_factor(trainer.global_step, first_cycle, self.cycle_mult, self.fastai_start)
        for group, rate in zip(trainer.optimizers[0].param_groups, pl_module.lrs, strict=True):
            group["lr"] = factor * rate
