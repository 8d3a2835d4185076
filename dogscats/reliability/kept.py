"""What a run keeps about its reliability: `strangers.npz` and `reliability.json`.

The first file has the training photos in feature space, and the results of validation photos, or of left-out training
photos, for other thresholds; it is read without executing code. The second one has temperatures, thresholds and
metrics; thresholds may be edited.
"""

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dogscats.base.errors import UserError, as_user_error
from dogscats.base.files import atomic_path, digest, read_json, write_json
from dogscats.base.rules import SHARE, Rule, check_values, is_number, or_none
from dogscats.base.text import percent, shown, text_table
from dogscats.base.weights import check_stored
from dogscats.lesson.metrics import loss_text
from dogscats.reliability.measured import LABELS, Reliability, Version
from dogscats.reliability.strangers import StrangerDetector
from dogscats.reliability.thresholds import Judged, Thresholds

log = logging.getLogger(__name__)

STRANGERS, RELIABILITY = "strangers.npz", "reliability.json"

NUMBER: Rule = (lambda value: is_number(value) and math.isfinite(value), "a number")

EDITABLE: dict[str, Rule] = {
    "temperature": (lambda value: NUMBER[0](value) and value > 0, "a number above 0"),
    "unsure_below": NUMBER,
    "none_above": NUMBER,
}
"""Numbers of each version in `reliability.json` that predictions use, and that may be edited."""


