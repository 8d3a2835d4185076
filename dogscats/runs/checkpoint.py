"""Checkpoints: written atomically, verified by SHA-256, and loaded without executing code.

`model.safetensors` is the form to publish: the weights of a run, and in its metadata the settings that rebuild the
classifier. The metadata are JSON values by key: `stage`, and the entries of a checkpoint's `hyper_parameters`. Other
programs find `classes`, `size`, `mean` and `std` there.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, Literal

import pytorch_lightning
import torch
import yaml  # type: ignore[import-untyped]
from pytorch_lightning.plugins.io import TorchCheckpointIO
from safetensors import safe_open
from safetensors.torch import save

from dogscats.base.errors import UserError, as_user_error, first_line
from dogscats.base.files import atomic_path, cannot_write, check_exists, digest, write_text
from dogscats.base.trust import checked, current_names, targets, with_weights
from dogscats.base.weights import check_content, load_plain
from dogscats.data.photos.arguments import MOST_PIXELS
from dogscats.lesson.classifier import Classifier
from dogscats.lesson.heads import rebuilt_kernel_head
from dogscats.lesson.stage import Stage, make_stages
from dogscats.runs.directory import run_of

SAFETENSORS = ".safetensors"


def write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Write `checkpoint` to `path`, and its SHA-256 to `<path>.sha256`, in the format of `sha256sum`.

    A path that ends with `.safetensors` gets that format. If the process is killed at any point, an intact checkpoint
    with a matching digest remains: the previous one or this one.
    """
    digests = digest_file(path)
    before = digests.read_text() if digests.exists() else ""
    with atomic_path(path) as temporary:
        try:
            (write_safetensors if path.suffix == SAFETENSORS else torch.save)(checkpoint, temporary)
        except RuntimeError as error:  # torch.save hides the OS error
            raise cannot_write(path, first_line(error)) from error
        line = f"{digest(temporary)}  {path.name}\n"
        # Until the file is replaced, the digest of the previous one must stay valid too.
        write_text(digests, line + before)
    write_text(digests, line)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint and verify its digest, if there is one.

    Raises:
        UserError: if the file does not exist, is damaged, or contains anything but plain data.
    """
    check_exists(path)
    with as_user_error(path):
        check_content(path)
    digests = digest_file(path)
    if digests.exists() and digest(path) not in digests.read_text().split():
        raise UserError(f"{path}: it is damaged: its SHA-256 does not match {digests}. Use another checkpoint.")
    with as_user_error(path, "it cannot be read as a checkpoint"):
        checkpoint: Any = read_safetensors(path) if path.suffix == SAFETENSORS else load_plain(path)
    if not isinstance(checkpoint, dict):
        raise UserError(f"{path}: it is not a checkpoint, but a {type(checkpoint).__name__}.")
    return checkpoint


def write_safetensors(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint as saved by `save_classifier`.

    Args:
        checkpoint: `state_dict`, `hyper_parameters` and `stage`.
        path: file to write.
    """
    # Copies: the format has neither strides nor tensors that share memory.
    state = {
        key: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, value in checkpoint["state_dict"].items()
    }
    values = {**checkpoint["hyper_parameters"], "stage": checkpoint["stage"]}
    # Other readers of such files look for "format".
    content = save(state, {"format": "pt"} | {key: json.dumps(value) for key, value in values.items()})
    # The library writes the metadata in random order. They are sorted, so that equal weights give equal files.
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    with path.open("wb") as file:
        file.write(content[:8] + text.ljust(end - 8))
        file.write(memoryview(content)[end:])


def read_safetensors(path: Path) -> dict[str, Any]:
    """Read a file written by `write_safetensors`.

    Raises:
        UserError: for a file without the metadata, such as bare weights.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if missing := [key for key in ("model", "augment", "classes", "heads", "size") if key not in metadata]:
            raise UserError(
                f"{path}: its metadata has no {', '.join(missing)}: it is not the model.safetensors of a run. To train "
                "from its weights: model.weights=<file>."
            )
        saved = {key: json.loads(value) for key, value in metadata.items() if key != "format"}
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a mapping
    return {"state_dict": state, "stage": saved.pop("stage", None), "hyper_parameters": saved}


def digest_file(path: Path) -> Path:
    """Return the path of the digest file of the checkpoint `path`."""
    return path.with_name(f"{path.name}.sha256")


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint and its digest, if they exist."""
    path.unlink(missing_ok=True)
    digest_file(path).unlink(missing_ok=True)


class VerifiedCheckpointIO(TorchCheckpointIO):
    """Lightning plugin that writes and reads checkpoints by the functions above."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write `checkpoint` to `path`."""
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read `path`."""
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Remove `path`."""
        remove_checkpoint(Path(path))


def save_classifier(path: Path, classifier: Classifier, description: Mapping[str, Any], stage: str) -> None:
    """Save body and heads, with the settings to rebuild them.

    Args:
        path: checkpoint file, with `state_dict`, `hyper_parameters`, `stage` and `pytorch-lightning_version`.
        classifier: classifier to save.
        description: plain containers, saved as `hyper_parameters`: `model`, `augment` and `data` (their configs),
            `classes` (names), `size` (pixels) and `seed`; `heads` is added: their number, or a kernel head's shapes.
        stage: name of the finished stage.
    """
    checkpoint = {
        "state_dict": classifier.state_dict(),
        "hyper_parameters": {**description, "heads": classifier.heads.config},
        "stage": stage,
        "pytorch-lightning_version": pytorch_lightning.__version__,
    }
    write_checkpoint(checkpoint, path)


