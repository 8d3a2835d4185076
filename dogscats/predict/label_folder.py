"""The task `label=<folder>`: order photos without labels, those most worth one first, and write a page to label them.

With a run, photos with a small margin between the two most probable classes come first; without one, those that differ
most from each other.
"""

import logging
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig

from dogscats.base.console import progress_bar
from dogscats.base.content import file_versions
from dogscats.base.environment import command, command_of
from dogscats.base.errors import UserError
from dogscats.base.files import csv_rows, digest, read_json, write_csv
from dogscats.base.text import counted, percent, plural, shown
from dogscats.data.loading.cached_array import release
from dogscats.data.loading.datamodule import DogsCatsDataModule
from dogscats.data.loading.photo_check import usable_photos
from dogscats.data.photos.layouts import Photos
from dogscats.data.photos.listing import DERIVED, image_names, unreadable_notes, unreadable_skipped
from dogscats.data.photos.run_photos import PHOTOS_FILE
from dogscats.labelling.label_page import NONE, SURE, Proposal, Sure, write_page
from dogscats.labelling.order import comparable, distinct, k_center, margins
from dogscats.lesson.activations import Activations
from dogscats.lesson.backbone import Backbone
from dogscats.lesson.predictions import Predictions
from dogscats.predict.predictor import Predictor
from dogscats.predict.tasks import Job
from dogscats.reliability.depths import WithDepths, apart
from dogscats.reliability.measured import Reliability
from dogscats.reliability.neighbors import ROWS
from dogscats.reliability.passing import MANY_PASS, passing_text
from dogscats.reliability.signs import ForwardPass
from dogscats.reliability.thresholds import words
from dogscats.runs.directory import checkpoint_of, run_of

log = logging.getLogger(__name__)

MOST_UNCERTAIN, MOST_NONE = 200, 100
"""Photos on the page that are worth a label, and those that are perhaps of no class."""

MOST_NAMED = 3
"""Classes that are named for a photo on the page."""

FEW_SURE = 20
"""With fewer photos whose probability is at least `SURE`, nobody knows how often these are right."""


def label_folder(job: Job) -> None:
    """Order the photos of a folder; write `label.csv` and `label.html`."""
    job.log_device()
    predictor, folder = job.predictor, Path(job.cfg.label).expanduser().absolute()
    classes = list(dict.fromkeys([*predictor.classes, *(str(name).strip() for name in job.cfg.classes or ())]))
    if not folder.is_dir():
        raise UserError(f"label={job.cfg.label}: there is no such folder. Give a folder of photos.")
    data = job.data(folder)
    photos, bad = readable_photos(folder, data)
    job.write_bad_images(bad)
    source = job.cfg.run or job.cfg.ckpt
    run = run_of(checkpoint_of(source)) if source else None
    rows = unlabelled(photos, run)
    if not rows:
        empty = "none of its photos can be read" if bad else "it has no photos"
        found = "all its photos are labelled already" if photos.paths else empty
        raise UserError(f"label={job.cfg.label}: {found}. Give another folder.")
    # The features of all photos: those of the next round, with fewer photos, are the same.
    activations = Activations(predictor.model, data, job.fabric, data.cache_dir)
    detector = predictor.reliability and predictor.reliability.detector
    if detector and detector.needs_depths(activations.body):
        activations.body = WithDepths(activations.body, predictor.size)
    features = activations.features(photos, f"activations of {shown(folder.name)}")
    if not job.fabric.is_global_zero:
        return
    activations.share(photos)
    if source:
        predictions = predict_features(predictor, features, rows, photos)
        proposals, sure = by_margin(job.run_dir / "label.csv", predictions)
    else:
        points = comparable(features)[rows]
        proposals, sure = by_diversity(job.run_dir / "label.csv", photos.select(rows), points), []
    page, warnings = job.run_dir / "label.html", doubts(predictor.reliability, run) if run and sure else []
    write_page(page, folder, classes, proposals, sure, warnings)
    for warning in warnings:
        log.warning("%s", warning)
    asked = ", ".join(f"{n} by {why}" for why, n in Counter(each.asked for each in proposals).items())
    log.info(
        "\n%s on the page: %s; %d at %g %% or more", counted(len(proposals), "photo"), asked, len(sure), 100 * SURE
    )
    log.info("\nOpen %s in a browser, label, and save labels.csv. Then:", shown(page))
    log.info("%s", shown(next_command(folder, Path(source) if source else None)))


