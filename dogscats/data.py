"""The dogscats folders as a LightningDataModule."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms import v2

from dogscats import transforms
from dogscats.cache import cache_folder
from dogscats.check import check_images
from dogscats.errors import UserError
from dogscats.images import list_images, read_image, stack_images

HOW_TO_GET_DATA = """\
Expected are photos in <data.root>/train/<class>/ and <data.root>/valid/<class>/, two classes or more.
The lesson's photos are Kaggle's "Dogs vs. Cats" (https://www.kaggle.com/c/dogs-vs-cats), in this layout in
http://files.fast.ai/data/dogscats.zip: unpack it and pass data.root=<folder>/dogscats.
To try without any data, use data=sample: drawn, synthetic cats and dogs."""


@dataclass(frozen=True)
class Photos:
    """The photos of one split.

    Attributes:
        root: folder that `paths` are relative to.
        paths: relative paths, `/` between their parts, in natural order within a class.
        labels: index of each photo's class; empty where the photos are unlabelled.
    """

    root: Path
    paths: Sequence[str]
    labels: Sequence[int]


class Batch(NamedTuple):
    """A batch: `inputs` `(B, 3, size, size)` uint8, `labels` `(B,)` and the photos' `indices` `(B,)`."""

    inputs: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor


def stable_seed(*key: object) -> int:
    """Hash `key` to a seed of 63 bits, the same in every process and on every machine."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields `(index, epoch)`, so that a dataset can make randomness a function of both.

    Args:
        size: number of photos.
        seed: orders the photos anew in every epoch; `None` keeps their order.
    """

    def __init__(self, size: int, seed: int | None = None):
        self.size, self.seed, self.epoch = size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls this as each begins."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        if self.seed is None:
            order = list(range(self.size))
        else:
            generator = torch.Generator().manual_seed(stable_seed(self.seed, self.epoch))
            order = torch.randperm(self.size, generator=generator).tolist()
        return ((index, self.epoch) for index in order)


class PhotoDataset(Dataset[tuple[torch.Tensor, int, int]]):
    """Decoded and transformed photos: `(image (3, size, size) uint8, label or -1, index)`.

    A key is `(index, epoch)`. The transform's randomness is a function of `seed`, the photo's path and
    the epoch alone, whichever process runs it and whatever ran before.
    """

    def __init__(self, photos: Photos, transform: v2.Transform, seed: int):
        self.photos, self.transform, self.seed = photos, transform, seed

    def __len__(self) -> int:
        return len(self.photos.paths)

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, int, int]:
        index, epoch = key
        path = self.photos.paths[index]
        image = read_image(self.photos.root / path)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stable_seed(self.seed, epoch, path))
            image = self.transform(image)
        return image, self.photos.labels[index] if self.photos.labels else -1, index


def collate(samples: Sequence[tuple[torch.Tensor, int, int]]) -> Batch:
    """Stack samples to a `Batch` in channels_last memory order."""
    images, labels, indices = zip(*samples, strict=True)
    return Batch(stack_images(images), torch.tensor(labels), torch.tensor(indices))


class LazyDataLoader(DataLoader[Batch]):
    """A DataLoader whose workers begin with the first batch that is asked for.

    Lightning makes the first iterator of a `fit` before it tells the sampler the epoch; workers that began at
    once would load a resumed run's first batches, or those after the LR finder, as of another epoch.
    """

    def __iter__(self) -> Any:
        """Iterate over the batches of the epoch that the sampler has at the first of them."""
        yield from super().__iter__()


