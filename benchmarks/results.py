"""The tables of `docs/measurements/benchmark.md`, written from the measurements."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dogscats.base.files import atomic_path


@dataclass(frozen=True)
class Row:
    """A row of the comparison.

    Attributes:
        name: name of the function in `ours.py`, and in `with_fastai.py` if it measures the row.
        title: title of the row.
        reach: target ratio fastai / ours.
        timed: description of what is timed.
        sides: sides that measure the row.
        against: row of fastai to compare with; empty for the same row.
        times: number of times that fastai would run it.
    """

    name: str
    title: str
    reach: float
    timed: str
    sides: tuple[str, ...] = ("ours", "with_fastai")
    against: str = ""
    times: int = 1


COMPARED = [
    Row(
        "head_first",
        "head, 2 epochs, first run",
        4,
        "Ours: check that every photo can be decoded, compute the activations of both splits, train the head "
        "for 2 epochs with validation, save the checkpoints. fastai: `fit(2, 1e-2)`, frozen, not augmented.",
    ),
    Row(
        "head_cached",
        "the same again, cache present",
        40,
        "Ours: the same fit with cached activations, including verification of the cache. fastai: as above.",
        sides=("ours",),
        against="head_first",
    ),
    Row(
        "frozen",
        "frozen epoch with augmentation",
        2,
        "One epoch of training the head on augmented photos, with validation. Ours: `side_on`. fastai: "
        "`aug_transforms()`; BatchNorm in frozen layers is trained, which is its default.",
    ),
    Row("unfrozen", "unfrozen epoch", 1.3, "The same with all layers trained."),
    Row("tta", "TTA over valid", 1.3, "Predict the validation photos, plain and 4 augmented versions of each."),
    Row(
        "sweep",
        "8 head learning rates",
        25,
        "Ours: 8 fits of the head as in the first row, sharing one cache, which the first fit builds. fastai: "
        "8 times its first row (a fit costs the same at each rate).",
        sides=("ours",),
        against="head_first",
        times=8,
    ),
    Row(
        "load_plain",
        "photo to normalised tensor, plain",
        1.5,
        "One pass over the training photos in one process with one thread, to normalised batches: decode, "
        "resize, centre crop (fastai's training crop is random), normalise.",
    ),
    Row(
        "load_augmented",
        "photo to normalised tensor, augmented",
        1.5,
        "The same with `side_on` and `aug_transforms()`.",
    ),
    Row(
        "start",
        "process start to first training step",
        1,
        "From process start, including imports, to the first training step on augmented photos. Ours is "
        "`python train.py` on photos that were checked before.",
    ),
]

SIDES = {"ours": "ours", "with_fastai": "fastai"}


def median(taken: Mapping[str, Any], row: str, side: str, figure: str) -> float | None:
    """Return the median of a metric over a row's repetitions; `None` if not measured."""
    values = [v[figure] for k, v in taken.items() if k.startswith(f"{row}/{side}/") and figure in v]
    return statistics.median(values) if values else None


def spread(taken: Mapping[str, Any], row: str, side: str) -> str:
    """Format all seconds of a row, in the order of measurement."""
    values = [v["seconds"] for k, v in sorted(taken.items()) if k.startswith(f"{row}/{side}/")]
    return ", ".join(f"{value:.2f}" for value in values) or "-"


def compared(taken: Mapping[str, Any]) -> list[str]:
    """Write the table of ratios."""
    lines = [
        "| row | ours, s | fastai, s | **fastai / ours** | target | peak MB, ours / fastai |",
        "|---|---|---|---|---|---|",
    ]
    for row in COMPARED:
        against = row.against or row.name
        ours, theirs = (median(taken, n, s, "seconds") for n, s in ((row.name, "ours"), (against, "with_fastai")))
        ratio = "-" if ours is None or theirs is None else f"**{row.times * theirs / ours:.2f}**"
        memory = [
            "-" if peak is None else f"{peak:.0f}"
            for peak in (
                median(taken, row.name, "ours", "peak_rss_mb"),
                median(taken, against, "with_fastai", "peak_rss_mb"),
            )
        ]
        lines.append(
            f"| {row.title} | {'-' if ours is None else f'{ours:.2f}'} | "
            f"{'-' if theirs is None else f'{row.times * theirs:.2f}'} | {ratio} | {row.reach:g} | "
            f"{' / '.join(memory)} |"
        )
    return lines


