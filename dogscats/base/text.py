"""Names, counts, shares and paths as text: for people, in tables, in commands to be pasted, and without passwords."""

import logging
import math
import re
import shlex
import unicodedata
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path


def shown(text: object) -> str:
    """Escape control characters, line breaks and lone surrogates, which a terminal does not show as one line of text.

    The names of files and classes can contain anything, such as escape sequences that change the terminal.
    """
    if str(text).isprintable():
        return str(text)
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode() for char in str(text)
    )


def form(text: str) -> str:
    """Return a text without what people do not see: case, outer and double spaces, and its Unicode form."""
    visible = unicodedata.normalize("NFC", re.sub("[\ufeff\u200b]", "", text)).casefold()
    return " ".join(unicodedata.normalize("NFC", visible).split())


def shown_lines(text: object) -> str:
    """Escape each line of a text like `shown`."""
    return "\n".join(map(shown, str(text).split("\n")))


class LogFormatter(logging.Formatter):
    """Escapes control characters in log messages, on the terminal and in the log file."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        return shown_lines(super().format(record))


def listed(names: Sequence[str], most: int = 20) -> str:
    """List names, at most the first `most`."""
    more = f", ... ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(map(shown, names[:most])) + more


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: `1 photo`, `2 photos`, `3 classes`, `4 copies`."""
    return f"{number} {plural(number, noun)}"


def plural(number: int, noun: str, several: str = "") -> str:
    """Return a noun as it follows a number, or a verb, of which `several` have another form."""
    if number == 1 or several:
        return noun if number == 1 else several
    if noun.endswith("s"):
        return f"{noun}es"
    return f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"


def percent(share: float, n: int) -> str:
    """Return a share of `n` photos in percent: `81 %`, from 1,000 photos on `81.3 %`, from 100,000 on `81.25 %`.

    Digits are added where it would read as all or none, and is not: `99.95 %`.
    """
    if math.isnan(share):
        return "-"
    digits = max(int(math.log10(max(n, 1)) - 1) // 2, 0)
    while 1e-9 < share < 1 - 1e-9 and float(f"{100 * share:.{digits}f}") in (0, 100):
        digits += 1
    return f"{100 * share:.{digits}f} %"


def percents(probabilities: Sequence[float]) -> list[str]:
    """Return the class probabilities of a photo in percent, with a tenth: they sum to 100.0, and none reads as 100.0.

    What rounding down leaves goes to the largest remainders.
    """
    most = 999 if len(probabilities) > 1 else 1000
    tenths = [min(int(1000 * probability), most) for probability in probabilities]
    left = 1000 - sum(tenths)
    by_remainder = sorted(range(len(tenths)), key=lambda index: tenths[index] - 1000 * probabilities[index])
    for index in [index for index in by_remainder if tenths[index] < most][:left]:
        tenths[index] += 1
    return [f"{tenth / 10:.1f} %" for tenth in tenths]


def text_table(rows: Sequence[Sequence[object]], left: int = 0) -> list[str]:
    """Format rows of cells as aligned lines.

    Args:
        rows: rows of cells; the first has the headings.
        left: number of leading columns to left-align; the others are right-aligned.
    """
    cells = [[shown(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if number < left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def did_you_mean(name: str, choices: Iterable[str], prefix: str = "") -> str:
    """Name the most similar choice: ` Did you mean <prefix><choice>?`; empty if none is similar."""
    similar = get_close_matches(name, list(choices), 1)
    return f" Did you mean {prefix}{similar[0]}?" if similar else ""


def hydra_text(value: object) -> str:
    """Return a value as Hydra reads it, in quotes if needed."""
    text = str(value)
    plain = re.fullmatch(r"[A-Za-z_./][\w./-]*", text, re.ASCII)
    if not plain or text.lower() in ("true", "false", "null", "nan", "inf"):
        quoted = re.sub(r'(\\*)(")', r"\1\1\\\2", text)
        quoted = re.sub(r"(\\*)$", r"\1\1", quoted)
        text = '"' + re.sub(r"(\\*)\$\{", r"\1\1\\${", quoted) + '"'
    return text


def setting(key: str, value: object) -> str:
    """Return `key=value`, quoted for Hydra and for the shell."""
    return shlex.quote(f"{key}={hydra_text(value)}")


def home_expanded(path: str | Path) -> Path:
    """Expand `~`, and make the path absolute: a run may be resumed from another folder."""
    return Path(path).expanduser().absolute()


def without_password(url: str) -> str:
    """Mask the password in a URL, `https://user:password@host`, if there is one."""
    return re.sub(r"(?<=//)([^/@:]*):[^/]*@", r"\1:***@", url)
