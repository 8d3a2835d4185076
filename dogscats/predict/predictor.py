"""Predictions of a trained run in Python, as by `python evaluate.py predict=...`."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import LambdaCallback, ProgressBar
from torchvision.transforms import v2

from dogscats.base.console import progress_bar, quiet_libraries
from dogscats.base.environment import CONF
from dogscats.base.errors import ArgumentError, UserError, first_line, user_message
from dogscats.base.newest import LAST, newest_run
from dogscats.base.trust import checked, rebuild
from dogscats.data.loading.datamodule import DogsCatsDataModule
from dogscats.data.loading.dataset import PhotoDataset
from dogscats.data.loading.photo_check import Findings, examine
from dogscats.data.photos.layouts import Photos
from dogscats.data.photos.run_photos import labels_at, with_own_decisions
from dogscats.data.pixels import transforms
from dogscats.lesson.backbone import Backbone
from dogscats.lesson.classifier import Classifier
from dogscats.lesson.predictions import Predictions
from dogscats.lesson.tta import TTA, is_limited, predict, tta_loaders
from dogscats.reliability.kept import read_reliability
from dogscats.reliability.measured import Reliability
from dogscats.reliability.strangers import similar_photos
from dogscats.report.gradcam import Explanation, explain
from dogscats.runs.checkpoint import check_description, read_checkpoint
from dogscats.runs.compose import build_body
from dogscats.runs.directory import checkpoint_of, run_of
from dogscats.runs.trainer import trainer_factory

log = logging.getLogger(__name__)

FEWEST_AT_ONCE, MOST_AT_ONCE = 256, 4096
"""Photos of the first part that is predicted, and of the largest."""


class Predictor:
    """A trained classifier with its transforms and classes, ready to predict photos.

    Example:
        >>> predictor = Predictor.load("outputs/<run>")  # or "last", a checkpoint, a model.safetensors
        >>> predictions, unreadable = predictor.predict(["a.jpg", "b.jpg"])
        >>> predictions.predicted_classes, predictions.probabilities  # (N, C)
        >>> predictor.similar(["a.jpg"], count=3)  # training photos and their similarity
        >>> explanations = list(predictor.explain(predictions))  # squares (3, size, size), maps (h, w)

    Args:
        model: the trained classifier.
        size: side of the square images, in pixels.
        augment: function that makes the test-time augmentation transform from the size.
        seed: seeds test-time augmentation.
        trained_on: config of the run's data module, as checked plain containers; empty if unknown.
        reliability: calibration and thresholds of the run; `None` if unknown.

    Raises:
        UserError: by `load`, for a run that cannot be read, or names code that needs trust.
    """

    def __init__(
        self,
        model: Classifier,
        size: int,
        augment: Callable[[int], v2.Transform] = transforms.side_on,
        seed: int = 0,
        trained_on: Mapping[str, Any] | None = None,
        reliability: Reliability | None = None,
    ):
        self.model, self.classes, self.size = model.eval(), model.classes, size
        self.augment, self.seed, self.trained_on = augment, seed, dict(trained_on or {})
        self.reliability, model.scorer = reliability, reliability.detector if reliability else None

    @classmethod
    def load(cls, source: str | Path, trust: bool = False, keep: float | None = None) -> "Predictor":
        """Rebuild the classifier from a run directory, a checkpoint or a published model.

        Args:
            source: run directory, for its `checkpoints/last.ckpt`; a checkpoint; a `model.safetensors`; or `last`, for
                the newest finished run below `outputs/` and `multirun/`.
            trust: allow a backbone, augmentation or data module from outside dogscats that the file names.
            keep: share of the photos that are classified; `None` for the run's thresholds.

        Raises:
            UserError: if the run or checkpoint does not exist, cannot be read, was not saved by a stage, or names
                code that needs trust; or for a bad `keep`.
        """
        quiet_libraries()
        if source == LAST:
            source = newest_run("run")
            log.info("Run       %s", source)
        file = checkpoint_of(source)
        checkpoint = read_checkpoint(file)
        try:
            saved, state = checked(checkpoint["hyper_parameters"], file, trust), checkpoint["state_dict"]
            check_description(saved, state)
            run_dir = run_of(file)
            data = with_own_decisions(saved["data"], run_dir)
            body = rebuild(Backbone, saved["model"], file, trust)
            model = Classifier(body, saved["classes"], saved["heads"])
            model.load_state_dict(state)
            reliability = read_reliability(run_dir, state, keep)
            augment = instantiate(checked(saved["augment"], file, trust))
            return cls(model, saved["size"], augment, saved["seed"], data, reliability)
        except ArgumentError as error:
            raise UserError(f"{file}: {error}") from error
        except UserError:
            raise
        except Exception as error:  # odd content can raise almost anything
            raise UserError(f"{file}: it is not a checkpoint saved by a stage ({first_line(error)}).") from error

    @classmethod
    def untrained(cls, model: dict[str, Any] | None, classes: Sequence[str], size: int) -> "Predictor":
        """Make one of a pretrained network before any training: its features mean something, its predictions nothing.

        Args:
            model: config of the network, as in `conf/model/`; `None` for the default of `train.py`.
            classes: class names.
            size: side of the square images, in pixels.
        """
        quiet_libraries()
        config: Any = model or OmegaConf.to_container(OmegaConf.load(CONF / "model" / "resnet34.yaml"))
        return cls(Classifier(build_body(config, size), classes), size)

    def data(
        self,
        root: str | Path | None = None,
        batch_size: int = 64,
        num_workers: int | None = None,
        cache_dir: str | None = None,
        **more: Any,
    ) -> DogsCatsDataModule:
        """Make a data module of the run's class, with the classifier's image size and transforms.

        Args:
            root: folder of the photos; `None` for the run's own data.
            batch_size: photos per batch.
            num_workers: number of worker processes, as in the data module.
            cache_dir: folder for data derived from the photos, as in the data module.
            more: further arguments of the data module, such as `labels`, the table of another root.

        Raises:
            UserError: if `root` is `None` and the run's own is unknown.
        """
        if root is None and self.trained_on.get("root") is None:
            raise UserError("data.root: the run's data folder is unknown. Set data.root=<folder of photos>.")
        arguments: dict[str, Any] = {
            "root": self.trained_on.get("root") if root is None else str(root),
            "size": self.size,
            "batch_size": batch_size,
            "num_workers": num_workers,
            "augment": self.augment,
            "seed": self.seed,
            "limit": None,
            "download": False,
            "cache_dir": cache_dir,
            **labels_at(root, self.trained_on),
        } | more
        config = checked({"_target_": "dogscats.DogsCatsDataModule"} | self.trained_on, "data", trust=True)
        if "_target_" in self.trained_on:  # a custom data module may have other arguments
            arguments = {key: value for key, value in arguments.items() if key in {**self.trained_on, **more}}
        try:
            data: DogsCatsDataModule = instantiate({k: v for k, v in config.items() if k not in arguments}, **arguments)
        except InstantiationException as error:
            cause = error.__cause__
            raise cause if isinstance(cause, UserError) else UserError(user_message(error)) from error
        return data

    def predict(
        self,
        paths: str | Path | Sequence[str | Path],
        n_aug: int = 4,
        batch_size: int = 64,
        num_workers: int | None = 0,
        make_trainer: Callable[..., Trainer] | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> tuple[Predictions, dict[str, str]]:
        """Predict photos from any folders.

        Args:
            paths: paths of the photos.
            n_aug: number of augmented versions per photo to average with the plain one.
            batch_size: photos per batch.
            num_workers: worker processes that decode photos; 0 decodes in this process, `None` uses
                `default_num_workers`.
            make_trainer: function that makes the Trainer, which chooses the device.
            callbacks: further callbacks of the Trainer.

        Returns:
            Predictions for the readable photos, in the order of `paths`; and the reason for each unreadable one.
        """
        paths = [paths] if isinstance(paths, str | Path) else paths
        parts, unreadable = list[Predictions](), dict[str, str]()
        for predictions, bad in self.predict_in_parts(paths, n_aug, batch_size, num_workers, make_trainer, callbacks):
            parts += [predictions] if predictions is not None else []
            unreadable |= bad
        if not parts:
            none = torch.empty(0, len(self.classes))
            return Predictions([], self.classes, torch.empty(0, dtype=torch.long), none), unreadable
        return Predictions.joined(parts), unreadable

    def predict_in_parts(
        self,
        paths: Sequence[str | Path],
        n_aug: int = 4,
        batch_size: int = 64,
        num_workers: int | None = 0,
        make_trainer: Callable[..., Trainer] | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> Iterator[tuple[Predictions | None, dict[str, str]]]:
        """Predict photos part by part, so that any number fits in memory; arguments as for `predict`.

        The batches are the same as without parts, and so are the probabilities. As each part starts its own workers,
        parts grow with the number of photos that are done, to at most `MOST_AT_ONCE`.

        Yields:
            Predictions for the next readable photos, `None` if there are none; and the reason for each unreadable one.
        """
        names = [Path(path).as_posix() for path in paths]
        if len(names) <= batch_size:
            num_workers = 0  # starting workers takes longer than decoding one batch
        data, make_trainer = self.data(Path(), batch_size, num_workers), make_trainer or trainer_factory({})
        limited = is_limited(make_trainer())  # a limit is for all photos: they are one part
        if not any(isinstance(callback, ProgressBar) for callback in callbacks):
            make_trainer = partial(make_trainer, enable_progress_bar=False)  # one bar for all parts instead
        checked, waiting, odd, remarks = 0, list[str](), dict[str, str](), defaultdict[str, list[str]](list)
        with progress_bar((), "Predicting", -(-len(names) // batch_size) * (1 + n_aug), "batch") as bar:
            shown = LambdaCallback(on_predict_batch_end=lambda *_: bar.update())
            while checked < len(names):
                size = len(names) if limited else min(max(checked // 2, FEWEST_AT_ONCE, batch_size), MOST_AT_ONCE)
                some = names[checked : checked + size]
                checked += len(some)
                found = examine(Path(), some, data.shrinking)
                odd |= found.odd
                for remark, of in found.remarks.items():
                    remarks[remark] += of
                waiting += [name for name in some if name not in found.bad]
                whole = len(waiting) if checked == len(names) else len(waiting) // batch_size * batch_size
                photos, waiting = Photos(Path(), waiting[:whole], [], odd, data.shrinking), waiting[whole:]
                if not photos.paths:
                    yield None, found.bad
                    continue
                loaders = tta_loaders(data, photos, n_aug)
                best = predict(self.model, loaders, make_trainer, [TTA(n_aug), *callbacks, shown]).best
                yield self.reliability.applied(best, n_aug > 0) if self.reliability else best, found.bad
        for line in Findings({}, {}, {}, remarks=remarks).remarked(len(names)):
            log.warning("%s", line)

    def similar(self, paths: Sequence[str | Path], count: int = 3) -> list[list[tuple[str, float]]]:
        """List `count` similar training photos of each photo, with similarities; see `similar_photos`."""
        data = self.data(Path(), num_workers=0)
        photos = Photos(Path(), [Path(path).as_posix() for path in paths], [], shrink=data.shrinking)
        return similar_photos(self.model, PhotoDataset(photos, data.evaluation, self.seed), count)

    def explain(self, predictions: Predictions, device: torch.device | None = None) -> Iterator[Explanation]:
        """Explain by Grad-CAM, for each photo, where the predicted class was seen; see `dogscats.report.gradcam`.

        Args:
            predictions: what `predict` returned, or a part of it.
            device: device to move the classifier to; `None` for where it is.
        """
        data = self.data(Path(), num_workers=0)
        # Decoded quietly: `predict` has had the library name what is odd.
        photos = Photos(predictions.root, predictions.paths, [], predictions.paths, data.shrinking)
        model = self.model if device is None else self.model.to(device)
        dataset = PhotoDataset(photos, data.evaluation, data.seed)
        yield from explain(model, dataset, range(len(photos.paths)), predictions.predicted.tolist())
