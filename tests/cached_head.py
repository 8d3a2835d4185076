"""A head on made-up features, which trains in no time."""

from pathlib import Path

import torch
from torch.utils.data import DataLoader

from dogscats.data.loading.dataset import ActivationDataset, Batch
from dogscats.data.loading.loaders import EpochSampler, SharedBatchSampler, activation_loader
from dogscats.data.photos.layouts import Photos
from dogscats.lesson.backbone import PrecomputedBody
from dogscats.lesson.classifier import Classifier
from dogscats.lesson.heads import Heads


def features(seed: int = 0, photos: int = 400) -> tuple[torch.Tensor, list[int]]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (photos,), generator=generator)
    values = torch.randn(photos, 32, generator=generator)
    values[:, :4] += 1.5 * labels[:, None]
    return values, labels.tolist()


def cached(seed: int = 0) -> DataLoader[Batch]:
    values, labels = features()
    batches = SharedBatchSampler(EpochSampler(len(labels), seed), 32, training=True)
    photos = Photos(Path(), [""] * len(labels), labels)
    return activation_loader(ActivationDataset([values], photos, seed), batches)


def head_classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier(PrecomputedBody(), 2, Heads(32, 2), lrs=(0.01, 0.1, 1.0))