def write_results(taken: Mapping[str, Any], path: Path) -> None:
    """Write the page of the tables."""
    machine = taken["machine"]
    software = [f"{k} {v}" for k, v in machine.items() if k not in ("processor", "cores", "work")]
    lines = [
        "# Benchmark results",
        "",
        "Generated by `make bench` from `measurements.json`; to repeat a row, see `run.py`. ResNet34, "
        f"{machine['work']}.",
        "",
        f"Machine: {machine['processor']}, {machine['cores']} cores, no GPU used. {', '.join(software)}.",
        "",
        "## Comparison with fastai",
        "",
        "Medians of alternating measurements of ours and fastai, each in a separate process. Photos, weights, batch "
        "size, epochs and threads are the same; each side uses its default number of DataLoader workers. Imports, "
        "pictures and building the network are timed only in the last row. Peak memory is that of the main process.",
        "",
        *compared(taken),
        "",
        "What is timed:",
        "",
        *(f"- *{row.title}*: {row.timed}" for row in COMPARED),
        "",
        "All measurements, in seconds:",
        "",
        *(
            f"- {row.title}, {name}: {spread(taken, row.name, side)}"
            for row in COMPARED
            for side, name in SIDES.items()
            if side in row.sides
        ),
        "",
        *distance(taken.get("limit")),
        *growth(taken),
        *million(taken),
        *large_photos(taken),
        *startup(taken),
        *gpu(taken),
    ]
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def distance(limit: Mapping[str, float] | None) -> list[str]:
    """Write the table of the distance to the limit."""
    if limit is None:
        return []
    bound = limit["bound_images_per_s"]
    names = {
        "plain": "body",
        "folded": "body, BatchNorm folded",
        "precompute": "precomputation: from the files to the cache",
        "onnxruntime": "body, ONNX Runtime",
    }
    rows = [
        f"| {title} | {limit[key]:.1f} | {limit[key] / bound:.0%} |"
        for name, title in names.items()
        if (key := f"{name}_images_per_s") in limit
    ]
    return [
        "## Distance to the limit",
        "",
        "The body alone runs on a batch in memory: medians of 5 alternating rounds. Precomputation includes "
        "decoding the photos: median of 3. The bound is the measured rate of float32 matrix products, "
        f"{limit['matrix_flop_per_s'] / 1e9:.0f} GFLOP/s, divided by {limit['flop_per_image'] / 1e9:.2f} GFLOP "
        f"per image; convolutions can run faster than those. Folding changes the features by at most "
        f"{limit['folded_error']:.1e} of the largest feature.",
        "",
        "| what | images/s | of the bound |",
        "|---|---|---|",
        *rows,
        "",
    ]


def growth(taken: Mapping[str, Any]) -> list[str]:
    """Write the table of the cost by number of photos."""
    measured = sorted((v for k, v in taken.items() if k.startswith("growth/")), key=lambda v: v["count"])
    if not measured:
        return []
    return [
        "## Scaling with the number of photos",
        "",
        "Computing activations at 96 pixels (to save time), of links to the same photos under new names.",
        "",
        "| photos | images/s | peak memory, MB |",
        "|---|---|---|",
        *(f"| {v['count']} | {v['images_per_s']:.1f} | {v['peak_rss_mb']:.0f} |" for v in measured),
        "",
        f"The cache key of {measured[-1]['files']} files takes {max(v['key_seconds'] for v in measured):.2f} s.",
        "",
    ]


def million(taken: Mapping[str, Any]) -> list[str]:
    """Write the table of the start with very many files."""
    found = taken.get("million")
    if not found:
        return []
    steps = {
        "listing": "find the photos, their classes and the held-out ones, and files left out",
        "fingerprint": "cache key: size, times and content of every file, the first time",
        "photos_csv": "`photos.csv`",
        "sampler": "one epoch of the batch sampler",
        "repeated": "start of the run when it is repeated, up to the first batch of activations",
    }
    return [
        f"## Start with {found['files']:,} photos",
        "",
        "Empty files in class folders, in one process; peak memory includes PyTorch. The checked photos and the",
        "activations are in the cache. The last row has all steps and verifies the activations.",
        "",
        "| what | seconds | peak memory, MB |",
        "|---|---|---|",
        *(
            f"| {what} | {found[f'{step}_seconds']:.1f} | "
            f"{found['repeated_peak_rss_mb' if step == 'repeated' else 'peak_rss_mb']:.0f} |"
            for step, what in steps.items()
        ),
        "",
    ]


