"""fastai's accuracy on the same photos: `python -m benchmarks.fine_tune photos=<dogscats> weights=<file>`.

Runs the standard fastai 2 recipe, `vision_learner(...).fine_tune(epochs)` with `aug_transforms()` and default settings,
then `learn.tta()`. Prints JSON: number of wrong photos, accuracy and log loss without and with test-time augmentation,
and the seconds of training and prediction. Needs `pip install '.[bench]'`.
"""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from fastai.vision.all import set_seed
from torch.nn.functional import nll_loss

from benchmarks.settings import Settings, from_command_line
from benchmarks.with_fastai import make_learner
from dogscats.base.errors import UserError, user_errors_exit


@dataclass
class FineTune(Settings):
    """Settings of the fine-tuning.

    Attributes:
        epochs: number of unfrozen epochs, after one epoch of the head alone.
        seed: seeds all random numbers.
    """

    epochs: int = 3
    seed: int = 0


def measure(settings: FineTune) -> dict[str, float]:
    """Train, and predict the validation photos without and with test-time augmentation.

    Raises:
        UserError: if `train/` or `valid/` is missing, or the weights cannot be loaded.
    """
    for split in ("train", "valid"):
        if not (Path(settings.photos) / split).is_dir():
            raise UserError(f"photos={settings.photos}: it has no folder {split}/<class>/.")
    set_seed(settings.seed)
    learner = make_learner(settings, augment=True)
    metrics: dict[str, float] = asdict(settings)
    started = time.perf_counter()
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(settings.epochs)
        metrics["seconds"] = time.perf_counter() - started
        for suffix, predict in (("", learner.get_preds), ("_tta", learner.tta)):
            started = time.perf_counter()
            probabilities, labels = predict()
            metrics[f"seconds{suffix}_predicting"] = time.perf_counter() - started
            metrics["n"] = len(labels)
            metrics[f"wrong{suffix}"] = int((probabilities.argmax(dim=1) != labels).sum())
            metrics[f"accuracy{suffix}"] = 1 - metrics[f"wrong{suffix}"] / len(labels)
            metrics[f"log_loss{suffix}"] = nll_loss(probabilities.log(), labels).item()
    return metrics


if __name__ == "__main__":
    with user_errors_exit():
        print(json.dumps(measure(from_command_line(FineTune("???")))))
