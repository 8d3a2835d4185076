"""Photos that stay decoded, and are augmented in batches on the network's device: `data.resident`.

The check of the photos, which decodes each, keeps what later epochs read in one file.
Workers draw what happens to each photo, as they do where they augment photos themselves. Pixels are on the device, if
they take a small part of its memory; otherwise workers send those of each batch, too.
"""

import hashlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from shutil import disk_usage
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from dogscats.base.errors import ArgumentError
from dogscats.base.files import atomic_path, remove_unfinished
from dogscats.base.text import counted
from dogscats.data.loading.cached_array import is_sealed, seal_array
from dogscats.data.loading.dataset import Batch, PhotoBatches, PhotoDataset, shared
from dogscats.data.loading.loaders import SharedBatchSampler, photo_loader
from dogscats.data.loading.workers import WorkerLoader
from dogscats.data.photos.layouts import Photos
from dogscats.data.pixels.batched import BatchedTransform, render, room_for
from dogscats.data.pixels.shrink import RESERVE, sampled_sizes

log = logging.getLogger(__name__)

SHARE = 0.4
"""Largest share of the device's free memory for pixels; the network needs the rest."""

SHARE_OF_MEMORY = 0.5
"""Largest share of the machine's memory for pixels. Beyond, epochs would read them from the disk."""

DRAWN_BYTES = 100
"""What workers send of each photo besides its pixels."""


Keep = Callable[[str, torch.Tensor], None]
"""A function that gets the path and pixels `(3, H, W)` of each photo, in any order."""


