"""The rooms of the package, in their order: imports go down only."""

import ast
import re
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

from conftest import REPOSITORY

import dogscats

ROOMS = (
    *("predict", "auto", "runs", "report", "labelling", "suspects", "reliability", "networks", "lesson"),
    *("kernel", "data.loading", "data.added", "data.photos", "data.pixels", "base"),
)
"""From top to bottom; a room may import itself and those below it."""

PACKAGE = REPOSITORY / "dogscats"
MODULES = {".".join(file.relative_to(REPOSITORY).with_suffix("").parts): file for file in PACKAGE.rglob("*.py")}


def floor(module: str) -> int:
    """Place of a module's room in `ROOMS`, counted from the bottom; the top for modules of the package itself."""
    rooms = enumerate(reversed(ROOMS))
    return next((place for place, name in rooms if f"{module}.".startswith(f"dogscats.{name}.")), len(ROOMS))


def imported(file: Path) -> set[str]:
    """The package's modules that a file imports, also in functions and for type checkers."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names & MODULES.keys()


IMPORTS = {module: imported(file) for module, file in MODULES.items()}


def test_imports_go_down_only() -> None:
    assert [(a, b) for a, names in IMPORTS.items() for b in names if floor(b) > floor(a)] == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    TopologicalSorter(IMPORTS).prepare()


def test_files_are_few_in_a_folder_short_and_of_unique_names() -> None:
    files = [file for file in MODULES.values() if file.name not in ("__init__.py", "__main__.py")]
    assert [file for file in files if len(file.read_text().splitlines()) > 300] == []
    assert [folder for folder, modules in Counter(file.parent for file in files).items() if modules > 14] == []
    assert [name for name, count in Counter(file.name for file in files).items() if count > 1] == []


def test_configs_name_the_package_itself() -> None:
    text = "\n".join(file.read_text() for file in (REPOSITORY / "conf").rglob("*.yaml"))
    named = set(re.findall(r"(?:_target_|class): dogscats\.(\S+)", text))
    assert named
    assert named <= set(dogscats.__all__)
