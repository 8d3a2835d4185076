"""Every command, example, link and picture of README and docs/ works, and generated pages are current."""

import re
import runpy
import shlex
import sys
from dataclasses import fields, is_dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning
import torch
from conftest import REPOSITORY, TinyNetwork
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from torch import nn

import dogscats
from dogscats.lesson.stage import make_stages
from dogscats.predict.demo.server import parse
from dogscats.runs.directory import run_directory
from dogscats.suspects import search_folder

DOCS = REPOSITORY / "docs"
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]

OTHERS = {"cd", "curl", "git", "grep", "hf", "make", "npm", "pip", "python3", "scp", "ssh", "tensorboard", "uv"}
"""Programs of others that pages name."""


def shown() -> list[str]:
    """The commands in code blocks, without their comments, and those within the text."""
    text = "\n".join(page.read_text() for page in PAGES)
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    blocks = [block for language, block in found if not language]
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]
    rest = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    inline = re.findall(r"`(python (?:train|evaluate)\.py [^`]*=[^`]*|python -m \w+\.\w+ [^`]+)`", rest)
    return [*lines, *(command for command in inline if "..." not in command)]


def commands(pattern: str) -> list[str]:
    return list(dict.fromkeys(command for command in shown() if re.search(pattern, command)))


def composed(script: str, settings: list[str]) -> Any:
    """The config that a command composes; its stages must be valid."""
    OmegaConf.register_new_resolver("run_dir", run_directory, replace=True)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        cfg = compose(Path(script).stem, settings, return_hydra_config=True)
    if script == "train.py":
        assert make_stages(OmegaConf.to_container(cfg.recipe, resolve=True))  # type: ignore[arg-type]
    return cfg


@pytest.mark.parametrize("command", commands(r"\b(train|evaluate)\.py\b"))
def test_settings_that_are_shown_compose(command: str) -> None:
    words = shlex.split(re.sub(r"[<>]", "", command))
    (script,) = [word for word in words if word in ("train.py", "evaluate.py")]
    settings = [word for word in words[words.index(script) + 1 :] if word not in ("-m", "--help")]
    # Of a sweep the first job.
    settings = [word.split(",")[0] if "-m" in words and "[" not in word else word for word in settings]
    if any("hydra/launcher=" in word for word in settings):
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs the extra 'sweep'")
    assert Path(script).stem in composed(script, settings).hydra.job.config_name


@pytest.mark.parametrize("command", commands(r"^python -m benchmarks\."))
def test_settings_of_benchmarks_that_are_shown_exist(command: str) -> None:
    words = shlex.split(command)
    module = pytest.importorskip(words[2])
    known = {field.name for value in vars(module).values() if is_dataclass(value) for field in fields(value)}
    assert {word.partition("=")[0] for word in words[3:] if word != "..."} <= known