class DogsCatsDataModule(LightningDataModule):
    """Photos in the lesson's layout: `train/<class>/`, `valid/<class>/`, and unlabelled `test1/`.

    Args:
        root: folder with `train/` and `valid/`.
        size: side of the square images, in pixels.
        batch_size: photos in a batch.
        num_workers: processes that decode photos; `None` for one a CPU core, 16 at most.
        limit: use only the first `limit` photos of each class; `None` for all.
        augment: makes the training transform from `size`, such as `transforms.side_on`.
        seed: of the order of batches and of all augmentation.
        cache_dir: folder for what is derived from the photos; `None` as in `cache.cache_folder`.

    Raises:
        UserError: for a bad value, naming the key.
    """

    def __init__(
        self,
        root: str | Path,
        size: int = 224,
        batch_size: int = 64,
        num_workers: int | None = None,
        limit: int | None = None,
        augment: Callable[[int], v2.Transform] = transforms.side_on,
        seed: int = 0,
        cache_dir: str | None = None,
    ):
        super().__init__()
        for key, value, least in [
            ("size", size, 1),
            ("batch_size", batch_size, 2),  # BatchNorm cannot train on one photo
            ("num_workers", 0 if num_workers is None else num_workers, 0),
            ("limit", 1 if limit is None else limit, 1),
        ]:
            if not isinstance(value, int) or value < least:
                raise UserError(f"data.{key}={value}: expected a whole number of at least {least}.")
        self.root = Path(root).expanduser()
        self.size, self.batch_size, self.limit, self.seed = size, batch_size, limit, seed
        self.cache_dir = cache_dir
        self.num_workers = min(os.cpu_count() or 1, 16) if num_workers is None else num_workers
        self.augmentation, self.evaluation = augment(size), transforms.none(size)

    def prepare_data(self) -> None:
        """Check that the photos are there.

        Raises:
            UserError: if `root` is missing or holds no `train/` and `valid/`; says how to get data.
        """
        if not self.root.is_dir():
            raise UserError(f"data.root={self.root}: there is no such folder.\n{HOW_TO_GET_DATA}")
        for split in ("train", "valid"):
            if not (self.root / split).is_dir():
                raise UserError(f"data.root={self.root}: it has no folder {split}/.\n{HOW_TO_GET_DATA}")

    def setup(self, stage: str | None = None) -> None:
        """List the photos and check that each can be decoded.

        Sets `classes`, and `train` and `valid` to `Photos`.

        Raises:
            UserError: for classes that are missing, empty or not the same in both splits, for too few
                photos, and for unreadable ones.
        """
        if hasattr(self, "classes"):
            return
        classes = {split: self._class_folders(split) for split in ("train", "valid")}
        if classes["train"] != classes["valid"]:
            only = {
                split: ", ".join(sorted(set(classes[split]) - set(classes[other]))) or "none"
                for split, other in [("train", "valid"), ("valid", "train")]
            }
            raise UserError(
                f"data.root={self.root}: the classes of train and valid differ. "
                f"Only in train/: {only['train']}. Only in valid/: {only['valid']}."
            )
        if len(classes["train"]) < 2:
            raise UserError(
                f"data.root={self.root}: train/ has only one class, {classes['train'][0]!r}. "
                "A classifier needs two: one folder of photos for each."
            )
        self.train, self.valid = (self._labelled(split, classes["train"]) for split in ("train", "valid"))
        self._check_readable([*self.train.paths, *self.valid.paths])
        self.classes = classes["train"]

    def labelled(self, split: str, classes: Sequence[str]) -> Photos:
        """List the photos of one split for a classifier of `classes`, and check that each can be decoded.

        The other splits need not be there, and a class may have no photos.

        Raises:
            UserError: for a split that is missing, empty or of other classes, and for unreadable photos.
        """
        if not self.root.is_dir():
            raise UserError(f"data.root={self.root}: there is no such folder.\n{HOW_TO_GET_DATA}")
        if not (self.root / split).is_dir():
            others = ", ".join(sorted(f.name for f in self.root.iterdir() if (f / classes[0]).is_dir()))
            hint = f"; splits with photos of {classes[0]} are: {others}" if others else ""
            raise UserError(f"split={split}: data.root={self.root} has no folder {split}/{hint}.")
        found = self._class_folders(split)
        if found != list(classes):
            raise UserError(
                f"data.root={self.root}: the classes in {split}/ are {', '.join(found)}, "
                f"but the classifier's are {', '.join(classes)}."
            )
        photos = self._labelled(split, found, allow_empty=True)
        if not photos.paths:
            raise UserError(f"{self.root / split}: there are no photos in it.\n{HOW_TO_GET_DATA}")
        self._check_readable(photos.paths)
        return photos

    @property
    def summary(self) -> str:
        """The photos in a few words."""
        counts = f"{len(self.train.paths)} training and {len(self.valid.paths)} validation photos"
        return f"{counts} of {', '.join(self.classes)}"

    def train_dataset(self, stage: str, augment: bool) -> PhotoDataset:
        """Training photos whose augmentations depend on the seed, `stage` and the epoch."""
        return PhotoDataset(
            self.train, self.augmentation if augment else self.evaluation, stable_seed(self.seed, stage)
        )

    def valid_dataset(self) -> PhotoDataset:
        """Validation photos with the evaluation transform."""
        return PhotoDataset(self.valid, self.evaluation, self.seed)

    def loader(
        self, dataset: PhotoDataset, shuffle: bool = False, persistent: bool = True
    ) -> DataLoader[Batch]:
        """Load batches, in the photos' order or in one that depends on the dataset's seed and the epoch.

        As in the lesson the last batch may be smaller. When shuffling, that is when training, it is dropped
        if it is a single photo, on which BatchNorm cannot train. Persistent workers wait for the next epoch.
        """
        return LazyDataLoader(
            dataset,  # type: ignore[arg-type]  # a sample and a batch differ in type
            batch_size=self.batch_size,
            sampler=EpochSampler(len(dataset), dataset.seed if shuffle else None),
            drop_last=shuffle and len(dataset) % self.batch_size == 1,
            num_workers=self.num_workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=persistent and self.num_workers > 0,
            # A generator of its own: a DataLoader draws a seed per epoch even when it has no use for it,
            # from the global generator unless given one.
            generator=torch.Generator().manual_seed(dataset.seed),
        )

    def train_dataloader(self) -> DataLoader[Batch]:
        """Augmented training photos, for a Trainer of your own."""
        return self.loader(self.train_dataset("train", augment=True), shuffle=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Validation photos, for a Trainer of your own."""
        return self.loader(self.valid_dataset())

    def _class_folders(self, split: str) -> list[str]:
        folder = self.root / split
        hidden = (".", "__MACOSX")
        classes = sorted(f.name for f in folder.iterdir() if f.is_dir() and not f.name.startswith(hidden))
        if not classes:
            raise UserError(
                f"data.root={self.root}: {split}/ has no class folders with photos.\n{HOW_TO_GET_DATA}"
            )
        return classes

    def _check_readable(self, paths: Sequence[str]) -> None:
        bad = check_images(self.root, paths, cache_folder(self.root, self.cache_dir))
        if bad:
            shown = [f"  {self.root / path}: {reason}" for path, reason in bad.items()]
            raise UserError("\n".join([f"{len(bad)} photos cannot be read. Remove or replace them:", *shown]))

    def _labelled(self, split: str, classes: list[str], allow_empty: bool = False) -> Photos:
        paths: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(classes):
            images = list_images(self.root / split / name)[: self.limit]
            if not images and not allow_empty:
                raise UserError(f"{self.root / split / name}: there are no photos in it.\n{HOW_TO_GET_DATA}")
            paths.extend(image.relative_to(self.root).as_posix() for image in images)
            labels.extend([label] * len(images))
        return Photos(self.root, paths, labels)
