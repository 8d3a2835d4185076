"""Features of earlier depths than the last, by which strangers are told after all layers were trained."""

from copy import deepcopy

import torch
import torch.nn.functional as nnf
from torch import nn

from dogscats.lesson.backbone import Backbone


def forward_with_depths(body: Backbone, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Compute the features of a body and, in the same pass, those of earlier depths.

    Depths are the modules of the same kind beside the last early one, such as layer1 to layer3 of a ResNet; the
    last of all is left out, as the features are of it.

    Returns:
        Features `(B, F)`; and of each earlier depth those divided by their norm `(B, E)`.
    """
    found: list[torch.Tensor] = []
    parent, _, name = body.last_early.rpartition(".")
    beside = dict(body.network.get_submodule(parent).named_children())
    alike = [module for module in beside.values() if type(module) is type(beside[name])]
    depths = alike[: max(len(alike) - 1, alike.index(beside[name]) + 1)]
    hooks = [depth.register_forward_hook(lambda _module, _inputs, output: found.append(output)) for depth in depths]
    try:
        features = body(images)
    finally:
        for hook in hooks:
            hook.remove()
    maps = (1, 2) if getattr(body.network, "output_fmt", "") == "NHWC" else (2, 3)
    axes = [(1,) if output.ndim == 3 else maps for output in found]
    pooled = (torch.cat([out.amax(over), out.mean(over)], dim=1) for out, over in zip(found, axes, strict=True))
    return features, [nnf.normalize(values.float(), dim=1) for values in pooled]


def apart(features: torch.Tensor, body: Backbone) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Split the features of a body from those of earlier depths that may follow them."""
    size = body.num_features
    return features[:, :size], features[:, size:] if features.shape[1] > size else None


class WithDepths(Backbone):
    """A body whose features are followed by those of earlier depths.

    Args:
        body: the body.
        size: side of the images in pixels.
    """

    def __init__(self, body: Backbone, size: int):
        nn.Module.__init__(self)
        self.body, self.mean, self.std, self.method = body, body.mean, body.std, body.method
        with torch.inference_mode():
            images = torch.zeros(1, 3, size, size, dtype=torch.uint8)
            self.depths = [depth.shape[1] for depth in forward_with_depths(deepcopy(body).cpu().eval(), images)[1]]
        self.num_features = body.num_features + sum(self.depths)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute both, `(B, num_features)`."""
        features, depths = forward_with_depths(self.body, images)
        return torch.cat([features, *depths], dim=1)

    def widths(self, size: int) -> list[int]:
        """Count the features of each depth: those of the body, then those of earlier depths."""
        return [*self.body.widths(size), *self.depths]