@pytest.mark.parametrize("command", commands(r"^python -m dogscats\.(check|demo) "))
def test_settings_of_other_commands_that_are_shown_are_known(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, module, *words = shlex.split(command.replace("=last", "=newest"))
    if module == "dogscats.demo":
        assert parse(words)
        return
    monkeypatch.setattr(sys, "argv", [module, *words])
    monkeypatch.setattr(search_folder, "report", lambda *_: ("", True))
    with pytest.raises(SystemExit, match="0"):
        search_folder.main()


def test_all_commands_that_are_shown_are_checked() -> None:
    scripts = r"(torchrun .*|python )(train|evaluate)\.py "
    checked = scripts + r"|python -m (benchmarks|dogscats)\.|python (tests|exported|docs)/"
    unknown = [
        command
        for command in shown()
        if not re.match(checked, command)
        and command.split()[0] not in OTHERS
        and not re.match(r"path,decision|train/(cats|dogs)/|<dogscats>/", command)  # files
    ]
    assert not unknown


@pytest.mark.parametrize(
    "needed",
    [
        "make quickstart",
        "make test",
        "resume=",
        "predict=",
        "export=onnx",
        "export=web",
        "suspects=true",
        "recipe=small",
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
            assert linked.is_file(), f"{page.name}: {link}"
            assert not anchor or anchor in anchors(linked), f"{page.name}: {link}"


def test_readme_stays_short() -> None:
    page = (REPOSITORY / "README.md").read_text()
    assert len(page.splitlines()) <= 200
    assert len(page.split()) <= 1800


def test_every_page_can_be_found_from_the_map() -> None:
    linked = {(DOCS / link).resolve() for link in re.findall(r"\]\((?!http)(.*?)\)", (DOCS / "README.md").read_text())}
    assert {page for page in DOCS.rglob("*.md") if page != DOCS / "README.md"} <= linked


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    """The names of the script that makes pages."""
    return runpy.run_path(str(DOCS / "reference" / "make_reference.py"))


def test_pages_that_are_made_by_a_script_are_current(reference: dict[str, Any]) -> None:
    for page, content in reference["pages"]().items():
        assert page.read_text() == content, f"{page.name} is not current: python docs/reference/make_reference.py"
    assert not [line for line in reference["settings_page"]().splitlines() if line.endswith("|  |")], "no comment"


@pytest.fixture
def names(shared_root: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What examples use, with tiny networks, in a folder with photos and a finished run."""
    monkeypatch.chdir(tmp_path)
    for name, target in {
        "photos": shared_root,
        "data/synthetic-sample": shared_root,
        "outputs/run": finished,
        "a.jpg": shared_root / "valid" / "cats" / "cat.0.jpg",
        "b.jpg": shared_root / "valid" / "dogs" / "dog.0.jpg",
    }.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).symlink_to(target)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    tiny = partial(dogscats.timm_backbone, "test_resnet", "none")
    images = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    found = {name: getattr(dogscats, name) for name in dogscats.__all__}
    found |= dict.fromkeys(("resnet34", "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"), tiny)
    found |= {"timm_backbone": lambda name, features, size: tiny(features)}
    found |= {"Trainer": partial(pytorch_lightning.Trainer, enable_checkpointing=False, **quiet)}
    found |= {"torch": torch, "nn": nn, "Path": Path, "MyNetwork": TinyNetwork, "image": images[0], "images": images}
    found |= {"batches": [torch.randint(256, (4, 3, 64, 64)).byte()] * 2, "labels": [0, 1] * 4}
    data = dogscats.DogsCatsDataModule("photos", size=64, batch_size=6, num_workers=0)
    found |= {"data": data, "body": tiny("all"), "classifier": dogscats.Classifier(tiny(), data.classes)}
    found["features"] = torch.cat([found["body"].eval()(batch) for batch in found["batches"]])
    data.setup()
    return found


def as_in_tests(code: str) -> str:
    """An example with small sizes and names that exist here."""
    changed = {
        "size=224": "size=64",
        "size=128": "size=64",
        "(224": "(64",
        "steps=100": "steps=4",
        "(model, data).s": "(model, data, steps=4).s",
        "n_aug=4": "n_aug=1",
        "outputs/<run>": "outputs/run",
        'load("last")': 'load("outputs/run")',
    }
    for old, new in changed.items():
        code = code.replace(old, new)
    return code


def test_examples_of_public_names_run(
    reference: dict[str, Any], names: dict[str, Any], blank_pictures: None, tmp_path: Path
) -> None:
    documented = [name for listed in reference["API"].values() for name in listed.split()]
    assert {*documented, *reference["INTERNAL"]} == {*dogscats.__all__}
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^###? |\Z)", reference["api_page"](), re.DOTALL | re.MULTILINE))
    predictions = dogscats.Predictions(["a.jpg", "b.jpg"], ["cats", "dogs"], torch.tensor([0, 1]), torch.eye(2))
    for name in documented:
        blocks = re.findall(r"^```python\n(.*?)^```$", sections[name], re.DOTALL | re.MULTILINE)
        assert len(blocks) == 2, f"{name} has no example"
        assert len(blocks[1].splitlines()) <= 5, name
        exec(compile(as_in_tests(blocks[1]), name, "exec"), {**names, "predictions": predictions})
    assert (tmp_path / "mine" / "confusion_matrix.png").exists()
    assert (tmp_path / "mine" / "history.csv").exists()


@pytest.mark.parametrize("page", ["README.md", "docs/how-to/predict.md", "docs/how-to/kernel-head.md"])
def test_python_on_the_pages_runs(page: str, names: dict[str, Any]) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", (REPOSITORY / page).read_text(), re.DOTALL | re.MULTILINE)
    exec(compile(as_in_tests(blocks[-1]), page, "exec"), names)  # tests/predict/test_api.py runs README's first block


def rows(heading: str, page: str = "from-fastai.md") -> list[str]:
    """The right column of the table below a heading."""
    text = (DOCS / "how-to" / page).read_text()
    (section,) = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    return [line.rsplit("|", 2)[1] for line in section.splitlines() if line.startswith("|")][2:]


@pytest.mark.parametrize("heading", ["The lesson, fastai 0.7", "fastai 2.8"])
def test_settings_for_those_who_come_from_fastai_compose(heading: str) -> None:
    files = re.findall(r"^\| `(.*?)`", (DOCS / "reference" / "files.md").read_text(), re.MULTILINE)
    for row in rows(heading):
        for span in re.findall(r"`(.*?)`", row):
            words = shlex.split(span.replace("<stage>", "finetune").replace("<run>", "run"))
            script = "train.py"
            if words[0] == "python":
                _, script, *words = words
            if "=" in words[0] or script == "evaluate.py":
                composed(script, words)
            else:
                assert any(fnmatch(words[0], pattern) for pattern in files), span


def test_python_for_those_who_come_from_fastai_runs(names: dict[str, Any]) -> None:
    for row in rows("In Python"):
        (code,) = re.findall(r"`(.*?)`", row)
        exec(compile(as_in_tests(code), code, "exec"), names)
