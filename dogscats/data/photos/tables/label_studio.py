"""What Label Studio exports as JSON, as a table of photos: https://labelstud.io/guide/export."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from dogscats.base.errors import UserError, as_user_error
from dogscats.base.text import listed


def exported_rows(file: Path, name: str, root: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield where each row is, and its path and label; tasks without a choice are left out.

    Args:
        file: the export.
        name: its name in messages.
        root: folder of the photos.

    Raises:
        UserError: if it is not such an export, a task has several classes, or none has one.
    """
    found = False
    with as_user_error(name, "it is not an export of Label Studio", "Export the project as JSON, not as JSON-MIN."):
        for task in json.loads(file.read_bytes()):
            made = [part for each in task["annotations"] if not each.get("was_cancelled") for part in each["result"]]
            data = task["data"]
            address = data.get("path") or data.get("image") or next(v for v in data.values() if isinstance(v, str))
            for part in made:
                if part["type"] != "choices":
                    continue
                if len(choices := part["value"]["choices"]) != 1:
                    raise UserError(f"{name}: task {task['id']}: it has the classes {listed(choices)}. Choose one.")
                found = True
                yield f"task {task['id']}", [_file_at(address, root), choices[0]]
    if not found:
        raise UserError(f"{name}: no task has a choice. Label some, and export again.")


def _file_at(address: str, root: Path) -> str:
    """Return the part of an address, such as `/data/local-files/?d=photos/1.jpg`, that is a file, or else its name."""
    parts = urlsplit(address)
    *folders, name = parse_qs(parts.query).get("d", [unquote(parts.path)])[0].strip("/").split("/")
    if "upload" in folders:
        name = re.sub(r"^[0-9a-f]{8}-", "", name)
    ends = ("/".join([*folders[start:], name]) for start in range(len(folders) + 1))
    return next((end for end in ends if (root / end).is_file()), name)
