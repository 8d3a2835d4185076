"""The LightningDataModule for folders of photos."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from dogscats.base.content import cache_folder, stable_seed
from dogscats.base.errors import ArgumentError, UserError
from dogscats.base.signals import handle_signals_in_worker
from dogscats.base.text import listed, shown
from dogscats.data.loading.check import check_images
from dogscats.data.loading.dataset import Batch, LazyDataLoader, PhotoBatches, PhotoDataset
from dogscats.data.loading.samplers import EpochSampler, SharedBatchSampler
from dogscats.data.loading.workers import TIMEOUT, default_num_workers, fitting_workers
from dogscats.data.photos.arguments import HOW_TO_GET_DATA, check_arguments
from dogscats.data.photos.decisions import Decisions, NewLabels, decide, decided, read_decisions, summary
from dogscats.data.photos.download import LESSON_URL, download_dataset
from dogscats.data.photos.layouts import Found, Photos, find_dataset, find_split, leave_out, left_out, left_out_summary
from dogscats.data.pixels import transforms
from dogscats.data.pixels.fit import fitted
from dogscats.data.pixels.shrink import Shrink, completed, needed_side

log = logging.getLogger(__name__)


def process_rank() -> tuple[int, int]:
    """Return this process's rank and the world size."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


class DogsCatsDataModule(LightningDataModule):
    """Labelled photos in the lesson's layout, `train/<class>/`, `valid/<class>/`, or another that is found by looking.

    Class folders alone, Kaggle's `<class>.<number>.jpg` and tables are also supported; validation photos and a
    labelled `test/` are optional. README has all layouts.

    Example:
        >>> data = DogsCatsDataModule("photos", size=224)
        >>> data.classes
        ['cats', 'dogs']

    Args:
        root: folder of the dataset.
        size: side of the square images, in pixels.
        batch_size: global batch size, over all ranks.
        num_workers: worker processes that decode photos; `None` for `default_num_workers`.
        limit: maximum number of photos per class, taken from the start; `None` for all.
        fit: how photos become square: `crop` the centre, as in the lesson; `pad` with reflected borders; or `squash`.
        augment: function that makes the training transform from `size`, for example `transforms.side_on`.
        seed: seeds batch order and augmentation.
        cache_dir: folder for data derived from the photos; `None` for the default of `cache.cache_folder`.
        valid_fraction: share of each class to hold out if there are no validation photos.
        on_bad_image: `error` to stop at unreadable photos, `skip` to leave them out.
        download: whether to download the dataset from `url` if `root` has none.
        url: address of a zip archive with `train/`, at the top level or in one folder.
        sha256: SHA-256 of the archive, 64 hex digits; `None` if unknown.
        changed: what a resumed run does if photos were added, removed or changed: `refuse`, or `accept` them.
        labels: CSV or Parquet table of paths and labels, relative to `root`; `None` for folders.
        group: regular expression on the path; photos with the same match, or group 1 of it, are held out together.
        shrink: `auto` to keep shrunken copies of large photos if the disk has room, `True` to require them, `False` to
            decode all photos in full, as runs did before there were copies; see `data.shrink`.
        decisions: CSV file of photos to drop or relabel, see `data.decisions`; `None` to use all as they are. Splits,
            classes and `limit` do not depend on it.

    Attributes:
        train: training photos, after `setup` and decisions.
        valid: validation photos, after `setup` and decisions.
        test: labelled test photos, after `setup` and decisions; `None` without any.
        decided: what decisions change, in one line, after `setup` or `labelled`; empty without decisions.
        bad: the reason for each skipped photo, after `setup`.
        shrinking: how large photos are read that have no copies; `None` for `shrink=False`.
        held_out: after `labelled`: where the photos are of which the split is one part; empty if it is a whole one.

    Raises:
        ArgumentError: for a bad value.
    """

    test: Photos | None = None
    held_out = ""
    decided = ""

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
        fit: str = "crop",
        changed: str = "refuse",
        labels: str | None = None,
        group: str | None = None,
        shrink: str | bool = False,
        decisions: str | None = None,
    ):
        super().__init__()
        given: dict[str, Any] = {"root": root, "size": size, "batch_size": batch_size, "num_workers": num_workers}
        given |= {"limit": limit, "seed": seed, "valid_fraction": valid_fraction, "on_bad_image": on_bad_image}
        given |= {"download": download, "sha256": sha256, "fit": fit, "changed": changed}
        check_arguments(given | {"labels": labels, "group": group, "shrink": shrink, "decisions": decisions})
        if not callable(augment):
            raise ArgumentError("data", f"augment={augment}: expected a function from the size to a transform.")
        self.root, self.fit, self.changed = Path(root).expanduser(), fit, changed
        self.labels, self.group = None if labels is None else str(labels), group
        self._decisions_file = None if decisions is None else str(decisions)
        self.size, self.batch_size, self.limit, self.seed = size, batch_size, limit, seed
        self.cache_dir, self.valid_fraction, self.on_bad_image = cache_dir, valid_fraction, on_bad_image
        self.download, self.url, self.sha256 = download, url, sha256
        self.num_workers = default_num_workers() if num_workers is None else num_workers
        self.augmentation = fitted(augment(size), size, fit)
        self.evaluation = fitted(transforms.none(size), size, fit)
        side = needed_side((self.augmentation, self.evaluation), size)
        self.shrinking = None if shrink is False else Shrink(side, required=shrink is True)

    def prepare_data(self) -> None:
        """Download the dataset if enabled, find its photos, and read decisions about them.

        Raises:
            UserError: if `root` has no photos or its layout is unclear (the message says how to get data), the
                download fails, or decisions do not fit the photos.
        """
        if self.download:
            download_dataset(self.url, self.root, self.sha256)
        self._changes  # noqa: B018

    @cached_property
    def _found(self) -> Found:
        found = find_dataset(self.root, self.valid_fraction, self.seed, self.limit, **self._where)
        for note in found.notes:
            log.warning("%s", note)
        return found

    @property
    def _where(self) -> dict[str, str | None]:
        """Arguments of `find_dataset` and `find_split` that say where labels are."""
        return {"labels": self.labels, "group": self.group, "cache_dir": self.cache_dir}

    @cached_property
    def decisions(self) -> Decisions | None:
        """Decisions about photos, read on first use; `None` without any.

        Raises:
            UserError: if the file does not exist or has mistakes.
        """
        return None if self._decisions_file is None else read_decisions(self._decisions_file)

    @cached_property
    def _changes(self) -> NewLabels:
        found = self._found
        changes, self.decided = decide(self.decisions, found) if self.decisions else ({}, "")
        return changes

    @cached_property
    def classes(self) -> list[str]:
        """Sorted class names, read from the folders or the table; available before `setup` checks the photos.

        Raises:
            UserError: if classes are missing, empty or differ between splits.
        """
        return self._found.classes

    def setup(self, stage: str | None = None) -> None:
        """List the photos and check that they can be decoded.

        Sets `train`, `valid`, `test` and `bad`.

        Raises:
            UserError: if classes are missing, empty or differ between splits, there are too few photos, photos are
                unreadable, or decisions do not fit the photos.
        """
        if hasattr(self, "train"):
            return
        found, changes = self._found, self._changes
        classes = found.classes
        train, valid, *test = self._usable(changes, found.train, found.valid, *([found.test] if found.test else []))
        if found.test and not test[0].paths:
            raise UserError(
                f"data.root={self.root}: no photo in test can be read. Replace some of these:\n{self._bad_listed()}"
            )
        for name, photos in [("train", train), ("valid", valid)]:
            for label in sorted(set(range(len(classes))) - set(photos.labels)):
                raise UserError(
                    f"data.root={self.root}: no photo of class {classes[label]!r} in {name} can be read. "
                    f"Replace some of these:\n{self._bad_listed()}"
                )
        self.train, self.valid, self.test = train, valid, test[0] if test else None

    def labelled(self, split: str, classes: Sequence[str]) -> Photos:
        """List the photos of one split for a classifier of `classes`, and check that they can be decoded.

        Other splits may be missing, and a class may have no photos or no folder. Sets `bad`, `held_out` and
        `decided`. Decisions about photos of other splits are ignored.

        Raises:
            UserError: if the split is missing, empty or has unknown classes, photos are unreadable, or decisions do
                not fit them.
        """
        found, photos, self.held_out = find_split(
            self.root, split, self.valid_fraction, self.seed, self.limit, **self._where
        )
        if not set(found) <= set(classes):
            raise UserError(
                f"data.root={self.root}: the classes in {split} are {listed(found)}, but the classifier's are "
                f"{listed(classes)}. Move the photos of other classes elsewhere to evaluate the rest."
            )
        photos = replace(photos, labels=[list(classes).index(found[label]) for label in photos.labels])
        changes: NewLabels = {}
        if self.decisions:
            changes = self.decisions.new_labels(dict(zip(photos.paths, photos.labels, strict=True)), classes)
            self.decided = summary(self.decisions.name, {split: photos}, changes)
            if photos.paths and not decided(photos, changes).paths:
                raise UserError(f"{self.decisions.name}: no photo of {split} is left. Keep some.")
        (photos,) = self._usable(changes, photos)
        if not photos.paths:
            raise ArgumentError("data", f"root={self.root}: there are no photos in {split}.\n{HOW_TO_GET_DATA}")
        return photos

    def _usable(self, changes: NewLabels, *splits: Photos) -> list[Photos]:
        """Leave out unreadable photos, and drop and relabel others as decided.

        Photos that will be dropped are checked, too: the result is cached for the list of all photos, and so are
        activations. But an unreadable one stops nothing.
        """
        cache_dir = cache_folder(self.root, self.cache_dir)
        shrink = self.shrinking and replace(self.shrinking, folder=cache_dir / f"shrunken-{self.shrinking.side}")
        found = check_images(splits[0].root, [path for photos in splits for path in photos.paths], cache_dir, shrink)
        dropped = {path for path, label in changes.items() if label is None}
        self.bad = {path: reason for path, reason in found.bad.items() if path not in dropped}
        self._bad_root = splits[0].root
        if self.bad and self.on_bad_image == "error":
            raise UserError(
                f"{len(self.bad)} photos cannot be read. Remove or replace them, or leave them out with "
                f"data.on_bad_image=skip:\n{self._bad_listed()}"
            )
        if shrink:
            shrink = completed(shrink, splits[0].root, found.sizes)
        readable = [replace(leave_out(photos, found.bad), odd=found.odd, shrink=shrink) for photos in splits]
        return [decided(photos, changes) for photos in readable] if changes else readable

    def _bad_listed(self) -> str:
        root = self._bad_root
        return "\n".join(f"  {shown(root / path)}: {reason}" for path, reason in self.bad.items())

    def check_class_weights(self, weights: str | Sequence[float]) -> None:
        """Refuse bad class weights; available before `setup` checks the photos.

        Raises:
            ArgumentError: for anything but what `class_weights` takes.
        """
        if weights in ("none", "balanced"):
            return
        numbers = list(weights) if isinstance(weights, Sequence) and not isinstance(weights, str) else []
        if len(numbers) != len(self.classes) or not all(
            isinstance(number, int | float) and not isinstance(number, bool) and 0 < number < float("inf")
            for number in numbers
        ):
            raise ArgumentError(
                "",
                f"class_weights={'null' if weights is None else weights}: expected none, balanced, or a list of "
                f"{len(self.classes)} positive numbers, for {listed(self.classes)}.",
            )

    def class_weights(self, weights: str | Sequence[float]) -> list[float] | None:
        """Return the weight of each class in the training loss.

        Args:
            weights: `none`; `balanced` for weights inversely proportional to the number of training
                photos, with a mean of 1 over all photos; or one weight for each class, in the order of `classes`.

        Raises:
            ArgumentError: for anything else.
        """
        self.check_class_weights(weights)
        if weights == "none":
            return None
        if weights == "balanced":
            counts = torch.bincount(torch.tensor(self.train.labels), minlength=len(self.classes))
            return [len(self.train.labels) / (len(self.classes) * count) for count in counts.tolist()]
        return [float(number) for number in weights]

    @property
    def summary(self) -> str:
        """One-line summary for the console."""
        counts = f"{len(self.train.paths)} training and {len(self.valid.paths)} validation photos"
        skipped = f"; warning: {len(self.bad)} unreadable left out, see bad_images.csv" if self.bad else ""
        return f"{counts} of {listed(self.classes)}{skipped}"

    @property
    def left_out(self) -> str:
        """One line about the files and folders in `root` that are not used; empty if all are."""
        return left_out_summary(left_out(self.root, self._found.used), self._found.hollow)

    @property
    def layout(self) -> str:
        """The layout of the photos in a few words, with folders as they are on disk: `train/ + val/`."""
        return self._found.layout

    def train_dataset(self, stage: str, augment: bool) -> PhotoDataset:
        """Make the training dataset; augmentation depends on the seed, `stage` and the epoch."""
        self.setup()
        return PhotoDataset(
            self.train, self.augmentation if augment else self.evaluation, stable_seed(self.seed, stage)
        )

    def valid_dataset(self) -> PhotoDataset:
        """Make the validation dataset, with the evaluation transform."""
        return PhotoDataset(self.valid, self.evaluation, self.seed)

    def loader(
        self, dataset: PhotoDataset, shuffle: bool = False, persistent: bool = True, whole: bool = False
    ) -> DataLoader[Batch]:
        """Make a loader of batches, in the order of the photos or shuffled by the dataset's seed and the epoch.

        Args:
            dataset: dataset to load.
            shuffle: whether to shuffle, for training.
            persistent: whether to keep the workers between epochs.
            whole: whether ranks take whole batches in turn; otherwise each batch is split across ranks.
        """
        ranks = process_rank()[1]
        workers = fitting_workers(self.num_workers, self.batch_size * 3 * self.size**2 // ranks, ranks)
        return LazyDataLoader(
            PhotoBatches(dataset),
            sampler=self.batch_sampler(dataset, shuffle, whole),
            batch_size=None,
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=persistent and workers > 0,
            timeout=TIMEOUT if workers else 0,
            worker_init_fn=handle_signals_in_worker,
            # A DataLoader draws a seed every epoch, even if unused. Its own generator leaves the global one alone.
            generator=torch.Generator().manual_seed(dataset.seed),
        )

    def batch_sampler(self, dataset: PhotoDataset, shuffle: bool = False, whole: bool = False) -> SharedBatchSampler:
        """Make the batch sampler of `loader`.

        Raises:
            UserError: if the batch size cannot be split across ranks.
        """
        rank, world_size = process_rank()
        if self.batch_size % world_size or self.batch_size < 2 * world_size:
            raise ArgumentError(
                "data",
                f"batch_size={self.batch_size}: it is shared out among {world_size} ranks. Choose a multiple of "
                f"{world_size}, at least {2 * world_size}.",
            )
        if shuffle and min(self.batch_size, len(dataset)) // world_size < 2:
            raise ArgumentError(
                "data", f"root={self.root}: {len(dataset)} training photos are too few for {world_size} ranks."
            )
        sampler = EpochSampler(len(dataset), dataset.seed if shuffle else None)
        return SharedBatchSampler(sampler, self.batch_size, shuffle, rank, world_size, whole)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Make the loader of augmented training photos, for your own Trainer."""
        return self.loader(self.train_dataset("train", augment=True), shuffle=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Make the loader of validation photos, for your own Trainer."""
        return self.loader(self.valid_dataset())

    def test_dataloader(self) -> DataLoader[Batch]:
        """Make the loader of labelled test photos, or of the validation photos if there are none."""
        return self.loader(PhotoDataset(self.test or self.valid, self.evaluation, self.seed))

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Make the loader of unlabelled photos in `test1/` or `test/`; without any, of the validation photos."""
        unlabelled = replace(self._found.unlabelled, shrink=self.shrinking)  # read once: not worth copies
        photos = unlabelled if unlabelled.paths else self.valid
        return self.loader(PhotoDataset(photos, self.evaluation, self.seed))
