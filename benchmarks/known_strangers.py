"""How many strangers pass if some are known: `python -m benchmarks.known_strangers folder=... cache=...`.

For each case, a kernel head and the signs of a stranger are fitted to the features of known classes (frozen
EfficientNet-Lite0), and to so many photos of a kind that is of no class. Prints a Markdown table: which share passes of
other photos of that kind, of kinds that were never given, and of another dataset, with thresholds that keep 95 % of the
validation photos. What is kept of new photos is by thresholds of four fifths of the validation photos for the last.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
from lightning_fabric import Fabric

from benchmarks.settings import from_command_line
from dogscats import Classifier, DogsCatsDataModule, KernelHead, efficientnet_lite0
from dogscats.base.console import quiet_libraries
from dogscats.base.errors import user_errors_exit
from dogscats.lesson.activations import Activations
from dogscats.reliability.known_strangers import KnownStrangers
from dogscats.reliability.signs import ForwardPass, GivenStrangers, TrainingPhotos
from dogscats.reliability.strangers import StrangerDetector
from dogscats.reliability.thresholds import choose_thresholds

FOLDS = 5
"""Parts of the validation photos, each of which is kept by thresholds of the others."""


@dataclass
class KnownStrangersBenchmark:
    """Settings of the benchmark.

    Attributes:
        folder: folder with the datasets.
        cache: folder for activations.
        cases: each as `<dataset>:<side of the images in pixels>:<known classes>:<kind given>:<kinds never given>`.
        far: dataset whose validation photos are far strangers.
        counts: numbers of strangers that are given.
        seeds: number of random choices of these.
    """

    folder: str
    cache: str
    cases: list[str] = field(
        default_factory=lambda: [
            "trash:224:cardboard,glass,metal:paper:plastic",
            "trash:224:cardboard,glass,metal:plastic:paper",
            "digits:128:0,1,2,3,4,5,6:7:8,9",
        ]
    )
    far: str = "dogscats"
    counts: list[int] = field(default_factory=lambda: [0, 20, 50, 200])
    seeds: int = 4


@cache
def features_of(
    folder: str, cache_dir: str, dataset: str, size: int
) -> tuple[list[int], dict[str, list[torch.Tensor]]]:
    """Compute the features of a dataset; also return the number of features of each depth."""
    data = DogsCatsDataModule(Path(folder).expanduser() / dataset, size=size, cache_dir=cache_dir)
    data.setup()
    body = efficientnet_lite0(features="all")
    activations = Activations(Classifier(body, data.classes), data, Fabric(accelerator="cpu", devices=1), cache_dir)
    parts = [(photos, activations.features(photos, dataset)) for photos in (data.train, data.valid)]
    by_class = {
        name: [values[torch.tensor(photos.labels) == label] for photos, values in parts]
        for label, name in enumerate(data.classes)
    }
    return body.widths(size), by_class


class Case:
    """A case: what is fitted to the known classes, and the photos to predict.

    Args:
        settings: settings of the benchmark.
        case: one of its cases.
    """

    def __init__(self, settings: KnownStrangersBenchmark, case: str):
        dataset, size, known, given, never = case.split(":")
        widths, by_class = features_of(settings.folder, settings.cache, dataset, int(size))
        parts = [by_class[name][0] for name in known.split(",")]
        labels = [label for label, part in enumerate(parts) for _ in part]
        self.training = TrainingPhotos(torch.cat(parts), None, labels, len(parts), lambda: widths)
        self.head = KernelHead.fit(self.training.features, labels, len(parts), widths).head
        self.signs = list(StrangerDetector.fit(self.training, [""] * len(labels)).signs)
        self.pool, held_out = by_class[given]
        _, far = features_of(settings.folder, settings.cache, settings.far, int(size))
        groups = {"known": torch.cat([by_class[name][1] for name in known.split(",")]), "given": held_out}
        groups["never given"] = torch.cat([part for name in never.split(",") for part in by_class[name]])
        groups["far"] = torch.cat([valid for _, valid in far.values()])[::4]
        self.computed = {name: ForwardPass(values, self.head.each(values)) for name, values in groups.items()}

    def shares(self, count: int, seed: int) -> dict[str, float]:
        """Return the share of each group that is classified, with so many strangers given; of `known`, the unseen."""
        chosen = torch.randperm(len(self.pool), generator=torch.Generator().manual_seed(seed))[:count]
        parts, kinds = torch.arange(len(chosen)) % 5, torch.zeros(len(chosen), dtype=torch.long)
        given = GivenStrangers(self.pool[chosen], None, parts, kinds) if count else None
        sign = KnownStrangers.fit(self.training._replace(strangers=given))
        detector = StrangerDetector([*self.signs, *([sign] if sign else [])], [])
        scores = {name: detector.scores(computed) for name, computed in self.computed.items()}
        probable = {name: computed.logits[0].softmax(dim=1).amax(dim=1) for name, computed in self.computed.items()}

        def kept(chosen_by: torch.Tensor, name: str) -> torch.Tensor:
            detector.calibrate(scores["known"][chosen_by])
            limits = choose_thresholds(probable["known"][chosen_by], detector.unlike(scores["known"][chosen_by]))
            unlike = detector.unlike(scores[name])
            return ((probable[name] >= limits.unsure_below) & (unlike <= limits.none_above)).double()

        every = torch.randperm(len(probable["known"]), generator=torch.Generator().manual_seed(seed))
        folds = torch.arange(len(every)) % FOLDS
        found = {name: kept(every, name).mean().item() for name in scores if name != "known"}
        unseen = [kept(every[folds != fold], "known")[every[folds == fold]] for fold in range(FOLDS)]
        return {"known": torch.cat(unseen).mean().item(), **found}


def rows(settings: KnownStrangersBenchmark) -> Iterator[str]:
    """Yield the lines of the table."""
    yield "| known classes | given | photos | pass | never given | pass | far | new photos kept |"
    yield "|---|---|---|---|---|---|---|---|"
    for case in settings.cases:
        _, _, known, given, never = case.split(":")
        fitted = Case(settings, case)
        for count in settings.counts:
            found = [fitted.shares(count, seed) for seed in range(settings.seeds if count else 1)]
            mean = {name: sum(shares[name] for shares in found) / len(found) for name in found[0]}
            photos = min(count, len(fitted.pool))
            cells = [known, given, photos, f"{mean['given']:.3f}", never, f"{mean['never given']:.3f}"]
            yield f"| {' | '.join(map(str, cells))} | {mean['far']:.3f} | {mean['known']:.3f} |"


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    quiet_libraries()
    with user_errors_exit():
        for row in rows(from_command_line(KnownStrangersBenchmark("???", "???"))):
            print(row, flush=True)
