"""Console output: library log levels and progress bars."""

import logging
import os
import resource
import sys
import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any, TypeVar

import torch
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.warnings import PossibleUserWarning
from tqdm import tqdm

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

shows_progress = True
"""Whether to show progress bars; see `trainer.enable_progress_bar`."""


def quiet_libraries() -> None:
    """Silence repeated library messages, and Lightning's hints that do not apply here."""
    logging.raiseExceptions = False  # no traceback for a log file that cannot be written
    libraries = ("pytorch_lightning", "lightning_fabric", "lightning.fabric", "onnx_ir", "onnxscript")
    for library in libraries:
        logging.getLogger(library).setLevel(logging.WARNING)
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    # Shown only if enabled by `trainer.enable_model_summary` or `trainer.profiler`.
    for library in ("pytorch_lightning.callbacks.model_summary", "pytorch_lightning.profilers"):
        logging.getLogger(library).setLevel(logging.INFO)
    for message, category in [
        # Precomputed activations need no workers, and the number for photos is set from the cores.
        ("The '.*_dataloader' does not have many workers", PossibleUserWarning),
        # Epochs with few batches are fine.
        ("The number of training batches", PossibleUserWarning),
        # The LR finder does not validate.
        ("You defined a `validation_step` but have no `val_dataloader`", PossibleUserWarning),
        # Frozen layers are meant to be in eval mode.
        ("Found .* module\\(s\\) in eval mode", UserWarning),
        # The stages of a run share a checkpoint folder.
        ("Checkpoint directory .* exists and is not empty", UserWarning),
        # A run resumes with the callbacks of its config, and without those that a checkpoint has besides.
        ("Be aware that when using `ckpt_path`, callbacks used", UserWarning),
        # Lightning 2.6 uses an API that PyTorch 2.15 deprecates.
        (".*LeafSpec", FutureWarning),
    ]:
        warnings.filterwarnings("ignore", message, category)


def device_name(device: torch.device, ranks: int = 1) -> str:
    """Return a readable name of the device of each rank."""
    name = device.type.upper()
    if device.type == "cuda":
        name = f"GPU ({torch.cuda.get_device_name(device)})"
    elif device.type == "cpu":
        name = f"CPU ({torch.get_num_threads()} threads)"
    return name if ranks == 1 else f"{ranks} x {name}"


def progress_bar(items: Iterable[T], description: str, total: int, unit: str) -> "tqdm[T]":
    """Show progress over `items`: live on a terminal, one line every 10 seconds in a log."""
    return tqdm(items, description, total, unit=unit, **_bar_settings())


def bytes_bar(description: str, total: int | None, done: int = 0) -> "tqdm[Any]":
    """Make a progress bar in bytes, starting at `done`; see `progress_bar`."""
    return tqdm(desc=description, total=total, initial=done, unit="B", unit_scale=True, **_bar_settings())


def in_threads(
    step: Callable[[T], R], items: Sequence[T], description: str, at_once: int = 256
) -> Generator[R, None, None]:
    """Take a step for each photo, in a thread per CPU core, at most 16; show progress.

    Args:
        step: function that releases the GIL for most of its time, as the decoders of photos do.
        items: photos, the arguments of the function.
        description: description for the progress bar.
        at_once: items that are begun, and results in memory, at once.

    Yields:
        The results, in the order of the items.
    """
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        groups = (items[start : start + at_once] for start in range(0, len(items), at_once))
        results = chain.from_iterable(pool.map(step, group) for group in groups)
        yield from progress_bar(results, description, len(items), "photo")


def set_progress(shown: bool) -> None:
    """Show or hide all progress bars."""
    global shows_progress
    shows_progress = shown


def _bar_settings() -> dict[str, Any]:
    return {
        "leave": False,
        "mininterval": 0.1 if sys.stderr.isatty() else 10,
        "dynamic_ncols": True,
        "disable": not shows_progress or getattr(rank_zero_only, "rank", 0) > 0,  # rank 0 shows the bar
    }


def peak_rss_mb() -> float:
    """Return the peak resident memory of this process, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)  # macOS counts bytes, Linux kilobytes
