"""Command-line settings of the benchmarks, as `key=value`."""

import sys
from dataclasses import dataclass
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

T = TypeVar("T")


@dataclass
class Settings:
    """Settings shared by all rows of the comparison.

    Attributes:
        photos: folder with `train/<class>/` and `valid/<class>/`.
        weights: file with a state dict of torchvision's ResNet34; empty for random weights.
        size: side of the square images, in pixels.
        batch_size: photos per batch.
    """

    photos: str
    weights: str = ""
    size: int = 224
    batch_size: int = 64


def from_command_line(defaults: T) -> T:
    """Override the dataclass `defaults` by `key=value` arguments; a bad argument exits with a message."""
    try:
        merged: Any = OmegaConf.merge(OmegaConf.structured(defaults), OmegaConf.from_cli(sys.argv[1:]))
        return OmegaConf.to_object(merged)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise SystemExit(f"{' '.join(sys.argv[1:])}: {str(error).splitlines()[0]}") from error
