import math
from collections.abc import Callable

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LRScheduler, OneCycleLR
from torch.utils.data import DataLoader

from dogscats.base.errors import ArgumentError
from dogscats.data.loading.dataset import Batch
from dogscats.lesson.backbone import Backbone
from dogscats.lesson.classifier import Classifier
from dogscats.lesson.schedules import MOMENTA, SCHEDULES, Position, constant, one_cycle, one_cycle_momentum, sgdr
from dogscats.lesson.sgdr import SGDR, LRSchedule


def at(step: int, steps_per_epoch: int = 360) -> Position:
    return Position(step, steps_per_epoch, total_steps=7 * steps_per_epoch)


def of_torch(steps: int, make: Callable[[torch.optim.Optimizer], LRScheduler]) -> list[tuple[float, float]]:
    """Learning rate and momentum of each step by one of torch's own schedulers; the highest rate is 1."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0, momentum=0.9)
    scheduler = make(optimizer)
    used = []
    for _ in range(steps):
        used.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
        optimizer.step()
        if len(used) < steps:
            scheduler.step()
    return used


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 1e-2), (180, 0.005), (359, 1.9038e-7), (360, 0.01), (720, 0.005), (1080, 0.01), (1800, 0.005)],
)
def test_golden_rates_of_the_paper(step: int, expected: float) -> None:
    """360 batches an epoch, cycle_len=1, cycle_mult=2: cycles begin at 0, 360 and 1080."""
    assert 1e-2 * sgdr(at(step), cycle_mult=2) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 1e-4), (17, 1e-4), (18, 0.00993844), (180, 0.005), (360, 0.01), (370, None)]
)
def test_golden_rates_of_fastai(step: int, expected: float | None) -> None:
    rate = 1e-2 * sgdr(at(step), cycle_mult=2, fastai_start=True)
    # Later cycles have no such start.
    paper = 1e-2 * sgdr(at(step), cycle_mult=2)
    assert rate == pytest.approx(paper if expected is None else expected, rel=1e-5)


def test_cycles_of_equal_length() -> None:
    assert [sgdr(at(step, steps_per_epoch=4)) for step in range(9)] == pytest.approx(
        [(1 + math.cos(math.pi * step / 4)) / 2 for step in (0, 1, 2, 3, 0, 1, 2, 3, 0)]
    )


@pytest.mark.parametrize(("cycle_len", "cycle_mult"), [(1, 1), (1, 2), (2, 1), (2, 3)])
def test_sgdr_equals_torchs_warm_restarts(cycle_len: int, cycle_mult: int) -> None:
    expected = of_torch(80, lambda optimizer: CosineAnnealingWarmRestarts(optimizer, 5 * cycle_len, cycle_mult))
    found = [sgdr(Position(step, 5, 80), cycle_len, cycle_mult) for step in range(80)]
    assert found == pytest.approx([rate for rate, _ in expected], abs=1e-12)


@pytest.mark.parametrize("total_steps", [1, 2, 3, 5, 10, 40, 101])
def test_one_cycle_equals_torchs(total_steps: int) -> None:
    expected = of_torch(
        total_steps,
        lambda optimizer: OneCycleLR(
            optimizer, max_lr=1.0, total_steps=total_steps, pct_start=0.25, div_factor=25, final_div_factor=4000,
            base_momentum=0.85, max_momentum=0.95,
        ),
    )  # fmt: skip
    positions = [Position(step, 1, total_steps) for step in range(total_steps)]
    assert [one_cycle(position) for position in positions] == pytest.approx([rate for rate, _ in expected], abs=1e-12)
    assert [one_cycle_momentum(position) for position in positions] == pytest.approx(
        [momentum for _, momentum in expected], abs=1e-12
    )


def test_one_cycle_of_four_steps_begins_at_its_peak() -> None:
    """Torch divides by zero here, since the rise has no length."""
    positions = [Position(step, 1, total_steps=4) for step in range(4)]
    cosine = [1.0, 0.75, 0.25, 0.0]
    assert [one_cycle(position) for position in positions] == pytest.approx([c + (1 - c) * 1e-5 for c in cosine])
    assert [one_cycle_momentum(position) for position in positions] == pytest.approx([0.95 - 0.1 * c for c in cosine])


def test_a_constant_rate_is_the_highest_one() -> None:
    assert {constant(at(step)) for step in range(0, 2520, 7)} == {1.0}


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"^schedule=linear: expected constant, sgdr, one_cycle or "):
        LRSchedule("linear")


class Rates(Callback):
    """Records the rates and momenta that every step uses."""

    def __init__(self) -> None:
        self.seen: list[list[float]] = []
        self.momenta: list[list[float]] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: object, optimizer: object) -> None:
        groups = trainer.optimizers[0].param_groups
        self.seen.append([group["lr"] for group in groups])
        self.momenta.append([group["momentum"] for group in groups])


def used(body: Backbone, schedule: LRSchedule, epochs: int, **settings: object) -> Rates:
    """Train on 5 batches an epoch; give what every optimizer step used."""
    classifier = Classifier(body, classes=2, lrs=(1e-4, 3e-3, 1e-2))
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    batch = Batch(images, torch.tensor([0, 1, 0, 1]), torch.arange(4))
    rates = Rates()
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[schedule, rates],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,  # type: ignore[arg-type]
    )
    trainer.fit(classifier, DataLoader([batch] * 5, batch_size=None))  # type: ignore[arg-type]
    assert trainer.global_step == len(rates.seen)
    return rates


def test_in_a_trainer_all_groups_follow_the_schedule_in_their_ratios(tiny_body: Backbone) -> None:
    rates = used(tiny_body, SGDR(cycle_len=1, cycle_mult=2), epochs=1 + 2 + 4)
    assert len(rates.seen) == 35
    for step, (early, late, head) in enumerate(rates.seen):
        assert head == pytest.approx(1e-2 * sgdr(Position(step, 5, 35), cycle_mult=2))
        assert early == pytest.approx(head / 100)
        assert late == pytest.approx(head * 0.3)
    assert [step for step in range(35) if rates.seen[step][2] == 1e-2] == [0, 5, 15]
    assert {momentum for momenta in rates.momenta for momentum in momenta} == {0.9}


def test_with_accumulated_gradients_the_schedule_counts_steps_not_batches(tiny_body: Backbone) -> None:
    """Of 5 batches the first 3 make a step, and the other 2."""
    rates = used(tiny_body, SGDR(cycle_len=1, cycle_mult=2), epochs=1 + 2 + 4, accumulate_grad_batches=3)
    heads = [head for _, _, head in rates.seen]
    assert heads == pytest.approx([1e-2 * sgdr(Position(step, 2, 14), cycle_mult=2) for step in range(14)])
    assert heads[:6] == pytest.approx(
        [1e-2, 5e-3, 1e-2, 1e-2 * (2 + math.sqrt(2)) / 4, 5e-3, 1e-2 * (2 - math.sqrt(2)) / 4]
    )
    assert [step for step in range(14) if heads[step] == 1e-2] == [0, 2, 6]


@pytest.mark.parametrize(("accumulated", "steps"), [(1, 20), (3, 8)])
def test_one_cycle_spans_the_steps_of_the_stage_and_sets_the_momentum(
    tiny_body: Backbone, accumulated: int, steps: int
) -> None:
    rates = used(tiny_body, LRSchedule("one_cycle"), epochs=4, accumulate_grad_batches=accumulated)
    positions = [Position(step, steps // 4, steps) for step in range(steps)]
    assert [head for _, _, head in rates.seen] == pytest.approx([1e-2 * one_cycle(position) for position in positions])
    assert [early for early, _, _ in rates.seen] == pytest.approx([head / 100 for _, _, head in rates.seen])
    for momenta, position in zip(rates.momenta, positions, strict=True):
        assert momenta == pytest.approx([one_cycle_momentum(position)] * 3)
    assert rates.seen[-1][2] == pytest.approx(1e-2 * 1e-5)


def test_momentum_of_one_cycle_follows_its_options() -> None:
    positions = [Position(step, 10, 40) for step in range(40)]
    for pct_start in (0.25, 0.5):
        lowest = min(positions, key=lambda p: MOMENTA["one_cycle"](p, pct_start=pct_start, div=10))
        highest = max(positions, key=lambda p: SCHEDULES["one_cycle"](p, pct_start=pct_start, div=10))
        assert lowest == highest
