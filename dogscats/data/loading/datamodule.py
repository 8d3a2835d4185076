"""The LightningDataModule for folders of photos."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from dogscats.base.content import cache_folder
from dogscats.base.errors import ArgumentError
from dogscats.base.text import counted, listed
from dogscats.data.added.additions import Additions
from dogscats.data.added.stranger_photos import StrangerPhotos, usable_strangers
from dogscats.data.loading.dataset import Batch, PhotoDataset
from dogscats.data.loading.photo_check import check_classes, usable_photos
from dogscats.data.loading.photo_loaders import PhotoLoaders
from dogscats.data.loading.resident import Resident
from dogscats.data.loading.workers import default_num_workers
from dogscats.data.photos.arguments import HOW_TO_GET_DATA, check_arguments, root_of
from dogscats.data.photos.class_names import numbers_among
from dogscats.data.photos.decisions import Decisions, NewLabels, decide, decided, read_decisions
from dogscats.data.photos.download import LESSON_URL, download_dataset
from dogscats.data.photos.layouts import DatasetFinder, Found, Photos
from dogscats.data.photos.listing import left_out, left_out_summary, set_aside
from dogscats.data.pixels import transforms
from dogscats.data.pixels.shrink import Shrink
from dogscats.data.pixels.transforms import fitted, needed_side

log = logging.getLogger(__name__)


class DogsCatsDataModule(PhotoLoaders):
    """Labelled photos in the lesson's layout, `train/<class>/`, `valid/<class>/`, or another that is found by looking.

    Other layouts and tables are also supported: docs/how-to/photos.md. Validation photos are optional. `trainer.test`
    uses a labelled `test/`, `trainer.predict` the unlabelled `test1/`; without them, both use the validation photos.

    Example:
        >>> data = DogsCatsDataModule("photos", size=224)
        >>> data.classes  # ["cats", "dogs"]
        >>> batch = next(iter(data.train_dataloader()))  # inputs: (64, 3, 224, 224), uint8; labels: (64,)

    Args:
        root: folder of the dataset.
        size: side of the square images, in pixels.
        batch_size: global batch size, over all ranks.
        num_workers: worker processes that decode photos; `None` for `default_num_workers`.
        limit: maximum number of photos per class, taken from the start; `None` for all.
        fit: how photos become square: `crop` the centre, as in the lesson; `pad` with reflected borders; or `squash`.
        augment: function that makes the training transform from `size`, for example `transforms.side_on`.
        seed: seeds batch order and augmentation.
        cache_dir: folder for data derived from the photos; `None` for the default of `cache_folder`.
        valid_fraction: share of each class to hold out if there are no validation photos; with 0, `valid` is empty.
        on_bad_image: `error` to stop at unreadable photos, `skip` to leave them out.
        download: whether to download the dataset from `url` if `root` has none.
        url: address of a zip archive with `train/`, at the top level or in one folder.
        sha256: SHA-256 of the archive, 64 hex digits; `None` if unknown.
        changed: what a resumed run does if photos were added, removed or changed: `refuse`, or `accept` them.
        labels: CSV or Parquet table of paths and labels, relative to `root` or here; `None` for folders.
        group: regular expression on the path; photos with the same match, or group 1 of it, are held out together.
        shrink: `auto` to keep shrunken copies of large photos if the disk has room, `True` to require them, `False` to
            decode all photos in full; see `data.shrink`.
        resident: whether `keep_resident` keeps photos decoded: `auto`, `True` or `False`; see `data.resident`.
        decisions: CSV file of photos to drop or relabel; splits, classes and `limit` do not depend on it.
        columns: names of the table's columns, by `path`, `label` and `split`; `None` to find them.
        extension: ending of the photos where several files have the name in the table; `None` to find it.
        strangers: folder of photos of no class, perhaps in sub-folders by kind; `None` without any.
        add: table of new labels, whose photos join the training photos; `None` without one.

    Attributes:
        train: training photos, after `setup` and decisions.
        valid: validation photos, after `setup` and decisions.
        test: labelled test photos, after `setup` and decisions; `None` without any.
        strangers: photos of no class, after `setup`; `None` without any.
        splits: labelled photos of each split that has any, after `setup`: train, valid and perhaps test.
        decided: what decisions change, in one line, after `setup` or `labelled`; empty without decisions.
        bad, elongated: what was found of the photos, after `setup`; see `photo_check.Findings`.
        shrinking: how large photos are read that have no copies; `None` for `shrink=False`.
        resident: makes loaders of photos that stay decoded; `None` to decode them every time.
        held_out: after `labelled`: where the photos are that the split is a part of; empty if it is a whole split.

    Raises:
        ArgumentError: for a bad value.
    """

    strangers: StrangerPhotos | None = None
    held_out = decided = ""

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
        columns: Mapping[str, str] | None = None,
        extension: str | None = None,
        resident: str | bool = False,
        strangers: str | None = None,
        add: str | None = None,
    ):
        check_arguments(locals())
        super().__init__()
        if not callable(augment):
            raise ArgumentError("data", f"augment={augment}: expected a function from the size to a transform.")
        self.root, self.size, self.batch_size, self.seed = root_of(root, labels), size, batch_size, seed
        self.cache_dir, self.on_bad_image, self.changed = cache_dir, on_bad_image, changed
        self.bad, self.elongated = dict[str, str](), list[str]()
        self.download, self.url, self.sha256, self.valid_fraction = download, url, sha256, valid_fraction
        self._additions = Additions(self.root, limit, on_bad_image == "skip", strangers, add)
        others = labels, group, cache_dir, columns, extension, on_bad_image == "skip", self._additions.folders
        self._finder = DatasetFinder(self.root, valid_fraction, seed, limit, *others)
        self._resident, self._decisions_file = resident, decisions and str(decisions)
        self.num_workers = default_num_workers() if num_workers is None else num_workers
        self.augmentation = fitted(augment(size), size, fit)
        self.evaluation = fitted(transforms.none(size), size, fit)
        side = needed_side((self.augmentation, self.evaluation), size)
        self.shrinking = None if shrink is False else Shrink(side, required=shrink is True)

    def prepare_data(self) -> None:
        """Download the dataset if enabled, find its photos, and read decisions about them.

        Raises:
            UserError: if `root` has no photos or an unclear layout, the download fails, or decisions do not fit.
        """
        if self.download:
            download_dataset(self.url, self.root, self.sha256)
        self.new_labels  # noqa: B018

    @cached_property
    def _found(self) -> Found:
        found = self._finder.find()
        for note in found.notes:
            log.warning("%s", note)
        return self._additions.join(found)

    @cached_property
    def decisions(self) -> Decisions | None:
        """Decisions about photos, read on first use; `None` without any.

        Raises:
            UserError: if the file does not exist or has mistakes.
        """
        return read_decisions(self._decisions_file) if self._decisions_file else None

    @cached_property
    def new_labels(self) -> NewLabels:
        """What decisions change, of all photos; see `NewLabels`."""
        found = self._found
        others = found.labelled, self._additions.listed(found.train.root)
        changes, self.decided = decide(self.decisions, found.splits, found.classes, *others)
        return changes

    @cached_property
    def classes(self) -> list[str]:
        """Sorted class names, read from the folders or the table; available before `setup` checks the photos.

        Raises:
            UserError: if classes are missing, empty or differ between splits.
        """
        return self._found.classes

    def keep_resident(self, device: torch.device, passes: int) -> None:
        """Before `setup`: keep photos decoded, as `resident` says, for a device that reads them `passes` times."""
        if self._resident is True or (self._resident and device.type != "cpu" and passes > 1):
            folder, both = cache_folder(self.root, self.cache_dir), (self.augmentation, self.evaluation)
            candidate = Resident(device, folder, self._found.splits, both, self.size, self._resident is True)
            self.resident = candidate if candidate.is_possible() else None

    def setup(self, stage: str | None = None) -> None:
        """List the photos and check that they can be decoded; set `train`, `valid`, `test` and `bad`.

        Raises:
            UserError: as `prepare_data`, or if photos are unreadable.
        """
        if hasattr(self, "train"):
            return
        found = self._found
        usable = self._usable(self.new_labels, *found.splits.values(), resident=self.resident)
        splits = dict(zip(found.splits, usable, strict=True))
        for split, photos in splits.items():
            check_classes(split, found.splits[split], photos, found.classes, self.bad)
        self.splits, self.test, self.train, self.valid = splits, splits.get("test"), splits["train"], splits["valid"]
        strangers = self._additions.strangers(found.train.root, self.new_labels)
        if strangers.photos.paths:
            self.strangers = usable_strangers(strangers, self._usable({}, strangers.photos)[0], splits)

    def labelled(self, split: str, classes: Sequence[str]) -> Photos:
        """List the photos of one split for a classifier of `classes`, and check that they can be decoded.

        Other splits may be missing, and a class may have no photos or no folder. Sets `bad`, `held_out` and
        `decided`. Decisions about photos of other splits are ignored.

        Raises:
            UserError: for a split that is missing, empty or of unknown classes, unreadable photos, or bad decisions.
        """
        found, photos, self.held_out = self._finder.find_split(split)
        numbers = numbers_among(found, classes, f"data.root={self.root}: the classes in {split}")
        photos = replace(photos, labels=[numbers[label] for label in photos.labels])
        changes, self.decided = decide(self.decisions, {split: photos}, classes)
        (photos,) = self._usable(changes, photos)
        if not photos.paths:
            raise ArgumentError("data", f"root={self.root}: there are no photos in {split}.\n{HOW_TO_GET_DATA}")
        return photos

    def _usable(self, changes: NewLabels, *splits: Photos, resident: Resident | None = None) -> list[Photos]:
        """Leave out unreadable photos, and drop and relabel others as decided.

        Photos that will be dropped are checked, too: the result is cached for the list of all photos, and so are
        activations. But an unreadable one is no error.
        """
        cache_dir = cache_folder(self.root, self.cache_dir)
        shrink = self.shrinking
        if shrink and (shrink.required or not self.resident):  # decoded photos take the place of copies
            shrink = replace(shrink, folder=cache_dir / f"shrunken-{shrink.side}")
        dropped = {path for path, label in changes.items() if label is None}
        skip = self.on_bad_image == "skip"
        readable, found = usable_photos(splits, cache_dir, shrink, dropped, skip, resident)
        self.bad, self.elongated = {**self.bad, **found.bad}, [*self.elongated, *found.elongated]
        return [decided(photos, changes) for photos in readable] if changes else readable

    @property
    def has_valid(self) -> bool:
        """Whether there are validation photos, or some are held out; available before `setup`."""
        return self._finder.has_valid

    @property
    def summary(self) -> str:
        """One-line summary for the console."""
        counts = f"{len(self.train.paths)} training and {counted(len(self.valid.paths), 'validation photo')}"
        skipped = f"; warning: {len(self.bad)} unreadable left out, see bad_images.csv" if self.bad else ""
        return f"{counts} of {listed(self.classes)}{skipped}"

    @property
    def left_out(self) -> str:
        """One line about the files and folders in `root` that are not used; empty if all are."""
        with set_aside(self._additions.folders):
            return left_out_summary(left_out(self.root, self._found.used), self._found.empty_folders)

    @property
    def layout(self) -> str:
        """The layout of the photos in a few words, with folders as they are on disk: `train/ + val/`."""
        return self._found.layout

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Make the loader of unlabelled photos in `test1/` or `test/`; without any, of the validation photos."""
        photos = replace(self._found.unlabelled, shrink=self.shrinking)  # read once: not worth copies
        return self.loader(PhotoDataset(photos if photos.paths else self.valid, self.evaluation, self.seed))
