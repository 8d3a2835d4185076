"""The model card of a run, and its weights: what others get."""

import json
import re
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import FAST, Run
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_report_page import CLASSES, TAG, draw_run

from dogscats import Predictor
from dogscats.base.errors import UserError
from dogscats.base.files import digest, read_csv
from dogscats.report.card import MOST_CLASSES, base_model, markdown, write_card
from dogscats.runs.checkpoint import digest_file, published, read_checkpoint, write_checkpoint

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_card(draw_run(tmp_path_factory.mktemp("runs") / "run"))


def front_matter(card: Path) -> dict[str, Any]:
    _, block, _ = card.read_text().split("---\n", 2)
    found: dict[str, Any] = yaml.safe_load(block)
    return found


def test_the_front_matter_is_hugging_faces(card: Path) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub, which comes with timm, is not installed")
    data = hub.ModelCard.load(card).data
    assert data.library_name == "dogscats"
    assert data.pipeline_tag == "image-classification"
    assert data.base_model == "timm/resnet34.tv_in1k"
    assert data.license is None  # not for a program to choose
    found = {result.metric_type: result for result in data.eval_results}
    assert set(found) == {"accuracy", "balanced_accuracy", "f1", "log_loss", "expected_calibration_error"}
    accuracy = found["accuracy"]
    assert accuracy.metric_value == pytest.approx(0.9)
    assert (accuracy.dataset_name, accuracy.dataset_type) == ("$5 <b>", "5-b")
    assert (accuracy.dataset_split, accuracy.task_type) == ("validation", "image-classification")


def test_the_card_describes_data_training_and_metrics(card: Path) -> None:
    text = card.read_text()
    for shown in (
        *("# resnet34 on \\$5 \\<b\\>", "with 4 classes", "2 heads", 'Predictor.load("model.safetensors")', "n_aug=2"),
        *("| class | training | validation |", "| \\$5\\_\\$ \\& co | 1 | 1 |", "| all | 4 | 4 |", "1 drop, 1 keep"),
        *("| first | 2 epochs, training head on precomputed activations | 2 | 0.01 |", "torch 2.15.0", "90 %"),
        *("keep=best", "squares of 32 pixels", "batch size 8"),
    ):
        assert shown in text, shown
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) == 3
    for table in tables:
        cells = {len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}
        assert len(cells) == 1


def test_names_are_text_and_folders_are_not_told(card: Path) -> None:
    text = card.read_text()
    assert "/secret" not in text
    assert str(card.parent) not in text
    assert TAG not in text
    assert "\x1b" not in text
    assert markdown("a|b_c*d`e[f](g)<h>$5#~&\\") == "a\\|b\\_c\\*d\\`e\\[f\\](g)\\<h\\>\\$5\\#\\~\\&\\\\"
    for name in CLASSES:
        assert markdown(name) in text


@pytest.mark.slow
def test_the_card_of_thousands_of_classes_is_bounded(tmp_path: Path) -> None:
    text = write_card(draw_run(tmp_path / "run", [f"breed {number}" for number in range(3000)])).read_text()
    assert len(text.splitlines()) < MOST_CLASSES + 100
    assert f"| and {3000 - MOST_CLASSES} more | | |" in text


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"_target_": "dogscats.resnet34", "weights": "resnet34-grown.pth"}, None),
        ({"_target_": "dogscats.efficientnet_lite0", "weights": "imagenet"}, None),
        ({"_target_": "my.network", "name": "resnet34", "weights": "imagenet"}, None),
        (
            {"_target_": "dogscats.timm_backbone", "name": "convnext_atto", "weights": "imagenet"},
            "timm/convnext_atto.d2_in1k",
        ),
    ],
)
def test_the_base_model_is_named_if_it_is_known(model: dict[str, Any], expected: str | None) -> None:
    assert base_model(model) == expected


@pytest.fixture(scope="module")
def run(finished: Path) -> Path:
    return finished


def test_the_weights_are_those_of_the_last_checkpoint(run: Path) -> None:
    last, weights = read_checkpoint(run / "checkpoints" / "last.ckpt"), read_checkpoint(run / WEIGHTS)
    assert weights["state_dict"].keys() == last["state_dict"].keys()
    assert all(torch.equal(weights["state_dict"][key], value) for key, value in last["state_dict"].items())
    assert weights["stage"] == last["stage"] == "precompute"
    assert digest(run / WEIGHTS) in digest_file(run / WEIGHTS).read_text()
    assert stat.S_IMODE((run / WEIGHTS).stat().st_mode) == stat.S_IMODE((run / "metrics.json").stat().st_mode)


