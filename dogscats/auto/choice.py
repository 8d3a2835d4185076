"""The choice among networks, or the mean of two, by what leave-one-out says of the training photos."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

DRAWS = 200
"""Number of resamples of the photos."""


@dataclass(frozen=True)
class Kernel:
    """What the kernel heads of the choice say of the training photos by leave-one-out.

    Attributes:
        probabilities: of each photo, left out `(N, C)`.
        scored: whether it can be judged `(N,)`.
        labels: class indices `(N,)`.
        groups: number of the group of each photo `(N,)`.
    """

    probabilities: torch.Tensor
    scored: torch.Tensor
    labels: torch.Tensor
    groups: torch.Tensor

    @property
    def error(self) -> float:
        """Share of the photos that are predicted wrong."""
        return (self.probabilities.argmax(dim=1) != self.labels)[self.scored].double().mean().item()


class LeftOutTable:
    """Losses of `K` candidates, and of the mean of each two, summed over each of `G` groups of photos.

    Args:
        probabilities: for each candidate, probabilities of the photos by leave-one-out `(N, C)`.
        labels: class indices `(N,)`.
        groups: number of the group of each photo `(N,)`.

    Attributes:
        loss: log loss `(K, K, G)`, the candidates themselves on the diagonal.
        right: photos that are predicted right `(K, K, G)`.
        photos: photos of each group `(G,)`.
        guessing: log loss of guessing by the frequencies of the classes, summed over the photos.
    """

    def __init__(self, probabilities: Sequence[torch.Tensor], labels: torch.Tensor, groups: torch.Tensor):
        count, (names, groups) = len(probabilities), torch.unique(groups, return_inverse=True)
        self.loss, self.right = torch.zeros(2, count, count, len(names)).double()
        self.photos = torch.bincount(groups, minlength=len(names)).double()
        counts = torch.bincount(labels).double()
        self.guessing = -torch.special.xlogy(counts, counts / len(labels)).sum().item()
        for first, second in torch.combinations(torch.arange(count), with_replacement=True).tolist():
            mean = (probabilities[first].double() + probabilities[second]) / 2
            of_label = mean.gather(1, labels[:, None])[:, 0].clamp_min(torch.finfo(torch.float32).tiny)
            right = (mean.argmax(dim=1) == labels).double()
            for table, values in ((self.loss, -of_label.log()), (self.right, right)):
                table[first, second] = table[second, first] = (
                    torch.zeros(len(names)).double().index_add(0, groups, values)
                )

    def choose(self, allowed: torch.Tensor, drawn: torch.Tensor | None = None) -> tuple[int, int]:
        """Choose the candidate with the lowest loss, or its mean with another if that is lower by a standard error.

        The standard error is that of the paired difference, whose groups of photos are independent.

        Args:
            allowed: pairs that may be chosen `(K, K)`.
            drawn: groups to choose by, with repetitions; `None` for all.

        Returns:
            Both members of the pair; twice the same for a single candidate.
        """
        drawn = torch.arange(len(self.photos)) if drawn is None else drawn
        loss, photos = self.loss[..., drawn], self.photos[drawn]
        best = int(loss.sum(dim=2).diagonal().argmin())
        gain, error = _gain(loss[best, best], loss[best], photos)
        better = allowed[best] & (gain > error)
        other = int(gain.where(better, -torch.inf).argmax()) if better.any() else best
        return best, other

    def is_better(self, candidate: int, than: int) -> bool:
        """Return whether the loss of a candidate is lower than that of another by more than a standard error."""
        gain, error = _gain(self.loss[than, than], self.loss[candidate, candidate], self.photos)
        return bool(gain > error)

    def resampled_accuracy(self, allowed: torch.Tensor) -> float:
        """Return the accuracy of the choice on groups that it was not made by, over bootstrap resamples.

        Choosing the best of several flatters its own accuracy; this does not.
        """
        generator, groups, right, photos = torch.Generator().manual_seed(0), len(self.photos), 0.0, 0.0
        for _ in range(DRAWS):
            drawn = torch.randint(groups, (groups,), generator=generator)
            others = torch.ones(groups, dtype=torch.bool).index_fill(0, drawn, False)
            right += self.right[*self.choose(allowed, drawn), others].sum().item()
            photos += self.photos[others].sum().item()
        return right / photos if photos else float("nan")


def _gain(before: torch.Tensor, after: torch.Tensor, photos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return by how much a loss is lower per photo, and the standard error of that; groups are independent.

    Args:
        before: loss of each group `(G,)`.
        after: other losses `(..., G)`.
        photos: photos of each group `(G,)`.
    """
    gain, count = before - after, len(photos)
    mean = gain.sum(dim=-1) / photos.sum()
    squares = (gain - mean[..., None] * photos).square().sum(dim=-1)
    return mean, (squares * count / max(1, count - 1)).sqrt() / photos.sum()
