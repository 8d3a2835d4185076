"""Rows of cached features that another command computed, such as `label=` for photos that `data.add` adds.

Where a photo lies, and which photos lie beside it, is not part of its key.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dogscats.base.content import file_versions, users_cache
from dogscats.base.files import atomic_path
from dogscats.data.loading.cached_array import read_array, release
from dogscats.data.photos.layouts import Photos

Row = tuple[torch.Tensor, int]
"""A memory-mapped array, and a row of it."""

KEY_BYTES = 16


def note(file: Path, network: str, photos: Photos) -> None:
    """Write the keys of the photos whose features an array has, beside it.

    Args:
        file: `.npy` file of the array.
        network: key of what the features depend on apart from the photos.
        photos: photos of its rows.
    """
    with atomic_path(file.with_suffix(".photos")) as temporary:
        temporary.write_bytes(b"".join(_keys(network, photos)))


def look_for(cache: Path, network: str, photos: Photos, size: int) -> list[Row | None]:
    """Look for the features of photos in a cache folder and in the user's; `None` for those in none.

    Args:
        cache: cache folder.
        network: key of what the features depend on apart from the photos.
        photos: photos to look for.
        size: number of features of a photo.
    """
    found, keys = dict[bytes, Row](), list[bytes]()
    for folder in sorted({cache, *users_cache().glob("*")}):
        for file in folder.glob("activations-*.photos"):
            keys = keys or _keys(network, photos)
            content, missing = file.read_bytes(), {*keys} - {*found}
            starts = range(0, len(content), KEY_BYTES)
            rows = {
                key: start // KEY_BYTES for start in starts if (key := content[start : start + KEY_BYTES]) in missing
            }
            array = read_array(file.with_suffix(".npy"), (len(starts), size)) if rows else None
            if array is not None:
                found |= {key: (array, row) for key, row in rows.items()}
    return [found.get(key) for key in keys] if found else [None] * len(photos.paths)


def joined(
    rows: Sequence[Row | None], compute: Callable[[], Iterable[np.ndarray[Any, Any]]]
) -> Iterator[np.ndarray[Any, Any]]:
    """Yield the features `(1, F)` of each photo, in order.

    Args:
        rows: rows of the photos, `None` for those to be computed.
        compute: makes the batches of the latter `(B, F)`.
    """
    computed = chain.from_iterable(compute())
    for place in rows:
        if place is None:
            yield next(computed)[None]
        else:
            array, row = place
            yield array[row : row + 1].numpy()
            release(array)


def _keys(network: str, photos: Photos) -> list[bytes]:
    """Hash everything the features of each photo depend on, to `KEY_BYTES` bytes."""
    keys = []
    for path, version in zip(photos.paths, file_versions(photos.root, photos.paths), strict=True):
        text = f"{network} {version} {photos.shrink.version([path]) if photos.shrink else ''}"
        keys.append(hashlib.blake2b(text.encode(), digest_size=KEY_BYTES).digest())
    return keys