def test_the_metadata_is_for_other_programs_and_tells_no_folders(run: Path, shared_root: Path) -> None:
    with safe_open(run / WEIGHTS, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "pt"
    values = {key: json.loads(value) for key, value in metadata.items() if key != "format"}
    assert values["classes"] == ["cats", "dogs"]
    assert (values["size"], values["heads"]) == (32, 1)
    assert values["model"]["name"] == "test_resnet"
    assert len(values["mean"]) == len(values["std"]) == 3
    assert set(values["data"]) <= {"fit", "shrink"}
    assert str(shared_root) not in str(metadata)
    model = {"_target_": "x", "weights": "/home/me/secret/resnet34.pth"}
    assert published({"model": model, "data": {"root": "/x", "fit": "pad"}, "size": 8}) == {
        "model": {"_target_": "x", "weights": "resnet34.pth"},
        "data": {"fit": "pad"},
        "size": 8,
    }


def test_published_weights_predict_as_the_run(run: Path, shared_root: Path, tmp_path: Path) -> None:
    photos = sorted((shared_root / "valid").rglob("*.jpg"))
    expected, _ = Predictor.load(run).predict(photos, n_aug=1)
    (tmp_path / WEIGHTS).write_bytes((run / WEIGHTS).read_bytes())
    for source in (tmp_path, tmp_path / WEIGHTS):  # a folder as it is downloaded
        found, _ = Predictor.load(source).predict(photos, n_aug=1)
        assert torch.equal(found.probabilities, expected.probabilities)


def test_published_weights_are_evaluated_and_trained_on(
    run: Path, run_command: Run, shared_root: Path, tmp_path: Path
) -> None:
    (tmp_path / WEIGHTS).write_bytes((run / WEIGHTS).read_bytes())
    evaluated = run_command("evaluate.py", f"ckpt={WEIGHTS}", f"data.root={shared_root}", "hydra.run.dir=evaluated")
    assert evaluated.returncode == 0, evaluated.stderr
    ours = [row["predicted"] for row in read_csv(tmp_path / "evaluated" / "predictions.csv")]
    assert ours == [row["predicted"] for row in read_csv(run / "predictions_valid.csv")]
    unknown = run_command("evaluate.py", f"ckpt={WEIGHTS}")
    assert unknown.returncode == 1
    assert "the run's data folder is unknown. Set data.root=" in unknown.stderr
    trained = run_command(
        "train.py", f"load={WEIGHTS}", f"data.root={shared_root}", *FAST,
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr


def test_files_that_are_no_published_model_are_refused(run: Path, tmp_path: Path) -> None:
    file = tmp_path / WEIGHTS
    save_file({"x": torch.zeros(2)}, file)
    with pytest.raises(UserError, match="its metadata has no model, augment, classes, heads, size"):
        Predictor.load(file)
    content = (run / WEIGHTS).read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        Predictor.load(file)
    (text := tmp_path / "text.jpg").write_text("hello")
    with pytest.raises(UserError, match=r"as a checkpoint \(it is damaged, or another kind of file\)"):
        Predictor.load(text)
    damaged = bytearray(content)
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    digest_file(file).write_text(digest_file(run / WEIGHTS).read_text())
    with pytest.raises(UserError, match="its SHA-256 does not match"):
        Predictor.load(file)


def test_the_same_weights_are_the_same_file(run: Path, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(run / WEIGHTS)
    checkpoint["hyper_parameters"]["classes"] = ["cäts\x1f\u2028/", '"\\']
    for number in range(5):
        write_checkpoint(checkpoint, tmp_path / f"{number}.safetensors")
    assert len({digest(file) for file in tmp_path.glob("*.safetensors")}) == 1
    again = read_checkpoint(tmp_path / "0.safetensors")
    assert again["hyper_parameters"] == checkpoint["hyper_parameters"]
    state = load_file(tmp_path / "0.safetensors")
    assert state.keys() == checkpoint["state_dict"].keys()
    assert all(torch.equal(state[key], value) for key, value in checkpoint["state_dict"].items())


def test_published_weights_that_name_code_need_trust(run: Path, tmp_path: Path) -> None:
    with safe_open(run / WEIGHTS, framework="pt") as file:
        metadata = file.metadata()
    for key in ("model", "augment"):
        evil = metadata | {key: json.dumps(json.loads(metadata[key]) | {"_target_": "os.system"})}
        save_file(read_checkpoint(run / WEIGHTS)["state_dict"], tmp_path / WEIGHTS, evil)
        with pytest.raises(UserError, match=r"it names os\.system, which is code that does not belong to dogscats"):
            Predictor.load(tmp_path / WEIGHTS)