def readable_photos(folder: Path, data: DogsCatsDataModule) -> tuple[Photos, dict[str, str]]:
    """List the readable photos in a folder, and the reason for each unreadable one."""
    with unreadable_skipped() as skipped:
        names = [name for name in image_names(folder) if not name.startswith(DERIVED)]
    for note in unreadable_notes(skipped):
        log.warning("%s", note)
    photos = [Photos(folder, names, [])]
    (readable,), found = usable_photos(photos, Path(data.cache_dir or ""), data.shrinking, (), skip=True)
    return readable, found.bad


def unlabelled(photos: Photos, run_dir: Path | None) -> list[int]:
    """Return the rows of photos that the run has no label of, each content once, and print how many are left out.

    Args:
        photos: photos of a folder.
        run_dir: directory of the run; `None` without one.
    """
    labelled, first = set[tuple[int, str]](), dict[tuple[int, str], list[str]]()
    if run_dir and (run_dir / PHOTOS_FILE).is_file():
        labelled = {(int(row["bytes"]), row["sample"]) for row in csv_rows(run_dir / PHOTOS_FILE)}
    rows, left_out = list[int](), Counter[str]()
    for row, (path, version) in enumerate(zip(photos.paths, file_versions(photos.root, photos.paths), strict=True)):
        content, file = (version[1], version[2]) if version else (0, path), photos.root / path
        alike = first.setdefault(content, [])
        if content in labelled:
            left_out["labelled in the run already"] += 1
        elif alike and digest(file) in [digest(photos.root / other) for other in alike]:
            left_out["the same as another photo"] += 1
        else:
            alike.append(path)
            rows.append(row)
    why = "".join(f"; {n} left out: {plural(n, 'it is', 'they are')} {reason}" for reason, n in left_out.items())
    log.info("Data      %s: %s%s", shown(photos.root), counted(len(photos.paths), "photo"), why)
    return rows


@torch.inference_mode()
def predict_features(predictor: Predictor, features: torch.Tensor, rows: Sequence[int], photos: Photos) -> Predictions:
    """Predict photos by their cached features, as the plain version is predicted; a part is in memory at a time.

    Args:
        predictor: the run.
        features: features of all photos `(N, F)`, followed by those of earlier depths where a sign needs them.
        rows: rows of the photos to predict.
        photos: the `N` photos.
    """
    body, heads, reliability = predictor.model.body, predictor.model.heads, predictor.reliability
    assert isinstance(body, Backbone)
    probabilities, scores = list[torch.Tensor](), list[torch.Tensor]()
    parts = torch.split(torch.tensor(rows), ROWS)
    for some in progress_bar(parts, "Predicting", len(parts), "part"):
        block, depths = apart(features[some], body)
        computed = ForwardPass(block, heads.each(block), depths)
        probabilities.append(heads.mean(computed.logits).exp())
        if reliability:
            scores.append(reliability.detector.scores(computed))
        release(features)
    paths, none = photos.select(rows).paths, torch.empty(0, dtype=torch.long)
    unlike = reliability.detector.unlike(torch.cat(scores)) if reliability else None
    predictions = Predictions(paths, predictor.classes, none, torch.cat(probabilities), photos.root, unlike)
    return reliability.applied(predictions, averaged=False) if reliability else predictions


