"""Rules for settings: what a value must be, and the words for it. Free of torch, to be checked before its import."""

from collections.abc import Callable
from typing import Any

Rule = tuple[Callable[[Any], bool], str]
"""Condition, and what an error message says is expected."""


def whole(least: int, most: int | None = None) -> Rule:
    """Make the rule for a whole number, which `true` is not."""
    limit = "" if most is None else f" and at most {most}"

    def good(value: Any) -> bool:
        number = isinstance(value, int) and not isinstance(value, bool)
        return number and least <= value and (most is None or value <= most)

    return good, f"a whole number of at least {least}{limit}"


def is_number(value: Any) -> bool:
    """Return whether a value is a number, which `true` is not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def or_none(rule: Rule) -> Rule:
    """Make a rule that `None` meets too."""
    good, expected = rule
    return lambda value: value is None or good(value), expected


SHARE: Rule = (
    lambda value: is_number(value) and 0 < value <= 1,
    "the share of validation photos that get a class, above 0 and at most 1",
)

SWITCH: Rule = (lambda value: isinstance(value, bool), "true or false")
