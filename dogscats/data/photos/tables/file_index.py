"""Photos by the paths in tables: exact, by their ends, and in other spellings."""

import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from dogscats.base.text import form
from dogscats.data.photos.listing import is_image_name, natural_key, walk_files


class FileIndex:
    """Finds photos in a folder by the paths in a table.

    Args:
        root: folder of the photos.
        names: their paths, relative to `root`; `None` for all photos in it.

    Attributes:
        names: paths of all photos, relative to `root`.
        respelled: path in the table of each photo that was only found in another spelling.
    """

    def __init__(self, root: Path, names: Sequence[str] | None = None):
        self.root, self.top = root, os.path.abspath(root)  # noqa: PTH100  # text, as the paths are
        if names is None:
            names = [f for f in walk_files(root) if not f.startswith("tmp/") and is_image_name(root, f)]
        self.names = names
        self.exact = set(self.names)
        self.respelled: dict[str, str] = {}
        self._by_end: dict[tuple[int, Callable[[str], str]], dict[str, list[str]]] = {}

    def find(self, path: str) -> list[str]:
        """List the files that a path may mean: the exact one, or else all that end in it, extension or not.

        Without any, a path may differ in case, spaces, Unicode form and, at last, leading zeros.
        """
        if path in self.exact:
            return [path]
        for spelled in (str, form, unpadded):
            for name in dict.fromkeys((path, path.replace("\\", "/"))):
                if found := self._find(posixpath.normpath(name), spelled):
                    if spelled is not str:
                        self.respelled[path] = found[0]
                    return found
        return []

    def _find(self, path: str, spelled: Callable[[str], str]) -> list[str]:
        if path.startswith("/"):
            inside = path.removeprefix(self.top.rstrip("/") + "/")
            if inside in self.exact or self._is_file(inside):
                return [inside]
            path = inside
            if path.startswith("/"):
                return []
            matches = self._ends(path.count("/") + 1, spelled).get(spelled(path), [])
            return [name for name in matches if name.count("/") == path.count("/")]
        if path in self.exact:
            return [path]
        ends, key = self._ends(path.count("/") + 1, spelled), spelled(path)
        without_extension = ends.get(f"{key}.", [])
        found = [name for name in without_extension if spelled(name.rpartition(".")[0]) == key]
        found = found or ends.get(key, []) or without_extension
        if len(found) > 1:
            return sorted(found, key=natural_key)
        return found or ([path] if self._is_file(path) else [])

    def _is_file(self, path: str) -> bool:
        try:
            return (self.root / path).is_file()
        except (OSError, ValueError):  # not a path at all, such as a photo in base64
            return False

    def _ends(self, depth: int, spelled: Callable[[str], str]) -> dict[str, list[str]]:
        """Group the files by the last `depth` parts of their paths, with extension and without: `cat.0.`."""
        if (depth, spelled) not in self._by_end:
            groups: dict[str, list[str]] = defaultdict(list)
            for name in self.names:
                end = name.rpartition("/")[2] if depth == 1 else "/".join(name.split("/")[-depth:])
                groups[spelled(end)].append(name)
                stem, dot, extension = end.rpartition(".")
                if dot and "/" not in extension:
                    groups[f"{spelled(stem)}."].append(name)
            self._by_end[depth, spelled] = dict(groups)
        return self._by_end[depth, spelled]


def unpadded(path: str) -> str:
    """Return the form of a path without leading zeros of its numbers: `img_7.jpg` for `IMG_0007.jpg`, `7` for `7.0`."""
    return re.sub(r"(?<!\d)0+(?=\d)", "", re.sub(r"(?:^|(?<=/))(\d+)\.0+$", r"\1", form(path)))


def ending(path: str) -> str:
    """Return the extension of a path or a name as `.jpg`, also for `.JPEG`."""
    lower = f".{path.rpartition('.')[2].lower()}"
    return ".jpg" if lower == ".jpeg" else lower
