"""Precomputed activations: the frozen body's pooled features, computed once and memory-mapped."""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch.utils.data import DataLoader, Dataset

from dogscats.atomic import atomic_path, remove_unfinished
from dogscats.backbone import Backbone, fold_batchnorm
from dogscats.cache import fingerprint
from dogscats.console import progress_bar
from dogscats.data import Batch, PhotoDataset
from dogscats.samplers import SharedBatchSampler
from dogscats.seed import stable_seed

log = logging.getLogger(__name__)


def activation_key(body: Backbone, dataset: PhotoDataset, view: int | None) -> str:
    """Hash everything that the activations depend on: 32 hex digits.

    That is the backbone, its weights, the transform with the size, and the files' paths, sizes and times;
    for an augmented `view` also its number and the seed. Nothing else.
    """
    digest = hashlib.blake2b(digest_size=16)
    for tensor in (body.mean, body.std, *body.state_dict().values()):
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    photos = fingerprint(dataset.photos.root, dataset.photos.paths)
    draw = None if view is None else (dataset.seed, view)
    digest.update(repr((str(body.network), str(dataset.transform), photos, draw)).encode())
    return digest.hexdigest()


def precompute(
    body: Backbone,
    loader: DataLoader[Batch],
    folder: Path,
    device: torch.device,
    view: int | None = None,
    description: str = "activations",
) -> torch.Tensor:
    """Compute the body's features of all photos of `loader`, or take them from the cache.

    BatchNorm normalises by its running statistics, where possible folded into the convolutions, and nothing
    of the autograd graph is kept.

    Args:
        body: the pretrained body; it is left as it was.
        loader: the photos, in order.
        folder: holds the cache: `activations-<key>.npy`, and its checksum in `activations-<key>.json`.
        device: computes the features.
        view: number of the augmented version to compute; `None` for a transform without randomness.
        description: names the photos in the progress bar.

    Returns:
        Features `(N, F)`, float32, memory-mapped.
    """
    dataset = loader.dataset
    assert isinstance(dataset, PhotoDataset)
    file = folder / f"activations-{activation_key(body, dataset, view)}.npy"
    # Of two runs that want the same activations one computes them, and the other waits for it.
    with FileLock(file.with_suffix(".lock")):
        features = _read(file, len(dataset))
        if features is None:
            log.info("Computing %s: %s", description, file)
            _build(body, loader, file, device, view or 0, description)
            features = _read(file, len(dataset))
            assert features is not None
        else:
            log.info("Reusing %s: %s", description, file)
    return features


class ActivationDataset(Dataset[Batch]):
    """Features of `K` versions of each photo; every epoch draws one of them.

    A key is that of a whole batch: a list of `(index, epoch)`.

    Args:
        views: `K` tensors `(N, F)`.
        labels: `N` class indices.
        seed: of the draw, a function of it, the epoch and the photo.
    """

    def __init__(self, views: Sequence[torch.Tensor], labels: Sequence[int], seed: int):
        self.views, self.labels, self.seed = views, torch.tensor(labels), seed

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, keys: Sequence[tuple[int, int]]) -> Batch:
        indices = torch.tensor([index for index, _ in keys])
        if len(self.views) == 1:
            inputs = self.views[0][indices]
        else:
            draws = [stable_seed(self.seed, epoch, index) % len(self.views) for index, epoch in keys]
            inputs = torch.stack(
                [self.views[draw][index] for draw, (index, _) in zip(draws, keys, strict=True)]
            )
        return Batch(inputs, self.labels[indices], indices)


def activation_loader(
    views: Sequence[torch.Tensor], labels: Sequence[int], batches: SharedBatchSampler, seed: int
) -> DataLoader[Batch]:
    """Load batches of features.

    Args:
        views: `K` tensors `(N, F)`.
        labels: `N` class indices.
        batches: of `DogsCatsDataModule.batch_sampler`: the order in which the photos would come.
        seed: of the draw among the views.
    """
    return DataLoader(
        ActivationDataset(views, labels, seed),
        sampler=batches,
        batch_size=None,
        generator=torch.Generator().manual_seed(seed),
    )


def _build(
    body: Backbone,
    loader: DataLoader[Batch],
    file: Path,
    device: torch.device,
    view: int,
    description: str,
) -> None:
    dataset = loader.dataset
    assert isinstance(dataset, PhotoDataset)
    loader.batch_sampler.set_epoch(view)
    remove_unfinished(file.parent, file.name)
    frozen = fold_batchnorm(body).to(device)
    with (
        atomic_path(file) as temporary,
        torch.inference_mode(),
    ):
        features = np.lib.format.open_memmap(
            temporary, mode="w+", dtype=np.float32, shape=(len(dataset), body.num_features)
        )
        if hasattr(os, "posix_fallocate"):  # a full disk is an error now, not a signal at some later write
            with temporary.open("r+b") as reserved:
                os.posix_fallocate(reserved.fileno(), 0, temporary.stat().st_size)
        for batch in progress_bar(loader, f"Computing {description}", len(loader), "batch"):
            features[batch.indices.numpy()] = frozen(batch.inputs.to(device, non_blocking=True)).float().cpu()
        features.flush()
    with atomic_path(file.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps({"blake2b": _checksum(file), "photos": len(dataset)}))


def _read(file: Path, photos: int) -> torch.Tensor | None:
    """Map the features, unless they are absent or not what was written."""
    try:
        expected = json.loads(file.with_suffix(".json").read_text())
        if expected != {"blake2b": _checksum(file), "photos": photos}:
            return None
        # Copy-on-write: torch wants writable memory, and no write may reach the file.
        return torch.from_numpy(np.load(file, mmap_mode="c"))
    except (OSError, ValueError):
        return None


def _checksum(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
