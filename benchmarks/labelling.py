"""Labels against accuracy: `python -m benchmarks.labelling folder=... cache=...`.

For each dataset and start, labels are given to training photos, some a round: those with the smallest margin between
the two most probable classes, as `label=<folder>` of evaluate.py orders them, or random ones. The first 50 are random
in both; a third method begins with k-center and goes on by margin. After each round a kernel head is fitted to the
labelled photos, and judged on `valid/`. Prints Markdown: mean accuracy over the starts, and how many random labels are
as good as the labels by margin. Features are those of several depths of EfficientNet-Lite0, cached in `cache`.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from lightning_fabric import Fabric

from benchmarks.settings import from_command_line
from dogscats.base.console import quiet_libraries, set_progress
from dogscats.data.loading.datamodule import DogsCatsDataModule
from dogscats.kernel.kernel_head import KernelHead
from dogscats.labelling.order import comparable, k_center, margins
from dogscats.lesson.activations import Activations
from dogscats.lesson.classifier import Classifier
from dogscats.networks.timm_backbone import efficientnet_lite0

METHODS = ("margin", "random", "k-center, then margin")


@dataclass
class Labelling:
    """Settings of the benchmark.

    Attributes:
        folder: folder with the datasets.
        cache: folder for features.
        datasets: datasets, each as `<folder>:<side of the images in pixels>`.
        starts: number of random starts.
        counts: numbers of labels; those of the first two are chosen before anything is known.
        weights: weights of the network, as `model.weights`.
    """

    folder: str
    cache: str
    datasets: list[str] = field(default_factory=lambda: ["trash:224", "digits:128", "dogscats:224"])
    starts: int = 8
    counts: list[int] = field(default_factory=lambda: [20, *range(50, 501, 50)])
    weights: str = "imagenet"


@dataclass
class Pool:
    """Features and labels of a dataset, those to be labelled and those to judge by, and k-center's first photos."""

    train: torch.Tensor
    labels: torch.Tensor
    valid: torch.Tensor
    valid_labels: torch.Tensor
    widths: list[int]
    diverse: torch.Tensor


def pool_of(settings: Labelling, dataset: str) -> Pool:
    """Compute the features of a dataset, or read them from the cache."""
    name, _, size = dataset.partition(":")
    root = Path(settings.folder).expanduser() / name
    data = DogsCatsDataModule(root, int(size), cache_dir=settings.cache, on_bad_image="skip", num_workers=0)
    data.setup()
    body = efficientnet_lite0(settings.weights, features="all").eval()
    activations = Activations(
        Classifier(body, data.classes), data, Fabric(accelerator="cpu", devices=1), settings.cache
    )
    train, valid = (activations.features(photos, name) for photos in (data.train, data.valid))
    labels = (torch.tensor(photos.labels) for photos in (data.train, data.valid))
    diverse = k_center(comparable(train), settings.counts[1])
    return Pool(train, next(labels), valid, next(labels), list(body.widths(data.size)), diverse)


def curve(settings: Labelling, pool: Pool, method: str, start: int) -> list[float]:
    """Return the accuracy after each round."""
    generator = torch.Generator().manual_seed(start)
    shuffled = torch.randperm(len(pool.labels), generator=generator)
    begin = pool.diverse if method.startswith("k-center") else shuffled
    order, chosen, accuracies = begin, begin[:0], []
    for number, count in enumerate(settings.counts):
        left = order[~torch.isin(order, chosen)]
        chosen = torch.cat([chosen, left[: count - len(chosen)]])
        fit = KernelHead.fit(pool.train[chosen], pool.labels[chosen], int(pool.labels.max()) + 1, pool.widths)
        accuracies.append((fit.head(pool.valid).argmax(dim=1) == pool.valid_labels).double().mean().item())
        if number > 0 and method != "random":
            order = margins(fit.head(pool.train).exp()).argsort()
    return accuracies


def as_good(accuracies: torch.Tensor, accuracy: float, counts: list[int]) -> str:
    """Return the number of labels with which a curve `(R,)` reaches an accuracy, between its points linearly."""
    best = accuracies.cummax(dim=0).values.tolist()
    if accuracy > best[-1]:
        return f"over {counts[-1]}"
    after = next(number for number, value in enumerate(best) if value >= accuracy)
    if after == 0:
        return str(counts[0])
    share = (accuracy - best[after - 1]) / (best[after] - best[after - 1])
    return f"{counts[after - 1] + share * (counts[after] - counts[after - 1]):.0f}"


def table(settings: Labelling) -> str:
    """Measure, and format the table of all datasets."""
    counts = settings.counts
    lines = [f"| photos | chosen by | {' | '.join(map(str, counts))} |", f"|---|---|{'---|' * len(counts)}"]
    for dataset in settings.datasets:
        pool, name, means = pool_of(settings, dataset), dataset.partition(":")[0], dict[str, torch.Tensor]()
        for method in METHODS:
            starts = 1 if method.startswith("k-center") else settings.starts  # it has no chance in it
            curves = torch.tensor([curve(settings, pool, method, start) for start in range(starts)])
            means[method], spread = curves.mean(dim=0), curves.std(dim=0, correction=0)
            cells = [
                f"{mean:.3f}" + f" ± {deviation:.3f}" * (starts > 1)
                for mean, deviation in zip(means[method], spread, strict=True)
            ]
            lines.append(f"| {name} | {method} | {' | '.join(cells)} |")
        reached = [as_good(means["random"], value, counts) for value in means["margin"].tolist()]
        lines.append(f"| {name} | random labels as good as margin | {' | '.join(reached)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    quiet_libraries()
    set_progress(False)
    started = time.perf_counter()
    print(table(from_command_line(Labelling("???", "???"))))
    print(f"\n{time.perf_counter() - started:.0f} s")
