"""The loggers of a run: built from config nodes, started early, and replaced by CSV files if they fail later."""

import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from hydra.errors import InstantiationException
from hydra.utils import get_object
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger

from dogscats.base.activity import Activity
from dogscats.base.errors import UserError, first_line, user_message
from dogscats.base.files import CANNOT_WRITE
from dogscats.base.text import shown
from dogscats.base.trust import instantiate_as
from dogscats.report.facts import model_name
from dogscats.report.figures.drawing import send_figure
from dogscats.runs.compose import nodes

log = logging.getLogger(__name__)

T = TypeVar("T")

MOST_IDLE = 12
"""Seconds that a logger may wait, for a server for example, until it is started or closed."""

FEW_RETRIES = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "WANDB_INIT_TIMEOUT": "10",
    "WANDB__GRAPHQL_RETRY_MAX": "3",
    "WANDB__FILE_STREAM_RETRY_MAX": "5",
    "WANDB__FILE_TRANSFER_RETRY_MAX": "3",
}
"""Environment of clients that else try again for minutes or hours; variables of the user's own take precedence."""

ADVICE = {
    "WandbLogger": "Run wandb login, set WANDB_API_KEY, or set {key}.offline=true.",
    "MLFlowLogger": "Set {key}.tracking_uri to a server that answers, or leave it out.",
}
"""What to do if a logger cannot be started, by its class."""

METHODS = ("log_metrics", "log_hyperparams", "log_graph", "save", "after_save_checkpoint", "finalize")
"""Methods of a logger that may fail."""

UNLOGGED = "unlogged"
"""Folder in the run directory with what loggers did not take."""


def build_loggers(config: Any, run_dir: Path, stage: str, resumed_at: int | None = None) -> dict[str, Logger]:
    """Build the loggers of a stage, or of the final report.

    In their settings, `{run_dir}` is replaced by the run directory and `{stage}` by the stage name.

    Args:
        config: config group `logger`, as plain containers.
        run_dir: run directory.
        stage: name of the stage.
        resumed_at: optimizer step at which a stage is resumed. TensorBoard then drops later entries; other loggers
            cannot, and start a new run.

    Returns:
        Loggers by dotted key, not started yet.

    Raises:
        UserError: for a node that is not a logger.
    """
    for name, value in FEW_RETRIES.items():
        os.environ.setdefault(name, value)
    loggers: dict[str, Logger] = {}
    for key, node in nodes(config, "logger"):
        name, arguments = stage, {}
        if resumed_at is not None:
            if _is_tensorboard(node["_target_"]):
                arguments = {"purge_step": resumed_at}
            else:
                name = f"{stage}_from_step_{resumed_at}"
        texts = {k: str(node[k]) for k in ("save_dir", "name") if node.get(k) is not None}  # may look like numbers
        filled = _fill({**node, **texts}, run_dir, name)
        build = partial(instantiate_as, Logger, filled, key, "a logger of Lightning", **arguments)  # type: ignore[type-abstract]
        try:
            loggers[key] = unless_idle(build)
        except TimeoutError as error:
            raise _cannot_start(key, node["_target_"].rpartition(".")[2], error) from error
        except InstantiationException as error:
            raise UserError(f"{key}: {user_message(error)}") from error
    return loggers


def _is_tensorboard(target: str) -> bool:
    found = get_object(target)
    return isinstance(found, type) and issubclass(found, TensorBoardLogger)


def _fill(value: Any, run_dir: Path, stage: str) -> Any:
    if isinstance(value, Mapping):
        return {key: _fill(inner, run_dir, stage) for key, inner in value.items()}
    if isinstance(value, list):
        return [_fill(inner, run_dir, stage) for inner in value]
    return value.replace("{run_dir}", str(run_dir)).replace("{stage}", stage) if isinstance(value, str) else value


def start_loggers(loggers: Mapping[str, Logger], run_dir: Path, stage: str, required: bool) -> list[Logger]:
    """Start the clients of loggers, and guard them against failures.

    Args:
        loggers: loggers by dotted key.
        run_dir: run directory.
        stage: name of the stage.
        required: whether a logger that cannot be started ends the run: before the first stage, not hours later.

    Returns:
        The loggers, with CSV files in place of those that cannot be started.

    Raises:
        UserError: for a required logger that cannot be started.
    """
    started: list[Logger] = []
    for key, logger in loggers.items():
        guard = Guard(key, logger, run_dir / UNLOGGED / key.removeprefix("logger.") / stage)
        try:
            unless_idle(partial(getattr, logger, "experiment", None))
            started.append(logger)
        except Exception as error:
            if not required:
                started.append(guard.replace(error))
            elif isinstance(error, OSError) and error.errno in CANNOT_WRITE:
                raise
            else:
                raise _cannot_start(key, type(logger).__name__, error) from error
    return started


