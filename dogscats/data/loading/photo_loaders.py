"""How the photos of a data module are loaded: its datasets and loaders."""

from pathlib import Path

from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from dogscats.base.content import stable_seed
from dogscats.base.errors import ArgumentError
from dogscats.data.loading.dataset import Batch, PhotoBatches, PhotoDataset
from dogscats.data.loading.loaders import EpochSampler, SharedBatchSampler, photo_loader, process_rank
from dogscats.data.loading.resident import Resident
from dogscats.data.photos.layouts import Photos


class PhotoLoaders(LightningDataModule):
    """The loaders of a `DogsCatsDataModule`, which sets these attributes."""

    root: Path
    size: int
    batch_size: int
    seed: int
    num_workers: int
    augmentation: v2.Transform
    evaluation: v2.Transform
    train: Photos
    valid: Photos
    test: Photos | None = None
    resident: Resident | None = None

    def train_dataset(self, stage: str, augment: bool) -> PhotoDataset:
        """Make the training dataset; augmentation depends on the seed, `stage` and the epoch."""
        self.setup("fit")
        transform = self.augmentation if augment else self.evaluation
        return PhotoDataset(self.train, transform, stable_seed(self.seed, stage))

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
            persistent: whether it is read again, so that workers are kept.
            whole: whether ranks take whole batches in turn; otherwise each batch is split across ranks.
        """
        batches = self.batch_sampler(dataset, shuffle, whole)
        workers, again = self.num_workers, persistent or dataset.transform is self.augmentation
        kept = self.resident.loader(dataset, batches, workers, persistent) if self.resident and again else None
        if kept is not None:
            return kept
        return photo_loader(PhotoBatches(dataset), batches, workers, 3 * self.size**2, persistent)

    def batch_sampler(self, dataset: PhotoDataset, shuffle: bool = False, whole: bool = False) -> SharedBatchSampler:
        """Make the batch sampler of `loader` for this rank.

        Raises:
            ArgumentError: if the batch size cannot be split across ranks, or there are too few photos for them.
        """
        (rank, ranks), size = process_rank(), self.batch_size
        if size % ranks or size < 2 * ranks:
            wrong = f"batch_size={size}: it is shared out among {ranks} ranks"
            raise ArgumentError("data", f"{wrong}. Choose a multiple of {ranks}, at least {2 * ranks}.")
        if shuffle and min(size, len(dataset)) // ranks < 2:
            few = f"root={self.root}: {len(dataset)} training photos are too few for {ranks} ranks."
            raise ArgumentError("data", few)
        sampler = EpochSampler(len(dataset), dataset.seed if shuffle else None)
        return SharedBatchSampler(sampler, size, shuffle, rank, ranks, whole)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Make the loader of augmented training photos, for your own Trainer."""
        return self.loader(self.train_dataset("train", augment=True), shuffle=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Make the loader of validation photos, for your own Trainer."""
        return self.loader(self.valid_dataset())

    def test_dataloader(self) -> DataLoader[Batch]:
        """Make the loader of labelled test photos, or of the validation photos if there are none."""
        return self.loader(PhotoDataset(self.test or self.valid, self.evaluation, self.seed))
