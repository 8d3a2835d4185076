"""Names and paths as text: on a terminal, in tables, in commands to be pasted, and without passwords."""

import logging
import re
import shlex
import unicodedata
from collections.abc import Sequence
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


def setting(key: str, value: object) -> str:
    """Return `key=value`, quoted for Hydra and for the shell."""
    text = str(value)
    plain = re.fullmatch(r"[A-Za-z_./][\w./-]*", text, re.ASCII)
    if not plain or text.lower() in ("true", "false", "null", "nan", "inf"):
        quoted = re.sub(r'(\\*)(")', r"\1\1\\\2", text)
        quoted = re.sub(r"(\\*)$", r"\1\1", quoted)
        text = '"' + re.sub(r"(\\*)\$\{", r"\1\1\\${", quoted) + '"'
    return shlex.quote(f"{key}={text}")


def home_expanded(path: str | Path) -> Path:
    """Expand `~`, and make the path absolute: a run may be resumed from another folder."""
    return Path(path).expanduser().absolute()


def without_password(url: str) -> str:
    """Mask the password in a URL, `https://user:password@host`, if there is one."""
    return re.sub(r"(?<=//)([^/@:]*):[^/]*@", r"\1:***@", url)
