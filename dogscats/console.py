"""What a run shows on the console beside its own lines."""

import logging
import sys
import warnings
from collections.abc import Iterable
from typing import TypeVar

import torch
from pytorch_lightning.utilities.warnings import PossibleUserWarning
from tqdm import tqdm

T = TypeVar("T")


def quiet_libraries() -> None:
    """Silence what the libraries repeat, and Lightning's advice that does not apply here."""
    for library in ("pytorch_lightning", "onnx_ir", "onnxscript"):
        logging.getLogger(library).setLevel(logging.WARNING)
    for message, category in [
        # Precomputed activations need no workers, and photos have as many as there are cores.
        ("The '.*_dataloader' does not have many workers", PossibleUserWarning),
        # An epoch of few batches is still an epoch.
        ("The number of training batches", PossibleUserWarning),
        # The LR finder does not validate.
        ("You defined a `validation_step` but have no `val_dataloader`", PossibleUserWarning),
        # Frozen layers are meant to be in eval mode.
        ("Found .* module\\(s\\) in eval mode", UserWarning),
        # The stages of a run share a folder of checkpoints.
        ("Checkpoint directory .* exists and is not empty", UserWarning),
        # Lightning 2.6 calls what PyTorch 2.15 deprecates.
        (".*LeafSpec", FutureWarning),
    ]:
        warnings.filterwarnings("ignore", message, category)


def device_name(device: torch.device) -> str:
    """Name the device for a person to read."""
    if device.type == "cuda":
        return f"GPU ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        return f"CPU ({torch.get_num_threads()} threads)"
    return device.type.upper()


def progress_bar(items: Iterable[T], description: str, total: int, unit: str) -> "tqdm[T]":
    """Show progress over `items`: live on a terminal, a line every 10 seconds in a log."""
    seconds = 0.1 if sys.stderr.isatty() else 10
    return tqdm(items, description, total, leave=False, unit=unit, mininterval=seconds, dynamic_ncols=True)
