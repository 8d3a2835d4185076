"""Checkpoints: written whole or not at all, read without executing anything."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from dogscats.atomic import atomic_path
from dogscats.classifier import Classifier
from dogscats.errors import UserError


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoints, whole or absent under their names even after a kill while saving."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write `checkpoint` to `path`."""
        with atomic_path(Path(path)) as temporary:
            torch.save(checkpoint, temporary)


def save_classifier(path: Path, classifier: Classifier, description: dict[str, Any]) -> None:
    """Save body and head, with what is needed to build them again.

    Args:
        path: the file: `state_dict`, `hyper_parameters` and `pytorch-lightning_version`.
        classifier: the whole classifier.
        description: plain containers, saved as `hyper_parameters`: `model` and `augment` (their
            configs), `classes` (names) and `size` (pixels).
    """
    AtomicCheckpointIO().save_checkpoint(
        {
            "state_dict": classifier.state_dict(),
            "hyper_parameters": description,
            "pytorch-lightning_version": pytorch_lightning.__version__,
        },
        path,
    )


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint's plain containers and tensors, executing nothing.

    Raises:
        UserError: if there is no such file, or it cannot be read.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file can raise almost anything
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{path}: it cannot be read as a checkpoint ({reason}).") from error
    if not isinstance(checkpoint, dict):
        raise UserError(f"{path}: it is not a checkpoint.")
    return checkpoint


def load_classifier(path: Path, classifier: Classifier, description: Mapping[str, Any]) -> None:
    """Give `classifier` the weights that `save_classifier` saved.

    Args:
        path: the checkpoint.
        classifier: built for the same model and classes.
        description: of `classifier`, as it would be saved. The size of the photos and the origin of the
            weights may differ from those of the checkpoint.

    Raises:
        UserError: if there is no such checkpoint, it cannot be read, or is of another model or classes.
    """
    if not path.is_file():
        raise UserError(f"load={path}: there is no such file.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        saved, state = checkpoint["hyper_parameters"], checkpoint["state_dict"]
        theirs, ours = (
            {"model": {k: v for k, v in d["model"].items() if k != "weights"}, "classes": list(d["classes"])}
            for d in (saved, description)
        )
    except Exception as error:  # a broken file can raise almost anything
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"load={path}: it is not a checkpoint saved by a stage ({reason}).") from error
    for what in ours:
        if theirs[what] != ours[what]:
            raise UserError(f"load={path}: its {what} is {theirs[what]}, but this run's is {ours[what]}.")
    classifier.load_state_dict(state)
