"""Class names: one class in several spellings, and labels that join others."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from dogscats.base.errors import UserError
from dogscats.base.text import form, listed, shown
from dogscats.data.photos.listing import natural_key


def one_spelling(counts: Mapping[str, int]) -> dict[str, str]:
    """Choose one spelling, the most frequent, for labels that differ in their `form` alone, or as `1` and `1.0`.

    Letters of an alphabet, upper and lower case, stay apart.

    Args:
        counts: number of photos of each label.
    """
    alphabet = len(counts) > 10 and all(len(name) == 1 for name in counts)
    alike: dict[str, list[str]] = defaultdict(list)
    for name in sorted(counts):
        alike[name if alphabet else re.sub(r"^(-?\d+)\.0+$", r"\1", form(name))].append(name)
    return {name: max(names, key=lambda each: counts[each]) for names in alike.values() for name in names}


def in_one_spelling(*splits: Mapping[str, Sequence[str]]) -> tuple[list[dict[str, list[str]]], list[str]]:
    """Join the classes of splits that `one_spelling` makes one; also return a note about each for the log."""
    counts: Counter[str] = Counter()
    for by_class in splits:
        counts.update({name: len(paths) for name, paths in by_class.items()})
    spelling = one_spelling(counts)
    joined: list[dict[str, list[str]]] = []
    for by_class in splits:
        found: dict[str, list[str]] = {}
        for name, paths in by_class.items():
            before = found.get(spelling[name])
            found[spelling[name]] = sorted([*before, *paths], key=natural_key) if before else list(paths)
        joined.append(dict(sorted(found.items())))
    alike: dict[str, list[str]] = defaultdict(list)
    for name, used in spelling.items():
        alike[used].append(name)
    what = "differ in case, spaces or Unicode form alone, and are one class"
    return joined, [
        f"{', '.join(repr(shown(name)) for name in names)} {what}, {shown(used)!r}"
        for used, names in alike.items()
        if len(names) > 1
    ]


def numbers_among(names: Sequence[str], classes: Sequence[str], what: str) -> list[int]:
    """Return the number of each name among the classes of a classifier, in any spelling.

    Args:
        names: names of classes.
        classes: classes of the classifier.
        what: what they are, for messages.

    Raises:
        UserError: if one is not among them.
    """
    spelled = {form(name): number for number, name in enumerate(classes)}
    exact = {name: number for number, name in enumerate(classes)}
    numbers = [exact.get(name, spelled.get(form(name))) for name in names]
    if None in numbers:
        raise UserError(
            f"{what} are {listed(names)}, but the classifier's are {listed(classes)}. Move the photos of other classes "
            "elsewhere to evaluate the rest."
        )
    return [number for number in numbers if number is not None]


def joined_hint(classes: Sequence[str]) -> list[str]:
    """Point to classes that are several labels in one; without any, there is no hint."""
    if not (names := joined_labels(classes)):
        return []
    return [
        f"Classes that join others: {listed(names, 5)}. A photo has one class; these are learnt as classes of their own"
    ]


def joined_labels(labels: Sequence[str]) -> list[str]:
    """Return the labels that join others, such as `scab rust` beside `scab` and `rust`."""
    words = {name: tuple(re.findall(r"(?!and\b)[^\W_]+", form(name))) for name in labels}
    known = {*words.values()}
    lists = {name: [form(part) for part in re.split(r"[,;|+&]", name) if part.strip()] for name in labels}
    parts = Counter(part for each in lists.values() for part in set(each))

    def joins(rest: tuple[str, ...], own: tuple[str, ...]) -> bool:
        firsts = (rest[:count] for count in range(1, len(rest) + 1))
        return not rest or any(first in known and first != own and joins(rest[len(first) :], own) for first in firsts)

    return [
        name
        for name in labels
        if (len(words[name]) > 1 and joins(words[name], words[name]))
        or (len(lists[name]) > 1 and any(parts[part] > 1 for part in lists[name]))
    ]
