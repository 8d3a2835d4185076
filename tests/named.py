"""Files of photos and tables in which only the names matter."""

from pathlib import Path

from dogscats.data.photos.layouts import Found


def photos(root: Path, *names: str) -> Path:
    """Only names matter here."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def table(root: Path, *lines: str, name: str = "labels.csv", encoding: str = "utf-8") -> str:
    root.mkdir(exist_ok=True)
    (root / name).write_text("\n".join(lines) + "\n", encoding=encoding)
    return name


def labelled(found: Found) -> dict[str, str]:
    both = (found.train, found.valid, *([found.test] if found.test else []))
    return {path: found.classes[label] for part in both for path, label in zip(part.paths, part.labels, strict=True)}


NAMES = [f"train/{letter}{number}.jpg" for letter in "ab" for number in range(5)]