def weights_digest(state: Mapping[str, torch.Tensor]) -> str:
    """Hash weights: 32 hex digits. Half precision and its float32 have the same."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(state.items()):
        value = tensor.detach().cpu()
        digest.update(name.encode() + (value.float() if value.is_floating_point() else value).numpy().tobytes())
    return digest.hexdigest()


def write_reliability(run_dir: Path, reliability: Reliability, weights: str) -> None:
    """Write both files.

    Args:
        run_dir: run directory.
        reliability: what was measured.
        weights: digest of the weights, with which alone the files are used.
    """
    (run_dir / RELIABILITY).unlink(missing_ok=True)  # never with another file's features
    arrays: dict[str, Any] = {name: values.cpu().numpy() for name, values in reliability.detector.arrays().items()}
    arrays["paths"] = np.frombuffer(json.dumps(reliability.detector.paths).encode(), np.uint8)
    for name in LABELS:
        if (version := getattr(reliability, name)) is not None:
            for photos in version.photos:
                arrays |= {key: getattr(photos, field).numpy() for field, key in _keys(name, photos.kind).items()}
    with atomic_path(run_dir / STRANGERS) as temporary:
        np.savez(temporary, **arrays)
    judged = reliability.plain.judged
    measured = {"photos": len(judged.right), "kind": judged.kind, "keep": reliability.keep}
    digests = {"weights": weights, "strangers": digest(run_dir / STRANGERS)}
    write_json(run_dir / RELIABILITY, {**digests, **measured, **reliability.summaries()})


def read_reliability(run_dir: Path, state: Mapping[str, torch.Tensor], keep: float | None = None) -> Reliability | None:
    """Read both files.

    Args:
        run_dir: run directory.
        state: weights of the checkpoint that is loaded.
        keep: share of the photos that are classified; `None` for the saved thresholds.

    Returns:
        What was measured; `None`, with the reason in the log, if the run has no such files, or other weights.

    Raises:
        UserError: if a file is damaged, or `keep` is given and there are no files.
    """
    file, saved = run_dir / STRANGERS, read_json(run_dir / RELIABILITY)
    check_values({"keep": or_none(SHARE)}, {"keep": keep})
    reason = None
    missing = [name for name in (STRANGERS, RELIABILITY) if not (run_dir / name).is_file()]
    if saved is None or missing:
        reason = f"{shown(run_dir)} has no {' and '.join(missing)}"
    elif not isinstance(saved, dict) or saved.get("weights") != weights_digest(state):
        reason = f"{shown(run_dir / RELIABILITY)} is of other weights than this checkpoint"
    if reason is not None:
        if keep is not None:
            raise UserError(f"keep={keep}: {reason}.")
        log.info("No calibration, and no photo is called unsure or none: %s", reason)
        return None
    advice = "Restore both, or remove them."
    if saved.get("strangers") != digest(file):
        raise UserError(f"{shown(file)}: it is damaged, or of another run than {RELIABILITY} beside it. {advice}")
    with as_user_error(shown(file), f"it is damaged, or {RELIABILITY} beside it", advice):
        check_stored(file)
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: torch.from_numpy(archive[name]) for name in archive.files if name != "paths"}
            paths = json.loads(archive["paths"].tobytes())
        versions = {name: _version(saved[name], name, arrays) for name in LABELS if name in saved}
        if keep is not None:
            versions = {name: version.keeping(keep) for name, version in versions.items()}
        detector = StrangerDetector.restore(arrays, paths)
        return Reliability(detector, **versions, keep=float(saved["keep"]) if keep is None else keep)


def log_reliability(reliability: Reliability) -> None:
    """Print how many photos are classified, how accurate these are, and the calibration; then the thresholds."""
    kind, *_, right = reliability.plain.judged
    rows: list[list[object]] = [
        [f"{kind} photos", "are classified", "accuracy of these", "ECE", "out of fold", "temperature"]
    ]
    n = len(right)
    for name, summary in reliability.summaries().items():
        accuracy = "-" if summary["accuracy_kept"] is None else percent(summary["accuracy_kept"], n)
        errors = ["-" if summary[key] is None else loss_text(summary[key], n) for key in ("ece_before", "ece_after")]
        used = "none, it does not help" if summary["temperature"] == 1 else f"{summary['temperature']:.3g}"
        temperature = "none fitted" if "-" in errors else used
        rows.append([LABELS[name], percent(summary["kept"], n), accuracy, *errors, temperature])
    log.info("\n%s", "\n".join(text_table(rows, left=1)))
    for name, summary in reliability.summaries().items():
        log.info("Thresholds, %s: %s", LABELS[name], thresholds_text(summary))


def thresholds_text(summary: Mapping[str, Any]) -> str:
    """Say from how many photos thresholds are, and which share of new photos should be classified.

    Args:
        summary: summary of a version, as in `reliability.json`.
    """
    parts = []
    for word, limit in (("unsure", "below"), ("none", "above")):
        chosen_by, value = summary[f"{word}_from"], summary[f"{word}_{limit}"]
        few = f"no photo is called {word}, as there are too few to tell by"
        parts.append(f"{word} {limit} {value:.3g}, from {chosen_by}" if chosen_by else few)
    if summary["none_from"] or summary["unsure_from"]:
        share, *limits = (percent(value, 100) for value in (summary["expected_share"], *summary["expected_share_ci95"]))
        low, high = limits
        interval = f"95 % interval {low.removesuffix(' %')} to {high}"
        parts.append(f"of new photos of the same kind, about {share} are classified ({interval})")
    return "; ".join(parts)


def _keys(name: str, kind: str) -> dict[str, str]:
    """Return the names in `strangers.npz` of the arrays of photos, by the names in `Judged`."""
    if kind == "validation":
        return {"probable": f"{name}_probable", "unlike": "unlike", "right": f"{name}_right"}
    return {key: f"left_out_{name}_{key}" for key in ("probable", "unlike", "right")}


def _version(saved: Mapping[str, Any], name: str, arrays: Mapping[str, torch.Tensor]) -> Version:
    check_values(EDITABLE, saved, f"{RELIABILITY}: {name}.")
    temperature, *thresholds = (float(saved[key]) for key in EDITABLE)
    keys = {kind: _keys(name, kind) for kind in ("validation", "left-out training")}
    photos = [
        Judged(kind, **{field: arrays[key] for field, key in of_kind.items()})
        for kind, of_kind in keys.items()
        if of_kind["right"] in arrays
    ]
    return Version(temperature, Thresholds(*thresholds), photos, {})
