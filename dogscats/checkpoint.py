"""Checkpoints: written whole or not at all, verified when read, and read without executing anything."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from dogscats.atomic import atomic_path, cannot_write
from dogscats.classifier import Classifier
from dogscats.errors import UserError


def write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Write `checkpoint` to `path`, and its SHA-256 to `<path>.sha256`, in the format of `sha256sum`.

    Whenever the process is killed, there remains a whole checkpoint with a matching digest: the one before or
    this.
    """
    digests = digest_file(path)
    before = digests.read_text() if digests.exists() else ""
    with atomic_path(path) as temporary:
        try:
            torch.save(checkpoint, temporary)
        except RuntimeError as error:  # of torch's own writer, which keeps the system's reason to itself
            raise cannot_write(path, str(error).split("\n")[0]) from error
        line = f"{_sha256(temporary)}  {path.name}\n"
        # Until the file is in place, the digest of the one before it counts too.
        _write_text(digests, line + before)
    _write_text(digests, line)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint and compare it with its digest, where there is one.

    Raises:
        UserError: if there is no such file, it is damaged, or it holds anything but plain data.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file.")
    digests = digest_file(path)
    if digests.exists() and _sha256(path) not in digests.read_text().split():
        raise UserError(f"{path}: it is damaged: its SHA-256 is not that in {digests}. Use another one.")
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file can raise almost anything
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{path}: it cannot be read as a checkpoint ({reason}).") from error
    return checkpoint


def digest_file(path: Path) -> Path:
    """Name the file with the digest of the checkpoint `path`."""
    return path.with_name(f"{path.name}.sha256")


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint and its digest, if they are there."""
    path.unlink(missing_ok=True)
    digest_file(path).unlink(missing_ok=True)


class VerifiedCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoints, written and read by the functions above."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write `checkpoint` to `path`."""
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read `path`."""
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Remove `path`."""
        remove_checkpoint(Path(path))


def save_classifier(path: Path, classifier: Classifier, description: Mapping[str, Any], stage: str) -> None:
    """Save body and heads, with what is needed to build them again.

    Args:
        path: the file: `state_dict`, `hyper_parameters`, `stage` and `pytorch-lightning_version`.
        classifier: the whole classifier.
        description: plain containers, saved as `hyper_parameters`: `model` and `augment` (their
            configs), `classes` (names), `heads` (their number) and `size` (pixels).
        stage: the stage that is finished.
    """
    checkpoint = {
        "state_dict": classifier.state_dict(),
        "hyper_parameters": dict(description),
        "stage": stage,
        "pytorch-lightning_version": pytorch_lightning.__version__,
    }
    write_checkpoint(checkpoint, path)


def load_classifier(path: Path, classifier: Classifier, description: Mapping[str, Any]) -> None:
    """Give `classifier` the weights that `save_classifier` saved.

    Args:
        path: the checkpoint.
        classifier: built for the same model and classes.
        description: of `classifier`, as it would be saved. The size of the photos, their augmentation and the
            origin of the weights may differ from those of the checkpoint.

    Raises:
        UserError: if there is no such checkpoint, it is damaged, or is of another model, other classes or
            another number of heads.
    """
    checkpoint = read_checkpoint(path)
    try:
        saved, state = checkpoint["hyper_parameters"], checkpoint["state_dict"]
        theirs, ours = (
            {
                "model": {k: v for k, v in d["model"].items() if k != "weights"},
                "classes": list(d["classes"]),
                "heads": d["heads"],
            }
            for d in (saved, description)
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: it is not a checkpoint that a finished stage saved.") from error
    for what in ours:
        if theirs[what] != ours[what]:
            raise UserError(
                f"{path}: it was saved with {what}={theirs[what]}, but this run has {ours[what]}."
            )
    classifier.load_state_dict(state)


def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text)
