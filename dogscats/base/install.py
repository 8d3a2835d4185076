"""How this package was installed, as commands: to run it, and to add an extra."""

import shlex
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement

CLONE = Path(__file__).resolve().parent.parent.parent
"""The clone that the code is in; without `train.py` if it was installed from a wheel."""


def command(script: str) -> str:
    """Return the command that runs `train` or `evaluate`: the script of the clone, or the module of the wheel."""
    file = CLONE / f"{script}.py"
    if not file.is_file():
        return f"python -m dogscats.{script}"
    return f"python {file.name if Path.cwd() == CLONE else shlex.quote(str(file))}"


def how_to_install(extra: str) -> str:
    """Return the command that installs an extra.

    Not `dogscats[<extra>]`: that would install whatever has this name on the package index.
    """
    if (CLONE / "pyproject.toml").is_file():
        return f"pip install --editable {shlex.quote(f'{CLONE}[{extra}]')}"
    try:
        needed = [Requirement(line) for line in requires("dogscats") or ()]
    except PackageNotFoundError:
        needed = []
    packages = [
        f"{package.name}{package.specifier}"
        for package in needed
        if package.marker and package.marker.evaluate({"extra": extra}) and not package.marker.evaluate({"extra": ""})
    ]
    return f"pip install {shlex.join(packages)}"
