"""Write `settings.md` from the comments in `conf/`, `python-api.md` from docstrings, and the tables of `files.md`.

python docs/reference/make_reference.py
"""

import inspect
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from textwrap import dedent

import yaml
from hydra.utils import get_object
from pytorch_lightning import Trainer

import dogscats
from dogscats.lesson.stage import Stage
from dogscats.report.figure_table import FIGURES
from dogscats.report.run_files import FILES

FOLDER = Path(__file__).parent
CONF = FOLDER.parents[1] / "conf"

GROUPS = {
    "train.yaml": ("train.py", ""),
    "evaluate.yaml": ("evaluate.py", ""),
    "data/dogscats.yaml": ("Photos: `data`", "data."),
    "augment/side_on.yaml": ("Augmentation: `augment`", "augment."),
    "model/timm.yaml": ("Network: `model`", "model."),
    "callbacks/reports.yaml": ("Reports: `callbacks`, also in evaluate.py", "callbacks."),
    "callbacks/default.yaml": ("Training: `callbacks`", "callbacks."),
    "trainer/default.yaml": ("Trainer: `trainer`", "trainer."),
    "logger/tensorboard.yaml": ("TensorBoard: `logger=tensorboard`", "logger."),
    "logger/csv.yaml": ("CSV files: `logger=csv`", "logger."),
    "logger/wandb.yaml": ("Weights & Biases: `logger=wandb`", "logger."),
    "logger/mlflow.yaml": ("MLflow: `logger=mlflow`", "logger."),
    "hydra/launcher/slurm.yaml": ("Slurm: `hydra/launcher=slurm`", "hydra.launcher."),
}
"""Title of the settings of each file, and the prefix of their keys."""

API = {
    "Photos": "DogsCatsDataModule SampleDataModule side_on top_down crops none",
    "Networks": "resnet34 efficientnet_lite0 efficientnet_lite1 efficientnet_lite2 timm_backbone Members Backbone",
    "Training": "Classifier KernelHead find_lr LRFinder SGDR LRSchedule LRTrace History",
    "Prediction": "Predictor TTA Predictions evaluation_metrics",
    "Figures": "Report Pictures",
}
"""Public names of each subject."""

IMPLIED = {("callbacks", "evaluate"), ("callbacks", "reports")}
"""Choices that evaluate.py and other choices make."""

INTERNAL = {"KnownKeys", "LogFormatter", "OutputFolder", "SweepReport"}
"""Public names that only `conf/` needs."""


def arguments(documented: object) -> dict[str, str]:
    """Return the description of each argument, or attribute of a dataclass, in a docstring."""
    text = inspect.getdoc(documented) or ""
    found = re.search(r"^(?:Args|Attributes):\n((?:    .*\n?|\n)*)", text, re.MULTILINE)
    items = re.findall(r"^(\w+): (.*(?:\n +.*)*)", dedent(found[1]) if found else "", re.MULTILINE)
    return {name: re.sub(r"\s+", " ", description) for name, description in items}


def settings(file: Path) -> Iterator[tuple[str, str, str]]:
    """Yield the key, the default and the comment of each setting in a file of `conf/`.

    A key without a comment has the description of its argument in the docstring of the `_target_` beside it.
    """
    parents: list[str] = []
    described: dict[int, dict[str, str]] = {}
    for line in file.read_text().splitlines():
        found = re.fullmatch(r"( *)(\w+):(?: ([^#]*?))?(?: *# (.*))?", line)
        if not found:
            continue
        depth, key, value = len(found[1]) // 2, found[2], (found[3] or "").strip()
        parents = [*parents[:depth], key]
        if parents[0] in ("defaults", "hydra") or key == "_partial_":
            continue
        if key == "_target_":
            described[depth] = arguments(get_object(value)) if value.startswith("dogscats.") else {}
        elif value:
            described = {level: texts for level, texts in described.items() if level <= depth}
            yield ".".join(parents), value, found[4] or described.get(depth, {}).get(key, "")


def headline(file: Path) -> str:
    """Return the first sentence of the comment at the top of a file of `conf/`."""
    comments = re.match(r"(?:# @package.*\n)?((?:#.*\n)*)", file.read_text())
    text = " ".join(line.lstrip("# ") for line in (comments[1] if comments else "").splitlines())
    return re.split(r"(?<=[^.])\. ", text)[0]