def _cannot_start(key: str, name: str, error: Exception) -> UserError:
    advice = ADVICE.get(name, "Correct its settings, or leave it out.").format(key=key)
    return UserError(f"{key}: it cannot be started ({shown(first_line(error))}). {advice}")


class Unlogged(CSVLogger):
    """CSV files in place of a logger that failed, with the metrics that TensorBoard gets with hyperparameters."""

    def log_hyperparams(self, params: Any, metrics: Mapping[str, float] | None = None) -> None:  # type: ignore[override]
        """Log hyperparameters, and metrics."""
        super().log_hyperparams(params)
        if metrics:
            self.log_metrics(dict(metrics))

    def end_run(self) -> None:
        """Do nothing: there is no client."""


class Guard:
    """Keeps a logger that fails from ending the run: CSV files in the run directory replace it.

    Args:
        key: dotted key of the logger.
        logger: logger whose methods are guarded.
        folder: folder for the CSV files.
    """

    def __init__(self, key: str, logger: Logger, folder: Path):
        self.key, self.folder = key, folder
        self.instead: Unlogged | None = None
        own = {"send_figure": partial(send_figure, logger), "end_run": partial(_end_run, logger)}
        for name, method in {**{name: getattr(logger, name) for name in METHODS}, **own}.items():
            setattr(logger, name, partial(self._call, name, method))

    def _call(self, name: str, method: Callable[..., Any], *args: Any, **options: Any) -> None:
        if self.instead is None:
            try:
                method(*args, **options)
                return
            except Exception as error:  # a client can raise anything
                self.replace(error)
        with suppress(OSError):  # of a full disk, which the run itself will name
            getattr(self.instead, name, _skip)(*args, **options)

    def replace(self, error: Exception) -> Unlogged:
        """Warn, once, and log to CSV files from now on, which are returned."""
        reason = shown(user_message(error) or first_line(error))
        log.warning(
            "Warning   %s fails (%s): what it does not take from here on is in %s", self.key, reason, self.folder
        )
        log.debug("", exc_info=error)
        self.instead = Unlogged(self.folder, name="", version="")
        return self.instead


def _skip(*args: Any, **options: Any) -> None:
    """Stand in for a method that CSV files do not need."""


def _end_run(logger: Logger) -> None:
    """End the client's run: Weights & Biases would continue it in the next stage."""
    finish = getattr(getattr(logger, "experiment", None), "finish", None)
    if callable(finish) and not isinstance(logger, TensorBoardLogger):
        unless_idle(finish)


def unless_idle(function: Callable[[], T]) -> T:
    """Call a function in a thread of its own, unless it waits for too long; slow work may take as long as it needs.

    Raises:
        TimeoutError: once it has waited for `MOST_IDLE` seconds. The thread then stays behind.
    """
    found: list[T] = []
    failed: list[BaseException] = []

    def call() -> None:
        try:
            found.append(function())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    activity, idle = Activity.of_thread(thread), 0
    while thread.is_alive():
        thread.join(1)
        idle += not activity.worked()
        if idle >= MOST_IDLE and thread.is_alive():
            raise TimeoutError(f"no answer within {MOST_IDLE} seconds")
    if failed:
        raise failed[0]
    return found[0]


def hyperparameters(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Select the hyperparameters that loggers show, to compare runs by."""
    data = settings["data"]
    return {
        "lr": settings["lr"],
        "seed": settings["seed"],
        "heads": settings["heads"],
        "recipe": " ".join(settings["recipe"]),
        "model": model_name(settings["model"]),
        "augment": settings["augment"]["_target_"].rpartition(".")[2],
        "views": settings["activations"]["views"],
        **{key: data.get(key) for key in ("root", "size", "batch_size")},
    }


def close(loggers: Iterable[Logger]) -> None:
    """Close loggers that `start_loggers` has started, so that the next stage starts new runs."""
    for logger in loggers:
        logger.finalize("success")
        logger.end_run()  # type: ignore[attr-defined]
