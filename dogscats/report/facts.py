"""What the files of a run directory say about the run."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml  # type: ignore[import-untyped]

from dogscats.base import environment
from dogscats.base.files import cell, csv_rows, digest, read_json
from dogscats.base.text import counted, percent
from dogscats.base.trust import current_names
from dogscats.data.photos.decisions import read_decisions
from dogscats.data.photos.run_photos import DECISIONS_FILE, PHOTOS_FILE
from dogscats.lesson.metrics import final_metrics, per_class, wilson_interval
from dogscats.lesson.predictions import CONFUSED_PAIRS
from dogscats.lesson.stage import Stage, final_stage, make_stages
from dogscats.reliability.kept import RELIABILITY
from dogscats.reliability.measured import LABELS
from dogscats.reliability.passing import passing_text

AUTO = "auto.csv"
"""Name of the file that lists what `recipe=auto` tried."""

SPLITS = {"train": "training", "loo": "left-out training", "valid": "validation", "test": "test"}
"""Names of the splits in `photos.csv`, and of the training photos by leave-one-out, as they are written in a
sentence."""


@dataclass(frozen=True)
class Result:
    """Metrics of one split, with or without test-time augmentation; `None` where an older run has none.

    Attributes:
        split: `loo`, `valid` or `test`.
        tta: whether test-time augmentation was used.
        n: number of photos.
        interval: 95 % Wilson interval of the accuracy.
        values: metrics by key.
        counts: photos by actual class (row) and predicted class (column), `(C, C)`; `None` where the run has none.
    """

    split: str
    tta: bool
    n: int
    interval: tuple[float, float]
    values: Mapping[str, float | None]
    counts: Sequence[Sequence[int]] | None = None

    @property
    def right(self) -> int:
        """Number of photos that are predicted right."""
        return round((self.values["acc"] or 0) * self.n)


def final_weights(metrics: Mapping[str, Any], stages: Sequence[Stage], final: str) -> str:
    """Say which stage's weights a run ended with, and why.

    Args:
        metrics: content of its `metrics.json`.
        stages: stages of the recipe.
        final: its setting `final`.
    """
    rows = metrics["stages"]
    validated = [stage for stage in stages if rows.get(stage.name, {}).get("valid_loss") is not None]
    weights = f"Weights of stage {metrics['final'].get('stage') or stages[-1].name}"
    if len(stages) == 1:
        return f"{weights}, the only one."
    if not validated:
        return f"{weights}, the last; no stage has a validation loss to choose by."
    if final == "best":
        chosen = "which has the lowest validation loss; the validation photos chose it"
        return f"{weights}, {chosen}, so their metrics are slightly optimistic."
    best = final_stage(validated, rows, "best")
    better = f"; stage {best.name} has a lower validation loss, which final=best takes" if best != stages[-1] else ""
    return f"{weights}, the last{better}."


def model_name(model: Mapping[str, Any]) -> str:
    """Name a backbone, or several with their sizes, by its config group `model`."""
    if "bodies" in model:
        members = zip(model["bodies"], model["sizes"], strict=True)
        return " + ".join(f"{model_name(body)} at {size}" for body, size in members)
    return str(model.get("name", model["_target_"].rpartition(".")[2]))


class Facts:
    """A finished run, as its files describe it.

    Args:
        run_dir: run directory, with `config.yaml` and `metrics.json`.

    Attributes:
        config: its settings, with current names.
        metrics: content of `metrics.json`.
        classes: class names.
        final: final metrics.
        stages: stages of the recipe.
        starts: content of `environment.json`: how the run was started, and resumed.
        model_name: name of the backbone.
        data_name: name of the dataset: that of its folder; a data module of one's own may have none.
        n_aug: number of augmented versions per photo in test-time augmentation.
    """

    def __init__(self, run_dir: Path):
        self.run_dir = run_dir
        self.config: dict[str, Any] = current_names(
            yaml.safe_load((run_dir / "config.yaml").read_text(encoding="utf-8"))
        )
        self.metrics: dict[str, Any] = read_json(run_dir / "metrics.json")
        self.classes: list[str] = self.metrics["classes"]
        self.final: dict[str, Any] = self.metrics["final"]
        self.stages: list[Stage] = make_stages(self.config["recipe"])
        self.starts: list[dict[str, Any]] = read_json(run_dir / environment.FILE) or []
        model, tta = self.config["model"], (self.config.get("callbacks") or {}).get("tta") or {}
        self.model_name = model_name(model)
        self.data_name = Path(str(self.config["data"].get("root", ""))).name or "photos"
        self.n_aug = int(tta.get("n_aug") or 0)

    def rows(self, file: str) -> Iterable[dict[str, str]]:
        """Rows of a CSV file of the run, one at a time in memory; none if the run has no such file."""
        return csv_rows(self.run_dir / file) if (self.run_dir / file).is_file() else []

    def head_lr(self, stage: Stage) -> str:
        """Return the peak learning rate of the head in a stage."""
        if stage.is_closed_form:
            return "-"
        try:
            return f"{stage.group_lrs(self.metrics.get('lr_finder'))[-1]:.2g}"
        except RuntimeError:
            return "found"

    @cached_property
    def results(self) -> list[Result]:
        """Final metrics: leave-one-out, validation, a labelled test/; plain, then with test-time augmentation."""
        found, final = [], self.final
        for split, n, counts in (
            ("loo", final.get("n_loo"), final.get("loo_confusion_matrix")),
            ("valid", final.get("n"), final.get("confusion_matrix")),
            ("test", final.get("n_test"), final.get("test_confusion_matrix")),
        ):
            averaged = final.get(f"{split}_acc_tta") is not None
            for suffix in ("", "_tta"):
                values = {metric.key: final.get(f"{split}_{metric.key}{suffix}") for metric in final_metrics()}
                if n and values["acc"] is not None:
                    interval = wilson_interval(round(values["acc"] * n), n)
                    of_these = counts if bool(suffix) == averaged else None
                    found.append(Result(split, bool(suffix), n, interval, values, of_these))
        return found

    @property
    def judged(self) -> Result:
        """What the run is judged by: a labelled test/, or else the validation photos, or else leave-one-out."""
        return self.results[-1]

    @cached_property
    def tried(self) -> list[dict[str, Any]]:
        """Networks that `recipe=auto` tried, lowest log loss first, with numbers or `None`; empty for other recipes."""
        texts = ("candidate", "chosen", "note")
        return [
            {key: value if key in texts else float(value) if value else None for key, value in row.items()}
            for row in self.rows(AUTO)
        ]

    @property
    def best(self) -> Result:
        """Metrics of validation, with test-time augmentation if it ran; of leave-one-out without validation photos."""
        return [result for result in self.results if result.split != "test"][-1]

    @property
    def left_out(self) -> Result | None:
        """Metrics of the training photos by leave-one-out, if they stand beside those of validation photos."""
        first = self.results[0]
        return first if first.split == "loo" and self.judged is not first else None

    @cached_property
    def per_class(self) -> list[dict[str, Any]]:
        """How each class was predicted, lowest recall first; classes without photos last. With `loo_recall`."""
        found = per_class(self.classes, np.array(self.final["confusion_matrix"], dtype=np.int64))
        left_out = self.final.get("loo_recall") or {}
        rows = ({"name": name, **row, "loo_recall": left_out.get(name)} for name, row in found.items())
        return sorted(rows, key=lambda row: 2.0 if row["recall"] is None else row["recall"])

    @cached_property
    def _by_cell(self) -> dict[str | None, str]:
        """Class names, by what CSV files have for them."""
        return {str(cell(name)): name for name in self.classes}

    @cached_property
    def confused(self) -> list[tuple[str, str, int]]:
        """Actual class, predicted class and photos of each pair that was confused, most often first."""
        rows = self.rows(CONFUSED_PAIRS)
        return [(self._by_cell[row["actual"]], self._by_cell[row["predicted"]], int(row["photos"])) for row in rows]

    @cached_property
    def photos(self) -> dict[str, Counter[str]]:
        """Photos of each class in each split that has any, after decisions; empty for a run without `photos.csv`."""
        found = {split: Counter[str]() for split in SPLITS}
        for row in self.rows(PHOTOS_FILE):
            if row["split"] in found and row.get("label") in self._by_cell:  # older versions wrote none
                found[row["split"]][self._by_cell[row["label"]]] += 1
        return {split: counts for split, counts in found.items() if counts}

    @cached_property
    def repeated(self) -> Counter[str]:
        """Photos of each other split that are among the training photos, too: with the same size and samples."""
        training, found = set[tuple[str, str]](), Counter[str]()
        for row in self.rows(PHOTOS_FILE):  # those of train come first
            content = row["bytes"], row["sample"]
            if row["split"] == "train":
                training.add(content)
            elif row["split"] in SPLITS and row["sample"] and content in training:
                found[row["split"]] += 1
        return found

    @property
    def photos_digest(self) -> str:
        """SHA-256 of `photos.csv`: the same paths, labels, sizes and samples of content give the same."""
        return digest(self.run_dir / PHOTOS_FILE)

    @cached_property
    def reliability(self) -> dict[str, dict[str, Any]]:
        """What `reliability.json` has of predictions without and with test-time augmentation; empty without it."""
        saved = read_json(self.run_dir / RELIABILITY) or {}
        return {LABELS[name]: saved[name] for name in LABELS if name in saved}

    @property
    def trained(self) -> list[Stage]:
        """Stages up to the one whose weights the run ended with."""
        names = [stage.name for stage in self.stages]
        chosen = self.metrics["final"].get("stage")  # older runs lack it: they ended with the last
        return self.stages[: names.index(chosen) + 1] if chosen in names else self.stages

    @property
    def weights(self) -> str:
        """Which stage's weights the run ended with, and why."""
        return final_weights(self.metrics, self.stages, self.config.get("final", "last"))

    @cached_property
    def decisions(self) -> Counter[str]:
        """Number of decisions of each kind that the run applied."""
        file = self.run_dir / DECISIONS_FILE
        return Counter(row.kind for row in read_decisions(str(file)).rows) if file.is_file() else Counter()

    @property
    def is_calibrated(self) -> bool:
        """Whether a temperature changes the probabilities of new photos."""
        return any(row["temperature"] != 1 for row in self.reliability.values())

    @property
    def calibration(self) -> list[str]:
        """How far probabilities can be trusted, and which photos get no class; empty for an older run."""
        found, ece, n = [], self.best.values["ece"], self.best.n
        if ece is not None:
            used = (
                "a temperature corrects those of new photos" if self.is_calibrated else "no temperature corrects them"
            )
            found.append(f"Probabilities are off by {percent(ece, n)} on average; {used}.")
        if self.reliability:
            *_, row = self.reliability.values()
            kept, right = (percent(row[key], n) for key in ("kept", "accuracy_kept"))
            photos = row.get("measured_on") or "validation photos"
            found.append(
                f"{kept} of the {photos} are classified, {right} of these correctly; the others are unsure or none."
            )
        return found

    @property
    def strangers(self) -> list[str]:
        """Which share of known strangers would pass as a class, in sentences; none for a run without strangers."""
        return passing_text(self.final)

    @property
    def limitations(self) -> list[str]:
        """Where the classifier may do worse than its metrics say."""
        found = [
            "The metrics hold for photos like those it was trained on; photos from elsewhere may be predicted worse."
        ]
        if (worst := self.per_class[0])["recall"] is not None:
            found.append(
                f"The class with the lowest recall is {worst['name']}: {percent(worst['recall'], worst['photos'])} of "
                f"{counted(worst['photos'], f'{SPLITS[self.best.split]} photo')}."
            )
        return found
