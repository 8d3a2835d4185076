"""How this package is installed and run, as commands, and `environment.json`, which lets a run be reproduced."""

import os
import platform
import shlex
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from packaging.requirements import Requirement

from dogscats.base.files import read_json, write_json
from dogscats.base.text import without_password

CLONE = Path(__file__).resolve().parent.parent.parent
"""The clone that the code is in; without `train.py` if it was installed from a wheel."""

CONF = next((folder / "conf" for folder in Path(__file__).resolve().parents[1:] if (folder / "conf").is_dir()), CLONE)
"""The configs: in the package of a wheel, or in the clone."""

FILE = "environment.json"

PACKAGES = ("dogscats", "torch", "torchvision", "pytorch-lightning", "timm")
"""Packages whose versions are recorded, if they are installed."""


def command(script: str) -> str:
    """Return the command that runs `train` or `evaluate`: the script of the clone, or the module of the wheel."""
    file = CLONE / f"{script}.py"
    if not file.is_file():
        return f"python -m dogscats.{script}"
    return f"python {file.name if Path.cwd() == CLONE else shlex.quote(str(file))}"


def use_utf8() -> None:
    """Start again in UTF-8 mode where Python takes names of files for ASCII: `LC_ALL=POSIX PYTHONUTF8=0`."""
    if sys.getfilesystemencoding() == "ascii" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, sys.orig_argv)


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


def record_start(run_dir: Path, device: str, precision: str) -> None:
    """Append this start of a run to its `environment.json`: the first entry is of the new run, others resumed it.

    Args:
        run_dir: run directory.
        device: name of the device.
        precision: precision of the Trainer.
    """
    start = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": typed_command(),
        "folder": str(Path.cwd()),
        "device": device,
        "precision": precision,
        "versions": {"python": platform.python_version()} | installed_versions(),
        "commit": commit(),
    }
    write_json(run_dir / FILE, [*(read_json(run_dir / FILE) or []), start])


def typed_command() -> str:
    """Return the command of this run, or of this job of a sweep, without the choice of its directory."""
    hydra = HydraConfig.get()
    folders = [source.path for source in hydra.runtime.config_sources if source.provider == "command-line"]
    flags = [part for folder in folders for part in ("--config-dir", folder)]
    if hydra.job.config_name != "train":
        flags += ["--config-name", str(hydra.job.config_name)]
    overrides = [without_password(str(override)) for override in hydra.overrides.task]
    return " ".join([command("train"), *map(shlex.quote, [*flags, *overrides])])


def command_of(run_dir: Path, replaced: str = "data.decisions") -> str | None:
    """Return the command that made a run, without a setting that will be replaced; `None` if it is not recorded."""
    starts = read_json(run_dir / FILE)
    if not starts:
        return None
    parts = shlex.split(starts[0]["command"])
    return shlex.join(part for part in parts if not part.lstrip("+").startswith(f"{replaced}="))


def installed_versions() -> dict[str, str]:
    """Return the versions of `PACKAGES` by name."""
    found = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def commit() -> str | None:
    """Return the commit of the clone, with `-dirty` if files have changed since; `None` without a clone or git."""
    if not (CLONE / ".git").exists():
        return None
    describe = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found: Any = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(CLONE), *describe],
            capture_output=True, text=True, timeout=5, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return str(found.stdout).strip() or None
