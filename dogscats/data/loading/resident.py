"""Photos that stay decoded, and are augmented in batches on the network's device: `data.resident`.

Workers draw what happens to each photo, as they do where they augment photos themselves. Pixels are on the device, if
they take a small part of its memory; otherwise workers send those of each batch, too.
"""

import hashlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from shutil import disk_usage
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from dogscats.base.content import fingerprint
from dogscats.base.errors import ArgumentError, UserError
from dogscats.base.text import counted
from dogscats.data.loading.cached_array import cached_array
from dogscats.data.loading.dataset import Batch, PhotoBatches, PhotoDataset, shared
from dogscats.data.loading.loaders import SharedBatchSampler, photo_loader, process_rank
from dogscats.data.loading.workers import WorkerLoader
from dogscats.data.photos.decisions import before_decisions
from dogscats.data.pixels.batched import BatchedTransform, render, room_for
from dogscats.data.pixels.shrink import RESERVE, sampled_sizes

log = logging.getLogger(__name__)

SHARE = 0.4
"""Largest share of the device's free memory for pixels; the network needs the rest."""

SHARE_OF_MEMORY = 0.5
"""Largest share of the machine's memory for pixels. Beyond, epochs would read them from the disk."""

DRAWN_BYTES = 100
"""What workers send of each photo besides its pixels."""

GROUP = 64
"""Pictures in a block of the file."""

BASE = np.array([1, 1 << 8, 1 << 16])
"""Values of the three bytes of a number, so that the sizes of pictures are stored like pixels."""


class Pictures:
    """Decoded pictures in a file `(P, 3)`, in blocks of `GROUP`: four numbers of each, then the pixels of each.

    Args:
        file: the file, verified.
        count: number of pictures `N`.

    Attributes:
        pixels: content of the file, memory-mapped.
        starts: row of the first pixel of each picture `(N,)`.
        sizes: height and width of each, and those that it stands for `(N, 4)`.
    """

    def __init__(self, file: Path, count: int):
        self.file, array = file, np.load(file, mmap_mode="c")
        starts, sizes, end = [], [], 0
        for first in range(0, count, GROUP):
            start = end + 4 * min(GROUP, count - first)
            sizes.append((array[end:start].astype(np.int64) @ BASE).reshape(-1, 4))
            ends = start + sizes[-1][:, :2].prod(axis=1).cumsum()
            starts.append(np.array([start, *ends[:-1]]))
            end = int(ends[-1])
        self.pixels = torch.from_numpy(array)
        self.starts, self.sizes = (torch.from_numpy(np.concatenate(parts)) for parts in (starts, sizes))

    def __reduce__(self) -> Any:
        """Let workers that do not share memory map the file themselves."""
        return Pictures, (self.file, len(self.starts))


