"""Pretrained backbones: photos to pooled features, in two layer groups."""

import copy
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.models import ResNet34_Weights
from torchvision.models import resnet34 as torchvision_resnet34

from dogscats.base.errors import ArgumentError
from dogscats.base.rules import check_values, one_of
from dogscats.base.text import counted
from dogscats.base.trust import records_config
from dogscats.base.weights import imagenet_error, load_weights, read_weights

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Backbone(nn.Module):
    """A pretrained network without its classifier: normalizes, computes feature maps, pools them.

    Normalization is part of the network, so weights are always paired with the right mean and std. It maps RGB images
    `(B, 3, H, W)`, uint8, to the maximum and the mean of each feature map: features `(B, F)`, `F = 2 C`.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3))
        >>> body = Backbone(network, last_early="0", channels=16)
        >>> body(images)  # (B, 3, H, W) to (B, 32)

    Args:
        network: layers, registered in the order of the forward pass.
        last_early: name of the last module of `network` in the group `early`.
        channels: number of channels `C` of the feature maps, of all depths (layers that are pooled) together.
        mean: mean of each color channel, in the range 0 to 1.
        std: standard deviation of each color channel.
        method: name of the method of `network` that maps normalized images `(B, 3, H, W)` to feature maps
            `(B, C, h, w)`, or to a list of them, one for each depth.

    Attributes:
        config: `_target_` and arguments, used to rebuild the backbone from a checkpoint; `None` if unknown.
    """

    config: dict[str, Any] | None = None
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        network: nn.Module,
        last_early: str,
        channels: int,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        method: str = "forward",
    ):
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.last_early, self.method = last_early, method
        self.num_features = 2 * channels
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute concat-pooled features.

        Args:
            images: RGB `(B, 3, H, W)`, uint8.

        Returns:
            Maximum, then mean of each feature map, depth by depth, then class tokens: `(B, num_features)`.
        """
        return self.pool(*self.feature_maps(self.normalize(images)))

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Normalize images `(B, 3, H, W)`, uint8, with the network's mean and standard deviation."""
        normalized = (images.to(self.mean.dtype) - self.mean) / self.std
        return normalized.contiguous(memory_format=torch.channels_last)

    def pool(self, maps: Sequence[torch.Tensor], tokens: Sequence[torch.Tensor]) -> torch.Tensor:
        """Concat-pool what `feature_maps` returns, to `(B, num_features)`."""
        # Unlike adaptive pooling layers, these have a deterministic backward pass on CUDA.
        pooled = [part for depth in maps for part in (depth.amax((2, 3)), depth.mean((2, 3)))]
        return torch.cat([*pooled, *tokens], dim=1)

    def feature_maps(self, images: torch.Tensor) -> tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]:
        """Compute the feature maps `(B, C, h, w)` of normalized images, by depth, and class tokens `(B, C)`, if any."""
        maps = getattr(self.network, self.method)(images)
        return (maps if isinstance(maps, list | tuple) else [maps]), []

    @torch.inference_mode()
    def widths(self, size: int) -> list[int]:
        """Count the features of each depth, for images of `size` pixels; their order is that of the features."""
        body = copy.deepcopy(self).cpu().eval()  # modes and statistics stay as they are
        maps, tokens = body.feature_maps(body.normalize(torch.zeros(1, 3, size, size, dtype=torch.uint8)))
        widths = [*(2 * part.shape[1] for part in maps), *(part.shape[1] for part in tokens)]
        return widths if sum(widths) == self.num_features else [self.num_features]  # of a body with its own pooling

    def members(self) -> list["Backbone"]:
        """List the bodies that compute the features, one after the other: itself, unless it is a `Members`."""
        return [self]

    def layer_groups(self) -> list[list[nn.Module]]:
        """List the modules of early and late, children too: only parameters registered directly on each count."""
        inside = (self.last_early, f"{self.last_early}.")
        names = [name for name, _ in self.network.named_modules()]
        end = max(i for i, name in enumerate(names) if name == inside[0] or name.startswith(inside[1])) + 1
        modules = list(self.network.modules())
        return [modules[:end], modules[end:]]

    def extra_repr(self) -> str:
        """Name what is pooled; part of the key of precomputed activations."""
        return f"{self.method}, {counted(self.num_features, 'feature')}"


class PrecomputedBody(nn.Identity):
    """Placeholder for a body whose activations are precomputed; it has no layers."""

    config: dict[str, Any] | None = None
    num_features = 0  # unknown; the heads are built beforehand

    def layer_groups(self) -> list[list[nn.Module]]:
        """Return two empty groups."""
        return [[], []]


def check_features(features: str) -> None:
    """Raise an `ArgumentError` unless what is pooled is the `last` feature maps, or those of `all` depths."""
    check_values({"features": one_of("last", "all")}, {"features": features}, raises=partial(ArgumentError, "model"))


class ResNetLayers(nn.Sequential):
    """The layers of torchvision's ResNet up to the last feature maps."""

    def each_layer(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Compute the feature maps of layer1 to layer4."""
        maps, outputs = [], images
        for name, layer in self.named_children():
            outputs = layer(outputs)
            if name.startswith("layer"):
                maps.append(outputs)
        return maps


@records_config
def resnet34(weights: str = "imagenet", features: str = "last") -> Backbone:
    """Build the lesson's ResNet34: early group up to layer2, late group layer3 and layer4.

    Example:
        >>> body = resnet34(features="all")
        >>> body(images)  # (B, 3, H, W), uint8, to features (B, 1920)

    Args:
        weights: `imagenet` (torchvision's, downloaded once to torch.hub's cache), `none`, or a file with a
            state dict that uses torchvision's names.
        features: `last` for layer4 (512 channels), as in the lesson; `all` for layer1 to layer4 (960 channels).

    Raises:
        UserError: if the weights cannot be downloaded, read or loaded.
    """
    check_features(features)
    full = torchvision_resnet34()
    network = ResNetLayers()
    for name, layer in full.named_children():
        if name not in ("avgpool", "fc"):
            network.add_module(name, layer)
    if weights == "imagenet":
        url = ResNet34_Weights.IMAGENET1K_V1.url
        try:
            state = torch.hub.load_state_dict_from_url(url, check_hash=True, weights_only=True)
            load_weights(network, state, url, ignore="fc.")
        except Exception as error:  # a damaged file can raise almost anything
            cached = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
            raise imagenet_error(url, error, cached) from error
    elif weights != "none":
        load_weights(network, read_weights(weights), weights, ignore="fc.")
    channels, method = (512, "forward") if features == "last" else (64 + 128 + 256 + 512, "each_layer")
    return Backbone(network, last_early="layer2", channels=channels, method=method)
