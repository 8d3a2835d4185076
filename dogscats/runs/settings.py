"""Settings that can only be wrong are refused before anything is computed."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dogscats.callbacks.history import METRICS
from dogscats.runs.errors import UserError
from dogscats.runs.install import command
from dogscats.runs.report import FINAL
from dogscats.stage import Stage


def _whole(least: int, most: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "seed": (_whole(0, 2**32 - 1), "a whole number of at least 0, and at most 4294967295"),
    "heads": (_whole(1, 1000), "a whole number of at least 1, and at most 1000"),
    "activations.views": (_whole(0, 10_000), "a whole number of at least 0"),
    "trust": (lambda value: isinstance(value, bool), "true or false"),
}
"""Settings with what is expected of them. Groups check their own when they are built."""


def check_settings(settings: Mapping[str, Any], stages: Sequence[Stage], n_aug: int, own_callbacks: bool) -> None:
    """Refuse values that can only be wrong.

    Args:
        settings: config of the run, as plain containers.
        stages: stages of the recipe.
        n_aug: number of augmented versions in test-time augmentation.
        own_callbacks: whether there are callbacks that may log further metrics.

    Raises:
        UserError: with the key, the value and what is expected.
    """
    for group in ("data", "model", "augment", "activations"):
        if not isinstance(settings.get(group), Mapping):
            raise UserError(f"{group}: the config group is missing. Run {command('train')} --help for the choices.")
    if not isinstance(settings["model"].get("weights", "none"), str):
        raise UserError(f"model.weights={settings['model']['weights']}: expected imagenet, none or a file.")
    for key, (good, expected) in RULES.items():
        group, _, name = key.rpartition(".")
        value = (settings[group] if group else settings).get(name)
        if not good(value):
            raise UserError(f"{key}={value}: expected {expected}.")
    if (settings.get("trainer") or {}).get("limit_val_batches") == 0:
        for stage in stages:
            if stage.keep == "best":
                raise UserError(
                    f"trainer.limit_val_batches=0: recipe.{stage.name}.keep=best needs the validation loss."
                )
    metric = settings["optimized_metric"]
    if str(metric).startswith("final.test_"):
        raise UserError(
            f"optimized_metric={metric}: what is chosen by its test metrics has no unbiased metric left. Choose by "
            f"{str(metric).replace('.test_', '.valid_')}; the test metrics are in metrics.json."
        )
    known = [f"final.valid_{name}{suffix}" for suffix in ("", "_tta")[: 2 if n_aug else 1] for name in FINAL]
    known += [f"stages.{stage.name}.{name}" for stage in stages for name in (*METRICS, "epochs", "seconds")]
    known += ["final.n", "seconds", "peak_rss_mb", *(f"lr_finder.{stage.name}" for stage in stages)]
    logged = tuple(f"stages.{stage.name}.{split}_" for stage in stages for split in ("train", "valid"))
    if metric not in known and not (own_callbacks and str(metric).startswith(logged)):
        tta = " It needs callbacks.tta.n_aug=1 or more." if str(metric).endswith("_tta") and not n_aug else ""
        raise UserError(
            f"optimized_metric={metric}: metrics.json will have no such number.{tta} Examples: "
            f"{', '.join(known[: len(FINAL) * (2 if n_aug else 1)])}, {known[len(FINAL) * (2 if n_aug else 1)]}."
        )
