"""A user's own module: backbone, augmentation, data module, callback and report that a config names."""

import os
import signal
import time
from collections.abc import Callable
from typing import Any

from conftest import TinyNetwork
from matplotlib.figure import Figure
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import BasePredictionWriter
from pytorch_lightning.loggers import CSVLogger
from torchvision.transforms import v2

from dogscats import Backbone, DogsCatsDataModule, Predictions
from dogscats.base.signals import Interrupted


def network() -> Backbone:
    return Backbone(TinyNetwork(), last_early="first", channels=8)


def augmentation(size: int, strength: float = 0.1) -> v2.Transform:
    return v2.Compose([v2.Resize(size), v2.CenterCrop(size), v2.ColorJitter(brightness=strength)])


class Data(DogsCatsDataModule):
    """Says that it was used."""

    def setup(self, stage: str | None = None) -> None:
        super().setup(stage)
        print("own data module")


class Older(DogsCatsDataModule):
    """Has the arguments of an older version."""

    def __init__(
        self,
        root: str,
        size: int,
        batch_size: int,
        num_workers: int | None,
        limit: int | None,
        fit: str,
        valid_fraction: float,
        on_bad_image: str,
        download: bool,
        augment: Callable[[int], v2.Transform],
        seed: int,
        cache_dir: str | None,
        url: str = "",
        sha256: str | None = None,
    ) -> None:
        super().__init__(root, size, batch_size, num_workers, limit, augment, seed, cache_dir, fit=fit)


class Epochs(Callback):
    """Counts epochs, and keeps the count when a stage is resumed.

    The environment variable INTERRUPT, a stage and a number of epochs, ends the command as SIGTERM would at the end of
    the last of these, before it is saved; without a signal, which the process that runs the tests would get.
    """

    def __init__(self, word: str) -> None:
        self.word, self.count = word, 0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.count += 1
        print(f"{self.word}: {pl_module.stage} {self.count}")
        if os.environ.get("INTERRUPT") == f"{pl_module.stage} {self.count}":
            raise Interrupted(signal.SIGTERM)

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.count = state_dict["count"]


class Writer(BasePredictionWriter):
    """Says that there are predictions."""

    def write_on_epoch_end(self, *args: Any) -> None:
        print("wrote predictions")


class Fragile(CSVLogger):
    """Fails as the client of a server does: `on` names when, in stages whose name contains `stage`."""

    def __init__(self, save_dir: str, name: str, version: str, on: str, stage: str = "") -> None:
        super().__init__(save_dir, name, version)
        self.on = on if stage in version else ""

    def _check(self, moment: str) -> None:
        if self.on == moment:
            raise ConnectionError("the server has gone")
        if self.on == f"{moment} hangs":
            time.sleep(60)

    @property
    def experiment(self) -> Any:
        self._check("start")
        return super().experiment

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self._check("log")
        super().log_metrics(metrics, step)

    def log_image(self, tag: str, paths: list[str]) -> None:
        self._check("image")

    def finalize(self, status: str) -> None:
        self._check("end")
        super().finalize(status)


def histogram(predictions: Predictions) -> Figure:
    figure = Figure()
    figure.subplots().hist(predictions.probabilities[:, 0].numpy())
    return figure
