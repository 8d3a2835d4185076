"""What loggers show beside the metrics, to compare runs by."""

from collections.abc import Mapping
from typing import Any


def hyperparameters(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Select the hyperparameters shown in the loggers."""
    data, model = settings["data"], settings["model"]
    return {
        "lr": settings["lr"],
        "seed": settings["seed"],
        "heads": settings["heads"],
        "recipe": " ".join(settings["recipe"]),
        "model": model.get("name", model["_target_"].rpartition(".")[2]),
        "augment": settings["augment"]["_target_"].rpartition(".")[2],
        "views": settings["activations"]["views"],
        **{key: data.get(key) for key in ("root", "size", "batch_size")},
    }
