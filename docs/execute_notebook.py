"""Execute `lesson.ipynb` and store its outputs, with a fingerprint of what they were made with.

python docs/execute_notebook.py
"""

import asyncio
import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

REPOSITORY = Path(__file__).parent.parent
NOTEBOOK = Path(__file__).with_name("lesson.ipynb")


def settings_of(notebook: Any, gpu: bool = False, data: str = "sample") -> dict[str, Any]:
    """Return the names that the last part of the first code cell defines, `SETTINGS` among them."""
    source = next(cell.source for cell in notebook.cells if cell.cell_type == "code")
    model = re.search(r"^MODEL = .*$", source, re.MULTILINE)
    code = source[source.index("SAMPLE = ") : source.index("\nprint(")]
    names: dict[str, Any] = {"GPU": gpu, "DATA": data, "Path": Path}
    exec(f"from dogscats.base.text import setting\n{model[0] if model else ''}\n{code}", names)
    return names


def commands(notebook: Any, names: Mapping[str, Any]) -> list[list[str]]:
    """Return the scripts that the notebook runs, with their settings."""
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    lines = re.findall(r"^!\{PYTHON\} ((?:train|evaluate)\.py .*)$", code, re.MULTILINE)
    folders = {name: f"outputs/notebook/{name}" for name in ("LESSON", "SMALL", "BEST", "EVALUATION", "SUSPECTS")}
    return [shlex.split(line.format_map({**names, **folders})) for line in lines]


def fingerprint(notebook: Any) -> str:
    """Return the SHA-256 of the code cells and of the settings that their commands compose."""
    parts = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    for script, *settings in commands(notebook, settings_of(notebook)):
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
            parts.append(OmegaConf.to_yaml(compose(Path(script).stem, settings)))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def copy_clone(folder: Path) -> Path:
    """Copy what the notebook needs of the repository to a new folder."""
    for name in ("conf", "dogscats", "docs"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("train.py", "evaluate.py", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, folder)
    return folder


def execute(notebook: Any, folder: Path, work: Path, environment: Mapping[str, str]) -> None:
    """Execute a notebook with this interpreter.

    Args:
        notebook: notebook, whose outputs are replaced.
        folder: working folder.
        work: empty folder for temporary files.
        environment: further environment variables.
    """
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    kernel = work / "kernels" / "this"
    kernel.mkdir(parents=True)
    (work / "tmp").mkdir()
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "this", "language": "python"}))
    manager = AsyncKernelManager(
        kernel_name="this", kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(kernel.parent)])
    )
    client = NotebookClient(notebook, km=manager, timeout=1800, resources={"metadata": {"path": str(folder)}})
    own = {"TMPDIR": str(work / "tmp"), "IPYTHONDIR": str(work / "ipython")}
    try:
        asyncio.run(client.async_execute(env={**os.environ, **environment, **own}))
    finally:  # TensorBoard, which the notebook leaves running
        for info in work.glob("tmp/.tensorboard-info/pid-*.info"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(json.loads(info.read_text())["pid"], signal.SIGTERM)


def tidy(cell: Any, folder: str) -> None:
    """Leave out times, what a progress bar has overwritten, and folders of this machine from the outputs of a cell."""
    cell.metadata.pop("execution", None)
    if cell.cell_type != "code":
        return
    cell.outputs = [] if "tensorboard" in cell.metadata.tags else cell.outputs  # of a server that has ended
    merged: list[Any] = []
    for output in cell.outputs:
        if output.output_type == "stream" and merged and merged[-1].output_type == "stream":
            merged[-1].text += output.text
        else:
            merged.append(output)
    for output in merged:
        if output.output_type == "stream":
            output.name = "stdout"
            text = re.sub(r"[^\n]*\r", "", re.sub(r"\r+\n", "\n", output.text))
            text = text.replace(folder, "/content").replace(str(Path.home()), "~")
            output.text = re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+\n", "\n", text))
    cell.outputs = [output for output in merged if output.output_type != "stream" or output.text.strip()]


def main() -> None:
    """Execute the notebook in a copy of the repository, and store its outputs."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with tempfile.TemporaryDirectory() as work:
        clone = copy_clone(Path(work) / "dogscats")
        execute(notebook, clone / "docs", Path(work), {})
    for cell in notebook.cells:
        tidy(cell, work)
    notebook.metadata["dogscats"] = {"outputs_made_with": fingerprint(notebook)}
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