def save_weights(path: Path, classifier: Classifier, description: Mapping[str, Any], stage: str) -> None:
    """Save body and heads to be published, with the settings to rebuild them, but no folders of this machine.

    Args:
        path: file that ends with `.safetensors`.
        classifier: classifier to save.
        description: as for `save_classifier`.
        stage: name of the last stage.
    """
    values = {name: (getattr(classifier.body, name).flatten() / 255).tolist() for name in ("mean", "std")}
    constants = {name: [round(value, 6) for value in channels] for name, channels in values.items()}
    save_classifier(path, classifier, published(description) | constants, stage)


def published(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description of a classifier without the folders of the machine that trained it.

    Args:
        description: as for `save_classifier`.
    """
    data = description["data"]
    model = with_weights(description["model"], lambda file: PurePath(file).name if isinstance(file, str) else file)
    return {**description, "model": model, "data": {key: data[key] for key in ("fit", "shrink") if key in data}}


def load_classifier(
    path: Path,
    classifier: Classifier,
    description: Mapping[str, Any],
    trust: bool = False,
    heads: Literal["given", "saved", "none"] = "given",
) -> None:
    """Load weights saved by `save_classifier` or `save_weights` into `classifier`.

    Args:
        path: checkpoint file.
        classifier: classifier with the same model and classes.
        description: description of `classifier`, as for `save_classifier`. Image size, augmentation and origin of the
            weights may differ from the checkpoint's.
        trust: allow a checkpoint that names code from outside dogscats and `description`.
        heads: `given` to load those of `classifier`; `saved` to replace them by the kernel head that was saved; `none`
            to load the body alone.

    Raises:
        UserError: if the checkpoint does not exist, is damaged, names code that needs trust, or has another model,
            other classes or other heads.
    """
    checkpoint = read_checkpoint(path)
    with as_user_error(path, "it is not a checkpoint saved by a stage"):  # odd content can raise almost anything
        saved = checked(checkpoint["hyper_parameters"], path, trust, named=targets(description))
        state = checkpoint["state_dict"]
        if heads == "saved":
            classifier.heads = rebuilt_kernel_head(len(saved["classes"]), saved["heads"])
        theirs, ours = (
            {"model": comparable(built["model"]), "classes": list(built["classes"]), "heads": built["heads"]}
            for built in (saved, {**description, "heads": classifier.heads.config})
        )
        if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
            raise TypeError("its weights are not named tensors")
    for key in ("model",) if heads == "none" else ours:
        if theirs[key] != ours[key]:
            found = "a kernel head" if key == "heads" and isinstance(theirs[key], Mapping) else theirs[key]
            raise UserError(f"{path}: it was saved with {key}={found}, but this run has {ours[key]}.")
    with as_user_error(path, "its weights do not fit the model"):
        if heads == "none":
            state = {name: value for name, value in state.items() if name.startswith("body.")}
            state |= {f"heads.{name}": value for name, value in classifier.heads.state_dict().items()}
        classifier.load_state_dict(state)


def body_trained_by(stages: Sequence[Stage], load: str | None) -> str | None:
    """Say what has trained the body, perhaps on the photos that a head is fitted to; `None` if nothing has.

    Args:
        stages: stages of the recipe.
        load: checkpoint that the run starts from, if any.
    """
    trained = next((stage.name for stage in stages if stage.trains_body), None)
    if trained:
        return f"stage {trained}"
    if load is None:
        return None
    file = Path(load).expanduser()
    try:
        text = (run_of(file) / "config.yaml").read_text(encoding="utf-8")
        config: dict[str, Any] = current_names(yaml.safe_load(text))
        before, last = make_stages(config["recipe"]), read_checkpoint(file)["stage"]
        names = [stage.name for stage in before]
        return body_trained_by(before[: names.index(last) + 1], config.get("load")) and f"the run of load={load}"
    except Exception:  # of a checkpoint that is not in its run directory any more, for one
        return f"load={load}, as far as is known"


def check_description(description: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Check the numbers and names of a description that is to be built; see `save_classifier`.

    Raises:
        ValueError: for bad ones. Made-up numbers could fill the memory; the number of heads is limited by `state`, and
            `KernelHead` checks its own.
    """
    size, heads, classes = (description[key] for key in ("size", "heads", "classes"))
    counted = isinstance(heads, int) and 1 <= heads <= len(state)
    if not (isinstance(size, int) and 1 <= size <= MOST_PIXELS and (counted or isinstance(heads, Mapping))):
        raise ValueError(f"size={size}, heads={heads}")
    if not all(isinstance(name, str) for name in classes):
        raise ValueError("its classes are not names")


def comparable(model: Any) -> Any:
    """Select the model settings that a checkpoint must share with the model it is loaded into.

    Weights are replaced, and convolutional networks take any image size; position embeddings of another size are
    refused later.
    """
    if isinstance(model, Mapping):
        return {key: comparable(value) for key, value in model.items() if key not in ("weights", "size")}
    return [comparable(member) for member in model] if isinstance(model, list | tuple) else model
