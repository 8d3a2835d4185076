"""Every command, link and picture of README and of the pages in docs/ works, and pages made by a script are current."""

import re
import runpy
import shlex
from pathlib import Path

import pytest
from conftest import REPOSITORY
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from dogscats.lesson.stage import make_stages
from dogscats.runs.directory import run_directory

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


def shown() -> list[str]:
    """The commands in code blocks, without their comments."""
    text = "\n".join(page.read_text() for page in PAGES)
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    blocks = [block for language, block in found if not language]
    return [line.split("  #")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


HYDRA = [command for command in shown() if re.search(r"\b(train|evaluate)\.py\b", command)]


@pytest.mark.parametrize("command", HYDRA)
def test_settings_that_are_shown_compose(command: str) -> None:
    words = shlex.split(command.replace("<", "").replace(">", ""))
    (script,) = [word for word in words if word in ("train.py", "evaluate.py")]
    settings = [word for word in words[words.index(script) + 1 :] if word != "-m"]
    # Of a sweep the first job.
    settings = [word.split(",")[0] if "-m" in words and "[" not in word else word for word in settings]
    if any("hydra/launcher=" in word for word in settings):
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs the extra 'sweep'")
    OmegaConf.register_new_resolver("run_dir", run_directory, replace=True)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        cfg = compose(Path(script).stem, settings, return_hydra_config=True)
    if script == "train.py":
        assert make_stages(OmegaConf.to_container(cfg.recipe, resolve=True))  # type: ignore[arg-type]
    assert Path(script).stem in cfg.hydra.job.config_name


@pytest.mark.parametrize(
    "needed",
    [
        "make quickstart",
        "make test",
        "resume=",
        "predict=",
        "export=onnx",
        "export=space",
        "dogscats.demo",
        "-m lr=",
        "torchrun",
        "load=",
    ],
)
def test_the_main_commands_are_shown(needed: str) -> None:
    assert any(needed in command for command in shown())


def anchors(page: Path) -> set[str]:
    """The names by which GitHub links to the page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_other_commands_and_files_that_are_named_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    for command in shown():
        if command.startswith("make "):
            assert re.search(rf"^{command.split()[1]}:", makefile, re.MULTILINE), command
    for page in PAGES:
        for link in re.findall(r"\]\((?!http)(.*?)\)", page.read_text()):
            name, _, anchor = link.partition("#")
            linked = page.parent / name if name else page
            assert linked.is_file(), link
            assert not anchor or anchor in anchors(linked), link


def test_readme_stays_short() -> None:
    page = (REPOSITORY / "README.md").read_text()
    assert len(page.splitlines()) <= 200
    assert len(page.split()) <= 1800


def test_every_page_can_be_found_from_the_map() -> None:
    docs = REPOSITORY / "docs"
    linked = {(docs / link).resolve() for link in re.findall(r"\]\((?!http)(.*?)\)", (docs / "README.md").read_text())}
    assert {page for page in docs.rglob("*.md") if page != docs / "README.md"} <= linked


def test_pages_that_are_made_by_a_script_are_current() -> None:
    make = runpy.run_path(str(REPOSITORY / "docs" / "reference" / "make_reference.py"))
    for page, content in make["pages"]().items():
        assert page.read_text() == content, f"{page.name} is not current: python docs/reference/make_reference.py"
    assert not [line for line in make["settings_page"]().splitlines() if line.endswith("|  |")], "no comment in conf/"
