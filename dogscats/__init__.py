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
    from dogscats.kernel.kernel_head import KernelHead
    from dogscats.lesson.backbone import Backbone, resnet34
    from dogscats.lesson.classifier import Classifier
    from dogscats.lesson.lr_finder import LRFinder, find_lr
    from dogscats.lesson.predictions import Predictions
    from dogscats.lesson.sgdr import SGDR, LRSchedule, LRTrace
    from dogscats.lesson.tta import TTA
    from dogscats.networks.members import Members
    from dogscats.networks.timm_backbone import (
        efficientnet_lite0,
        efficientnet_lite1,
        efficientnet_lite2,
        timm_backbone,
    )
    from dogscats.predict.evaluation import evaluation_metrics
    from dogscats.predict.predictor import Predictor
    from dogscats.report.figure_table import Pictures, Report
    from dogscats.report.history import History
    from dogscats.runs.command_line import KnownKeys
    from dogscats.runs.directory import OutputFolder
    from dogscats.runs.sweep import SweepReport

_NAMES = {
    "base.text": "LogFormatter",
    "data.loading.datamodule": "DogsCatsDataModule",
    "data.loading.sample_data": "SampleDataModule",
    "data.pixels.transforms": "crops none side_on top_down",
    "lesson.backbone": "Backbone resnet34",
    "lesson.classifier": "Classifier",
    "kernel.kernel_head": "KernelHead",
    "lesson.lr_finder": "LRFinder find_lr",
    "lesson.predictions": "Predictions",
    "lesson.sgdr": "LRSchedule LRTrace SGDR",
    "lesson.tta": "TTA",
    "networks.members": "Members",
    "networks.timm_backbone": "efficientnet_lite0 efficientnet_lite1 efficientnet_lite2 timm_backbone",
    "predict.evaluation": "evaluation_metrics",
    "predict.predictor": "Predictor",
    "report.figure_table": "Pictures Report",
    "report.history": "History",
    "runs.command_line": "KnownKeys",
    "runs.directory": "OutputFolder",
    "runs.sweep": "SweepReport",
}
"""Public names of each module."""

_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = [*_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
