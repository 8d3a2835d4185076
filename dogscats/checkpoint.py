"""Checkpoints: written whole or not at all, read without executing anything."""

from pathlib import Path
from typing import Any

import pytorch_lightning
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from dogscats.atomic import atomic_path
from dogscats.classifier import Classifier


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
        description: plain containers, saved as `hyper_parameters`: `model` (the model's config), `classes`
            (names) and `size` (pixels).
    """
    AtomicCheckpointIO().save_checkpoint(
        {
            "state_dict": classifier.state_dict(),
            "hyper_parameters": description,
            "pytorch-lightning_version": pytorch_lightning.__version__,
        },
        path,
    )
