"""Fine-tune a pretrained image classifier the way the fast.ai lesson taught.

Public names are imported lazily, on first access. Hydra imports this package before it shows a help text or an
error, and that should not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dogscats.backbone import Backbone, efficientnet_lite0, resnet34, timm_backbone
    from dogscats.callbacks.lr_finder import find_lr
    from dogscats.callbacks.lr_schedule import SGDR, LRSchedule
    from dogscats.callbacks.report import Report
    from dogscats.callbacks.tta import TTA
    from dogscats.classifier import Classifier
    from dogscats.data.datamodule import DogsCatsDataModule
    from dogscats.metrics import Predictions, evaluation_metrics
    from dogscats.predictor import Predictor

_MODULES = {
    "Backbone": "backbone",
    "Classifier": "classifier",
    "DogsCatsDataModule": "data.datamodule",
    "LRSchedule": "callbacks.lr_schedule",
    "Predictions": "metrics",
    "Predictor": "predictor",
    "Report": "callbacks.report",
    "SGDR": "callbacks.lr_schedule",
    "TTA": "callbacks.tta",
    "efficientnet_lite0": "backbone",
    "evaluation_metrics": "metrics",
    "find_lr": "callbacks.lr_finder",
    "resnet34": "backbone",
    "timm_backbone": "backbone",
}

__all__ = [
    "SGDR",
    "TTA",
    "Backbone",
    "Classifier",
    "DogsCatsDataModule",
    "LRSchedule",
    "Predictions",
    "Predictor",
    "Report",
    "efficientnet_lite0",
    "evaluation_metrics",
    "find_lr",
    "resnet34",
    "timm_backbone",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
