"""A head in closed form, with settings chosen by leave-one-out: kernel ridge regression. Not in the lesson."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import nn

from dogscats.base.console import progress_bar
from dogscats.base.errors import ArgumentError
from dogscats.kernel.kernel_ridge import ROWS, Exact, Nystroem, Regression, alone_in_class, best_factor, in_proportion

GAMMAS = (0.25, 0.5, 1.0, 2.0)
"""Factors of squared distances in the kernel, relative to their median, to choose from."""

PENALTIES = (1e-1, 1e-2, 1e-3)
"""Penalties of the regression to choose from; of equally good ones, the first."""

TEMPERATURES = (0.5, 20.0)
"""Range of the factor of the scores: leave-one-out may be perfect."""

VARIANCE_FLOOR = 0.03
"""Added, squared, to the variance of a feature, relative to that of its depth: otherwise features that hardly vary
would ruin small sets."""

MAX_EXACT, CENTERS = 6000, 3000
"""Number of photos up to which the regression is exact; and of those it is approximated by, if there are more."""

MAX_CONSTANT_VARIANCE = 1e-14
"""Mean variance up to which the features of a depth count as constant, and as nothing."""

BYTES_PER_POINT, BYTES = 8_300, (11_800_000, 36_000_000)
"""Room for photos and coefficients: bytes of each photo; least and most of all. Beyond, components are stored."""

MAX_BYTES = 40_000_000
"""Limit for all that is stored."""


class KernelHead(nn.Module):
    """Scores of a kernel ridge regression, times a temperature, as logits. It replaces the trained heads.

    The features of each depth are divided by their norm and standardized, and all depths get the same mean squared
    length. The kernel is `exp(-gamma * squared distance)`.

    Example:
        >>> body = resnet34(features="all").eval()
        >>> features = torch.cat([body(images) for images in batches])
        >>> fitted = KernelHead.fit(features, labels, num_classes=2, widths=body.widths(224))
        >>> fitted.accuracy, fitted.log_loss  # of leave-one-out
        >>> classifier = Classifier(body, ["cats", "dogs"], heads=fitted.head)

    Args:
        num_classes: number of classes `C`.
        widths: number of features of each depth; `F` in total.
        points: number of stored photos `P`.
        components: number of principal components `D` that are stored of each; 0 for all `F` features.

    Raises:
        ArgumentError: for numbers that no fit gives: they could fill the memory.

    Attributes:
        center: mean of the features, each depth divided by its norm `(F,)`.
        scale: what each feature less its mean is multiplied by `(F,)`.
        directions: principal directions `(F, D)`.
        points: stored photos `(P, D)`, or `(P, F)`.
        rest: squared length of what the components leave out of them `(P,)`.
        coefficients: coefficients of the regression `(P, C)`.
        gamma: factor of squared distances.
        temperature: factor of the scores.
    """

    center: torch.Tensor
    scale: torch.Tensor
    directions: torch.Tensor
    points: torch.Tensor
    rest: torch.Tensor
    coefficients: torch.Tensor
    gamma: torch.Tensor
    temperature: torch.Tensor

    def __init__(self, num_classes: int, widths: Sequence[int], points: int, components: int = 0):
        super().__init__()
        self.widths, size = list(widths), sum(widths)
        stored = 2 * components * size + points * (2 * (components or size) + 4 * num_classes)
        if not (min(*self.widths, points) > 0 <= components and 8 * size + stored <= MAX_BYTES):
            raise ArgumentError("", f"widths={widths}, points={points}, components={components}: not a kernel head's.")
        self.register_buffer("center", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))
        self.register_buffer("directions", torch.zeros(size, components, dtype=torch.half))
        self.register_buffer("points", torch.zeros(points, components or size, dtype=torch.half))
        self.register_buffer("rest", torch.zeros(points))
        self.register_buffer("coefficients", torch.zeros(points, num_classes))
        self.register_buffer("gamma", torch.ones(()))
        self.register_buffer("temperature", torch.ones(()))

    def __len__(self) -> int:
        return 1

    @property
    def config(self) -> dict[str, Any]:
        """Arguments to rebuild the head for its weights: `widths`, `points` and `components`."""
        return {"widths": self.widths, "points": len(self.points), "components": self.directions.shape[1]}

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "KernelHead":
        """Move to a device, but keep the precision: a lower one would make distances coarse."""
        super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)  # type: ignore[no-untyped-call]
        return self

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Compute log-probabilities `(B, C)` from features `(B, F)`."""
        return self.mean(self.each(features))

    def each(self, features: torch.Tensor) -> torch.Tensor:
        """Compute logits `(1, B, C)` from features `(B, F)`."""
        device = features.device.type  # autocast cannot be exported
        off = torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
        exact = torch.float if device == "mps" else torch.double  # large coefficients nearly cancel; MPS lacks double
        with off:
            scores = self.kernel(*self.project(features)).to(exact) @ self.coefficients.to(exact)
            return (self.temperature * scores.float())[None]

    def mean(self, logits: torch.Tensor) -> torch.Tensor:
        """Compute log-probabilities `(B, C)` from logits `(1, B, C)`."""
        return logits[0].log_softmax(dim=1)

    def project(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale features `(B, F)`; return what is stored `(B, D)`, and the squared length of the rest `(B,)`."""
        scaled = (_normalized(features, self.widths) - self.center) * self.scale
        if not self.directions.shape[1]:
            return scaled, scaled.new_zeros(scaled.shape[0])  # by `len`, exports would fix the batch size
        components = scaled @ self.directions.float()
        return components, (scaled.square().sum(dim=1) - components.square().sum(dim=1)).clamp_min(0)

    def distances(self, components: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
        """Compute squared distances `(B, P)` from what `project` returns to the stored photos."""
        points = self.points.to(components.dtype)
        ours, theirs = components.square().sum(dim=1) + rest, points.square().sum(dim=1) + self.rest
        return (ours[:, None] + theirs - 2 * components @ points.T).clamp_min(0)

    def kernel(self, components: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
        """Compute the kernel `(B, P)` between what `project` returns and the stored photos."""
        return (-self.gamma * self.distances(components, rest)).exp()

    @classmethod
    @torch.no_grad()
    def fit(
        cls,
        features: torch.Tensor,
        labels: Sequence[int] | torch.Tensor,
        num_classes: int,
        widths: Sequence[int],
        groups: Sequence[int] | torch.Tensor | None = None,
        class_weights: Sequence[float] | None = None,
        judged: torch.Tensor | None = None,
    ) -> "KernelFit":
        """Fit a head to the features of training photos, on the CPU and in double precision.

        Args:
            features: features `(N, F)`; may be memory-mapped, as only some are in memory at once.
            labels: class index of each photo.
            num_classes: number of classes `C`.
            widths: number of features of each depth.
            groups: group number of each photo, for photos to leave out together; `None` to leave out each alone.
            class_weights: weight of each class; `None` for equal weights.
            judged: photos whose errors count `(N,)`; `None` for all.
        """
        labels, groups = torch.as_tensor(labels), torch.as_tensor(range(len(labels)) if groups is None else groups)
        weights = torch.as_tensor(class_weights or [1.0] * num_classes, dtype=torch.double)[labels]
        weights, targets = weights / weights.mean(), 2 * nnf.one_hot(labels, num_classes).double() - 1
        scored = ~alone_in_class(labels, groups) & (True if judged is None else judged)
        most = BYTES[1] // (8 * num_classes)  # so that the coefficients need at most half of the room
        exact = len(labels) <= min(MAX_EXACT, most)
        some = torch.arange(len(labels)) if exact else in_proportion(labels, min(CENTERS, most))
        head = _prepared(features, some, num_classes, widths)
        distances = head.distances(head.points.double(), head.rest.double()).fill_diagonal_(0)

        def fit_some(gamma: float, penalty: float) -> Regression:
            return Exact((-gamma * distances).exp_(), targets[some], penalty / weights[some])

        median = max(distances[~torch.eye(len(some), dtype=torch.bool)].median().item(), 1e-9)
        found = []  # NaN, and the first choice, if no photo is scored
        for gamma, penalty in progress_bar([*product(GAMMAS, PENALTIES)], "Choosing the kernel", 12, "fit"):
            errors = fit_some(gamma / median, penalty).left_out(groups[some]).square().sum(dim=1) * weights[some]
            found.append((errors[scored[some]].mean().item(), -penalty, gamma))
        _, penalty, gamma = min(found)
        head.gamma.fill_(gamma / median)
        gamma, penalty = head.gamma.item(), -penalty
        if exact:
            regression = fit_some(gamma, penalty)
        else:
            centers = head.kernel(head.points.double(), head.rest.double())
            regression = Nystroem(partial(_kernel, head, features), centers, targets, weights, penalty)
        scores = targets - regression.left_out(groups)
        head.coefficients.copy_(regression.coefficients)
        if scored.any():
            head.temperature.fill_(best_factor(scores[scored], labels[scored], *TEMPERATURES))
        return KernelFit(head, labels, groups, scored, scores.float(), regression)


@dataclass(frozen=True)
class KernelFit:
    """A fitted head, and what it says about the training photos when they are left out.

    Attributes:
        head: the head.
        labels: class indices `(N,)`.
        groups: number of the group of each photo, which is left out with it `(N,)`.
        scored: whether a photo can be judged `(N,)`: not if its class has no photo outside its group.
        scores: scores of each photo by the head fitted without its group, before the temperature `(N, C)`.
        regression: the regression; it can leave out photos.
    """

    head: KernelHead
    labels: torch.Tensor
    groups: torch.Tensor
    scored: torch.Tensor
    scores: torch.Tensor
    regression: Regression

    @property
    def logits(self) -> torch.Tensor:
        """Logits of the training photos, left out, `(N, C)`; those not `scored` mean nothing."""
        return self.head.temperature * self.scores

    @property
    def log_probabilities(self) -> torch.Tensor:
        """Log-probabilities of the training photos, left out, `(N, C)`."""
        return self.logits.log_softmax(dim=1)

    @property
    def log_loss(self) -> float:
        """Log loss of the photos that are scored, left out; NaN if there are none."""
        return nnf.nll_loss(self.log_probabilities[self.scored], self.labels[self.scored]).item()

    @property
    def accuracy(self) -> float:
        """Accuracy of the photos that are scored, left out; NaN if there are none."""
        return (self.logits.argmax(dim=1) == self.labels)[self.scored].double().mean().item()

    @torch.no_grad()
    def left_out(self, features: torch.Tensor, photos: torch.Tensor) -> torch.Tensor:
        """Compute log-probabilities `(M, C)` of versions of training photos by the head fitted without their groups.

        Args:
            features: features of the versions `(M, F)`.
            photos: number of the training photo of each `(M,)`.
        """
        kernel = self.head.kernel(*self.head.project(features)).double()
        groups = self.groups[photos]
        scores = torch.empty(len(features), self.scores.shape[1], dtype=torch.double)
        for group in torch.unique(groups):
            versions = groups == group
            scores[versions] = kernel[versions] @ self.regression.without((self.groups == group).nonzero().flatten())
        return (self.head.temperature * scores.float()).log_softmax(dim=1)


def _prepared(features: torch.Tensor, some: torch.Tensor, num_classes: int, widths: Sequence[int]) -> KernelHead:
    """Make a head that scales features by all photos `(N, F)`, and stores `some` of them `(P,)`."""
    mean, square = torch.zeros(2, features.shape[1]).double()
    for rows in torch.split(torch.arange(len(features)), ROWS):
        values = _normalized(features[rows], widths).double()
        mean += values.sum(dim=0) / len(features)
        square += values.square().sum(dim=0) / len(features)
    scales = []
    for variance in torch.split((square - mean.square()).clamp_min(0), list(widths)):
        relative = (variance + VARIANCE_FLOOR**2 * variance.mean()).rsqrt()
        scale = relative * (len(mean) / len(widths) / (variance * relative.square()).sum()).sqrt()
        scales.append(scale if variance.mean() > MAX_CONSTANT_VARIANCE else torch.zeros_like(scale))
    size, coefficients = 2 * len(some) * len(mean), 4 * len(some) * num_classes
    room = min(max(BYTES_PER_POINT * len(some), BYTES[0], 2 * coefficients), BYTES[1]) - coefficients
    components = 0 if size <= room else room // (2 * (len(some) + len(mean)))
    head = KernelHead(num_classes, widths, len(some), components)
    head.center.copy_(mean)
    head.scale.copy_(torch.cat(scales))
    if components:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            scaled = (_normalized(features[some], widths) - head.center) * head.scale
            head.directions.copy_(torch.svd_lowrank(scaled, components, niter=4)[2])
    points, rest = head.project(features[some])
    head.points.copy_(points)
    head.rest.copy_(rest)
    return head


def _kernel(head: KernelHead, features: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Compute the kernel `(R, P)` between some photos, as they would be stored, and the stored ones."""
    components, rest = head.project(features[rows])
    return head.kernel(components.half().double(), rest.double())


def _normalized(features: torch.Tensor, widths: Sequence[int]) -> torch.Tensor:
    """Divide the features `(B, F)` of each depth by their norm."""
    blocks = torch.split(features, list(widths), dim=1)
    return torch.cat([nnf.normalize(block.float(), dim=1) for block in blocks], dim=1)