class Pictures:
    """Decoded pictures in a file: their pixels, one picture after the other, then five numbers of each, int64.

    Args:
        file: the file, verified.
        rows: number of each picture in the file, by its transform's version and the path of its photo.

    Attributes:
        pixels: pixels of all pictures `(P, 3)`, memory-mapped.
        starts: row of the first pixel of each picture `(N,)`.
        sizes: height and width of each, and those that it stands for `(N, 4)`; 0 for an unreadable photo.
    """

    def __init__(self, file: Path, rows: dict[tuple[str, str], int]):
        self.file, self.rows, content = file, rows, np.memmap(file, mode="c")
        pixels, numbers = np.split(content, [len(content) - 40 * len(rows)])
        self.pixels = torch.from_numpy(pixels.reshape(-1, 3))
        index = torch.from_numpy(np.array(numbers).view(np.int64).reshape(-1, 5))
        self.starts, self.sizes = index[:, 0], index[:, 1:]

    def __reduce__(self) -> Any:
        """Let workers that do not share memory map the file themselves."""
        return Pictures, (self.file, self.rows)

    def of(self, version: str, paths: Sequence[str]) -> list[int] | None:
        """Return the numbers of the pictures of some photos; `None` if any is missing."""
        found = [self.rows.get((version, path), -1) for path in paths]
        return found if -1 not in found and self.sizes[found].all() else None


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
        pictures: pictures of the photos, and perhaps of others.
        rows: number of the picture of each photo.
        device: device of the network.
        resident: all pixels, on the device; `None` to send those of each batch.
    """

    version = " rendered in batches"

    def __init__(
        self, dataset: PhotoDataset, transform: BatchedTransform, pictures: Pictures, rows: Sequence[int],
        device: torch.device, resident: torch.Tensor | None,
    ):  # fmt: skip
        super().__init__(dataset)
        self.transform, self.pictures, self.rows, self.device = transform, pictures, rows, device
        self.sends, self._resident = resident is None, resident

    def __getstate__(self) -> dict[str, Any]:
        """Leave what is on the device to the main process."""
        return self.__dict__ | {"_resident": None}

    def __getitem__(self, keys: Sequence[tuple[int, int]]) -> Drawn:  # type: ignore[override]
        rows, labels, views = [self.rows[index] for index, _ in keys], self.photos.labels, []
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
    """Keeps the photos of a run decoded, in one file that the check of the photos writes, and makes their loaders.

    Args:
        device: device of the network.
        folder: cache folder, for `pictures-<key>.bin` and its checksum.
        splits: photos of each split; those of `train` need no plain version.
        transforms: transform of augmented photos, and of plain ones.
        size: side of the square images, in pixels.
        required: whether it is an error if photos cannot be kept.
    """

    def __init__(
        self, device: torch.device, folder: Path, splits: Mapping[str, Photos],
        transforms: tuple[v2.Transform, v2.Transform], size: int, required: bool,
    ):  # fmt: skip
        self.device, self.folder, self.splits, self.transforms = device, folder, splits, transforms
        self.size, self.required = size, required
        self.pictures: Pictures | None = None

    @cached_property
    def _batched(self) -> dict[str, BatchedTransform]:
        """The transform of augmented photos, and that of plain ones, by their version."""
        return {(one := BatchedTransform(transform, self.size)).version: one for transform in self.transforms}

    @cached_property
    def _rows(self) -> dict[tuple[str, str], int]:
        augmented, keys = next(iter(self._batched)), dict[tuple[str, str], None]()
        for split, photos in self.splits.items():
            versions = [augmented] if split == "train" else self._batched
            keys |= dict.fromkeys((version, path) for path in sorted(photos.paths) for version in versions)
        return {key: row for row, key in enumerate(keys)}

    def is_possible(self) -> bool:
        """Return whether photos can be kept, and say so.

        Raises:
            UserError: if they cannot be kept but must be.
        """
        root, paths = self.splits["train"].root, [path for photos in self.splits.values() for path in photos.paths]
        try:
            transform, *_ = self._batched.values()
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

    def find(self, key: str) -> bool:
        """Return whether the cache has the whole file of photos; `key` is what their pixels depend on."""
        name = hashlib.blake2b(repr((key, [*self._rows])).encode(), digest_size=16).hexdigest()
        self.file = self.folder / f"pictures-{name}.bin"
        self.pictures = Pictures(self.file, self._rows) if is_sealed(self.file) else None
        return self.pictures is not None

    @contextmanager
    def keeping(self) -> Iterator[Keep]:
        """Write the file that `find` has looked for; raises a `Failure` if it cannot be written."""
        index, end, one_at_a_time = np.zeros((len(self._rows), 5), np.int64), 0, Lock()

        def keep(path: str, photo: torch.Tensor) -> None:
            nonlocal end
            for version, transform in self._batched.items():
                if (row := self._rows.get((version, path))) is None:
                    continue
                picture, size = transform.keep(photo)
                with one_at_a_time:
                    if not index[row, 1]:  # an odd photo is decoded twice
                        output.write(picture.permute(1, 2, 0).numpy().tobytes())
                        index[row] = end, *picture.shape[1:], *size
                        end += picture.shape[1] * picture.shape[2]

        remove_unfinished(self.folder, self.file.name)
        with atomic_path(self.file) as temporary, temporary.open("wb") as output:
            yield keep
            output.write(index.tobytes())
        seal_array(self.file)
        self.pictures = Pictures(self.file, self._rows)

    def loader(
        self, dataset: PhotoDataset, batches: SharedBatchSampler, num_workers: int, persistent: bool
    ) -> DataLoader[Batch] | None:
        """Make a loader of batches on the device; `None` if a photo is not kept."""
        transform = BatchedTransform(dataset.transform, self.size)
        rows = self.pictures and self.pictures.of(transform.version, dataset.photos.paths)
        if not self.pictures or not rows:
            return None
        drawn = DrawnBatches(dataset, transform, self.pictures, rows, self.device, self._on_device)
        sent = DRAWN_BYTES + (self.pictures.pixels.numel() // len(self._rows) if drawn.sends else 0)
        return photo_loader(drawn, batches, num_workers, sent, persistent, DeviceLoader)

    @cached_property
    def _on_device(self) -> torch.Tensor | None:
        """All pixels, on the device if they have room."""
        assert self.pictures is not None
        has_room = self.pictures.pixels.numel() <= SHARE * free_memory(self.device)
        return self.pictures.pixels.to(self.device) if has_room else None


def free_memory(device: torch.device) -> int:
    """Return the free bytes of a device; no limit for the CPU, which maps the file."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return sys.maxsize
