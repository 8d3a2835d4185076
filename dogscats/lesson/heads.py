"""The lesson's head, and ensembles of heads on a shared body, which are not in the lesson."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dogscats.base.rules import check_values, whole
from dogscats.lesson.kernel_head import KernelFit, KernelHead

DROPOUT = (0.25, 0.5)
"""Dropout rates of the pooled features and of the hidden layer, as in fastai 0.7."""


class Head(nn.Sequential):
    """The lesson's head: pooled features `(B, in_features)` to logits `(B, num_classes)`.

    Weights are Kaiming-normal and biases zero, as in fastai 0.7.
    """

    def __init__(self, in_features: int, num_classes: int, dropout: tuple[float, float] = DROPOUT):
        hidden = 512
        super().__init__(
            nn.BatchNorm1d(in_features),
            nn.Dropout(dropout[0]),
            nn.Linear(in_features, hidden),
            nn.ReLU(),
            nn.BatchNorm1d(hidden),
            nn.Dropout(dropout[1]),
            nn.Linear(hidden, num_classes),
        )
        for layer in self:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight)
                nn.init.zeros_(layer.bias)


class Heads(nn.ModuleList):
    """Heads on the same features, with averaged probabilities. The lesson uses one.

    They differ in their initial weights and dropout masks: a deep ensemble (Lakshminarayanan et al.,
    https://arxiv.org/abs/1612.01474) with a shared body (Lee et al., "Why M Heads are Better than One",
    https://arxiv.org/abs/1511.06314).

    Args:
        in_features: number of pooled features.
        num_classes: number of classes.
        count: number of heads. The first head does not depend on it.
        dropout: dropout rates of each head.

    Raises:
        UserError: if `count` is not a positive integer.
    """

    def __init__(self, in_features: int, num_classes: int, count: int = 1, dropout: tuple[float, float] = DROPOUT):
        check_values({"heads": whole(1)}, {"heads": count})
        super().__init__(Head(in_features, num_classes, dropout) for _ in range(count))

    @property
    def config(self) -> int | dict[str, Any]:
        """Number of heads, to rebuild them for their weights."""
        return len(self)

    def each(self, features: torch.Tensor) -> torch.Tensor:
        """Compute each head's logits `(heads, B, num_classes)` from features `(B, in_features)`."""
        logits = torch.stack([head(features) for head in self])
        return logits.float()  # half precision would round probabilities to three digits

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Compute the log of the mean probabilities `(B, num_classes)`."""
        return self.mean(self.each(features))

    def mean(self, logits: torch.Tensor) -> torch.Tensor:
        """Compute the log of the mean probabilities `(B, num_classes)` from each head's logits."""
        return logits.log_softmax(dim=-1).logsumexp(dim=0) - math.log(len(self))


class KernelHeads(Heads):
    """Kernel heads, each on the features of one member of a body, with averaged probabilities. Not in the lesson.

    Args:
        num_classes: number of classes.
        members: for each head, `widths`, `points` and `components`, as for `KernelHead`.
    """

    def __init__(self, num_classes: int, members: Sequence[Mapping[str, Any]]):
        nn.ModuleList.__init__(self, [KernelHead(num_classes, **member) for member in members])

    @property
    def config(self) -> dict[str, Any]:
        """Arguments to rebuild the heads for their weights: `members`."""
        return {"members": [head.config for head in self]}

    def each(self, features: torch.Tensor) -> torch.Tensor:
        """Compute each head's logits `(heads, B, num_classes)` from the features `(B, F)` of all members."""
        heads: list[Any] = list(self)
        parts = torch.split(features, [sum(head.widths) for head in heads], dim=1)
        return torch.cat([head.each(part) for head, part in zip(heads, parts, strict=True)])


@dataclass(frozen=True)
class KernelFits(KernelFit):
    """What the heads of several members say about the training photos when they are left out, on average.

    Attributes:
        scores: logits of each photo, as of `mean_logits`.
        regression: that of the first member.
        fits: the fits of all.
    """

    head: KernelHeads  # type: ignore[assignment]
    fits: Sequence[KernelFit]

    @property
    def logits(self) -> torch.Tensor:
        """Logits of the training photos, left out, `(N, C)`."""
        return self.scores

    def left_out(self, features: torch.Tensor, photos: torch.Tensor) -> torch.Tensor:
        """Compute log-probabilities `(M, C)`, as `KernelFit.left_out` does."""
        parts = torch.split(features, [sum(fit.head.widths) for fit in self.fits], dim=1)
        logs = [fit.left_out(part, photos) for fit, part in zip(self.fits, parts, strict=True)]
        return mean_logits(torch.stack(logs)).log_softmax(dim=1)


def fit_kernel_heads(
    features: torch.Tensor, labels: Sequence[int], num_classes: int, widths: Sequence[Sequence[int]], *others: Any
) -> KernelFit:
    """Fit a kernel head, or one for each member of a body.

    Args:
        features: features of all members, one after the other `(N, F)`.
        labels: class index of each photo.
        num_classes: number of classes.
        widths: for each member, number of features of each depth.
        others: `groups`, `class_weights` and `judged`, as for `KernelHead.fit`.
    """
    parts = torch.split(features, [sum(member) for member in widths], dim=1)
    fits = [
        KernelHead.fit(part, labels, num_classes, member, *others) for part, member in zip(parts, widths, strict=True)
    ]
    if len(fits) == 1:
        return fits[0]
    heads = KernelHeads(num_classes, [fit.head.config for fit in fits])
    for number, fit in enumerate(fits):
        heads[number] = fit.head
    first, logits = fits[0], mean_logits(torch.stack([fit.logits for fit in fits]))
    return KernelFits(heads, first.labels, first.groups, first.scored, logits, first.regression, fits)


def mean_logits(logits: torch.Tensor) -> torch.Tensor:
    """Combine the logits of several heads `(heads, N, C)` into logits of the mean of their probabilities `(N, C)`.

    Their log-sum-exp, which tells strangers, is the mean of the heads'.
    """
    logs = logits.log_softmax(dim=2).logsumexp(dim=0) - math.log(len(logits))
    return logs + logits.logsumexp(dim=2, keepdim=True).mean(dim=0)


def rebuilt_kernel_head(num_classes: int, config: Mapping[str, Any]) -> KernelHead | KernelHeads:
    """Build a kernel head, or those of several members, from its `config`, for its weights."""
    return (KernelHeads if "members" in config else KernelHead)(num_classes, **config)
