"""How well suspects are found: `python -m benchmarks.suspects folder=... weights=... cache=... part=labels`.

Injects faults with a seed and counts what the search finds, in parts:

- `labels`: 5 % and 20 % of the training labels changed to another class at random. Area under the ROC curve of the
  scores of training photos, changed against not, and precision in the first k, with k the number changed; of the
  search, of its neighbors alone, and of cleanlab's score for the same probabilities (its normalized margin; its self
  confidence is the search's own).
- `duplicates`: 100 training photos of dogs and cats, recompressed at quality 40, resized to 70 %, mirrored, cropped by
  5 %, or changed in brightness by 10 %.
- `recovery`: the heads of `recipe=heads`, trained on clean labels, on 20 % changed ones, and on these without the
  photos of which another class is found to be more probable, or at least twice as probable; accuracy on `valid/`,
  whose labels stay.
- `growth`: seconds and peak memory for faked features and thumbnails.

Prints Markdown, with medians over the seeds. Features are those of several depths, and cached in `cache`.
"""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageFont
from pytorch_lightning import Trainer
from torchmetrics.functional.classification import binary_auroc

from benchmarks.settings import from_command_line
from dogscats.base.console import peak_rss_mb, quiet_libraries, set_progress
from dogscats.data.loading.datamodule import DogsCatsDataModule
from dogscats.data.loading.dataset import ActivationDataset, PhotoDataset
from dogscats.data.loading.loaders import EpochSampler, SharedBatchSampler, activation_loader
from dogscats.data.photos.layouts import Photos
from dogscats.lesson.activations import precompute
from dogscats.lesson.backbone import Backbone, PrecomputedBody, resnet34
from dogscats.lesson.classifier import Classifier
from dogscats.lesson.heads import Heads
from dogscats.lesson.sgdr import SGDR
from dogscats.networks.timm_backbone import efficientnet_lite0
from dogscats.reliability.neighbors import half_whitened, nearest, principal_components
from dogscats.suspects.appearance import THUMBNAIL, Appearance, look_at
from dogscats.suspects.duplicates import candidates_by_features, candidates_by_thumbnails, duplicates
from dogscats.suspects.labels import label_scores, left_out_probabilities, vote
from dogscats.suspects.search import Labelled, copies, outliers, wrong_labels


@dataclass
class Suspects:
    """Settings of the benchmark.

    Attributes:
        folder: folder with the datasets.
        weights: file with a state dict of torchvision's ResNet34.
        cache: folder for features and altered photos.
        part: `labels`, `duplicates`, `drawings`, `recovery` or `growth`.
        datasets: datasets, each as `<folder>:<side of the images in pixels>`.
        models: backbones.
        seeds: seeds of the faults.
        shares: shares of labels that are changed.
        counts: numbers of photos for `growth`.
    """

    folder: str
    weights: str
    cache: str
    part: str = "labels"
    datasets: list[str] = field(default_factory=lambda: ["dogscats:224", "digits:128", "trash:224"])
    models: list[str] = field(default_factory=lambda: ["efficientnet_lite0", "resnet34"])
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    shares: list[float] = field(default_factory=lambda: [0.05, 0.2])
    counts: list[int] = field(default_factory=lambda: [3000, 12000, 50000])


@dataclass
class Features:
    """Features of a dataset: those of `train`, and of all photos with `train` first."""

    data: DogsCatsDataModule
    train: torch.Tensor
    valid: torch.Tensor
    every: torch.Tensor
    labels: torch.Tensor


def body(settings: Suspects, model: str) -> Backbone:
    """Make a backbone with features of several depths."""
    return efficientnet_lite0(features="all") if model == "efficientnet_lite0" else resnet34(settings.weights, "all")


def computed(settings: Suspects, network: Backbone, data: DogsCatsDataModule, photos: Photos) -> torch.Tensor:
    """Compute the features of photos, or read them from the cache."""
    loader = data.loader(PhotoDataset(photos, data.evaluation, 0), persistent=False)
    return precompute(network, loader, Path(settings.cache), torch.device("cpu"))


def features_of(settings: Suspects, dataset: str, model: str) -> Features:
    """Compute the features of a dataset."""
    name, size = dataset.split(":")
    data = DogsCatsDataModule(
        Path(settings.folder) / name, int(size), cache_dir=settings.cache, on_bad_image="skip", num_workers=0
    )
    data.setup()
    network = body(settings, model)
    train, valid = (computed(settings, network, data, photos) for photos in (data.train, data.valid))
    return Features(
        data, train, valid, torch.cat([train, valid]), torch.tensor([*data.train.labels, *data.valid.labels])
    )


