"""Whether the directory of a run can be written."""

import tempfile
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class OutputFolder(Callback):
    """Tries to write to the directory of a run or sweep before Hydra does, which would show a traceback."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Try the directory of a single run."""
        check_writable("hydra.run.dir", Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Try the directory of a sweep."""
        check_writable("hydra.sweep.dir", Path(config.hydra.sweep.dir))


def check_writable(key: str, folder: Path) -> None:
    """Create `folder`, and a file in it that is gone at once.

    Raises:
        SystemExit: with the message for the user, if that cannot be done.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise SystemExit(
            f"error: {key}={folder}: it cannot be written ({error.strerror}). Choose another folder."
        ) from error
