"""Pretrained weights from files, loaded without executing code."""

import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from dogscats.base.errors import ArgumentError, UserError, as_user_error, first_line

LFS_POINTER = b"version https://git-lfs"
"""Start of the small text that Git leaves in place of a large file."""


def check_stored(path: Path) -> None:
    """Refuse a file of `torch.save` that would unpack to more than its own size: PyTorch does not compress.

    Raises:
        UserError: with the sizes.
    """
    if zipfile.is_zipfile(path):  # else of PyTorch before 1.6
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        size = path.stat().st_size
        if unpacked > size:
            raise UserError(f"{path}: refused, as its {size / 1e6:.1f} MB would unpack to {unpacked / 1e6:.1f} MB.")


def check_content(path: Path) -> None:
    """Refuse what Git leaves in place of a large file that was not fetched.

    Raises:
        ValueError: with what to do.
    """
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise ValueError("it is a Git LFS pointer, not the file itself: run git lfs pull")


def load_plain(path: Path) -> Any:
    """Read a file of `torch.save` that contains plain data only.

    Raises:
        UserError: for a file that would unpack to more than its own size.
        Exception: with a short reason, for one that is damaged, or contains anything else.
    """
    check_stored(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError):
        raise
    except Exception as error:
        # PyTorch's advice, to execute code in the file, is not for files of unknown origin. Errors other than these are
        # raised where any file is taken for a pickle: `KeyError: 101`.
        other = "contains more than plain data" if "Weights only load failed" in str(error) else "another kind of file"
        raise ValueError(f"it is damaged, or {other}") from error


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Read a state dict from a `.safetensors` or `torch.save` file, without executing code.

    Raises:
        UserError: if the file does not exist, or contains anything but named tensors.
    """
    if not isinstance(path, str | Path):
        raise ArgumentError("model", f"weights={path}: expected imagenet, none or a file.")
    file = Path(path).expanduser()
    if not file.is_file():
        raise ArgumentError("model", f"weights={path}: there is no such file; 'imagenet' and 'none' need no file.")
    refused = partial(ArgumentError, "model")
    with as_user_error(f"weights={path}", "it cannot be read as weights", raises=refused):
        check_content(file)
        state: Any = load_file(file) if file.suffix == ".safetensors" else load_plain(file)
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ArgumentError("model", f"weights={path}: it is not a state dict of named tensors.")
    return dict(state)


def load_weights(
    network: nn.Module, state: Mapping[str, torch.Tensor], source: str | Path, ignore: str | tuple[str, ...] = ()
) -> None:
    """Load a state dict, except the classifier's keys, which start with `ignore`.

    Raises:
        ArgumentError: if keys or shapes do not match; the message lists the keys.
    """
    own = network.state_dict()
    given = {key: value for key, value in state.items() if not key.startswith(ignore)}
    problems = {
        # Files from before PyTorch 0.4.1 lack the counter num_batches_tracked, which is not used here.
        "missing": [key for key in own if key not in given and not key.endswith("num_batches_tracked")],
        "unexpected": [key for key in given if key not in own],
        "of another shape": [
            f"{key} {tuple(value.shape)} instead of {tuple(own[key].shape)}"
            for key, value in given.items()
            if key in own and value.shape != own[key].shape
        ],
    }
    lines = [
        f"  {len(keys)} {problem}: {', '.join(keys[:5])}{', ...' if len(keys) > 5 else ''}"
        for problem, keys in problems.items()
        if keys
    ]
    if lines:
        raise ArgumentError("model", "\n".join([f"weights={source}: they do not fit the network. Keys", *lines]))
    network.load_state_dict(given, strict=False)


def imagenet_error(what: str, error: Exception, cached: Path | None) -> ArgumentError:
    """Make the error for ImageNet weights that cannot be loaded: the file in the cache is damaged, or there is none.

    Args:
        what: the weights, as a name or an address.
        error: what the library raised.
        cached: where the library keeps their file; `None` if unknown.
    """
    if cached and cached.is_file() and (isinstance(error, ArgumentError) or not _is_whole(cached)):
        return ArgumentError(
            "model", f"weights=imagenet: {cached}: it is damaged. Delete it; it is then downloaded again."
        )
    return ArgumentError(
        "model",
        f"weights=imagenet: {what} cannot be downloaded ({first_line(error)}).\n"
        "Use a local file with model.weights=<file>, or model=efficientnet_lite0, whose weights are installed by pip.",
    )


def _is_whole(file: Path) -> bool:
    try:
        return bool(read_weights(file))
    except UserError:
        return False
