"""Splits: their names, and which photos are held out for validation.

Groups of photos that belong together, such as those of one patient, are held out whole: `data.group`.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain

from dogscats.base.errors import ArgumentError, UserError, as_user_error
from dogscats.base.text import counted, listed, plural, shown

SPELLINGS = {"train": ("train", "training"), "valid": ("valid", "val", "validation"), "test": ("test", "testing")}
"""Names of each split, as folders or in a table, in any case."""

IS_VALID = "is_valid"
"""fastai's column of a table for the split."""

TRUTHS = {"valid": ("true", "1", "1.0"), "train": ("false", "0", "0.0")}
"""Values of that column, in any case: pandas writes `1.0` for a column with gaps."""

EXACT_UP_TO = 2000
"""Number of photos of a class up to which the nearest sum of groups is found exactly; of more, it fills the rest."""

EXCHANGES_UP_TO = 300
"""Number of groups up to which exchanges of two groups are tried."""


def split_of(name: str) -> str | None:
    """Return the split that a folder or table names: `train`, `valid` or `test`; `None` for any other name."""
    return next((split for split, names in SPELLINGS.items() if name.lower() in names), None)


def split_in(column: str, cell: str, row: str) -> str:
    """Return the split that a cell names in a column of a table.

    Raises:
        UserError: for any other text, with the table and the row that `row` names.
    """
    known = TRUTHS if re.sub(r"[\W_]+", "", column.lower()) == IS_VALID.replace("_", "") else SPELLINGS
    splits = {name: split for split, names in known.items() for name in names}
    if cell.lower() not in splits:
        raise UserError(f"{row}: its {column} is {shown(cell)!r}, expected one of {', '.join(splits)}.")
    return splits[cell.lower()]


def held_out(paths: Sequence[str], fraction: float, seed: int) -> list[str]:
    """Choose the held-out validation photos of a class: those whose names have the smallest hashes.

    The choice depends only on the names and the seed. The number is exact: `fraction` of the photos, rounded, but
    never none or all. Adding or removing a photo moves at most one other photo of its class between splits.

    Returns:
        The chosen paths, in their original order; empty if there is only one photo.
    """
    count = _wanted(len(paths), fraction)
    chosen = set(sorted(paths, key=lambda path: _hash(seed, path))[:count])
    return [path for path in paths if path in chosen]


def _wanted(total: int, fraction: float) -> int:
    return min(max(round(fraction * total), 1), total - 1)


def _hash(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}/{name}".encode("utf-8", "surrogateescape"), digest_size=16).digest()


def group_pattern(group: str | None) -> re.Pattern[str] | None:
    """Compile the regular expression that names the group of a photo.

    Raises:
        ArgumentError: if it is not a regular expression.
    """
    if group is None:
        return None
    expected = "expected a regular expression, such as '(patient[0-9]+)_'"
    errors = (re.error, ValueError, OverflowError, RecursionError)
    with as_user_error(f"group={group}", expected, errors=errors, raises=partial(ArgumentError, "data")):
        if not isinstance(group, str) or not group:
            raise ValueError("it is empty" if group == "" else "it is not text")
        return re.compile(group)


def group_of(pattern: re.Pattern[str], path: str) -> str | None:
    """Return the group of a photo: group 1 of the match, or else the whole match; `None` without a match."""
    found = pattern.search(path)
    return (found[1 if pattern.groups else 0] or None) if found else None


def held_out_groups(
    by_class: Mapping[str, Sequence[str]], group: Callable[[str], str | None], fraction: float, seed: int
) -> dict[str, list[str]]:
    """Choose the held-out validation photos of all classes, whole groups at a time.

    The choice depends only on the names and the seed. Of each class the number is as near to `fraction` as groups
    allow, with at least one photo in each split where possible. A photo without a group is on its own.

    Args:
        by_class: photos of each class.
        group: function that returns the group of a photo.
        fraction: share to hold out.
        seed: seeds the choice.

    Returns:
        The chosen photos of each class, in their original order.
    """
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    keys: dict[str, tuple[str, str]] = {}
    for name, paths in by_class.items():
        for path in paths:
            found = group(path)
            keys[path] = ("photo", path) if found is None else ("group", found)
            counts[keys[path]][name] += 1
    order = sorted(counts, key=lambda key: _hash(seed, "/".join(key)))
    parts: list[frozenset[str]] = []  # classes that groups connect
    for classes in {frozenset(count) for count in counts.values()}:
        connected = [part for part in parts if part & classes]
        parts = [part for part in parts if not part & classes] + [classes.union(*connected)]
    part_of = {name: part for part in parts for name in part}
    of_part: dict[frozenset[str], list[tuple[str, str]]] = defaultdict(list)
    for key in order:
        of_part[part_of[next(iter(counts[key]))]].append(key)
    chosen: set[tuple[str, str]] = set()
    for part, groups in of_part.items():
        names = [name for name in by_class if name in part]
        totals = {name: len(by_class[name]) for name in names}
        wanted = {name: _wanted(total, fraction) for name, total in totals.items()}
        if len(names) == 1:
            sizes = [counts[key].total() for key in groups]
            taken = _nearest_sum(sizes, *wanted.values())
        else:
            taken = _search([counts[key] for key in groups], wanted, totals)
        chosen.update(groups[index] for index in taken)
    return {name: [path for path in paths if keys[path] in chosen] for name, paths in by_class.items()}


