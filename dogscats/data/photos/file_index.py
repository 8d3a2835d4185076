"""Photos in a folder, found by the paths that a table has."""

import os
import posixpath
from collections import defaultdict
from pathlib import Path

from dogscats.data.pixels.images import is_image_name, natural_key, walk_files


class FileIndex:
    """Photos in a folder, to be found by the paths that a table has.

    Args:
        root: folder of the photos.
    """

    def __init__(self, root: Path):
        self.root, self.top = root, os.path.abspath(root)  # noqa: PTH100  # text, as the paths are
        self.names = [f for f in walk_files(root) if not f.startswith("tmp/") and is_image_name(root, f)]
        self.exact = set(self.names)
        self.by_end: dict[int, dict[str, list[str]]] = {}

    def find(self, path: str) -> list[str]:
        """List the files that a path may mean: the exact one, or else all whose path ends so, without extension too."""
        if path in self.exact:
            return [path]
        for name in dict.fromkeys((path, path.replace("\\", "/"))):
            if found := self._find(posixpath.normpath(name)):
                return found
        return []

    def _find(self, path: str) -> list[str]:
        if path.startswith("/"):
            path = path.removeprefix(self.top.rstrip("/") + "/")
            return [path] if path in self.exact or self._is_file(path) else []
        if path in self.exact:
            return [path]
        ends = self._ends(path.count("/") + 1)
        without_extension = ends.get(f"{path}.", [])
        found = [name for name in without_extension if name.rpartition(".")[0] == path]
        found = found or ends.get(path, []) or without_extension
        if len(found) > 1:
            return sorted(found, key=natural_key)
        return found or ([path] if self._is_file(path) else [])

    def _is_file(self, path: str) -> bool:
        try:
            return (self.root / path).is_file()
        except (OSError, ValueError):  # what is no path at all, such as a photo in base64
            return False

    def _ends(self, depth: int) -> dict[str, list[str]]:
        """Group the files by the last `depth` parts of their paths, with extension and without: `cat.0.`."""
        if depth not in self.by_end:
            groups: dict[str, list[str]] = defaultdict(list)
            for name in self.names:
                end = name.rpartition("/")[2] if depth == 1 else "/".join(name.split("/")[-depth:])
                groups[end].append(name)
                stem, dot, extension = end.rpartition(".")
                if dot and "/" not in extension:
                    groups[f"{stem}."].append(name)
            self.by_end[depth] = dict(groups)
        return self.by_end[depth]