def by_margin(file: Path, predictions: Predictions) -> tuple[list[Proposal], list[Sure]]:
    """Order predicted photos by margin, those that are perhaps of no class by how unlike any class they are.

    Args:
        file: CSV file to write: all photos in order, with predictions and the reason for their place.
        predictions: predictions of the photos.

    Returns:
        Photos for the page; and those that are sure enough to be accepted together.
    """
    paths, classes, predicted = predictions.paths, predictions.classes, predictions.predicted_classes
    decisions, (_, none) = predictions.decisions or predicted, words(classes)
    margin, probable = margins(predictions.probabilities), predictions.probabilities.max(dim=1).values.tolist()
    unlike = margin if predictions.unlike is None else -predictions.unlike
    order, twins, proposals = dict[int, str](), dict[int, int](), list[Proposal]()
    for asked, worth, most in (("margin", margin, MOST_UNCERTAIN), ("none", unlike, MOST_NONE)):
        rows = [row for row in worth.argsort(stable=True).tolist() if (decisions[row] == none) == (asked == "none")]
        chosen, alike = distinct(predictions.root, paths, rows, most)
        twins |= alike
        order |= dict.fromkeys(chosen, asked) | {row: asked for row in rows if row not in alike}
        for row in chosen:
            text = probabilities_text(classes, predictions.probabilities[row])
            proposals.append(Proposal(paths[row], asked, NONE if asked == "none" else predicted[row], text))
    header = ["path", "proposed", "probability", "margin", "decision", "unlike", "reason", "twin"]

    def table() -> Iterator[list[object]]:
        for row, reason in (order | dict.fromkeys(twins, "duplicate")).items():
            far = "" if predictions.unlike is None else f"{predictions.unlike[row]:.6g}"
            known = [paths[row], predicted[row], f"{probable[row]:.6g}", f"{margin[row]:.6g}", decisions[row], far]
            shares = [f"{value:.6g}" for value in predictions.probabilities[row].tolist()]
            yield [*known, reason, paths[twins[row]] if row in twins else "", *shares]

    write_csv(file, [*header, *(f"prob_{name}" for name in classes)], table())
    numbers = predictions.predicted.tolist()
    sure = [row for row, value in enumerate(probable) if value >= SURE and decisions[row] == predicted[row]]
    return proposals, [Sure(paths[row], numbers[row], probable[row]) for row in sure]


def by_diversity(file: Path, photos: Photos, points: torch.Tensor) -> list[Proposal]:
    """Order photos by diversity.

    Args:
        file: CSV file to write: all photos in order, with the reason for their place.
        photos: the `N` photos.
        points: what they are compared by `(N, D)`.
    """
    order = k_center(points, MOST_UNCERTAIN).tolist()
    chosen, twins = distinct(photos.root, photos.paths, order, MOST_UNCERTAIN)
    first = dict.fromkeys([*chosen, *(row for row in order if row not in twins)])
    rows = [[photos.paths[row], "diversity", ""] for row in first]
    rows += [[photos.paths[row], "duplicate", photos.paths[first]] for row, first in twins.items()]
    write_csv(file, ["path", "reason", "twin"], rows)
    return [Proposal(photos.paths[row], "diversity") for row in chosen]


def doubts(reliability: Reliability | None, run_dir: Path) -> list[str]:
    """Say why many photos with a probability of `SURE` may be wrong, in sentences; none if nothing speaks for it.

    Args:
        reliability: what the run has measured, if it has.
        run_dir: directory of the run.
    """
    final = (read_json(run_dir / "metrics.json") or {}).get("final") or {}
    found = [passing_text(final)[0]] if final.get("strangers_passed", 0) > MANY_PASS else []
    judged = reliability and reliability.plain.judged
    right = judged.right[judged.probable >= SURE].tolist() if judged else []
    kind = judged.kind if judged else "judged"
    photos = f"{counted(len(right), f'{kind} photo')} with {100 * SURE:g} % or more"
    if len(right) < FEW_SURE:
        found.append(f"Only {photos} can tell how often that is right.")
    elif (share := sum(right) / len(right)) < SURE:
        found.append(f"Of {photos}, {percent(share, len(right))} are right.")
    return found


def probabilities_text(classes: Sequence[str], probabilities: torch.Tensor) -> str:
    """Return the most probable classes of a photo in a few words: `cats 52 %, dogs 47 %`."""
    values, numbers = probabilities.topk(min(MOST_NAMED, len(classes)))
    pairs = zip(numbers.tolist(), values.tolist(), strict=True)
    return ", ".join(f"{classes[number]} {100 * value:.0f} %" for number, value in pairs if value >= 0.005)


def next_command(folder: Path, source: Path | None) -> str:
    """Return the command that trains with the labels that will be saved."""
    if source is None:
        hydra = HydraConfig.get()
        given = [shlex.quote(text) for text in hydra.overrides.task if text.startswith(("data.size=", "model."))]
        network = " ".join([f"model={hydra.runtime.choices['model'] or 'resnet34'}", *given])
        return f"{command('train')} data.root={shlex.quote(str(folder))} data.labels=<file> {network} recipe=small"
    trained_by = command_of(run_of(checkpoint_of(source)), replaced="data.add")
    return f"{trained_by or command('train')} data.add=<file>"
