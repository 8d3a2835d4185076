"""Several backbones as one, each with its own image size, and the kernel heads that are fitted to their features."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import nn

from dogscats.kernel.kernel_head import KernelFit, KernelHead
from dogscats.lesson.backbone import Backbone
from dogscats.lesson.heads import KernelHeads


class Members(Backbone):
    """Several backbones as one; a kernel head is fitted to the features of each, and their probabilities are averaged.

    Images have the largest of the sizes, and are resized within the network for the other members. It maps RGB images
    `(B, 3, H, W)`, uint8, to the features of the first member, then those of the next: `(B, F)`.

    Example:
        >>> body = Members([efficientnet_lite0(features="all"), resnet34(features="all")], sizes=[224, 128])
        >>> body(images)  # (B, 3, 224, 224) to (B, F)

    Args:
        bodies: the members.
        sizes: side of the images of each, in pixels.
    """

    def __init__(self, bodies: Sequence[Backbone], sizes: Sequence[int]):
        sizes = list(sizes)
        found = [body if size == max(sizes) else Resized(body, size) for body, size in zip(bodies, sizes, strict=True)]
        first, early = found[0], "body.network." if isinstance(found[0], Resized) else "network."
        mean, std = ((values.flatten() / 255).tolist() for values in (first.mean, first.std))
        super().__init__(nn.Sequential(*found), f"0.{early}{bodies[0].last_early}", 0, mean, std)
        self.num_features = sum(body.num_features for body in found)
        images = torch.zeros(1, 3, max(sizes), max(sizes), dtype=torch.uint8)
        with torch.no_grad():
            parts = [body.eval().feature_maps(body.normalize(images)) for body in found]
        self.depths = [(len(maps), len(tokens)) for maps, tokens in parts]
        if all(body.config for body in bodies):
            self.config = {
                "_target_": "dogscats.Members",
                "bodies": [body.config for body in bodies],
                "sizes": sizes,
            }

    def members(self) -> list[Backbone]:
        """List the members, each of which takes images of the largest size."""
        return list(self.network.children())  # type: ignore[arg-type]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the features of all members."""
        return torch.cat([body(images) for body in self.members()], dim=1)

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Return images as they are: each member normalizes them."""
        return images

    def feature_maps(self, images: torch.Tensor) -> tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]:
        """Compute the feature maps and class tokens of all members."""
        parts = [body.feature_maps(body.normalize(images)) for body in self.members()]
        return [depth for maps, _ in parts for depth in maps], [token for _, tokens in parts for token in tokens]

    def pool(self, maps: Sequence[torch.Tensor], tokens: Sequence[torch.Tensor]) -> torch.Tensor:
        """Pool what `feature_maps` returns, member by member."""
        depths, classes = iter(maps), iter(tokens)
        parts = [([*islice(depths, ours)], [*islice(classes, own)]) for ours, own in self.depths]
        return torch.cat([body.pool(*part) for body, part in zip(self.members(), parts, strict=True)], dim=1)

    def widths(self, size: int) -> list[int]:
        """Count the features of each depth of each member."""
        return [width for body in self.members() for width in body.widths(size)]


class Resized(Backbone):
    """A backbone that resizes its images first, as the evaluation transform would: bilinear, with antialiasing.

    Args:
        body: the backbone.
        size: side of its images, in pixels.
    """

    def __init__(self, body: Backbone, size: int):
        nn.Module.__init__(self)
        self.body, self.size, self.method, self.last_early = body, size, body.method, f"body.{body.last_early}"
        self.mean, self.std, self.num_features = body.mean, body.std, body.num_features

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the features of resized images."""
        features: torch.Tensor = self.body(self.resized(images))
        return features

    def resized(self, images: torch.Tensor) -> torch.Tensor:
        """Resize images `(B, 3, H, W)`, uint8, to float32."""
        return nnf.interpolate(images.float(), (self.size, self.size), mode="bilinear", antialias=True)

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Resize and normalize images."""
        return self.body.normalize(self.resized(images))

    def feature_maps(self, images: torch.Tensor) -> tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]:
        """Compute the feature maps and class tokens of normalized images."""
        return self.body.feature_maps(images)

    def extra_repr(self) -> str:
        """Name the size; part of the key of precomputed activations."""
        return f"resized to {self.size} pixels"


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
