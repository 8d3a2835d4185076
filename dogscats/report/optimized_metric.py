"""The setting `optimized_metric`, by which a sweep compares its jobs."""

from collections.abc import Sequence

from dogscats.base.errors import UserError
from dogscats.lesson.metrics import METRICS, final_metrics
from dogscats.lesson.stage import Stage
from dogscats.report.history import TRAINING_LOSSES, epoch_columns


def check_metric(metric: object, stages: Sequence[Stage], n_aug: int, own_callbacks: bool) -> None:
    """Refuse an `optimized_metric` that `metrics.json` will not have, or that is a test metric.

    Args:
        metric: dotted path.
        stages: stages of the recipe.
        n_aug: number of augmented versions in test-time augmentation.
        own_callbacks: whether there are callbacks that may log further metrics.

    Raises:
        UserError: with examples of metrics.
    """
    if str(metric).startswith("final.test_"):
        raise UserError(
            f"optimized_metric={metric}: what is chosen by its test metrics has no unbiased metric left. Choose by "
            f"{str(metric).replace('.test_', '.valid_')}; the test metrics are in metrics.json."
        )
    leaves_out = stages[-1].is_closed_form and not any(stage.trains_body for stage in stages)
    kinds = [("valid", ""), *([("valid", "_tta")] if n_aug else []), *([("loo", "")] if leaves_out else [])]
    final = [f"final.{split}_{metric.key}{suffix}" for split, suffix in kinds for metric in final_metrics()]
    known = [
        f"stages.{stage.name}.{name}"
        for stage in stages
        for name in (*epoch_columns(TRAINING_LOSSES[stage.is_closed_form :][:1]), "epochs", "seconds")
    ]
    known = [*final, *known, "final.n", "seconds", "peak_rss_mb", *(f"lr_finder.{stage.name}" for stage in stages)]
    logged = tuple(f"stages.{stage.name}.{split}_" for stage in stages for split in ("train", "valid"))
    if metric not in known and not (own_callbacks and str(metric).startswith(logged)):
        tta = " It needs callbacks.tta.n_aug=1 or more." if str(metric).endswith("_tta") and not n_aug else ""
        raise UserError(
            f"optimized_metric={metric}: metrics.json will have no such number.{tta} Examples: "
            f"{', '.join(known[: len(final) + 1])}."
        )


def larger_is_better(path: str) -> bool:
    """Return whether the largest value of a number in `metrics.json` is the best.

    Args:
        path: its dotted path. A metric of one's own callbacks is minimized if it is called a loss.
    """
    name = path.rpartition(".")[2].removesuffix("_tta")
    known = {metric.key: metric.larger_is_better for metric in METRICS}
    return known.get(name.partition("_")[2], "loss" not in name)  # valid_acc, train_loss, test_ece, ...
