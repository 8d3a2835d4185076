"""Whether the depths of a network agree on the class of a photo, as they do for photos of a known class.

A ridge regression predicts the class from the features of each depth alone. Its answer to a training photo is computed
as if the photo had been left out, as answers to unseen photos are. A stranger is farther from what is usual for its
nearest class than from what is usual for all photos: Ren et al., "A Simple Fix to Mahalanobis Distance for Improving
Near-OOD Detection", https://arxiv.org/abs/2106.09022.
"""

from typing import Self

import torch
import torch.nn.functional as nnf

from dogscats.reliability.signs import MAX_PHOTOS_FITTED, ForwardPass, Sign, TrainingPhotos, evenly_spaced

PENALTY = 0.1
"""Penalty of the ridge regressions, relative to the mean squared length of the photos."""

SHRINKAGE = 0.2
"""What is added to the variances, relative to the mean variance within the classes."""

LEAST_DEVIATION = 1e-3
"""Least deviation of a feature, relative to the mean of its depth. One that is almost always 0, and tiny in one photo,
would get a weight of thousands, and a new photo that has more of it would be strange for that alone."""

MAX_CLASSES, MAX_ANSWERS = 256, 512
"""Largest number of classes, and of answers of all depths together: more would take too many megabytes."""


class Disagreement(Sign):
    """What the depths of a network say about the training photos, and how unusual it is for others.

    Depths disagree on photos of an unknown class that resembles the known ones.

    The answers of all depths, one for each class, are one vector of `A` numbers. Its covariances within the classes and
    overall are kept as factors of their inverses.

    Args:
        widths: number of features of each depth.
        weight: weights of the regressions `(F, C)`.
        bias: their constants `(A,)`, depth by depth.
        centers: mean answers to the photos of each class, times `within`, `(K, A)`.
        within: factor of the inverse covariance within the classes `(A, A)`.
        center: mean answers to all photos, times `overall`, `(A,)`.
        overall: factor of the inverse covariance of all photos `(A, A)`.
    """

    ordinary = 0.95
    names = ("widths", "weight", "bias", "centers", "within", "center", "overall")
    large = ("weight", "within", "overall")
    widths: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor
    centers: torch.Tensor
    within: torch.Tensor
    center: torch.Tensor
    overall: torch.Tensor

    def __init__(self, **arrays: torch.Tensor):
        super().__init__(**arrays)
        self.sizes: list[int] = self.widths.tolist()

    @classmethod
    def fit(cls, photos: TrainingPhotos) -> Self | None:
        """Learn from evenly spaced training photos; `None` for a trained body, or more than `MAX_CLASSES` classes.

        The depths count as one if their answers would be too many. Classes may lack photos.
        """
        if (classes := photos.num_classes) > MAX_CLASSES or photos.depths is not None:  # trained depths always agree
            return None
        widths = list(photos.widths())
        if classes * len(widths) > MAX_ANSWERS:
            widths = [sum(widths)]
        some = evenly_spaced(len(photos.labels), MAX_PHOTOS_FITTED)
        features, labels = photos.features[some], torch.tensor(photos.labels)[some]
        targets = 2 * nnf.one_hot(labels, classes).float() - 1
        solutions, biases, left_out = zip(
            *(_regress(block.float(), targets) for block in torch.split(features, widths, dim=1)), strict=True
        )
        answers = torch.cat(left_out, dim=1)
        deviation = answers.std(dim=0, correction=0)
        deviation[deviation < 1e-6] = torch.inf  # of a class without photos
        answers = answers / deviation
        weights = [weight / scale for weight, scale in zip(solutions, torch.split(deviation, classes), strict=True)]
        found, rows = torch.unique(labels, return_inverse=True)
        means = torch.stack([answers[rows == row].mean(dim=0) for row in range(len(found))])
        mean, deviations = answers.mean(dim=0), answers - means[rows]
        ridge = (SHRINKAGE * deviations.square().mean()).clamp_min(1e-3) * torch.eye(answers.shape[1])
        within, overall = (
            torch.linalg.cholesky(torch.linalg.inv((values.T @ values / len(values) + ridge).double())).half().float()
            for values in (deviations, answers - mean)
        )
        return cls(
            widths=torch.tensor(widths),
            weight=torch.cat(weights).half(),  # as it is read from the file
            bias=torch.cat(biases) / deviation,
            centers=means @ within,
            within=within,
            center=mean @ overall,
            overall=overall,
        )

    def score(self, computed: ForwardPass) -> torch.Tensor:
        """Compute how unusual the answers to photos are `(B,)`; larger for strangers."""
        sources = ((computed.features, 1), (self.weight, 0))
        blocks, weights = (torch.split(values, self.sizes, axis) for values, axis in sources)
        answers = [nnf.normalize(block.float(), dim=1) @ weight for block, weight in zip(blocks, weights, strict=True)]
        said = torch.cat(answers, dim=1) + self.bias
        inside, outside = said @ self.within, said @ self.overall - self.center
        squares = inside.square().sum(dim=1, keepdim=True) + self.centers.square().sum(dim=1)
        nearest = (squares - 2 * inside @ self.centers.T).amin(dim=1)
        return nearest - outside.square().sum(dim=1)


def without_photo(answers: torch.Tensor, targets: torch.Tensor, leverage: torch.Tensor) -> torch.Tensor:
    """Compute what a linear regression would answer to each photo if it had been fitted without it.

    Hastie, Tibshirani and Friedman, "The Elements of Statistical Learning", 2nd edition, equation 7.64.

    Args:
        answers: answers of the regression that was fitted to all photos `(N, C)`.
        targets: what it was fitted to `(N, C)`.
        leverage: diagonal of the hat matrix `(N, 1)`.
    """
    return (answers - leverage * targets) / (1 - leverage).clamp_min(1e-3)


def _regress(features: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Regress targets `(N, C)` on normalized and standardized features `(N, F)` and a constant.

    Returns:
        Weights `(F, C)` and biases `(C,)` for normalized features, and the answer to each photo, left out, `(N, C)`.
    """
    features = nnf.normalize(features, dim=1)
    mean, deviation = features.mean(dim=0), features.std(dim=0, correction=0)
    deviation[deviation < (LEAST_DEVIATION * deviation.mean()).clamp_min(1e-8)] = torch.inf
    scale = deviation * features.shape[1] ** 0.5
    rows = torch.cat([(features - mean) / scale, torch.ones(len(features), 1)], dim=1)
    penalty = PENALTY * rows.square().sum(dim=1).mean()
    if len(rows) <= rows.shape[1]:
        inverse = torch.linalg.inv(rows @ rows.T + penalty * torch.eye(len(rows)))
        dual = inverse @ targets
        solution, left_out = rows.T @ dual, targets - dual / inverse.diagonal()[:, None]
    else:
        inverse = torch.linalg.inv(rows.T @ rows + penalty * torch.eye(rows.shape[1]))
        solution = inverse @ (rows.T @ targets)
        leverage = ((rows @ inverse) * rows).sum(dim=1, keepdim=True)
        left_out = without_photo(rows @ solution, targets, leverage)
    weight = solution[:-1] / scale[:, None]
    return weight, solution[-1] - mean @ weight, left_out