def cell(text: str) -> str:
    """Escape a text for a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("<", "&lt;").rstrip(".")


def settings_page() -> str:
    """Write the page of all settings."""
    lines = [
        "# Settings",
        "",
        "Every value can be changed on the command line: `python train.py lr=3e-3 data.size=128`. This page is made",
        "from `conf/` by `python docs/reference/make_reference.py`.",
        "",
        "| choice | what it is |",
        "|---|---|",
    ]
    files = [file for file in sorted(CONF.rglob("*/*.yaml")) if (file.parent.name, file.stem) not in IMPLIED]
    lines += [f"| `{file.parent.relative_to(CONF)}={file.stem}` | {cell(headline(file))} |" for file in files]
    for name, (title, prefix) in GROUPS.items():
        lines += ["", f"## {title}", "", "| setting | default | meaning |", "|---|---|---|"]
        lines += [f"| `{prefix}{key}` | `{value}` | {cell(text)} |" for key, value, text in settings(CONF / name)]
    meanings = arguments(Stage)
    lines += ["", "## Stages: `recipe.<stage>`", "", "| setting | default | meaning |", "|---|---|---|"]
    for field in fields(Stage):
        if field.name != "name":
            default = "" if field.default is field.default_factory else f"`{yaml_text(field.default)}`"
            lines.append(f"| `recipe.<stage>.{field.name}` | {default} | {cell(meanings[field.name])} |")
    return "\n".join(lines) + "\n"


def yaml_text(value: object) -> str:
    """Return a default as it is written on the command line."""
    return yaml.safe_dump(list(value) if isinstance(value, tuple) else value, default_flow_style=True).split("\n")[0]


def signature(public: object) -> str:
    """Return the call of a class or function with its arguments and their defaults, without types."""
    parameters = [
        str(parameter.replace(annotation=inspect.Parameter.empty, default=default_name(parameter.default)))
        for parameter in inspect.signature(public).parameters.values()  # type: ignore[arg-type]
    ]
    name, separate = getattr(public, "__name__", ""), [text.replace("'", '"') for text in parameters]
    line = f"{name}({', '.join(separate)})"
    return line if len(line) <= 120 else "\n".join([f"{name}(", *(f"    {text}," for text in separate), ")"])


class Name:
    """A default that is shown by its name."""

    def __init__(self, name: str):
        self.name = name

    def __repr__(self) -> str:
        return self.name


def default_name(default: object) -> object:
    """Return what stands for a default in a signature: the name of a function, or the value itself."""
    return Name(default.__name__) if inspect.isroutine(default) or default is Trainer else default


def described(public: object) -> list[str]:
    """Return a docstring as Markdown: its sections become lists, and its examples code."""
    lines: list[str] = []
    section = ""
    for line in (inspect.getdoc(public) or "").splitlines():
        heading = re.fullmatch(r"(Args|Attributes|Raises|Returns|Example):", line)
        if heading:
            section = heading[1]
            lines += ["```python"] if section == "Example" else [f"*{section}*", ""]
        elif section == "Example" and not line.strip():
            lines += ["```", ""]
            section = ""
        elif section == "Example":
            lines.append(re.sub(r"^    (>>> |\.\.\. )?", "", line))
        elif section and re.match(r"    \w[\w, ]*: ", line) and section != "Returns":
            name, _, text = line.strip().partition(": ")
            lines.append(f"- {', '.join(f'`{one}`' for one in name.split(', '))}: {text}")
        else:
            lines.append(line[4:] if section == "Returns" else re.sub(r"^ {8}", "  ", line))
    lines += ["```"] if section == "Example" else []
    return [re.sub(r"docs/(\S+\.md)", r"[docs/\1](../\1)", line) for line in lines]


def api_page() -> str:
    """Write the page of the public names."""
    lines = [
        "# Python API",
        "",
        "`from dogscats import ...`. This page is made from docstrings by `python docs/reference/make_reference.py`.",
    ]
    for title, names in API.items():
        lines += ["", f"## {title}"]
        for name in names.split():
            public = getattr(dogscats, name)
            lines += ["", f"### {name}", "", "```python", signature(public), "```", "", *described(public)]
    return "\n".join(lines) + "\n"


def files_page() -> str:
    """Write the page of the files of a run: its table between two comments."""
    figures = {f"{row.name}.png": row.title or row.alt for row in FIGURES if "png" in row.formats}
    rows = [f"| `{name}` | {cell(purpose)} |" for name, purpose in ({**FILES, **figures} | FILES).items()]
    table = "\n".join(["| file | what it is for |", "|---|---|", *rows])
    page = (FOLDER / "files.md").read_text()
    return re.sub(r"(?<=<!-- table -->\n).*?(?=\n<!-- end -->)", lambda _: table, page, flags=re.DOTALL)


def pages() -> dict[Path, str]:
    """Return the content of each page."""
    made = {"settings.md": settings_page(), "python-api.md": api_page(), "files.md": files_page()}
    return {FOLDER / name: page for name, page in made.items()}


if __name__ == "__main__":
    for page, content in pages().items():
        page.write_text(content)
