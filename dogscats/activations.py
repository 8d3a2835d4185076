"""Precomputed activations: pooled features of the frozen body, computed once and memory-mapped."""

import hashlib
import logging
import os
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torch.utils.data import DataLoader

from dogscats.backbone import Backbone
from dogscats.classifier import Classifier
from dogscats.data.datamodule import DogsCatsDataModule
from dogscats.data.dataset import Batch, PhotoBatches, PhotoDataset
from dogscats.data.features import activation_loader
from dogscats.data.samplers import SharedBatchSampler
from dogscats.fold import fold_batchnorm
from dogscats.runs.cache import cache_folder, fingerprint, read_array, seal_array
from dogscats.runs.console import progress_bar
from dogscats.runs.errors import UserError
from dogscats.runs.files import atomic_path, remove_unfinished
from dogscats.runs.locks import locked

log = logging.getLogger(__name__)


def activation_key(body: Backbone, dataset: PhotoDataset, view: int | None) -> str:
    """Hash everything the activations depend on: 32 hex digits.

    That is the backbone and its weights, the transform with the image size, and the paths, sizes and modification
    times of the files, and how large ones are read; for an augmented `view` also its index and the seed.
    """
    digest = hashlib.blake2b(digest_size=16)
    for tensor in (body.mean, body.std, *body.state_dict().values()):
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    photos = fingerprint(dataset.photos.root, dataset.photos.paths)
    if dataset.photos.shrink:
        photos += dataset.photos.shrink.version(dataset.photos.paths)
    draw = None if view is None else (dataset.seed, view)
    digest.update(repr((str(body), str(dataset.transform), photos, draw)).encode())
    return digest.hexdigest()


def precompute(
    body: Backbone,
    loader: DataLoader[Batch],
    folder: Path,
    device: torch.device,
    view: int | None = None,
    description: str = "activations",
) -> torch.Tensor:
    """Compute the body's features of all photos in `loader`, or read them from the cache.

    BatchNorm uses its running statistics and is folded into the convolutions where possible. No autograd graph is
    kept.

    Args:
        body: pretrained body; not modified.
        loader: loader of the photos, in order.
        folder: cache folder, for `activations-<key>.npy` and its checksum `activations-<key>.json`.
        device: device that computes the features.
        view: index of the augmented version; `None` for a deterministic transform.
        description: description for the progress bar.

    Returns:
        Features `(N, F)`, float32, memory-mapped.
    """
    assert isinstance(loader.dataset, PhotoBatches)
    dataset = loader.dataset.dataset
    file, shape = folder / f"activations-{activation_key(body, dataset, view)}.npy", (len(dataset), body.num_features)
    # If two runs need the same activations, one computes them and the other waits.
    with locked(file.with_suffix(".lock"), f"{file}"):
        features = read_array(file, shape)
        if features is None:
            log.info("Computing %s: %s", description, file)
            _build(body, loader, file, device, view or 0, description)
            features = read_array(file, shape)
        else:
            log.info("Reusing %s: %s", description, file)
    if features is None:
        raise UserError(f"{file}: the network gives features that are not finite numbers. Check model.weights.")
    return features


class Activations:
    """Activations of the training and validation photos, computed on first use.

    Args:
        model: classifier whose body computes the activations.
        data: data module.
        fabric: Fabric of all ranks; rank 0 computes, the others wait.
        folder: cache folder; `None` for the default of `cache_folder`.
        views: number of augmented versions per training photo; 0 for the plain photo.
    """

    def __init__(
        self, model: Classifier, data: DogsCatsDataModule, fabric: Fabric, folder: str | None = None, views: int = 0
    ):
        assert isinstance(model.body, Backbone)
        self.body, self.data, self.fabric, self.views = model.body, data, fabric, views
        self.folder = folder

    def train_loader(self, stage: str) -> DataLoader[Batch]:
        """Make the training loader of a stage, in the order in which photos would be loaded."""
        plain = self.data.train_dataset(stage, augment=False)
        if self.views == 0:
            features = [self._features(plain, "activations of train")]
        else:
            augmented = self.data.train_dataset("activations", augment=True)
            features = [
                self._features(augmented, f"activations of train, version {view + 1}", view)
                for view in range(self.views)
            ]
        batches = self.data.batch_sampler(plain, shuffle=True)
        return activation_loader(features, self.data.train, batches, plain.seed)

    def valid_loader(self) -> DataLoader[Batch]:
        """Make the validation loader, in the order of the photos."""
        plain = self.data.valid_dataset()
        features = self._features(plain, "activations of valid")
        return activation_loader([features], self.data.valid, self.data.batch_sampler(plain), plain.seed)

    def _features(self, dataset: PhotoDataset, description: str, view: int | None = None) -> torch.Tensor:
        loader = self.data.loader(dataset, persistent=False, shared=False)
        folder = cache_folder(self.data.root, self.folder)
        with self.fabric.rank_zero_first():
            return precompute(self.body, loader, folder, self.fabric.device, view, description)


def _build(
    body: Backbone, loader: DataLoader[Batch], file: Path, device: torch.device, view: int, description: str
) -> None:
    assert isinstance(loader.dataset, PhotoBatches)
    assert isinstance(loader.sampler, SharedBatchSampler)
    dataset = loader.dataset.dataset
    loader.sampler.set_epoch(view)
    remove_unfinished(file.parent, file.name)
    frozen = fold_batchnorm(body).to(device)
    with atomic_path(file) as temporary, torch.inference_mode():
        features = np.lib.format.open_memmap(
            temporary, mode="w+", dtype=np.float32, shape=(len(dataset), body.num_features)
        )
        if hasattr(os, "posix_fallocate"):  # so a full disk raises here, instead of a signal on a later write
            with temporary.open("r+b") as reserved:
                os.posix_fallocate(reserved.fileno(), 0, temporary.stat().st_size)
        for batch in progress_bar(loader, f"Computing {description}", len(loader), "batch"):
            features[batch.indices.numpy()] = frozen(batch.inputs.to(device, non_blocking=True)).float().cpu()
        features.flush()
    seal_array(file)
