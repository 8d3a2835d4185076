"""Kernel ridge regression whose photos can be left out, alone or in groups, without fitting it anew."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch

from dogscats.base.console import progress_bar

JITTER = 1e-4
"""Added to the kernel of the centers, so that those that are nearly equal do no harm."""

ROWS = 2048
"""Photos whose kernel is in memory at once."""


class Regression(ABC):
    """A kernel ridge regression of `C` targets, fitted to `N` photos, with coefficients for `P` of them.

    Attributes:
        coefficients: coefficients `(P, C)`.
        errors: targets less the scores by the regression fitted without the photo `(N, C)`.
    """

    coefficients: torch.Tensor
    errors: torch.Tensor

    @abstractmethod
    def errors_of(self, rows: torch.Tensor) -> torch.Tensor:
        """Compute the errors `(R, C)` of photos `(R,)` that are left out together."""

    @abstractmethod
    def influence(self, rows: torch.Tensor) -> torch.Tensor:
        """Compute what leaving out photos `(R,)` takes from the coefficients, for each unit of error `(P, R)`."""

    def left_out(self, groups: torch.Tensor) -> torch.Tensor:
        """Compute the errors `(N, C)` of photos that are left out with their groups `(N,)`."""
        errors, sizes = self.errors.clone(), torch.unique(groups, return_counts=True)[1]
        for rows in torch.split(groups.argsort(stable=True), sizes.tolist()):
            if len(rows) > 1:
                errors[rows] = self.errors_of(rows)
        return errors

    def without(self, rows: torch.Tensor) -> torch.Tensor:
        """Compute the coefficients `(P, C)` of the regression fitted without photos `(R,)`."""
        return self.coefficients - self.influence(rows) @ self.errors_of(rows)


class Exact(Regression):
    """A regression on the kernel of all photos.

    Rasmussen and Williams, "Gaussian Processes for Machine Learning", sections 2.2 and 5.4.2.

    Args:
        kernel: kernel `(N, N)`, double; the penalties are added to it.
        targets: targets `(N, C)`.
        penalties: penalty of each photo `(N,)`.
    """

    def __init__(self, kernel: torch.Tensor, targets: torch.Tensor, penalties: torch.Tensor):
        kernel.diagonal().add_(penalties)
        self.inverse = torch.cholesky_inverse(torch.linalg.cholesky(kernel))
        self.coefficients = self.inverse @ targets
        self.errors = self.coefficients / self.inverse.diagonal()[:, None]

    def errors_of(self, rows: torch.Tensor) -> torch.Tensor:
        """Compute the errors of photos that are left out together."""
        errors: torch.Tensor = torch.linalg.solve(self.inverse[rows][:, rows], self.coefficients[rows])
        return errors

    def influence(self, rows: torch.Tensor) -> torch.Tensor:
        """Compute what leaving out photos takes from the coefficients."""
        return self.inverse[:, rows]


class Nystroem(Regression):
    """A regression on the kernel between all photos and some of them, the centers.

    Williams and Seeger, "Using the Nystroem Method to Speed Up Kernel Machines", 2000. Errors are those of a regression
    with the same centers: Hastie, Tibshirani and Friedman, "The Elements of Statistical Learning", 2nd edition, 7.64.

    Args:
        kernel: function that computes the kernel `(R, P)` between photos `(R,)` and the centers, double.
        centers: kernel of the centers `(P, P)`, double; `JITTER` is added to it.
        targets: targets `(N, C)`.
        weights: weight of each photo `(N,)`.
        penalty: penalty.
    """

    def __init__(
        self,
        kernel: Callable[[torch.Tensor], torch.Tensor],
        centers: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        penalty: float,
    ):
        self.kernel, self.targets, self.weights, self.penalty = kernel, targets, weights, penalty
        products, gram = torch.zeros(len(centers), targets.shape[1]).double(), torch.zeros_like(centers)
        blocks = torch.split(torch.arange(len(targets)), ROWS)
        for rows in progress_bar(blocks, "Fitting the head", len(blocks), "block"):
            values = kernel(rows)
            weighted = (values * weights[rows, None]).T
            gram.addmm_(weighted, values)
            products.addmm_(weighted, targets[rows])
        # By way of orthogonal features, which keeps more digits.
        centers.diagonal().add_(JITTER)
        identity = torch.eye(len(centers)).double()
        features = torch.linalg.solve_triangular(torch.linalg.cholesky(centers), identity, upper=False)
        gram = features @ gram @ features.T + penalty * identity
        self.inverse = features.T @ torch.cholesky_inverse(torch.linalg.cholesky(gram)) @ features
        self.coefficients = self.inverse @ products
        self.errors = torch.empty_like(targets)
        for rows in progress_bar(blocks, "Leaving out photos", len(blocks), "block"):
            values = kernel(rows)
            leverage = weights[rows] * (values @ self.inverse * values).sum(dim=1)
            self.errors[rows] = (targets[rows] - values @ self.coefficients) / (1 - leverage).clamp_min(1e-6)[:, None]

    def errors_of(self, rows: torch.Tensor) -> torch.Tensor:
        """Compute the errors of photos that are left out together."""
        values = self.kernel(rows)
        residuals = self.targets[rows] - values @ self.coefficients
        own = values @ self.influence(rows)
        errors: torch.Tensor = torch.linalg.solve(torch.eye(len(rows)).double() - own, residuals)
        return errors

    def influence(self, rows: torch.Tensor) -> torch.Tensor:
        """Compute what leaving out photos takes from the coefficients."""
        influence: torch.Tensor = self.inverse @ self.kernel(rows).T * self.weights[rows]
        return influence


def best_factor(scores: torch.Tensor, labels: torch.Tensor, least: float, most: float) -> float:
    """Find the factor of scores `(N, C)` with the lowest log loss, by bisection: the loss is convex in it.

    Args:
        scores: scores, or logits.
        labels: class indices `(N,)`.
        least: lower bound of the factor.
        most: upper bound.
    """
    scores = scores.double()
    of_label = scores.gather(1, labels[:, None]).mean()
    for _ in range(30):
        factor: float = (least * most) ** 0.5
        slope = ((factor * scores).softmax(dim=1) * scores).sum(dim=1).mean() - of_label
        least, most = (least, factor) if slope > 0 else (factor, most)
    return factor


def in_proportion(labels: torch.Tensor, count: int) -> torch.Tensor:
    """Select photos `(count,)`, evenly spaced, with all classes in proportion."""
    spaced = torch.linspace(0, len(labels) - 1, count, dtype=torch.double).round().long()
    return labels.argsort(stable=True)[spaced].sort().values


def alone_in_class(labels: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Return which photos' classes have no photo outside their groups `(N,)`."""
    pairs = torch.unique(torch.stack([labels, groups], dim=1), dim=0)
    return torch.bincount(pairs[:, 0])[labels] == 1
