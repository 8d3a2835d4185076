"""What the files of a run directory say about the run, and the templates that its page and model card are made from."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import yaml  # type: ignore[import-untyped]
from jinja2 import Environment, PackageLoader, StrictUndefined

from dogscats.base import environment
from dogscats.base.files import cell, csv_rows, digest, read_json
from dogscats.base.trust import current_names
from dogscats.data.photos.decisions import read_decisions
from dogscats.data.photos.run_photos import DECISIONS_FILE, PHOTOS_FILE
from dogscats.lesson.metrics import final_metrics, per_class, wilson_interval
from dogscats.lesson.predictions import CONFUSED_PAIRS
from dogscats.lesson.stage import Stage, make_stages
from dogscats.reliability.kept import RELIABILITY
from dogscats.reliability.measured import LABELS

SPLITS = {"train": "training", "valid": "validation", "test": "test"}
"""Names of the splits in `photos.csv`, as they are written in a sentence."""


def number(value: float | None) -> str:
    """Return a metric as text; a hyphen for one that is undefined or unknown."""
    return "-" if value is None else f"{value:.4f}"


def capitalised(text: str) -> str:
    """Return a text with a capital letter at its beginning, the others as they are."""
    return text[:1].upper() + text[1:]


@dataclass(frozen=True)
class Result:
    """Metrics of one split, with or without test-time augmentation; `None` where an older run has none.

    Attributes:
        split: `valid` or `test`.
        tta: whether test-time augmentation was used.
        n: number of photos.
        interval: 95 % Wilson interval of the accuracy.
        values: metrics by key.
    """

    split: str
    tta: bool
    n: int
    interval: tuple[float, float]
    values: Mapping[str, float | None]


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
        self.model_name = str(model.get("name", model["_target_"].rpartition(".")[2]))
        self.data_name = Path(str(self.config["data"].get("root", ""))).name or "photos"
        self.n_aug = int(tta.get("n_aug") or 0)

    def rows(self, file: str) -> Iterable[dict[str, str]]:
        """Rows of a CSV file of the run, one at a time in memory; none if the run has no such file."""
        return csv_rows(self.run_dir / file) if (self.run_dir / file).is_file() else []

    def head_lr(self, stage: Stage) -> str:
        """Return the peak learning rate of the head in a stage."""
        found = self.metrics.get("lr_finder") or {}
        suggested = [lr for lr in found.values() if lr is not None]
        try:
            return f"{stage.group_lrs(found.get(stage.name) or [None, *suggested][-1])[-1]:.2g}"
        except RuntimeError:
            return "found"

    @cached_property
    def results(self) -> list[Result]:
        """Final metrics: validation, then those of a labelled test/; plain, then with test-time augmentation."""
        found = []
        for split, suffix in product(("valid", "test"), ("", "_tta")):
            values = {metric.key: self.final.get(f"{split}_{metric.key}{suffix}") for metric in final_metrics()}
            n = self.final.get("n" if split == "valid" else "n_test")
            if n and values["acc"] is not None:
                interval = wilson_interval(round(values["acc"] * n), n)
                found.append(Result(split, bool(suffix), n, interval, values))
        return found

    @property
    def best(self) -> Result:
        """Validation metrics of the predictions in `predictions_valid.csv`: with test-time augmentation if it ran."""
        return [result for result in self.results if result.split == "valid"][-1]

    @cached_property
    def per_class(self) -> list[dict[str, Any]]:
        """How each class was predicted, lowest recall first; classes without validation photos last."""
        found = per_class(self.classes, np.array(self.final["confusion_matrix"], dtype=np.int64))
        rows = ({"name": name, **row} for name, row in found.items())
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
            if row.get("label") in self._by_cell:  # older versions wrote none
                found[row["split"]][self._by_cell[row["label"]]] += 1
        return {split: counts for split, counts in found.items() if counts}

    @property
    def photos_digest(self) -> str:
        """SHA-256 of `photos.csv`: the same paths, labels, sizes and samples of content give the same."""
        return digest(self.run_dir / PHOTOS_FILE)

    @cached_property
    def reliability(self) -> dict[str, dict[str, Any]]:
        """What `reliability.json` has of predictions without and with test-time augmentation; empty without it."""
        saved = read_json(self.run_dir / RELIABILITY) or {}
        return {LABELS[name]: saved[name] for name in LABELS if name in saved}

    @cached_property
    def decisions(self) -> Counter[str]:
        """Number of decisions of each kind that the run applied."""
        file = self.run_dir / DECISIONS_FILE
        return Counter(row.kind for row in read_decisions(str(file)).rows) if file.is_file() else Counter()

    @property
    def caveats(self) -> list[str]:
        """What makes the metrics mean less than they seem to."""
        data, trainer = self.config["data"], self.config.get("trainer") or {}
        found = []
        if trainer.get("fast_dev_run"):
            found.append("This was a trial run (fast_dev_run): its metrics mean nothing.")
        if any(stage.keep == "best" for stage in self.stages):
            found.append(
                "The epoch whose weights were kept was chosen by the validation photos (keep=best), so their "
                "metrics are slightly optimistic."
            )
        if data.get("limit") is not None:
            found.append(f"At most {data['limit']} photos of each class were used (data.limit).")
        return found

    @property
    def limitations(self) -> list[str]:
        """Where the classifier may do worse than its metrics say."""
        found = [
            "The metrics hold for photos like those it was trained on; photos from elsewhere may be predicted worse."
        ]
        if (worst := self.per_class[0])["recall"] is not None:
            found.append(
                f"The class with the lowest recall is {worst['name']}: {number(worst['recall'])} of {worst['photos']} "
                "validation photos."
            )
        return [*found, *self.caveats]


def template(name: str, finalize: Callable[[Any], Any], autoescape: bool = False) -> Any:
    """Load a template of this package, whose filters write metrics (`number`), photo counts (`count`) and headings.

    Its global `metrics` has the rows of `METRICS` that a run computes.

    Args:
        name: file of the template.
        finalize: function of each value before it is written.
        autoescape: whether values are escaped for HTML.
    """
    environment = Environment(
        loader=PackageLoader("dogscats.report", ""),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=finalize,
    )
    environment.filters.update(number=number, count=lambda value: f"{value:,}", capitalised=capitalised)
    environment.globals["metrics"] = final_metrics()
    return environment.get_template(name)
