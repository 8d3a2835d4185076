"""The lesson's head, and ensembles of heads on a shared body, which are not in the lesson."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from dogscats.base.rules import check_values, whole
from dogscats.kernel.kernel_head import KernelHead

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


def rebuilt_kernel_head(num_classes: int, config: Mapping[str, Any]) -> KernelHead | KernelHeads:
    """Build a kernel head, or those of several members, from its `config`, for its weights."""
    return (KernelHeads if "members" in config else KernelHead)(num_classes, **config)
