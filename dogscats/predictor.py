"""A trained run, loaded to look at photos: the same in Python as `python evaluate.py predict=...`."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from omegaconf import OmegaConf
from pytorch_lightning import Trainer
from torchvision.transforms import v2

from dogscats import backbone, transforms
from dogscats.callbacks.progress import Progress
from dogscats.callbacks.tta import TTA, tta_loaders
from dogscats.check import unreadable_images
from dogscats.checkpoint import read_checkpoint
from dogscats.classifier import Classifier
from dogscats.console import quiet_libraries
from dogscats.data import DogsCatsDataModule, Photos
from dogscats.errors import UserError
from dogscats.heads import Heads
from dogscats.predictions import Predictions


class Predictor:
    """A trained classifier with all that it needs to look at photos.

    Example:
        >>> predictor = Predictor.load("outputs/2026-11-24/19-04-31-123456")
        >>> predictions, unreadable = predictor.predict(["a.jpg", "b.jpg"])
        >>> predictions.predicted_classes, predictions.probabilities

    Args:
        model: the whole classifier.
        classes: names of the classes.
        size: side of the square images, in pixels.
        augment: makes the transform of test-time augmentation from the size.
        seed: of test-time augmentation.
        trained_on: where the run's photos are, and how they are split: arguments of the data module.
    """

    def __init__(
        self,
        model: Classifier,
        classes: Sequence[str],
        size: int,
        augment: Callable[[int], v2.Transform],
        seed: int = 0,
        trained_on: Mapping[str, Any] | None = None,
    ):
        self.model, self.classes, self.size = model.eval(), list(classes), size
        self.augment, self.seed, self.trained_on = augment, seed, dict(trained_on or {})

    @classmethod
    def load(cls, source: str | Path) -> "Predictor":
        """Build the classifier again from what a run saved.

        Args:
            source: a run's directory, for its `checkpoints/last.ckpt`, or a checkpoint. The seed and the root
                of the photos are those of the `config.yaml` of its run, if that is there.

        Raises:
            UserError: if there is no such run or checkpoint, it cannot be read, or was not saved by a stage.
        """
        quiet_libraries()
        file = Path(source).expanduser()
        if file.is_dir():
            folder, file = file, file / "checkpoints" / "last.ckpt"
            if not file.is_file():
                raise UserError(
                    f"{folder}: it has no checkpoints/last.ckpt; give the directory of a run that has "
                    "finished a stage, or a checkpoint with ckpt=<file>."
                )
        checkpoint = read_checkpoint(file)
        try:
            saved = checkpoint["hyper_parameters"]
            classes, size = saved["classes"], saved["size"]
            body = _build(backbone, saved["model"] | {"weights": "none"})()
            heads = Heads(body.num_features, len(classes), saved["heads"])
            model = Classifier(body, heads, len(classes))
            model.load_state_dict(checkpoint["state_dict"])
            augment = _build(transforms, saved["augment"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = str(error).strip().split("\n")[0]
            raise UserError(f"{file}: it is not a checkpoint saved by a stage ({reason}).") from error

        config_file = file.resolve().parent.parent / "config.yaml"
        config = OmegaConf.load(config_file) if config_file.is_file() else OmegaConf.create()
        seed = OmegaConf.select(config, "seed", default=0)
        data = OmegaConf.select(config, "data", default={})
        trained_on = {key: data[key] for key in ("root", "valid_fraction", "on_bad_image") if key in data}
        return cls(model, classes, size, augment, seed, trained_on)

    def data(
        self, root: str | Path | None = None, batch_size: int = 64, num_workers: int | None = None
    ) -> DogsCatsDataModule:
        """Make the data module that loads photos as the classifier wants them.

        Args:
            root: of the photos; `None` for those that the run was trained on.
            batch_size: photos in a batch.
            num_workers: as of the data module.

        Raises:
            UserError: without a root, if that of the run is not known.
        """
        arguments = self.trained_on | ({} if root is None else {"root": root})
        if "root" not in arguments:
            raise UserError("data.root: the checkpoint's run is not known; give the folder of the photos.")
        return DogsCatsDataModule(
            **arguments,
            size=self.size,
            batch_size=batch_size,
            num_workers=num_workers,
            augment=self.augment,
            seed=self.seed,
        )

    def predict(
        self,
        paths: Sequence[str | Path],
        n_aug: int = 4,
        batch_size: int = 64,
        num_workers: int | None = 0,
        make_trainer: Callable[..., Trainer] = Trainer,
    ) -> tuple[Predictions, dict[str, str]]:
        """Predict photos, whatever their folders.

        Args:
            paths: the photos.
            n_aug: augmented versions of each photo to average over, beside the plain one.
            batch_size: photos in a batch.
            num_workers: processes that decode photos; 0 for none beside this one, `None` as in
                `default_num_workers`.
            make_trainer: makes Lightning's Trainer, which chooses the device.

        Returns:
            Predictions of the photos that can be read, in the order of `paths`; and for each of the others
            the reason why it cannot.
        """
        names = [Path(path).as_posix() for path in paths]
        unreadable = unreadable_images(Path(), names)
        photos = Photos(Path(), [name for name in names if name not in unreadable], [])
        if not photos.paths:
            none = torch.empty(0, len(self.classes))
            return Predictions([], self.classes, torch.empty(0, dtype=torch.long), none), unreadable
        tta = TTA(photos, self.classes)
        trainer = make_trainer(logger=False, enable_checkpointing=False, callbacks=[Progress(), tta])
        if len(photos.paths) <= batch_size:
            num_workers = 0  # processes take longer to start than to decode a single batch
        loaders = tta_loaders(self.data(Path(), batch_size, num_workers), photos, n_aug)
        trainer.predict(self.model, loaders, return_predictions=False)
        return tta.best, unreadable


def _build(module: ModuleType, config: Mapping[str, Any]) -> Callable[..., Any]:
    """Find the function of `module` that `config` names, with its arguments.

    Not by `hydra.utils.instantiate`, which would call anything that a checkpoint from elsewhere names.
    """
    where, _, name = config["_target_"].rpartition(".")
    functions = inspect.getmembers(module, inspect.isfunction)
    own = {key: function for key, function in functions if function.__module__ == module.__name__}
    if where != module.__name__ or name not in own:
        raise ValueError(f"{module.__name__} has no {config['_target_']}")
    return partial(own[name], **{key: value for key, value in config.items() if not key.startswith("_")})
