"""Splits: their names, and which photos are held out for validation."""

import hashlib
from collections.abc import Sequence

SPELLINGS = {"train": ("train", "training"), "valid": ("valid", "val", "validation"), "test": ("test", "testing")}
"""Names of each split, as folders or in a table, in any case."""

IS_VALID = "is_valid"
"""fastai's column of a table for the split."""

TRUTHS = {"valid": ("true", "1", "1.0"), "train": ("false", "0", "0.0")}
"""Values of that column, in any case: pandas writes `1.0` for a column with gaps."""


def split_of(name: str) -> str | None:
    """Return the split that a folder or table names: `train`, `valid` or `test`; `None` for any other name."""
    return next((split for split, names in SPELLINGS.items() if name.lower() in names), None)


def split_in(column: str, cell: str) -> str | None:
    """Return the split that a cell names in a column of a table; `None` for any other text."""
    known = TRUTHS if column.lower() == IS_VALID else SPELLINGS
    return next((split for split, names in known.items() if cell.lower() in names), None)


def spellings(column: str) -> list[str]:
    """List the values that a column of splits may have."""
    return [name for names in (TRUTHS if column.lower() == IS_VALID else SPELLINGS).values() for name in names]


def held_out(paths: Sequence[str], fraction: float, seed: int) -> list[str]:
    """Choose the held-out validation photos of a class: those whose names have the smallest hashes.

    The choice depends only on the names and the seed. The number is exact: `fraction` of the photos, rounded, but
    never none or all. Adding or removing a photo moves at most one other photo of its class between splits.

    Returns:
        The chosen paths, in their original order; empty if there is only one photo.
    """
    count = held_out_count(len(paths), fraction)
    chosen = set(sorted(paths, key=lambda path: name_hash(seed, path))[:count])
    return [path for path in paths if path in chosen]


def held_out_count(total: int, fraction: float) -> int:
    """Return how many of `total` photos are held out: never none or all, unless there is only one."""
    return min(max(round(fraction * total), 1), total - 1)


def name_hash(seed: int, name: str) -> bytes:
    """Hash a name, for an order that depends only on names and the seed."""
    return hashlib.blake2b(f"{seed}/{name}".encode("utf-8", "surrogateescape"), digest_size=16).digest()
