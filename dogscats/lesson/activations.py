"""Precomputed activations: pooled features of the frozen body, computed once and memory-mapped."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy, deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn
from torch.utils.data import DataLoader

from dogscats.base.content import cache_folder, fingerprint, stable_seed
from dogscats.base.errors import UserError
from dogscats.base.text import counted
from dogscats.data.added.additions import apart
from dogscats.data.loading import shared_rows
from dogscats.data.loading.cached_array import cached_array
from dogscats.data.loading.datamodule import DogsCatsDataModule
from dogscats.data.loading.dataset import ActivationDataset, Batch, PhotoBatches, PhotoDataset
from dogscats.data.loading.loaders import SharedBatchSampler, activation_loader
from dogscats.data.photos.decisions import before_decisions
from dogscats.data.photos.layouts import Photos
from dogscats.lesson.backbone import Backbone
from dogscats.lesson.classifier import Classifier

log = logging.getLogger(__name__)

Known = tuple[Sequence[shared_rows.Row | None], Iterable[Batch]]
"""Rows of photos whose features are cached elsewhere, `None` for the others; and the batches of these."""


def activation_key(body: Backbone | None, dataset: PhotoDataset, view: int | None, version: str = "") -> str:
    """Hash everything the activations depend on, to 32 hex digits.

    - the backbone, its weights and its normalization; none for what comes from the photos alone
    - the transform, with the image size
    - paths, sizes and modification times of the files, and how large ones are read
    - for an augmented `view`, its index and the seed
    - the `version` of `PhotoBatches`
    """
    digest = hashlib.blake2b(digest_size=16)
    for tensor in (body.mean, body.std, *body.state_dict().values()) if body is not None else ():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    photos = fingerprint(dataset.photos.root, dataset.photos.paths)
    if dataset.photos.shrink:
        photos += dataset.photos.shrink.version(dataset.photos.paths)
    photos += version
    seeded_view = None if view is None else (dataset.seed, view)
    digest.update(repr((str(body), str(dataset.transform), photos, seeded_view)).encode())
    return digest.hexdigest()


def network_key(body: Backbone, dataset: PhotoDataset) -> str:
    """Hash everything the activations of any photo depend on, apart from the photo."""
    return activation_key(body, PhotoDataset(dataset.photos.select([]), dataset.transform, dataset.seed), None)


def precompute(
    body: Backbone,
    loader: DataLoader[Batch],
    folder: Path,
    device: torch.device,
    view: int | None = None,
    description: str = "activations",
    watch: Callable[[Batch], None] | None = None,
    known: Known | None = None,
) -> torch.Tensor:
    """Compute the body's features of all photos, or read them from the cache; all ranks together.

    BatchNorm uses its running statistics and is folded into the convolutions where possible. No autograd graph is
    kept.

    Args:
        body: pretrained body; not modified.
        loader: loader of the photos, in order; with several ranks, of this rank's whole batches.
        folder: cache folder, for `activations-<key>.npy` and its checksum `activations-<key>.json`.
        device: device that computes the features.
        view: index of the augmented view; `None` for the plain photos.
        description: description for the progress bar.
        watch: function that also gets the batches that this rank computes.
        known: what need not be computed, if there is a single rank; `None` to compute all.

    Returns:
        Features `(N, F)`, float32, memory-mapped.
    """
    assert isinstance(loader.dataset, PhotoBatches)
    assert isinstance(loader.sampler, SharedBatchSampler)
    dataset, batches = loader.dataset.dataset, loader.sampler
    assert batches.sampler.seed is None
    assert batches.whole or batches.num_replicas == 1
    batches.set_epoch(view or 0)
    file = folder / f"activations-{activation_key(body, dataset, view, loader.dataset.version)}.npy"
    share, count = partial(_features, body, loader, device, watch), batches.count
    if known:
        computed = partial(_features, body, known[1], device, None)
        share, count = partial(shared_rows.joined, known[0], computed), len(dataset)
    features = cached_array(file, (len(dataset), body.num_features), share, count, description)
    if features is None:
        raise UserError(f"{file}: the network gives features that are not finite numbers. Check model.weights.")
    return features


@torch.inference_mode()
def _features(
    body: Backbone, loader: Iterable[Batch], device: torch.device, watch: Callable[[Batch], None] | None
) -> Iterator[np.ndarray[Any, Any]]:
    """Yield the features `(B, F)` of each batch."""
    frozen = fold_batchnorm(body).to(device)
    for batch in loader:
        if watch:
            watch(batch)
        yield frozen(batch.inputs.to(device, non_blocking=True)).float().cpu().numpy()


def fold_batchnorm(body: Backbone) -> nn.Module:
    """Copy a body for inference, with each BatchNorm folded into the preceding convolution where possible.

    Features equal those of `body` in eval mode up to rounding. A network that torch.fx cannot trace, or that uses
    another BatchNorm than torch's, is copied unchanged.
    """
    # Imported here because it is slow and most runs do not need it.
    from torch.fx.experimental.optimization import fuse

    try:
        return fuse(deepcopy(body).eval(), inplace=True)
    except Exception:  # tracing runs arbitrary network code
        return deepcopy(body).eval()


class Activations:
    """Activations of the training and validation photos, computed on first use.

    Args:
        model: classifier whose body computes the activations.
        data: data module.
        fabric: Fabric of all ranks; each computes a share.
        folder: cache folder; `None` for the default of `cache_folder`.
        views: number of augmented views per training photo; each epoch draws one of them at random; 0 for the plain
            photo, as in the lesson.
    """

    def __init__(
        self, model: Classifier, data: DogsCatsDataModule, fabric: Fabric, folder: str | None = None, views: int = 0
    ):
        assert isinstance(model.body, Backbone)
        self.body, self.data, self.fabric, self.folder, self.views = model.body, data, fabric, folder, views

    def train_loader(self, stage: str) -> DataLoader[Batch]:
        """Make the training loader of a stage, in the order in which photos would be loaded."""
        plain, name = self.data.train_dataset(stage, augment=False), "activations of train"
        features = [] if self.views else [self._features(plain, name)]
        for view in range(self.views):
            augmented = self.data.train_dataset("activations", augment=True)
            features.append(self._features(augmented, f"{name}, view {view + 1}", view))
        return self._loader(features, plain, shuffle=True)

    def valid_loader(self) -> DataLoader[Batch]:
        """Make the validation loader, in the order of the photos."""
        plain = self.data.valid_dataset()
        return self._loader([self._features(plain, "activations of valid")], plain)

    def features(
        self, photos: Photos, description: str, folder: str | None = None, watch: Callable[[Batch], None] | None = None
    ) -> torch.Tensor:
        """Compute the features `(N, F)` of plain photos, in order, or read them from the cache, or a `folder`.

        `watch` gets the batches of photos that this rank computes, of the photos before decisions.
        """
        dataset = PhotoDataset(photos, self.data.evaluation, self.data.seed)
        features = self._features(dataset, description, folder=folder, watch=watch)
        _, rows = before_decisions(photos)
        return features if rows is None else features[rows]

    def share(self, photos: Photos) -> None:
        """Note which photos the cached features are of, so that other commands need not compute them again."""
        dataset = PhotoDataset(photos, self.data.evaluation, self.data.seed)
        cache = cache_folder(self.data.root, self.folder)
        for member in self.body.members():
            file = cache / f"activations-{activation_key(member, dataset, None)}.npy"
            shared_rows.note(file, network_key(member, dataset), photos)

    def _known(self, body: Backbone, dataset: PhotoDataset, cache: Path) -> Known | None:
        """Look for plain photos that `share` has noted, unless all features are cached; with a single rank."""
        if self.fabric.world_size > 1 or (cache / f"activations-{activation_key(body, dataset, None)}.npy").is_file():
            return None
        rows = shared_rows.look_for(cache, network_key(body, dataset), dataset.photos, body.num_features)
        others = [index for index, row in enumerate(rows) if row is None]
        if len(others) == len(rows):
            return None
        log.info("Reusing activations of %d of %s", len(rows) - len(others), counted(len(rows), "photo"))
        dataset = PhotoDataset(dataset.photos.select(others), dataset.transform, dataset.seed)
        return rows, self.data.loader(dataset, persistent=False, whole=True) if others else ()

    def augmented(self, photos: Photos, version: int, description: str) -> torch.Tensor:
        """Compute the features `(N, F)` of an augmented version of photos, as in test-time augmentation."""
        dataset = PhotoDataset(photos, self.data.augmentation, stable_seed(self.data.seed, "tta", version))
        return self._features(dataset, description, version)

    def _loader(self, views: list[torch.Tensor], dataset: PhotoDataset, shuffle: bool = False) -> DataLoader[Batch]:
        batches, (_, rows) = self.data.batch_sampler(dataset, shuffle), before_decisions(dataset.photos)
        return activation_loader(ActivationDataset(views, dataset.photos, dataset.seed, rows), batches)

    def file(self, name: str, photos: Photos, body: Backbone | None = None) -> Path:
        """Return the path of the JSON file in the cache for what is derived from plain photos, and perhaps a body."""
        dataset = PhotoDataset(photos, self.data.evaluation, self.data.seed)
        key = activation_key(body, dataset, None)
        return cache_folder(self.data.root, self.folder) / f"{name}-{key}.json"

    def _features(
        self,
        dataset: PhotoDataset,
        description: str,
        view: int | None = None,
        folder: str | None = None,
        watch: Callable[[Batch], None] | None = None,
    ) -> torch.Tensor:
        # Also photos that decisions.csv drops or relabels: a new decision changes rows and labels, but not the cache.
        photos, _ = before_decisions(dataset.photos)
        cache, done, parts = cache_folder(self.data.root, folder or self.folder), 0, list[torch.Tensor]()

        def see(batch: Batch) -> None:
            if watch:
                watch(batch._replace(indices=batch.indices + done))

        for part, name in zip(apart(photos), (description, f"{description}, added"), strict=False):
            dataset = copy(dataset)
            dataset.photos = part
            loader = self.data.loader(dataset, persistent=False, whole=True)
            found = []
            plain = view is None and isinstance(loader.dataset, PhotoBatches) and not loader.dataset.version
            for member in self.body.members():
                known = self._known(member, dataset, cache) if plain else None
                looks = None if known or not watch else see  # numbers of batches would be others
                found.append(precompute(member, loader, cache, self.fabric.device, view, name, looks, known))
            parts.append(found[0] if len(found) == 1 else torch.cat(found, dim=1))
            done += len(part.paths)
        return parts[0] if len(parts) == 1 else torch.cat(parts)
