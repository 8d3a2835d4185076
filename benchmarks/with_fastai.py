"""The rows of the comparison for fastai, as in its documentation, on the CPU.

Each function does the same work as the function of the same name in `ours.py`, and returns the seconds of the part that
its docstring calls timed. fastai's defaults are kept: Adam, its head, its number of workers, and BatchNorm training in
frozen layers.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fastai.vision.all import (
    ImageDataLoaders,
    Normalize,
    Resize,
    accuracy,
    aug_transforms,
    imagenet_stats,
    resnet34,
    vision_learner,
)

from benchmarks.settings import Settings
from dogscats.lesson.backbone import resnet34 as our_resnet34


def make_learner(settings: Settings, augment: bool, **loader_arguments: Any) -> Any:
    """Make the lesson's learner, frozen, with the same body weights as ours."""
    augmentation = aug_transforms() if augment else []
    loaders = ImageDataLoaders.from_folder(
        settings.photos,
        item_tfms=Resize(settings.size),
        batch_tfms=[*augmentation, Normalize.from_stats(*imagenet_stats)],
        bs=settings.batch_size,
        device=torch.device("cpu"),
        **loader_arguments,
    )
    learner = vision_learner(loaders, resnet34, pretrained=False, metrics=accuracy)
    # Both bodies have the same layers in the same order.
    body, ours = learner.model[0], our_resnet34(settings.weights or "none").network.state_dict()
    body.load_state_dict(dict(zip(body.state_dict(), ours.values(), strict=True)))
    learner.freeze()
    return learner


def fit(learner: Any, epochs: int) -> float:
    """Time a fit at the lesson's constant learning rate, without a progress bar."""
    started = time.perf_counter()
    with learner.no_bar(), learner.no_logging():
        learner.fit(epochs, 1e-2)
    return time.perf_counter() - started


def head_first(settings: Settings, folder: Path) -> float:
    """Timed: train for 2 epochs with the body frozen, without augmentation, with validation."""
    return fit(make_learner(settings, augment=False), 2)


def frozen(settings: Settings, folder: Path) -> float:
    """Timed: train for an epoch on augmented photos with the body frozen, with validation."""
    return fit(make_learner(settings, augment=True), 1)


def unfrozen(settings: Settings, folder: Path) -> float:
    """Timed: train all layers for an epoch on augmented photos, with validation."""
    learner = make_learner(settings, augment=True)
    learner.unfreeze()
    return fit(learner, 1)


def tta(settings: Settings, folder: Path) -> float:
    """Timed: `learn.tta`: predict the validation photos, plain and 4 augmented versions of each."""
    learner = make_learner(settings, augment=True)
    started = time.perf_counter()
    with learner.no_bar(), learner.no_logging():
        learner.tta(n=4)
    return time.perf_counter() - started


def load(settings: Settings, augment: bool) -> float:
    """Time one pass over the training photos, to normalised batches."""
    torch.set_num_threads(1)
    loader = make_learner(settings, augment, num_workers=0).dls.train.new(drop_last=False)
    started = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - started


def load_plain(settings: Settings, folder: Path) -> float:
    """Timed: decode, resize, crop and normalise the training photos, on one core."""
    return load(settings, augment=False)


def load_augmented(settings: Settings, folder: Path) -> float:
    """Timed: the same with `aug_transforms()`."""
    return load(settings, augment=True)


ROWS: dict[str, Callable[[Settings, Path], float]] = {
    row.__name__: row for row in (head_first, frozen, unfrozen, tta, load_plain, load_augmented)
}
