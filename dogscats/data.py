"""The dogscats folders as a LightningDataModule."""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from dogscats import transforms
from dogscats.cache import cache_folder
from dogscats.check import check_images
from dogscats.download import LESSON_URL, download_dataset
from dogscats.errors import UserError
from dogscats.folders import HOW_TO_GET_DATA, Photos, find_photos, find_split, leave_out
from dogscats.images import UnreadableImageError, read_image, stack_images
from dogscats.samplers import EpochSampler, SharedBatchSampler
from dogscats.seed import stable_seed


class Batch(NamedTuple):
    """A batch: `inputs` `(B, 3, size, size)` uint8, `labels` `(B,)` and the photos' `indices` `(B,)`."""

    inputs: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor


def process_rank() -> tuple[int, int]:
    """Number of this process, and how many train together."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def default_num_workers() -> int:
    """One process a CPU core, 16 at most; none where the network itself takes all of two cores or fewer.

    There is nothing to gain then: with ResNet34 on 2 cores without a GPU, a frozen epoch takes 8 % longer
    with workers, and test-time augmentation 21 %. A forked process shares the network's memory until one of
    them writes to it, and each page is copied then.
    """
    cores = os.cpu_count() or 1
    return min(cores, 16) if cores > 2 or torch.cuda.is_available() else 0


class PhotoDataset(Dataset[tuple[torch.Tensor, int, int]]):
    """Decoded and transformed photos: `(image (3, size, size) uint8, label or -1, index)`.

    A key is `(index, epoch)`. The transform's randomness is a function of `seed`, the photo's path and
    the epoch alone, whichever process runs it and whatever ran before.

    Raises:
        UserError: for a photo that can no longer be read, although it could when photos were checked.
    """

    def __init__(self, photos: Photos, transform: v2.Transform, seed: int):
        self.photos, self.transform, self.seed = photos, transform, seed

    def __len__(self) -> int:
        return len(self.photos.paths)

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, int, int]:
        index, epoch = key
        path = self.photos.paths[index]
        try:
            image = read_image(self.photos.root / path)
        except UnreadableImageError as error:
            raise UserError(f"{self.photos.root / path}: it can no longer be read ({error}).") from None
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
        try:
            yield from super().__iter__()
        except UserError as error:
            # A worker's comes with its traceback in the message.
            raise UserError(str(error).rpartition("UserError: ")[2].strip()) from None


class DogsCatsDataModule(LightningDataModule):
    """Photos in the lesson's layout: `train/<class>/`, `valid/<class>/`, and unlabelled `test1/`.

    Kaggle's layout, `train/<class>.<number>.jpg`, will do as well, and so will one without `valid/`.

    Args:
        root: folder with `train/`, and perhaps `valid/`.
        size: side of the square images, in pixels.
        batch_size: photos in a batch, over all processes that train together.
        num_workers: processes that decode photos; `None` for `default_num_workers`.
        limit: use only the first `limit` photos of each class; `None` for all.
        augment: makes the training transform from `size`, such as `transforms.side_on`.
        seed: of the order of batches and of all augmentation.
        cache_dir: folder for what is derived from the photos; `None` as in `cache.cache_folder`.
        valid_fraction: share of each class of `train/` that is held out if there is no `valid/`.
        on_bad_image: `error` to stop at photos that cannot be read, `skip` to leave them out.
        download: fetch the dataset from `url` if there is none in `root`.
        url: of a zip archive with `train/`, at its top or in one folder.
        sha256: of the archive, 64 hex digits; `None` if unknown.

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
        valid_fraction: float = 0.2,
        on_bad_image: str = "error",
        download: bool = False,
        url: str = LESSON_URL,
        sha256: str | None = None,
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
        if not isinstance(valid_fraction, int | float) or not 0 < valid_fraction < 1:
            raise UserError(f"data.valid_fraction={valid_fraction}: expected a number between 0 and 1.")
        if on_bad_image not in ("error", "skip"):
            raise UserError(f"data.on_bad_image={on_bad_image}: expected error or skip.")
        if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", str(sha256)):
            raise UserError(f"data.sha256={sha256}: expected 64 hexadecimal digits.")
        self.root = Path(root).expanduser()
        self.size, self.batch_size, self.limit, self.seed = size, batch_size, limit, seed
        self.cache_dir, self.valid_fraction, self.on_bad_image = cache_dir, valid_fraction, on_bad_image
        self.download, self.url, self.sha256 = download, url, sha256
        self.num_workers = default_num_workers() if num_workers is None else num_workers
        self.augmentation, self.evaluation = augment(size), transforms.none(size)

    def prepare_data(self) -> None:
        """Check that the photos are there, or download them if that is wanted.

        Raises:
            UserError: if `root` is missing or holds no `train/`; says how to get data. Also for a download
                that fails.
        """
        if self.download:
            download_dataset(self.url, self.root, self.sha256)
        if not self.root.is_dir():
            raise UserError(f"data.root={self.root}: there is no such folder.\n{HOW_TO_GET_DATA}")
        if not (self.root / "train").is_dir():
            raise UserError(f"data.root={self.root}: it has no folder train/.\n{HOW_TO_GET_DATA}")

    def setup(self, stage: str | None = None) -> None:
        """List the photos and check that each can be decoded.

        Sets `classes`, `train` and `valid` to `Photos`, and `bad` to the reasons for the photos left out.

        Raises:
            UserError: for classes that are missing, empty or not the same in both splits, for too few
                photos, and for unreadable ones.
        """
        if hasattr(self, "classes"):
            return
        classes, train, valid = find_photos(self.root, self.valid_fraction, self.seed, self.limit)
        self.train, self.valid = self._readable(train, valid)
        for name, photos in [("train", self.train), ("valid", self.valid)]:
            for label in sorted(set(range(len(classes))) - set(photos.labels)):
                raise UserError(
                    f"data.root={self.root}: no photo of class {classes[label]!r} in {name} can be read. "
                    f"Replace some of these:\n{self._bad_listed()}"
                )
        self.classes = classes

    def labelled(self, split: str, classes: Sequence[str]) -> Photos:
        """List the photos of one split for a classifier of `classes`, and check that each can be decoded.

        The other splits need not be there, and a class may have no photos. Sets `bad` as `setup` does.

        Raises:
            UserError: for a split that is missing, empty or of other classes, and for unreadable photos.
        """
        found, photos = find_split(self.root, split, self.valid_fraction, self.seed, self.limit)
        if found != list(classes):
            raise UserError(
                f"data.root={self.root}: the classes in {split} are {', '.join(found)}, "
                f"but the classifier's are {', '.join(classes)}."
            )
        (photos,) = self._readable(photos)
        if not photos.paths:
            raise UserError(f"data.root={self.root}: there are no photos in {split}.\n{HOW_TO_GET_DATA}")
        return photos

    def _readable(self, *splits: Photos) -> list[Photos]:
        cache_dir = cache_folder(self.root, self.cache_dir)
        self.bad = check_images(self.root, [path for photos in splits for path in photos.paths], cache_dir)
        if self.bad and self.on_bad_image == "error":
            raise UserError(
                f"{len(self.bad)} photos cannot be read. Remove or replace them, or leave them out with "
                f"data.on_bad_image=skip:\n{self._bad_listed()}"
            )
        return [leave_out(photos, self.bad) for photos in splits]

    def _bad_listed(self) -> str:
        return "\n".join(f"  {self.root / path}: {reason}" for path, reason in self.bad.items())

    @property
    def summary(self) -> str:
        """The photos in a few words."""
        counts = f"{len(self.train.paths)} training and {len(self.valid.paths)} validation photos"
        skipped = f"; warning: {len(self.bad)} unreadable left out, see bad_images.csv" if self.bad else ""
        return f"{counts} of {', '.join(self.classes)}{skipped}"

    def train_dataset(self, stage: str, augment: bool) -> PhotoDataset:
        """Training photos whose augmentations depend on the seed, `stage` and the epoch."""
        return PhotoDataset(
            self.train, self.augmentation if augment else self.evaluation, stable_seed(self.seed, stage)
        )

    def valid_dataset(self) -> PhotoDataset:
        """Validation photos with the evaluation transform."""
        return PhotoDataset(self.valid, self.evaluation, self.seed)

    def loader(
        self, dataset: PhotoDataset, shuffle: bool = False, persistent: bool = True, shared: bool = True
    ) -> DataLoader[Batch]:
        """Load batches, in the photos' order or in one that depends on the dataset's seed and the epoch.

        Args:
            dataset: the photos.
            shuffle: for training.
            persistent: let the workers wait for the next epoch.
            shared: give each of the processes that train together its share; otherwise all photos.
        """
        return LazyDataLoader(
            dataset,  # type: ignore[arg-type]  # a sample and a batch differ in type
            batch_sampler=self.batch_sampler(dataset, shuffle, shared),
            num_workers=self.num_workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=persistent and self.num_workers > 0,
            # A generator of its own: a DataLoader draws a seed per epoch even when it has no use for it,
            # from the global generator unless given one.
            generator=torch.Generator().manual_seed(dataset.seed),
        )

    def batch_sampler(
        self, dataset: PhotoDataset, shuffle: bool = False, shared: bool = True
    ) -> SharedBatchSampler:
        """Make the batches of `loader`, as keys of `dataset`.

        Raises:
            UserError: for a batch size that cannot be shared out.
        """
        rank, world_size = process_rank() if shared else (0, 1)
        if self.batch_size % world_size or self.batch_size < 2 * world_size:
            raise UserError(
                f"data.batch_size={self.batch_size}: it is shared out among {world_size} processes; choose a "
                f"multiple of {world_size}, at least {2 * world_size}."
            )
        sampler = EpochSampler(len(dataset), dataset.seed if shuffle else None)
        return SharedBatchSampler(sampler, self.batch_size, shuffle, rank, world_size)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Augmented training photos, for a Trainer of your own."""
        return self.loader(self.train_dataset("train", augment=True), shuffle=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Validation photos, for a Trainer of your own."""
        return self.loader(self.valid_dataset())
