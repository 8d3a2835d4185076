"""Several networks as one: what a run with `members` is used for."""

import hashlib
import signal
from pathlib import Path
from unittest import mock

import pytest
import torch
from conftest import QUIET, Run, command_runner, draw_photo

from dogscats import Members, Predictor, timm_backbone
from dogscats.base.files import read_csv, read_json
from dogscats.base.signals import Interrupted
from dogscats.lesson.heads import KernelHeads
from dogscats.predict.export.web.web_runtime import SHA256

NAMES = ("test_resnet", "test_efficientnet")

TWO = [
    "recipe=small",
    f"members=[{{model: {NAMES[0]}, size: 24}}, {{model: {NAMES[1]}, size: 32}}]",
    *("data.batch_size=5", "callbacks.tta.n_aug=1", *QUIET),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos that are hard to tell apart: otherwise all probabilities are 0 or 1."""
    folder = tmp_path_factory.mktemp("hard")
    for split, count in (("train", 30), ("valid", 8)):
        for label, name in enumerate(("cats", "dogs")):
            for number in range(count):
                kind = label if number % 3 else 1 - label
                draw_photo(folder / split / name / f"{number}.jpg", kind, hash((split, label, number)) % 2**32)
    return folder


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run of two networks that was interrupted after its stage, and resumed."""
    folder = tmp_path_factory.mktemp("members")
    command, weights = command_runner(folder), folder / "weights"
    weights.mkdir()
    nodes = []
    for name, size in zip(NAMES, (24, 32), strict=True):
        torch.manual_seed(0)
        torch.save(timm_backbone(name, "none").network.state_dict(), weights / f"{name}.pth")
        nodes.append(
            f"{{model: {{_target_: dogscats.timm_backbone, name: {name}, weights: weights/{name}.pth}}, size: {size}}}"
        )
    settings = [f"data.root={root}", TWO[0], f"members=[{','.join(nodes)}]", *TWO[2:], "hydra.run.dir=run"]
    with mock.patch("dogscats.runs.finish.fit_detector", side_effect=Interrupted(signal.SIGTERM)):
        assert command("train.py", *settings).returncode == 143
    (weights / f"{NAMES[0]}.pth").unlink()  # those of the checkpoint are used
    result = command("train.py", "resume=run")
    assert result.returncode == 0, result.stderr
    assert "Model     test_resnet at 24 + test_efficientnet at 32" in result.stdout
    return folder / "run"


def test_predictions_are_those_of_the_run(run: Path, root: Path) -> None:
    rows, final = read_csv(run / "predictions_valid.csv"), read_json(run / "metrics.json")["final"]
    assert any(0.05 < float(row["prob_cats"]) < 0.95 for row in rows)
    for source in (run, run / "model.safetensors"):
        predictor = Predictor.load(source)
        assert isinstance(predictor.model.heads, KernelHeads)
        predictions, _ = predictor.predict([root / row["path"] for row in rows], n_aug=0)
        of_label = torch.where(torch.tensor([row["label"] == "cats" for row in rows]), *predictions.probabilities.T)
        assert -of_label.log().mean().item() == pytest.approx(final["valid_loss"], rel=1e-4)
        (explained, *_) = predictor.explain(predictions.first(1))
        assert 0 <= explained.heat.min() <= explained.heat.max() <= 1


def test_probabilities_are_the_mean_of_those_of_both(run: Path) -> None:
    model = Predictor.load(run).model.eval()
    assert isinstance(model.body, Members)
    images = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        features = [member(images) for member in model.body.members()]
        each = [head(part).exp() for head, part in zip(model.heads, features, strict=True)]  # type: ignore[arg-type]
        torch.testing.assert_close(model(images).exp(), (each[0] + each[1]) / 2)
        maps, tokens = model.body.feature_maps(model.body.normalize(images))
        torch.testing.assert_close(model.body.pool(maps, tokens), torch.cat(features, dim=1))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "torch", "web"])
def test_exported_files_are_compared_with_pytorch(
    form: str, run: Path, run_command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript")
    (runtime := tmp_path / "runtime").mkdir()
    for name in SHA256:
        (runtime / name).write_text("stands in for a file of the runtime")
        monkeypatch.setitem(SHA256, name, hashlib.sha256((runtime / name).read_bytes()).hexdigest())
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    more = [f"web.runtime={runtime}"] if form == "web" else []
    result = run_command("evaluate.py", f"run={run}", f"export={form}", *more)
    assert result.returncode == 0, result.stderr
    assert "largest difference from PyTorch's probabilities" in result.stdout
