"""Fine-tune a pretrained image classifier the way the fast.ai lesson taught.

All that a config or a program names is a name of this package, wherever its file lies. Names are imported lazily, on
first access: Hydra imports this package before it shows a help text or an error, and that should not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dogscats.base.text import LogFormatter
    from dogscats.data.loading.datamodule import DogsCatsDataModule
    from dogscats.data.loading.sample_data import SampleDataModule
    from dogscats.data.pixels.transforms import crops, none, side_on, top_down
    from dogscats.lesson.backbone import Backbone, resnet34
    from dogscats.lesson.classifier import Classifier
    from dogscats.lesson.lr_finder import LRFinder, find_lr
    from dogscats.lesson.metrics import evaluation_metrics
    from dogscats.lesson.predictions import Predictions
    from dogscats.lesson.sgdr import SGDR, LRSchedule, LRTrace
    from dogscats.lesson.tta import TTA
    from dogscats.networks.efficientnet_lite import efficientnet_lite0, efficientnet_lite1, efficientnet_lite2
    from dogscats.networks.timm_backbone import timm_backbone
    from dogscats.predict.predictor import Predictor
    from dogscats.report.figure_table import Pictures, Report
    from dogscats.report.summary import History
    from dogscats.runs.directory import OutputFolder
    from dogscats.runs.sweep import SweepReport

_MODULES = {
    "SGDR": "lesson.sgdr",
    "TTA": "lesson.tta",
    "Backbone": "lesson.backbone",
    "Classifier": "lesson.classifier",
    "DogsCatsDataModule": "data.loading.datamodule",
    "History": "report.summary",
    "LRFinder": "lesson.lr_finder",
    "LRSchedule": "lesson.sgdr",
    "LRTrace": "lesson.sgdr",
    "LogFormatter": "base.text",
    "OutputFolder": "runs.directory",
    "Pictures": "report.figure_table",
    "Predictions": "lesson.predictions",
    "Predictor": "predict.predictor",
    "Report": "report.figure_table",
    "SampleDataModule": "data.loading.sample_data",
    "SweepReport": "runs.sweep",
    "crops": "data.pixels.transforms",
    "efficientnet_lite0": "networks.efficientnet_lite",
    "efficientnet_lite1": "networks.efficientnet_lite",
    "efficientnet_lite2": "networks.efficientnet_lite",
    "evaluation_metrics": "lesson.metrics",
    "find_lr": "lesson.lr_finder",
    "none": "data.pixels.transforms",
    "resnet34": "lesson.backbone",
    "side_on": "data.pixels.transforms",
    "timm_backbone": "networks.timm_backbone",
    "top_down": "data.pixels.transforms",
}
"""Module of each public name."""

__all__ = [*_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