def large_photos(taken: Mapping[str, Any]) -> list[str]:
    """Write the table of photos of 12 megapixels."""
    found = [value for key, value in taken.items() if key.startswith("large_photos/")]
    if not found:
        return []
    rows = []
    for each in found:
        full, auto = each["first-false"], each["first-auto"]
        for key, title in (("seconds", "first pass"), ("reading", "first pass, without the network")):
            ratio = each[f"first_{key}_ratio"]
            memory = f"{auto['peak_rss_mb']:.0f} / {full['peak_rss_mb']:.0f}"
            rows.append(
                f"| {each['model']} | {title} | {auto[key]:.1f} | {full[key]:.1f} | **{ratio:.2f}** | {memory} |"
            )
        copies, small = each["epoch-copies"], each["epoch-small"]
        rows.append(
            f"| {each['model']} | loading a later epoch, against photos of 500 x 375 | {copies['seconds']:.2f} | "
            f"{small['seconds']:.2f} | **{each['epoch_ratio']:.2f}** | "
            f"{copies['peak_rss_mb']:.0f} / {small['peak_rss_mb']:.0f} |"
        )
    differences = ", ".join(f"{each['difference']['below_.02']:.2%} with {each['model']}" for each in found)
    return [
        "## Large photos",
        "",
        f"{found[0]['count']} real photos, enlarged to 12 megapixels, with noise. The first pass is the check, the",
        "copies and the activations; `data.shrink=auto` against `false`, which decodes in full. Medians of 3.",
        "",
        "| network | what | copies, s | in full, s | **ratio** | peak MB |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
        f"Probabilities of a head differ by less than .02 for {differences}.",
        "",
    ]


def gpu(taken: Mapping[str, Any]) -> list[str]:
    """Write the table of `lesson_at_scale` on machines with a GPU, whose outputs are under `gpu/<settings>`."""
    rows = []
    for key, run in sorted(taken.items()):
        if key.startswith("gpu/"):
            stages = [
                f"{run['stages'][name]['seconds']:.0f} s, {run['stages'][name]['images_per_s']:.0f}"
                for name in ("precompute", "augmented", "finetune")
            ]
            cells = [f"{run['train']} + {run['valid']}", key.removeprefix("gpu/"), *stages]
            rows.append(f"| {' | '.join(cells)} | {run['rest_seconds']:.0f} s | {run['seconds']:.0f} s | ")
            rows[-1] += f"{run['gpu_utilisation_percent']:.0f} % |"
    if not rows:
        return []
    return [
        "## GPU",
        "",
        "One run each of `python -m benchmarks.lesson_at_scale`, the full lesson with ResNet34 on generated photos:",
        "seconds and photos per second of each stage. One NVIDIA H200, 16 CPU cores, torch 2.11 without torchcodec.",
        "Decoding and augmentation on the CPU are the limit, so that the precision makes no difference.",
        "",
        "| photos | settings | precompute | augmented | finetune | rest | whole | GPU used |",
        "|---|---|---|---|---|---|---|---|",
        *rows,
    ]


def startup(taken: Mapping[str, Any]) -> list[str]:
    """Write the table of the start of the commands."""
    found = taken.get("startup")
    if not found:
        return []
    seconds, ratios = found["seconds"], found["ratios"]
    against = {
        "train --help": "train --help, empty",
        "evaluate --help": "evaluate --help, empty",
        "first step": "imports and network",
        "predict one photo": "imports and network",
    }
    return [
        "## Start of the commands",
        "",
        "CPU seconds with one thread, medians of 5. `--help` against an empty Hydra program with the same `conf/`; the",
        "others against importing torch and Lightning and building ResNet34.",
        "",
        "| what | s | the least, s | **ratio** |",
        "|---|---|---|---|",
        *(
            f"| {what} | {seconds[what]:.2f} | {seconds[least]:.2f} | **{ratios[what]:.2f}** |"
            for what, least in against.items()
        ),
        "",
    ]
