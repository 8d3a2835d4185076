"""The detector of a run: its signs are fitted to the training photos, and to strangers that were given."""

import logging
import shutil
from collections.abc import Sequence
from contextlib import suppress
from copy import copy, deepcopy
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from lightning_fabric import Fabric

from dogscats.base.console import progress_bar
from dogscats.base.errors import UserError
from dogscats.data.added.stranger_photos import StrangerPhotos
from dogscats.kernel.kernel_head import KernelHead
from dogscats.lesson.activations import Activations
from dogscats.lesson.heads import Heads
from dogscats.lesson.stage import Stage
from dogscats.reliability.depths import WithDepths, apart
from dogscats.reliability.known_strangers import KnownStrangers, LeftOutValues
from dogscats.reliability.neighbors import ROWS
from dogscats.reliability.signs import ForwardPass, GivenStrangers, TrainingPhotos, evenly_spaced
from dogscats.reliability.strangers import StrangerDetector, fit_signs, log_not_measured

log = logging.getLogger(__name__)

PARTS = 5
"""Parts of the known strangers, each of which is held out to see whether it would pass."""

FOLDS = 10
"""Parts of the training photos without which the signs are fitted anew."""

MAX_PHOTOS_PASSED = 4000
"""Largest number of training photos, evenly spaced, that pass a body whose activations are not cached."""


class HeldOutStrangers(NamedTuple):
    """What a run computes for known strangers, by signs learned without them.

    Attributes:
        paths: paths of the `M` strangers.
        kinds: kind of each.
        probabilities: class probabilities, before calibration, `(M, C)`.
        by_part: signs, learned without the part of each stranger, `(M, S)`.
        by_kind: signs, learned without its whole kind, `(M, S)`.
    """

    paths: Sequence[str]
    kinds: Sequence[str]
    probabilities: torch.Tensor
    by_part: torch.Tensor
    by_kind: torch.Tensor


class FittedDetector(NamedTuple):
    """A fitted detector, and what it says of photos it was fitted to, left out; the same in all ranks.

    Attributes:
        detector: the detector.
        scores: signs of all training photos `(N, S)`; `None` if they are not needed, or unknown.
        strangers: the known strangers; `None` without any.
    """

    detector: StrangerDetector
    scores: torch.Tensor | None
    strangers: HeldOutStrangers | None


def out_of_fold_scores(photos: TrainingPhotos, groups: torch.Tensor, logits: torch.Tensor) -> torch.Tensor | None:
    """Compute the signs of training photos, each by what was learned without its fold: otherwise they are too small.

    Args:
        photos: what the signs learn from.
        groups: number of the group of each photo `(N,)`; a group is in one fold.
        logits: logits of each photo, left out, `(N, C)`.

    Returns:
        Signs `(N, S)`, without that of known strangers; `None` if all photos are of one group.
    """
    _, places = torch.unique(groups, return_inverse=True)
    folds, labels = places % FOLDS, torch.tensor(photos.labels)  # photos are in the order of the classes
    if places.max() == 0:
        return None
    scores, chosen = torch.Tensor(), torch.unique(folds).tolist()
    for fold in progress_bar(chosen, "Leaving out folds", len(chosen), "fold"):
        (others,), (rows,) = (which.nonzero(as_tuple=True) for which in (folds != fold, folds == fold))
        known = photos._replace(features=photos.features[others], labels=labels[others].tolist(), strangers=None)
        signs = fit_signs(known)
        if not len(scores):
            scores = torch.empty(len(labels), len(signs))
        for some in torch.split(rows, ROWS):
            computed = ForwardPass(photos.features[some], logits[None, some])
            scores[some] = torch.stack([sign.score(computed) for sign in signs], dim=1)
    return scores


def fit_detector(
    activations: Activations,
    heads: Heads | KernelHead,
    stages: Sequence[Stage],
    fabric: Fabric,
    run_dir: Path,
    left_out: tuple[torch.Tensor, torch.Tensor] | None = None,
    groups: torch.Tensor | None = None,
) -> FittedDetector | None:
    """Fit the signs to the training photos in the feature space of the final body, and to known strangers.

    The activations of a frozen body are cached; photos pass a trained one once.

    Args:
        activations: activations of the run.
        heads: final heads.
        stages: stages of the recipe.
        fabric: Fabric of all ranks; all call this.
        run_dir: run directory, for a temporary folder.
        left_out: groups and logits of the training photos, as for `out_of_fold_scores`, if their signs are needed.
        groups: number of the group of each known stranger `(M,)`; `None` without any.

    Returns:
        `None`, with the reason in the log, if the signs cannot be computed: nothing else needs them.
    """
    trained = any(stage.trains_body for stage in stages)
    plain = any(stage.is_closed_form or (stage.precompute and activations.views == 0) for stage in stages)
    cached, folder, found = not trained and plain, run_dir / ".features", None
    body, data, photos = activations.body, activations.data, activations.data.train
    try:
        if not cached:
            photos = photos.select(evenly_spaced(len(photos.paths), MAX_PHOTOS_PASSED).tolist())
        if trained and not stages[-1].precompute:
            activations = copy(activations)
            with suppress(AttributeError, IndexError, RuntimeError, TypeError):  # an unusual output of a depth
                activations.body = WithDepths(body, data.size)
        where = None if cached else str(folder)
        features, given = activations.features(photos, "activations of train", where), None
        if data.strangers and groups is not None:
            of_strangers = activations.features(data.strangers.photos, "activations of strangers", where)
            kinds, parts = torch.tensor(data.strangers.photos.labels), torch.unique(groups, return_inverse=True)[1]
            given = GivenStrangers(*apart(of_strangers, body), parts % PARTS, kinds)
        if fabric.is_global_zero:
            labels, widths = (photos.labels, len(data.classes)), partial(activations.body.widths, data.size)
            training = TrainingPhotos(*apart(features, body), *labels, widths, given)
            detector = StrangerDetector.fit(training, photos.paths)
            scores, held_out = out_of_fold_scores(training, *left_out) if left_out else None, None
            known = detector.signs[-1]
            if given and data.strangers and isinstance(known, KnownStrangers):
                values = known.left_out(training)
                scores = None if scores is None else torch.cat([scores, values.known[:, None]], dim=1)
                held_out = _held_out(detector, heads, given, values, data.strangers)
            found = FittedDetector(detector, scores, held_out)
    except Exception as error:  # of odd photos or networks; but no rank may wait for one that has failed
        if fabric.world_size > 1 and not isinstance(error, UserError):
            raise
        log_not_measured(error)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return fabric.broadcast(found)


@torch.inference_mode()
def _held_out(
    detector: StrangerDetector,
    heads: Heads | KernelHead,
    given: GivenStrangers,
    values: LeftOutValues,
    strangers: StrangerPhotos,
) -> HeldOutStrangers:
    """Compute all signs of the strangers that the last sign was learned from; that one as if it was not."""
    depths = None if given.depths is None else given.depths[values.rows]
    features, heads = given.features[values.rows], deepcopy(heads).cpu().eval()
    logits, photos = heads.each(features), strangers.photos.select(values.rows.tolist())
    plain = detector.scores(ForwardPass(features, logits, depths))
    by_part, by_kind = (
        torch.cat([plain[:, :-1], held_out[:, None]], dim=1) for held_out in (values.parts, values.kinds)
    )
    kinds = [strangers.kinds[label] for label in photos.labels]
    return HeldOutStrangers(photos.paths, kinds, heads.mean(logits).exp(), by_part, by_kind)