def hold_out(
    train: Mapping[str, Sequence[str]],
    base: str,
    pattern: re.Pattern[str] | None,
    fraction: float,
    seed: int,
    dataset: str,
    hint: str = "",
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Split the training photos into those that are trained on and those that are held out.

    Args:
        train: photos of each class.
        base: folder that all paths begin with; the choice is the same whether `data.root` is this folder or one around.
        pattern: pattern of `data.group`; `None` without groups.
        fraction: share to hold out.
        seed: seeds the choice.
        dataset: name of the dataset in messages.
        hint: what else to say of a class with one photo.

    Raises:
        UserError: if a class has too few photos or groups.
    """
    start = len(base)
    names = {name: [path[start:] for path in paths] for name, paths in train.items()}
    if pattern:
        chosen = held_out_groups(names, lambda path: group_of(pattern, base + path), fraction, seed)
    else:
        chosen = {name: held_out(paths, fraction, seed) for name, paths in names.items()}
    for name, paths in train.items():
        if len(paths) < 2:
            raise UserError(
                f"{dataset}: class {name!r} has only one photo, and there are no validation photos. "
                f"Add photos: training and validation need at least one each. {hint}".rstrip()
            )
        if not 0 < len(chosen[name]) < len(paths):
            raise UserError(
                f"{dataset}: the {len(paths)} photos of class {name!r} are in too few groups of data.group to "
                "hold some out. Add photos of other groups, or make the groups smaller."
            )
    apart = {path for paths in chosen.values() for path in paths}
    kept = {name: [path for path in paths if path[start:] not in apart] for name, paths in train.items()}
    return kept, {name: [base + path for path in paths] for name, paths in chosen.items()}


def _nearest_sum(sizes: Sequence[int], wanted: int) -> list[int]:
    """Choose sizes, early ones first, whose sum is as near to `wanted` as possible; neither none nor all of them."""
    taken, rest, total = [], [], 0
    for index, size in enumerate(sizes):
        if wanted - total > EXACT_UP_TO and total + size <= wanted:
            taken.append(index)
            total += size
        else:
            rest.append(index)
    missing, most = wanted - total, sum(sizes) - 1 - total
    most = min(most, max(2 * missing, min((sizes[index] for index in rest), default=0)))
    reachable = [1]  # bit b of the n-th number: a sum of b is reachable with the first n sizes
    for index in rest:
        reachable.append((reachable[-1] | reachable[-1] << sizes[index]) & ((1 << (most + 1)) - 1))
        if reachable[-1] >> missing & 1:
            break
    sums = [value for value in range(0 if total else 1, most + 1) if reachable[-1] >> value & 1]
    if not sums:
        return []
    left = min(sums, key=lambda value: (abs(value - missing), value))
    for number in range(len(reachable) - 1, 0, -1):
        if not reachable[number - 1] >> left & 1:
            taken.append(rest[number - 1])
            left -= sizes[rest[number - 1]]
    return taken


def _search(groups: Sequence[Counter[str]], wanted: Mapping[str, int], totals: Mapping[str, int]) -> list[int]:
    """Choose groups that share classes by local search, until each class is near to its wanted number of photos."""
    have: Counter[str] = Counter()
    taken = [False] * len(groups)

    def cost(name: str, count: int) -> int:
        empty = not 0 < count < totals[name]
        return abs(count - wanted[name]) + (sum(totals.values()) if empty else 0)

    def improved(*indices: int) -> bool:
        """Move the groups to the other split if that is better."""
        change: Counter[str] = Counter()
        for index in indices:
            (change.subtract if taken[index] else change.update)(groups[index])
        if sum(cost(name, have[name] + more) - cost(name, have[name]) for name, more in change.items()) >= 0:
            return False
        have.update(change)
        for index in indices:
            taken[index] = not taken[index]
        return True

    better = True
    while better:
        better = sum(improved(index) for index in range(len(groups))) > 0  # all of them
        if not better and len(groups) <= EXCHANGES_UP_TO:
            pairs = ((i, j) for i in range(len(groups)) for j in range(i) if taken[i] != taken[j])
            better = any(improved(*pair) for pair in pairs)
    return [index for index, chosen in enumerate(taken) if chosen]


def check_groups(by_class: Mapping[str, Sequence[str]], pattern: re.Pattern[str]) -> list[str]:
    """Say how many photos have no group.

    Raises:
        ArgumentError: if none has.
    """
    every = list(chain.from_iterable(by_class.values()))
    alone = [path for path in every if group_of(pattern, path) is None]
    if len(alone) == len(every):
        raise ArgumentError(
            "data", f"group={pattern.pattern}: it matches no path of a photo. The first is {shown(every[0])}."
        )
    if not alone:
        return []
    return [
        f"{len(alone)} of {counted(len(every), 'photo')} match no data.group and are on their own: {listed(alone, 3)}"
    ]


def in_both(
    train: Mapping[str, Sequence[str]], others: Mapping[str, Sequence[str]], pattern: re.Pattern[str], split: str
) -> list[str]:
    """Say how many groups are in two splits."""
    first: dict[str | None, str] = {}
    for path in chain.from_iterable(train.values()):
        first.setdefault(group_of(pattern, path), path)
    first.pop(None, None)
    both: dict[str | None, str] = {}
    for path in chain.from_iterable(others.values()):
        if (group := group_of(pattern, path)) in first:
            both.setdefault(group, path)
    if not both:
        return []
    group, path = next(iter(both.items()))
    return [
        f"{counted(len(both), 'group')} of data.group {plural(len(both), 'is', 'are')} in train and in {split}, "
        f"for example {shown(group)!r}: "
        f"{shown(first[group])} and {shown(path)}. Metrics of {split} may be too optimistic."
    ]
