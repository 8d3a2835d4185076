"""How well fastai does on the same photos: `python -m benchmarks.fine_tune photos=<dogscats> weights=<file>`.

What fastai 2 tells everyone to begin with: `vision_learner(...).fine_tune(epochs)`, with `aug_transforms()`
and its defaults, then `learn.tta()`. Prints JSON: the photos that are wrong, accuracy and log loss without
and with test-time augmentation, and the seconds of training and of predicting. Needs
`pip install 'dogscats[bench]'`.
"""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from fastai.vision.all import set_seed
from torch.nn.functional import nll_loss

from benchmarks.settings import Settings, from_command_line
from benchmarks.with_fastai import make_learner
from dogscats.errors import UserError, user_errors_exit


@dataclass
class FineTune(Settings):
    """What is done.

    Attributes:
        epochs: unfrozen epochs, after one of the head alone.
        seed: of everything random.
    """

    epochs: int = 3
    seed: int = 0


def measure(settings: FineTune) -> dict[str, float]:
    """Train, and predict the validation photos plain and with test-time augmentation.

    Raises:
        UserError: for a folder without `train/` and `valid/`, and weights that cannot be used.
    """
    for split in ("train", "valid"):
        if not (Path(settings.photos) / split).is_dir():
            raise UserError(f"photos={settings.photos}: it has no folder {split}/<class>/.")
    set_seed(settings.seed)
    learner = make_learner(settings, augment=True)
    figures: dict[str, float] = asdict(settings)
    started = time.perf_counter()
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(settings.epochs)
        figures["seconds"] = time.perf_counter() - started
        for suffix, predict in (("", learner.get_preds), ("_tta", learner.tta)):
            started = time.perf_counter()
            probabilities, labels = predict()
            figures[f"seconds{suffix}_predicting"] = time.perf_counter() - started
            figures[f"wrong{suffix}"] = int((probabilities.argmax(dim=1) != labels).sum())
            figures[f"accuracy{suffix}"] = 1 - figures[f"wrong{suffix}"] / len(labels)
            figures[f"log_loss{suffix}"] = nll_loss(probabilities.log(), labels).item()
    return figures


if __name__ == "__main__":
    with user_errors_exit():
        print(json.dumps(measure(from_command_line(FineTune("???")))))
