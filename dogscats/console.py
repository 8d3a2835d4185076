"""What a run shows on the console beside its own lines."""

import logging
import sys
import warnings
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.warnings import PossibleUserWarning
from tqdm import tqdm

T = TypeVar("T")


def quiet_libraries() -> None:
    """Silence what the libraries repeat, and Lightning's advice that does not apply here."""
    logging.raiseExceptions = False  # a log that cannot be written is no reason for a traceback
    libraries = ("pytorch_lightning", "lightning_fabric", "lightning.fabric", "onnx_ir", "onnxscript")
    for library in libraries:
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
        # It gives every photo once.
        ("You are using a custom batch sampler", PossibleUserWarning),
        # Lightning 2.6 calls what PyTorch 2.15 deprecates.
        (".*LeafSpec", FutureWarning),
    ]:
        warnings.filterwarnings("ignore", message, category)


def device_name(device: torch.device, processes: int = 1) -> str:
    """Name the device, of each of so many processes, for a person to read."""
    name = device.type.upper()
    if device.type == "cuda":
        name = f"GPU ({torch.cuda.get_device_name(device)})"
    elif device.type == "cpu":
        name = f"CPU ({torch.get_num_threads()} threads)"
    return name if processes == 1 else f"{processes} x {name}"


def progress_bar(items: Iterable[T], description: str, total: int, unit: str) -> "tqdm[T]":
    """Show progress over `items`: live on a terminal, a line every 10 seconds in a log."""
    return tqdm(items, description, total, unit=unit, **_bar_settings())


def bytes_bar(description: str, total: int | None, done: int = 0) -> "tqdm[Any]":
    """Make a bar to be updated with numbers of bytes, of which `done` are done; shown as `progress_bar`."""
    return tqdm(desc=description, total=total, initial=done, unit="B", unit_scale=True, **_bar_settings())


def _bar_settings() -> dict[str, Any]:
    return {
        "leave": False,
        "mininterval": 0.1 if sys.stderr.isatty() else 10,
        "dynamic_ncols": True,
        "disable": getattr(rank_zero_only, "rank", 0) > 0,  # of several processes the first shows the bar
    }
