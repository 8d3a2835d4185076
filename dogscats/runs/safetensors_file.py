"""`model.safetensors`: weights, and what rebuilds the classifier, in a file that can be published.

Its metadata has JSON values by key: those of a checkpoint's `hyper_parameters`, and `stage`. Other programs find
`classes`, `size`, `mean` and `std` there.
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from dogscats.base.errors import UserError

NEEDED = ("model", "augment", "classes", "heads", "size")
"""Metadata without which a classifier cannot be rebuilt."""


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
    path.touch()
    mode = path.stat().st_mode
    # "format" is what other readers of such files look for.
    save_file(state, path, {"format": "pt"} | {key: json.dumps(value) for key, value in values.items()})
    _sort_metadata(path)
    path.chmod(mode)  # newer versions of safetensors make files that others cannot read


def _sort_metadata(path: Path) -> None:
    """Sort the metadata, which are written in random order: the same weights are to give the same file."""
    with path.open("r+b") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        assert len(text) <= size, "the same JSON, without the padding"
        file.seek(8)
        file.write(text.ljust(size))


def read_safetensors(path: Path) -> dict[str, Any]:
    """Read what `write_safetensors` wrote.

    Raises:
        UserError: for a file with weights alone.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if missing := [key for key in NEEDED if key not in metadata]:
            raise UserError(
                f"{path}: its metadata has no {', '.join(missing)}: it is not the model.safetensors of a run. To train "
                "from its weights: model.weights=<file>."
            )
        saved = {key: json.loads(value) for key, value in metadata.items() if key != "format"}
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # it is no mapping
    return {"state_dict": state, "stage": saved.pop("stage", None), "hyper_parameters": saved}


def published(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description of a classifier without the folders of the machine that trained it.

    Args:
        description: as for `save_classifier`.
    """
    model, data = dict(description["model"]), description["data"]
    if isinstance(model.get("weights"), str):
        model["weights"] = PurePath(model["weights"]).name
    return {**description, "model": model, "data": {key: data[key] for key in ("fit", "shrink") if key in data}}
