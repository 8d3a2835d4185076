"""Names in figures: as text, never as mathematics, and in a font that has their characters."""

from collections.abc import Iterable, Sequence
from functools import cache

from matplotlib import font_manager, rcParams
from matplotlib.text import Text

from dogscats.base.text import shown

SYMBOLS = ("Last Resort", "STIX", "cm", "DejaVu Math")
"""Beginnings of the names of matplotlib's fonts for mathematics and placeholders."""


def drawable(name: str) -> str:
    r"""Return a name of a class or file as it can be drawn.

    Characters that the default font lacks, such as Chinese ones, are drawn in another font of this machine, or escaped
    (`\u732b`) if no font has them.
    """
    covered = set().union(*(_characters(family) for family in _families(frozenset(name))))
    return "".join(char if ord(char) in covered else _escaped(char) for char in name)


def shortened(name: str, most: int = 24) -> str:
    """Shorten a name to `most` characters."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def as_name(texts: Iterable[Text], names: Sequence[str]) -> None:
    """Style texts that show `names`: `$` does not begin a formula, and fonts with their characters are used."""
    families = list(_families(frozenset("".join(names))))
    for text in texts:
        text.set(parse_math=False, fontfamily=families)


def _escaped(char: str) -> str:
    return char if char == "\n" else shown(char) if not char.isprintable() else char.encode("unicode_escape").decode()


@cache
def _families(wanted: frozenset[str]) -> tuple[str, ...]:
    """Return the default font, and those that have the characters that it lacks."""
    default = rcParams["font.sans-serif"][0]
    families, missing = [default], {ord(char) for char in wanted if char.isprintable()} - _characters(default)
    installed = sorted({font.name for font in font_manager.fontManager.ttflist}) if missing else []
    for family in installed:
        if not family.startswith(SYMBOLS) and missing & _characters(family):
            families.append(family)
            missing -= _characters(family)
    return tuple(families)


@cache
def _characters(family: str) -> frozenset[int]:
    try:
        return frozenset(font_manager.get_font(font_manager.findfont(family)).get_charmap())
    except (OSError, RuntimeError, ValueError):  # a font that cannot be read
        return frozenset()
