import math

import pytest
import torch
from conftest import TinyNetwork
from pytorch_lightning import Callback, Trainer
from torch.utils.data import DataLoader

from dogscats.backbone import Backbone
from dogscats.callbacks.sgdr import SGDR, sgdr_factor
from dogscats.classifier import Classifier
from dogscats.data import Batch
from dogscats.heads import Heads


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 1e-2), (180, 0.005), (359, 1.9038e-7), (360, 0.01), (720, 0.005), (1080, 0.01), (1800, 0.005)],
)
def test_golden_rates_of_the_paper(step: int, expected: float) -> None:
    """360 batches an epoch, cycle_len=1, cycle_mult=2: cycles begin at 0, 360 and 1080."""
    assert 1e-2 * sgdr_factor(step, 360, cycle_mult=2) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 1e-4), (17, 1e-4), (18, 0.00993844), (180, 0.005), (360, 0.01), (370, None)]
)
def test_golden_rates_of_fastai(step: int, expected: float | None) -> None:
    rate = 1e-2 * sgdr_factor(step, 360, cycle_mult=2, fastai_start=True)
    # Later cycles have no such start.
    paper = 1e-2 * sgdr_factor(step, 360, cycle_mult=2)
    assert rate == pytest.approx(paper if expected is None else expected, rel=1e-5)


def test_cycles_of_equal_length() -> None:
    assert [sgdr_factor(step, 4) for step in range(9)] == pytest.approx(
        [(1 + math.cos(math.pi * step / 4)) / 2 for step in (0, 1, 2, 3, 0, 1, 2, 3, 0)]
    )


class Rates(Callback):
    """Records the rates that every step uses."""

    def __init__(self) -> None:
        self.seen: list[list[float]] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: object, optimizer: object) -> None:
        self.seen.append([group["lr"] for group in trainer.optimizers[0].param_groups])


def test_in_a_trainer_all_groups_follow_the_schedule_in_their_ratios() -> None:
    torch.manual_seed(0)
    body = Backbone(TinyNetwork(), last_early="first", channels=8)
    classifier = Classifier(body, Heads(16, 2), 2, lrs=(1e-4, 3e-3, 1e-2))
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    batch = Batch(images, torch.tensor([0, 1, 0, 1]), torch.arange(4))
    rates = Rates()
    trainer = Trainer(
        max_epochs=1 + 2 + 4,
        accelerator="cpu",
        callbacks=[SGDR(cycle_len=1, cycle_mult=2), rates],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(classifier, DataLoader([batch] * 5, batch_size=None))  # type: ignore[arg-type]
    assert len(rates.seen) == 35
    for step, (early, late, head) in enumerate(rates.seen):
        assert head == pytest.approx(1e-2 * sgdr_factor(step, 5, cycle_mult=2))
        assert early == pytest.approx(head / 100)
        assert late == pytest.approx(head * 0.3)
    assert [step for step in range(35) if rates.seen[step][2] == 1e-2] == [0, 5, 15]
