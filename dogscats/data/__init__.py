"""Photos: dataset layouts, decoding, batches and the data module."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dogscats.data.datamodule import DogsCatsDataModule

__all__ = ["DogsCatsDataModule"]


def __getattr__(name: str) -> Any:
    # Configs name `dogscats.data.DogsCatsDataModule`. Lazy, because importing torch is slow.
    if name == "DogsCatsDataModule":
        from dogscats.data.datamodule import DogsCatsDataModule

        return DogsCatsDataModule
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
