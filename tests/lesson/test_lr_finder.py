import csv
import math
import random
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from cached_head import cached, head_classifier
from PIL import Image
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader

from dogscats import DogsCatsDataModule
from dogscats.data.loading.dataset import Batch
from dogscats.lesson.backbone import Backbone, PrecomputedBody
from dogscats.lesson.classifier import Classifier
from dogscats.lesson.heads import Heads
from dogscats.lesson.lr_finder import LRCurve, find_lr
from dogscats.report.figures.curves import lr_curve
from dogscats.report.figures.drawing import publish

make_trainer = partial(Trainer, accelerator="cpu", enable_model_summary=False)


def test_the_rate_rises_exponentially_and_the_suggestion_is_a_tenth_of_the_lowest() -> None:
    curve = find_lr(head_classifier(), cached(), make_trainer, steps=300)
    assert curve.lrs[0] == pytest.approx(1e-5)
    ratios = [b / a for a, b in zip(curve.lrs, curve.lrs[1:], strict=False)]
    assert ratios == pytest.approx([1e6 ** (1 / 299)] * len(ratios))
    assert curve.lrs[-1] == pytest.approx(1e-5 * 1e6 ** ((len(curve.lrs) - 1) / 299))
    lowest = min(range(10, len(curve.lrs)), key=curve.smoothed.__getitem__)
    assert curve.suggestion == curve.lrs[lowest] / 10
    assert 1e-4 < curve.suggestion < 1
    assert curve.losses[lowest] < 0.7 * curve.losses[0]


def test_smoothing_is_a_debiased_moving_average() -> None:
    curve = LRCurve()
    losses = [1.0, 3.0, 2.0, 5.0]
    for loss in losses:
        curve.add(1e-3, loss)
    weights = [0.98 ** (3 - i) for i in range(4)]
    expected = sum(w * loss for w, loss in zip(weights, losses, strict=True)) / sum(weights)
    assert curve.smoothed[0] == 1.0
    assert curve.smoothed[-1] == pytest.approx(expected)


def test_it_stops_when_the_loss_explodes_or_is_not_a_number() -> None:
    curve = LRCurve()
    for step in range(40):
        curve.add(1e-3 * (step + 1), 1.0)
        assert not curve.diverged
    curve.add(1, math.nan)
    assert curve.diverged
    assert math.isfinite(curve.suggestion)
    exploding = LRCurve()
    steps = 0
    while steps < 20 or not exploding.diverged:
        exploding.add(1e-3 * (steps + 1), 1.0 if steps < 20 else 50.0)
        steps += 1
    assert 20 < steps < 30
    assert exploding.smoothed[-1] > 4 * 1.0


def test_a_short_loader_is_repeated_in_new_orders() -> None:
    seen: list[torch.Tensor] = []

    class Spy(Classifier):
        def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
            seen.append(batch.indices)
            return super().training_step(batch, batch_idx)

    torch.manual_seed(0)
    find_lr(Spy(PrecomputedBody(), 2, Heads(32, 2)), cached(), make_trainer, steps=50)
    epochs = [torch.cat(seen[start : start + 13]) for start in (0, 13, 26)]
    assert all(sorted(epoch.tolist()) == list(range(400)) for epoch in epochs)
    assert not torch.equal(epochs[0], epochs[1])


def test_with_accumulated_gradients_a_step_has_the_mean_loss_of_its_batches_and_heads() -> None:
    torch.manual_seed(0)
    classifier = Classifier(PrecomputedBody(), 2, Heads(32, 2, count=2)).eval()
    curve = find_lr(classifier, cached(), partial(make_trainer, accumulate_grad_batches=3), steps=7)
    assert curve.lrs == pytest.approx([1e-5 * 10**step for step in range(7)])
    losses = [
        nn.functional.cross_entropy(head(batch.inputs), batch.labels).item()
        for batch in islice(cached(), 3)
        for head in classifier.heads
    ]
    assert curve.losses[0] == pytest.approx(sum(losses) / 6)


@pytest.mark.fault("LR finder: weights, buffers, modes, gradients, generators and data order as before")
@pytest.mark.parametrize("first", [0, 1, 2])
def test_nothing_of_the_run_is_changed(tiny_body: Backbone, shared_root: Path, first: int) -> None:
    """Weights, buffers, modes, gradients, generators, and what the loader gives afterwards."""
    data = DogsCatsDataModule(shared_root, size=24, batch_size=5, num_workers=2)
    data.setup()

    def loader() -> DataLoader[Batch]:
        return data.loader(data.train_dataset("s", augment=True), shuffle=True)

    classifier = Classifier(tiny_body, classes=2, lrs=(1e-4, 1e-3, 1e-2))
    classifier.freeze_to(first)
    weights = {key: value.clone() for key, value in classifier.state_dict().items()}
    modes = [module.training for module in classifier.modules()]
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[union-attr]

    used = loader()
    curve = find_lr(classifier, used, make_trainer, steps=12)

    assert len(curve.lrs) == 12
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # type: ignore[union-attr]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert all(torch.equal(weights[key], value) for key, value in classifier.state_dict().items())
    assert modes == [module.training for module in classifier.modules()]
    assert all(parameter.grad is None for parameter in classifier.parameters())
    used.sampler.set_epoch(0)  # type: ignore[attr-defined]
    for ours, theirs in zip(used, loader(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    used._iterator = None  # collected together with the Trainer, its workers would take 5 seconds each to end


def test_points_and_plots_are_written(tmp_path: Path) -> None:
    curve = find_lr(head_classifier(), cached(), make_trainer, steps=100)
    logger = TensorBoardLogger(tmp_path, name="", version="stage")
    curve.write(tmp_path / "lr_finder.csv")
    publish(lr_curve(curve), tmp_path / "lr_finder.png", [logger], "lr_finder/plots")
    curve.log([logger])
    logger.finalize("success")
    with (tmp_path / "lr_finder.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["lr"]) for row in rows] == curve.lrs
    assert [float(row["smoothed_loss"]) for row in rows] == curve.smoothed
    with Image.open(tmp_path / "lr_finder.png") as picture:
        assert picture.width > 1000
    events = EventAccumulator(str(tmp_path / "stage")).Reload()
    tags = events.Tags()
    assert tags["images"] == ["lr_finder/plots"]
    assert len(events.Scalars("lr_finder/smoothed_loss")) == len(curve.lrs)