def keep_pictures(dataset: PhotoDataset, transform: BatchedTransform, folder: Path) -> Pictures:
    """Decode all photos of a dataset, or find them in the cache; all ranks together.

    Args:
        dataset: the photos; its transform is not used.
        transform: transform whose first steps are applied.
        folder: cache folder, for `pictures-<key>.npy` and its checksum.

    Raises:
        UserError: in all ranks, if a photo became unreadable, or the file cannot be written.
    """
    photos, ((rank, ranks), count) = dataset.photos, (process_rank(), len(dataset))
    key = fingerprint(photos.root, photos.paths), photos.shrink and photos.shrink.version(photos.paths)
    name = hashlib.blake2b(repr((*key, transform.version)).encode(), digest_size=16).hexdigest()

    def blocks() -> Iterator[np.ndarray[Any, Any]]:
        with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
            for first in range(rank * GROUP, count, ranks * GROUP):
                group = range(first, min(first + GROUP, count))
                kept = list(pool.map(lambda index: transform.keep(dataset.decoded(index)), group))
                sizes = np.array([[*picture.shape[1:], *size] for picture, size in kept])
                pixels = [picture.permute(1, 2, 0).reshape(-1, 3).numpy() for picture, _ in kept]
                numbers = (sizes.reshape(-1, 1) // BASE % 256).astype(np.uint8)
                yield np.concatenate([numbers, *pixels])

    file, total = folder / f"pictures-{name}.npy", -(-count // GROUP)
    if cached_array(file, (None, 3), blocks, total, f"pictures of {counted(count, 'photo')}", np.uint8) is None:
        raise UserError(f"{file}: it was changed while it was written. Try again.")
    return Pictures(file, count)


class Drawn(NamedTuple):
    """What `render` needs for a batch, and its labels and indices; `pixels` is empty if they are on the device."""

    pixels: torch.Tensor
    starts: torch.Tensor
    sizes: torch.Tensor
    views: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor


class DrawnBatches(PhotoBatches):
    """Batches of photos that workers draw, and the main process renders on a device.

    Args:
        dataset: dataset of single photos.
        transform: its transform.
        pictures: pictures of the photos before decisions.
        device: device of the network.
        resident: all pixels, on the device; `None` to send those of each batch.
    """

    version = " rendered in batches"

    def __init__(
        self, dataset: PhotoDataset, transform: BatchedTransform, pictures: Pictures, device: torch.device,
        resident: torch.Tensor | None,
    ):  # fmt: skip
        super().__init__(dataset)
        self.transform, self.pictures, self.device, self._resident = transform, pictures, device, resident
        self.sends = resident is None
        _, rows = before_decisions(dataset.photos)
        self._rows = range(len(dataset)) if rows is None else rows

    def __getstate__(self) -> dict[str, Any]:
        """Leave what is on the device to the main process."""
        return self.__dict__ | {"_resident": None}

    def __getitem__(self, keys: Sequence[tuple[int, int]]) -> Drawn:  # type: ignore[override]
        rows, labels, views = [self._rows[index] for index, _ in keys], self.photos.labels, []
        sizes, starts = self.pictures.sizes[rows], self.pictures.starts[rows]
        for (index, epoch), size in zip(keys, sizes[:, 2:].tolist(), strict=True):
            with self.dataset.drawing(index, epoch):
                views.append(self.transform.draw(*size))
        pixels = torch.empty(0, 3, dtype=torch.uint8)
        if self.sends:
            areas = sizes[:, 0] * sizes[:, 1]
            parts = zip(starts.tolist(), (starts + areas).tolist(), strict=True)
            pixels, starts = torch.cat([self.pictures.pixels[a:b] for a, b in parts]), areas.cumsum(0) - areas
        indices = [index for index, _ in keys]
        numbers = torch.tensor([labels[index] if labels else -1 for index in indices]), torch.tensor(indices)
        return shared(Drawn(pixels, starts, sizes[:, :2], torch.tensor(views, dtype=torch.float), *numbers))

    def rendered(self, batches: Iterator[Drawn]) -> Iterator[Batch]:
        """Render batches, on a GPU while the network computes the batch before."""
        on_gpu = self.device.type == "cuda"
        stream: Any = torch.cuda.Stream(self.device) if on_gpu else None  # type: ignore[no-untyped-call]
        ahead: tuple[Batch, Any] | None = None
        for drawn in batches:
            with torch.cuda.stream(stream) if stream else nullcontext():
                begun = self._render(drawn), stream and stream.record_event()
            if ahead:
                yield _ready(*ahead)
            ahead = begun
        if ahead:
            yield _ready(*ahead)

    def _render(self, drawn: Drawn) -> Batch:
        room = room_for(drawn.sizes, drawn.views)
        moved = Drawn(*(tensor.to(self.device, non_blocking=True) for tensor in drawn))
        pixels = moved.pixels if self._resident is None else self._resident
        images = render(pixels, moved.starts, moved.sizes, moved.views, self.transform.size, room)
        return Batch(images, moved.labels, moved.indices)


def _ready(batch: Batch, rendered: Any) -> Batch:
    """Let the network's stream wait until a batch is rendered."""
    if rendered:
        stream = torch.cuda.current_stream(batch.inputs.device)
        stream.wait_event(rendered)
        for tensor in batch:
            tensor.record_stream(stream)
    return batch


class DeviceLoader(WorkerLoader):
    """A loader of `DrawnBatches` whose batches are on the device."""

    def __iter__(self) -> Any:
        """Iterate over the rendered batches of the epoch that is set when the first batch is requested."""
        dataset: Any = self.dataset
        yield from dataset.rendered(super().__iter__())


class Resident:
    """Makes loaders of photos that stay decoded.

    Args:
        device: device of the network.
        folder: cache folder.
        size: side of the square images, in pixels.
        required: whether it is an error if photos cannot be kept.
    """

    def __init__(self, device: torch.device, folder: Path, size: int, required: bool):
        self.device, self.folder, self.size, self.required, self.failed = device, folder, size, required, False
        self.kept: dict[tuple[str, ...], tuple[Pictures, torch.Tensor | None]] = {}
        self._room: float | None = None

    def is_possible(self, augmentation: v2.Transform, root: Path, paths: Sequence[str]) -> bool:
        """Return whether photos can be kept, and say so.

        Args:
            augmentation: transform of the training photos.
            root: folder that `paths` are relative to.
            paths: paths of all photos.

        Raises:
            UserError: if they cannot be kept but must be.
        """
        try:
            transform = BatchedTransform(augmentation, self.size)
        except ValueError:
            known, reason = "", "the augmentation has steps that worker processes must apply"
        else:
            sizes, share = sampled_sizes(root, paths)
            need = share * sum(transform.kept_bytes(*size) for size in sizes)
            free = disk_usage(self.folder).free + sum(file.stat().st_size for file in self.folder.glob("pictures-*"))
            memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
            known = f"{counted(len(paths), 'photo')} decoded need about {need / 1e9:.2g} GB"
            reason = "" if need <= SHARE_OF_MEMORY * memory else f"{known}, more than half of the memory"
            reason = reason if need + RESERVE <= free else f"{known} and 1 GB left; {free / 1e9:.2g} GB are free"
        if not reason:
            log.info("Resident  %s in %s", known, self.folder)
        elif self.required:
            raise ArgumentError("data", f"resident=true: {reason}. Set data.resident=auto.")
        else:
            log.info("Photos are decoded in every epoch: %s", reason)
        return not reason

    def loader(
        self, dataset: PhotoDataset, batches: SharedBatchSampler, num_workers: int, persistent: bool
    ) -> DataLoader[Batch] | None:
        """Make a loader of batches on the device; `None` if the photos cannot be kept, which is said.

        Raises:
            UserError: if they cannot be kept but must be.
        """
        if self.failed:
            return None
        try:
            transform, whole = BatchedTransform(dataset.transform, self.size), before_decisions(dataset.photos)[0]
            key = transform.version, *whole.paths
            if key not in self.kept:
                pictures = keep_pictures(PhotoDataset(whole, dataset.transform, 0), transform, self.folder)
                self.kept[key] = pictures, self._on_device(pictures)
        except ValueError as error:
            if self.required:
                raise
            log.warning("%s Photos are decoded in every epoch.", error)
            self.failed = True
            return None
        pictures, resident = self.kept[key]
        drawn = DrawnBatches(dataset, transform, pictures, self.device, resident)
        sent = DRAWN_BYTES + (pictures.pixels.numel() // len(pictures.starts) if drawn.sends else 0)
        return photo_loader(drawn, batches, num_workers, sent, persistent, DeviceLoader)

    def _on_device(self, pictures: Pictures) -> torch.Tensor | None:
        """Move pixels to the device if they have room."""
        if self._room is None:
            self._room = SHARE * free_memory(self.device)
        need = pictures.pixels.numel()
        if need > self._room:
            return None
        self._room -= need
        return pictures.pixels.to(self.device)


def free_memory(device: torch.device) -> int:
    """Return the free bytes of a device; no limit for the CPU, which maps the file."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return sys.maxsize
