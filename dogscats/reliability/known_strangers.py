"""A sign learned from known strangers: photos of no class that were given with the training photos.

What the known classes alone cannot tell, a few examples do. They train no class.
"""

from collections.abc import Mapping
from typing import NamedTuple, Self

import torch
import torch.nn.functional as nnf

from dogscats.kernel.kernel_head import KernelFit, KernelHead
from dogscats.reliability.signs import ForwardPass, GivenStrangers, Sign, TrainingPhotos, evenly_spaced, of_all_depths

MOST_PHOTOS, LEAST_STRANGERS = 1100, 300
"""Largest number of photos that the sign learns from: they take at most 12 MB in half precision. Of these, so many may
be strangers, or more if there are fewer training photos."""

ORDINARY_IF_TRAINED = 0.99
"""Value of `ordinary` for a trained body: there, strangers like those that were given stand out far enough, and others
are left to the distance."""

MOST_CLASSES = 256
"""With more classes, they count as one: otherwise their coefficients would take too many megabytes."""


class LeftOutValues(NamedTuple):
    """The sign of photos that it was learned from, as if it had been learned without them.

    Attributes:
        known: of all training photos `(N,)`; those it was not learned from need not be left out.
        rows: strangers that it was learned from `(M,)`.
        parts: of these, each left out with its part `(M,)`.
        kinds: of these, each left out with its whole kind `(M,)`.
    """

    known: torch.Tensor
    rows: torch.Tensor
    parts: torch.Tensor
    kinds: torch.Tensor


class KnownStrangers(Sign):
    """A kernel ridge regression of the classes and of one more, that of strangers.

    The sign is by how much the score of strangers exceeds that of the best class.

    Args:
        head: the regression, with the strangers as its last class.
        fitted: how it was fitted, for `left_out`; `None` for a sign that was read from a file.
    """

    ordinary = 0.95
    prefix = "known_"

    def __init__(self, head: KernelHead, fitted: KernelFit | None = None):
        super().__init__()
        self.head, self.fitted = head, fitted
        head._non_persistent_buffers_set.update(head._buffers)  # checkpoints stay as they are

    @classmethod
    def fit(cls, photos: TrainingPhotos) -> Self | None:
        """Learn from evenly spaced training photos and strangers; `None` if there are no strangers."""
        if photos.strangers is None:
            return None
        known, strangers = _rows(photos, photos.strangers)
        classes = photos.num_classes if photos.num_classes <= MOST_CLASSES else 1
        labels = torch.tensor(photos.labels)[known].clamp_max(classes - 1)
        fitted = KernelHead.fit(
            torch.cat([of_all_depths(photos)[known], of_all_depths(photos.strangers)[strangers]]),
            torch.cat([labels, torch.full_like(strangers, classes)]),
            classes + 1,
            photos.widths(),
            torch.cat([torch.arange(len(known)), len(known) + photos.strangers.parts[strangers]]),
        )
        sign = cls(fitted.head, fitted)
        if photos.depths is not None:
            sign.ordinary = ORDINARY_IF_TRAINED
        return sign

    def score(self, computed: ForwardPass) -> torch.Tensor:
        """Compute the sign of each photo `(B,)`."""
        return _excess(self.head.each(of_all_depths(computed))[0])

    def left_out(self, photos: TrainingPhotos) -> LeftOutValues:
        """Compute the sign of the photos that it was learned from, left out; once, as the regression is then freed."""
        assert self.fitted is not None
        assert photos.strangers is not None
        fitted, self.fitted = self.fitted, None
        known, strangers = _rows(photos, photos.strangers)
        targets = 2 * nnf.one_hot(fitted.labels).double() - 1
        kinds = torch.cat([torch.arange(len(known)), len(known) + photos.strangers.kinds[strangers]])
        by_part, by_kind = (
            _excess(self.head.temperature * scores.float())
            for scores in (fitted.scores, targets - fitted.regression.left_out(kinds))
        )
        blocks = torch.split(of_all_depths(photos), MOST_PHOTOS)
        values = torch.cat([_excess(self.head.each(rows)[0]) for rows in blocks])
        values[known] = by_part[: len(known)]
        return LeftOutValues(values, strangers, by_part[len(known) :], by_kind[len(known) :])

    def arrays(self) -> dict[str, torch.Tensor]:
        """Return the arrays of the regression by their names in `strangers.npz`."""
        arrays = dict(self.head.named_buffers()) | {"widths": torch.tensor(self.head.widths)}
        return {f"{self.prefix}{name}": values for name, values in arrays.items()}

    @classmethod
    def restore(cls, arrays: Mapping[str, torch.Tensor]) -> Self | None:
        """Restore the sign from all arrays of `strangers.npz`; `None` if its own are not among them."""
        own = {name.removeprefix(cls.prefix): values for name, values in arrays.items() if name.startswith(cls.prefix)}
        if not own:
            return None
        points, coefficients, components = own["points"], own["coefficients"], own["directions"].shape[1]
        head = KernelHead(coefficients.shape[1], own.pop("widths").tolist(), len(points), components)
        head.load_state_dict(own)
        return cls(head)


def _rows(photos: TrainingPhotos, strangers: GivenStrangers) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose the training photos and the strangers to learn from, evenly spaced."""
    count = len(photos.labels)
    chosen = evenly_spaced(len(strangers.features), max(LEAST_STRANGERS, MOST_PHOTOS - count))
    return evenly_spaced(count, MOST_PHOTOS - len(chosen)), chosen


def _excess(scores: torch.Tensor) -> torch.Tensor:
    """Return by how much the score of strangers, the last, exceeds the best of the classes `(B,)`."""
    return scores[:, -1] - scores[:, :-1].amax(dim=1)