def changed(
    labels: torch.Tensor, train: int, classes: int, share: float, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Change a share of the first `train` labels to another class; return labels, and whether each was changed."""
    generator = torch.Generator().manual_seed(seed)
    count = round(share * train)
    chosen = torch.randperm(train, generator=generator)[:count]
    wrong = labels.clone()
    wrong[chosen] = (labels[chosen] + torch.randint(1, classes, (count,), generator=generator)) % classes
    return wrong, wrong != labels


def found(scores: torch.Tensor, wrong: torch.Tensor) -> tuple[float, float]:
    """Return the area under the ROC curve, and the precision in the first k, with k the number of wrong ones."""
    first = scores.topk(int(wrong.sum())).indices
    return binary_auroc(scores, wrong.long()).item(), wrong[first].double().mean().item()


def cleanlab_scores(labels: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor | None:
    """Return 1 - cleanlab's normalized margin; `None` without cleanlab."""
    try:
        from cleanlab.rank import get_label_quality_scores  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        return None
    quality = get_label_quality_scores(labels.numpy(), probabilities.double().numpy(), method="normalized_margin")
    return 1 - torch.as_tensor(quality)


def label_rows(settings: Suspects) -> Iterator[str]:
    """Yield the lines of the table of changed labels."""
    yield "| photos | backbone | changed | search: AUC, precision | neighbors alone | cleanlab | s |"
    yield "|---|---|---|---|---|---|---|"
    for dataset in settings.datasets:
        for model in settings.models:
            f = features_of(settings, dataset, model)
            classes, train = len(f.data.classes), len(f.train)
            for share in settings.shares:
                results: dict[str, list[tuple[float, float]]] = {}
                seconds = []
                for seed in settings.seeds:
                    labels, wrong = changed(f.labels, train, classes, share, seed)
                    started = time.perf_counter()
                    points = principal_components(f.every)
                    neighbors = nearest(half_whitened(points), 20)
                    probabilities = left_out_probabilities(points, labels, classes, neighbors)
                    seconds.append(time.perf_counter() - started)
                    scores = {
                        "search": label_scores(probabilities, labels)[0],
                        "neighbors": label_scores(vote(neighbors, labels, classes, 20), labels)[0],
                        "cleanlab": cleanlab_scores(labels, probabilities),
                    }
                    for name, values in scores.items():
                        if values is not None:
                            results.setdefault(name, []).append(found(values[:train], wrong[:train]))
                cells = [
                    f"{median(auc for auc, _ in results[name]):.4f}, {median(p for _, p in results[name]):.3f}"
                    if name in results
                    else "-"
                    for name in ("search", "neighbors", "cleanlab")
                ]
                yield (
                    f"| {dataset.split(':')[0]} | {model} | {100 * share:g} % | {' | '.join(cells)} | "
                    f"{median(seconds):.1f} |"
                )


def altered(picture: Image.Image, kind: str, chance: random.Random) -> tuple[Image.Image, int]:
    """Alter a photo; return it and the quality to save it with."""
    width, height = picture.size
    if kind == "resized":
        return picture.resize((round(0.7 * width), round(0.7 * height))), 90
    if kind == "mirrored":
        return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 90
    if kind == "cropped":
        w, h = round(0.95 * width), round(0.95 * height)
        left, top = chance.randint(0, width - w), chance.randint(0, height - h)
        return picture.crop((left, top, left + w, top + h)), 90
    if kind == "brightness":
        return ImageEnhance.Brightness(picture).enhance(chance.choice([0.9, 1.1])), 90
    return picture, 40


def duplicate_rows(settings: Suspects) -> Iterator[str]:
    """Yield the lines of the table of duplicates, and the pairs that nobody made."""
    kinds = ("recompressed", "resized", "mirrored", "cropped", "brightness")
    yield "| backbone | seed | made | found | others found |"
    yield "|---|---|---|---|---|"
    others: set[tuple[str, str]] = set()
    for model in settings.models:
        f = features_of(settings, settings.datasets[0], model)
        network, paths, train = body(settings, model), [*f.data.train.paths], len(f.train)
        appearance = look_at(f.data.train.root, paths)
        for seed in settings.seeds:
            chance = random.Random(seed)
            chosen, folder = chance.sample(range(train), 100), Path(settings.cache) / f"altered-{seed}"
            folder.mkdir(exist_ok=True)
            names = [f"{number}-{kinds[number % len(kinds)]}.jpg" for number in range(len(chosen))]
            for number, (name, index) in enumerate(zip(names, chosen, strict=True)):
                with Image.open(f.data.train.root / paths[index]) as picture:
                    twin, level = altered(picture.convert("RGB"), kinds[number % len(kinds)], chance)
                twin.save(folder / name, quality=level)
            features = torch.cat([f.train, computed(settings, network, f.data, Photos(folder, names, [0] * 100))])
            thumbnails = torch.cat([appearance.thumbnails, look_at(folder, names).thumbnails])
            candidates = [candidates_by_features(half_whitened(principal_components(features)))]
            pairs = duplicates(thumbnails, torch.cat([*candidates, candidates_by_thumbnails(thumbnails)]))
            made = {(index, train + number) for number, index in enumerate(chosen)}
            hits = {pair[:2] for pair in pairs} & made
            more = [pair for pair in pairs if pair[:2] not in made]
            every = [*paths, *names]
            others |= {(every[first], every[second]) for first, second, _ in more}
            yield f"| {model} | {seed} | {len(made)} | {len(hits)} | {len(more)} |"
    yield from (f"\nOthers: {first} = {second}" for first, second in sorted(others))


def drawing(kind: str, seed: int) -> Image.Image:
    """Draw an arrow, a letter or a form, on plain ground; no two seeds give the same."""
    chance = random.Random(f"{kind} {seed}")
    picture = Image.new("L", (160, 120), chance.randint(225, 255))
    draw, ink = ImageDraw.Draw(picture), chance.randint(0, 70)
    x, y = chance.randint(8, 30), chance.randint(8, 30)
    if kind == "arrows":
        length, head, width = chance.randint(70, 110), chance.randint(12, 26), chance.randint(3, 9)
        slope, tip = chance.uniform(-0.15, 0.15), chance.choice([0, 1])
        ends = [(x + 10, 60 - slope * length / 2), (x + 10 + length, 60 + slope * length / 2)]
        draw.line(ends, ink, width)
        sign = 1 if tip == 0 else -1
        (end_x, end_y), spread = ends[tip], head * chance.uniform(0.5, 0.8)
        draw.polygon([(end_x, end_y), *((end_x + sign * head, end_y + side) for side in (-spread, spread))], ink)
    elif kind == "letters":
        draw.text((x, y - 8), chance.choice("ABDEFGHKLMNPRSTUXZ"), ink, ImageFont.load_default(chance.randint(60, 95)))
        picture = picture.rotate(chance.uniform(-8, 8), fillcolor=picture.getpixel((0, 0)))
    else:
        for row in range(5):
            draw.text((10, 12 + 21 * row), ("Name", "Street", "Town", "Date", "Sum")[row], ink)
            draw.line([(55, 24 + 21 * row), (150, 24 + 21 * row)], ink)
            draw.text((58, 12 + 21 * row), "".join(chance.choices("abcdefghiklmnopqrstuvwxyz 0123456789", k=12)), ink)
    return picture.convert("RGB")


def drawing_rows(settings: Suspects) -> Iterator[str]:
    """Yield the lines of the table of drawings on plain ground, and of altered copies of a fifth of them."""
    yield "| drawings | n | claimed though drawn apart | altered copies | found |"
    yield "|---|---|---|---|---|"
    kinds = ("recompressed", "resized", "mirrored", "cropped", "brightness")
    for drawn in ("arrows", "letters", "forms"):
        folder, count, chance = Path(settings.cache) / drawn, 250, random.Random(0)
        folder.mkdir(parents=True, exist_ok=True)
        names = [f"{number}.png" for number in range(count)]
        for number, name in enumerate([*names]):
            drawing(drawn, number).save(folder / name)
            if number % 5 == 0:
                twin, level = altered(drawing(drawn, number), kinds[number // 5 % len(kinds)], chance)
                names.append(f"copy-{number}.jpg")
                twin.save(folder / names[-1], quality=level)
        labels = torch.zeros(len(names), dtype=torch.long)
        found = copies(Labelled(folder, names, labels, ["train"] * len(names), ["drawing"]), look_at(folder, names))
        right = sum(Path(s.path).stem.removeprefix("copy-") == Path(s.twin).stem.removeprefix("copy-") for s in found)
        yield f"| {drawn} | {count} | {len(found) - right} | {len(names) - count} | {right} |"


def accuracy(f: Features, rows: torch.Tensor, labels: torch.Tensor, seed: int) -> float:
    """Train the heads of `recipe=heads` on some rows of the training features; return the accuracy on `valid/`."""
    torch.manual_seed(seed)
    size, classes = f.train.shape[1], f.data.classes
    photos = Photos(Path(), [str(row) for row in rows.tolist()], labels.tolist())
    batches = SharedBatchSampler(EpochSampler(len(rows), seed), 64, training=True)
    model = Classifier(PrecomputedBody(), classes, Heads(size, len(classes), 5), [1e-4, 1e-3, 1e-2], seed)
    model.freeze_to(2)
    options = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(max_epochs=14, callbacks=[SGDR(cycle_len=14)], enable_progress_bar=False, **options)  # type: ignore[arg-type]
    trainer.fit(model, activation_loader(ActivationDataset([f.train[rows]], photos, seed), batches))
    model.eval()
    with torch.no_grad():
        predicted = model(f.valid).argmax(dim=1)
    return float((predicted == f.labels[len(f.train) :]).double().mean())


def recovery_rows(settings: Suspects) -> Iterator[str]:
    """Yield the lines of the table of recovery."""
    yield "| photos | backbone | clean | 20 % changed | without suspects | dropped | if twice as probable | dropped |"
    yield "|---|---|---|---|---|---|---|---|"
    for dataset in settings.datasets:
        for model in settings.models:
            f = features_of(settings, dataset, model)
            classes, train = len(f.data.classes), len(f.train)
            points = principal_components(f.every)
            neighbors = nearest(half_whitened(points), 20)
            results = []
            for seed in settings.seeds:
                labels, _ = changed(f.labels, train, classes, 0.2, seed)
                probabilities = left_out_probabilities(points, labels, classes, neighbors)
                own, every = probabilities.gather(1, labels[:, None])[:, 0], torch.arange(train)
                others = probabilities.scatter(1, labels[:, None], -1.0).max(dim=1).values
                less, fewer = ((others < factor * own)[:train].nonzero().flatten() for factor in (1, 2))
                results.append(
                    (
                        accuracy(f, every, f.labels[:train], seed),
                        accuracy(f, every, labels[:train], seed),
                        *(accuracy(f, less, labels[less], seed), train - len(less)),
                        *(accuracy(f, fewer, labels[fewer], seed), train - len(fewer)),
                    )
                )
            clean, noisy, *without = (median(column) for column in zip(*results, strict=True))
            cells = " | ".join(f"{value:.4f}" if value < 1 else f"{value:.0f} of {train}" for value in without)
            yield f"| {dataset.split(':')[0]} | {model} | {clean:.4f} | {noisy:.4f} | {cells} |"


def growth_rows(settings: Suspects) -> Iterator[str]:
    """Yield the lines of the table of growth: features around centers of classes, thumbnails of noise."""
    yield "| photos | s | peak MB |"
    yield "|---|---|---|"
    for count in settings.counts:
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(count) % 10
        features = torch.randn(10, 1920, generator=generator)[labels]
        features += torch.randn(count, 1920, generator=generator)
        thumbnails = torch.randint(256, (count, THUMBNAIL, THUMBNAIL), generator=generator, dtype=torch.uint8)
        appearance = Appearance(thumbnails, *torch.full((4, count), 100.0))
        photos = Labelled(Path(), [str(n) for n in range(count)], labels, ["train"] * count, list("abcdefghij"))
        started = time.perf_counter()
        points = principal_components(features)
        around = half_whitened(points)
        neighbors = nearest(around, 20)
        wrong_labels(photos, points, neighbors)
        outliers(photos, neighbors)
        copies(photos, appearance, candidates_by_features(around))
        yield f"| {count} | {time.perf_counter() - started:.1f} | {peak_rss_mb():.0f} |"


PARTS = {
    "labels": label_rows,
    "duplicates": duplicate_rows,
    "drawings": drawing_rows,
    "recovery": recovery_rows,
    "growth": growth_rows,
}

if __name__ == "__main__":
    quiet_libraries()
    set_progress(False)
    chosen_settings = from_command_line(Suspects("???", "???", "???"))
    for line in PARTS[chosen_settings.part](chosen_settings):
        print(line, flush=True)
