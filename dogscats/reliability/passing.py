"""Which share of known strangers passes as a class, though they were held out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from dogscats.base.text import counted, percent
from dogscats.lesson.metrics import wilson_interval
from dogscats.lesson.predictions import Predictions
from dogscats.reliability.detector_fit import HeldOutStrangers
from dogscats.reliability.measured import Reliability
from dogscats.reliability.thresholds import words

MOST_KINDS = 10
"""Kinds that are named."""

MANY_PASS = 0.1
"""Share of held-out strangers that pass, above which those of an unsorted folder spoil many of its classes."""


def passing(strangers: HeldOutStrangers, reliability: Reliability, classes: Sequence[str]) -> dict[str, Any]:
    """Measure which share of held-out strangers is classified, in the plain version.

    Args:
        strangers: the strangers.
        reliability: calibration and thresholds of the run.
        classes: class names.

    Returns:
        For `metrics.json`: `n_strangers`, `strangers_passed` and its 95 % interval; with several kinds also
        `strangers_kind_left_out_passed` and its interval, of strangers whose whole kind was held out, and
        `strangers_by_kind` with both shares.
    """
    found: dict[str, Any] = {"n_strangers": len(strangers.paths)}
    by_kind: dict[str, dict[str, Any]] = {kind: {"photos": n} for kind, n in Counter(strangers.kinds).items()}
    ways = {"passed": strangers.by_part, "kind_left_out_passed": strangers.by_kind}
    for way, scores in list(ways.items())[: 1 if len(by_kind) == 1 else 2]:
        unlike, unlabelled = reliability.detector.unlike(scores), torch.empty(0, dtype=torch.long)
        predictions = Predictions(strangers.paths, classes, unlabelled, strangers.probabilities, unlike=unlike)
        decisions = reliability.applied(predictions, averaged=False).decisions
        passed = [decision not in words(classes) for decision in decisions]
        found[f"strangers_{way}"] = sum(passed) / len(passed)
        found[f"strangers_{way}_ci95"] = wilson_interval(sum(passed), len(passed))
        for kind, row in by_kind.items():
            of_kind = [each for each, its in zip(passed, strangers.kinds, strict=True) if its == kind]
            row[way] = sum(of_kind) / len(of_kind)
    return found | ({"strangers_by_kind": by_kind} if len(by_kind) > 1 else {})


def passing_text(final: Mapping[str, Any]) -> list[str]:
    """Say which share of known strangers passes, in sentences; none for a run without strangers.

    Args:
        final: final metrics.
    """
    if (n := final.get("n_strangers")) is None:
        return []

    def share(way: str) -> str:
        low, high = (percent(bound, n) for bound in final[f"strangers_{way}_ci95"])
        return f"{percent(final[f'strangers_{way}'], n)} (95 % interval {low.removesuffix(' %')} to {high})"

    passed = f"{share('passed')} would pass as a class, each fifth held out in turn"
    sentences = [f"Of {counted(n, 'known stranger')}, {passed}."]
    if by_kind := final.get("strangers_by_kind"):
        kinds = [f"{kind} {percent(row['kind_left_out_passed'], row['photos'])}" for kind, row in by_kind.items()]
        left_out = f"Of a kind that was left out altogether, {share('kind_left_out_passed')}"
        sentences.append(f"{left_out}: {', '.join(kinds[:MOST_KINDS])}{', ...' if len(kinds) > MOST_KINDS else ''}.")
    return sentences
