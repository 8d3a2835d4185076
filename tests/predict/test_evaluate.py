"""`python evaluate.py` run as a user runs it, and the same call in Python."""

import csv
import json
import os
import re
import resource
import sys
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FAST, QUIET, REAL_DATA, TINY, Run, command_runner, draw_folder, draw_photo, draw_root
from matplotlib.figure import Figure
from PIL import Image

from dogscats import DogsCatsDataModule
from dogscats.base.errors import UserError
from dogscats.data.loading.dataset import PhotoDataset
from dogscats.predict.export.export import export_files
from dogscats.predict.find_photos import find_photos
from dogscats.predict.predictor import Predictor
from dogscats.report.figures.photo_figures import caption, overlay
from dogscats.report.gradcam import Explanation


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def written(tmp_path: Path) -> Path:
    (found,) = tmp_path.glob("outputs/evaluate/*/*")
    return found


@pytest.fixture(scope="module")
def trained(shared_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that no test may change."""
    folder = tmp_path_factory.mktemp("trained")
    result = command_runner(folder)(
        "train.py", f"data.root={shared_root}", *TINY, "seed=3", "recipe=head_only", "heads=2",
        "callbacks.tta.n_aug=2", "callbacks.lr_finder.before=none", f"hydra.run.dir={folder / 'run'}",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return folder / "run"


def digests(folder: Path) -> dict[Path, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.fault("evaluation: every file of the run as before")
@pytest.mark.draws
def test_evaluation_equals_what_training_reported(
    run_command: Run, trained: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    before = digests(trained)
    result = run_command("evaluate.py", f"run={trained}", "callbacks.tta.n_aug=2")
    assert result.returncode == 0, result.stderr
    assert digests(trained) == before
    run = written(tmp_path)
    metrics: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    final = json.loads((trained / "metrics.json").read_text())["final"]
    names = {
        "n", "accuracy", "accuracy_ci95", "balanced_accuracy", "macro_f1",
        "log_loss", "log_loss_clipped", "roc_auc", "ece", "per_class",
        "confusion_matrix",
    }  # fmt: skip
    assert set(metrics) >= {*names, "classes", "tta", "reliability", "seconds", "peak_rss_mb"}
    assert set(metrics["tta"]) >= names
    assert metrics["accuracy"] == final["valid_acc"]
    assert metrics["log_loss"] == pytest.approx(final["valid_loss"], abs=1e-6)
    assert metrics["tta"]["accuracy"] == final["valid_acc_tta"]
    assert metrics["tta"]["log_loss"] == pytest.approx(final["valid_loss_tta"], abs=1e-6)
    assert metrics["tta"]["confusion_matrix"] == final["confusion_matrix"]

    rows, after = table(trained / "predictions_valid.csv"), table(run / "predictions.csv")
    assert [(row["path"], row["label"]) for row in after] == [(row["path"], row["label"]) for row in rows]
    for old, new in zip(rows, after, strict=True):
        assert float(new["prob_dogs"]) == pytest.approx(float(old["prob_dogs"]), abs=1e-5)
    pictures = {path.name for path in run.glob("*.png")}
    assert pictures >= {
        "confusion_matrix.png", "reliability.png", "most_right.png", "most_uncertain.png", "most_wrong.png",
        "random_right.png", "random_wrong.png",
    }  # fmt: skip
    with Image.open(run / "reliability.png") as picture:
        assert picture.convert("L").getextrema() == (0, 255)
    for shown in ("10 photos of valid", "plain", "test-time augmentation", "precision", str(run)):
        assert shown in result.stdout
    assert not [warning for warning in recwarn if issubclass(warning.category, UserWarning)]
    assert "Warning" not in result.stdout + result.stderr


def test_a_checkpoint_on_another_root_with_a_class_that_has_no_photos(
    run_command: Run, trained: Path, tmp_path: Path
) -> None:
    for number in range(3):
        draw_photo(tmp_path / "other" / "held_out" / "dogs" / f"{number}.jpg", 1, number)
    (tmp_path / "other" / "held_out" / "cats").mkdir()
    result = run_command(
        "evaluate.py", f"ckpt={trained / 'checkpoints' / 'last.ckpt'}", "data.root=other", "split=held_out",
        "callbacks.tta.n_aug=0",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    metrics = json.loads((written(tmp_path) / "metrics.json").read_text())
    assert metrics["n"] == 3
    assert metrics["per_class"]["cats"]["recall"] is None
    assert "tta" not in metrics
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["held_out"]


def test_the_folder_of_the_photos_stays_as_it_was(run_command: Run, root: Path, tmp_path: Path) -> None:
    def cached(folder: str) -> set[str]:
        return {path.name for path in (tmp_path / folder).glob("*.npy")}

    before = digests(root)
    trained = run_command("train.py", f"data.root={root}", *FAST, "activations.dir=acts", "hydra.run.dir=run")
    assert trained.returncode == 0, trained.stderr
    plain = cached("acts")
    for arguments in (["suspects=true"], ["suspects=true", "activations.dir=own"]):
        result = run_command("evaluate.py", "run=run", *arguments)
        assert result.returncode == 0, result.stderr
    assert len(cached("acts")) == len(plain) == len(cached("own"))
    checked = run_command("dogscats/check.py", os.fspath(root))
    assert f"for the next time in {tmp_path / 'cache' / 'dogscats'}" in checked.stdout
    assert digests(root) == before
    assert not (root / "tmp").exists()


def test_without_valid_the_photos_held_out_are_those_of_the_run(trained: Path, tmp_path: Path) -> None:
    """A photo that the run was trained on must not count."""
    for number in range(10):
        for label, name in enumerate(("cats", "dogs")):
            draw_photo(tmp_path / "flat" / "train" / f"{name}.{number}.jpg", label, number)
    predictor = Predictor.load(trained)
    predictor.trained_on["valid_fraction"] = 0.3
    evaluated = predictor.data(tmp_path / "flat").labelled("valid", predictor.classes)
    training = DogsCatsDataModule(tmp_path / "flat", valid_fraction=0.3, seed=3)
    training.setup()
    assert evaluated == training.valid
    assert len(evaluated.paths) == 6
    assert predictor.data(tmp_path / "flat").labelled("train", predictor.classes) == training.train


def test_photos_that_training_skipped_are_skipped(trained: Path, tmp_path: Path) -> None:
    root = draw_root(tmp_path / "photos", train=2, valid=2)
    (root / "valid" / "cats" / "cat.0.jpg").write_bytes(b"no photo")
    predictor = Predictor.load(trained)
    with pytest.raises(UserError, match="on_bad_image=skip"):
        predictor.data(root).labelled("valid", predictor.classes)
    predictor.trained_on["on_bad_image"] = "skip"
    data = predictor.data(root)
    assert len(data.labelled("valid", predictor.classes).paths) == 3
    assert set(data.bad) == {"valid/cats/cat.0.jpg"}


@pytest.mark.slow
def test_two_ranks_give_the_metrics_of_one(run_process: Run, trained: Path, tmp_path: Path) -> None:
    result = run_process(
        "evaluate.py", f"run={trained}", "callbacks.tta.n_aug=2", "trainer=ddp", "trainer.devices=2",
        "trainer.accelerator=cpu", "data.batch_size=6", "callbacks.reports.pictures=null",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    metrics = json.loads((written(tmp_path) / "metrics.json").read_text())
    final = json.loads((trained / "metrics.json").read_text())["final"]
    assert metrics["tta"]["confusion_matrix"] == final["confusion_matrix"]
    assert metrics["tta"]["log_loss"] == pytest.approx(final["valid_loss_tta"], abs=1e-6)
    assert (result.stdout + result.stderr).count("Written to") == 1


def test_predict_a_folder_with_a_broken_photo(run_command: Run, trained: Path, tmp_path: Path) -> None:
    for number in (10, 2, 1):
        draw_photo(tmp_path / "test1" / f"{number}.jpg", number % 2, number)
    (tmp_path / "test1" / "3.jpg").write_bytes(b"no photo")
    result = run_command("evaluate.py", f"run={trained}", "predict=test1")
    assert result.returncode == 0, result.stderr
    run = written(tmp_path)
    rows = table(run / "predictions.csv")
    assert [row["path"] for row in rows] == ["test1/1.jpg", "test1/2.jpg", "test1/10.jpg"]
    assert set(rows[0]) == {"path", "predicted", "decision", "unlike", "prob_cats", "prob_dogs"}
    assert table(run / "submission.csv") == [
        {"id": str(number), "label": row["prob_dogs"]} for number, row in zip((1, 2, 10), rows, strict=True)
    ]
    assert "1 cannot be read (not in submission.csv)" in result.stdout
    assert "test1/3.jpg" in result.stdout

    predictor = Predictor.load(trained)
    paths = [tmp_path / "test1" / "10.jpg", tmp_path / "test1" / "3.jpg", tmp_path / "none.jpg"]
    predictions, unreadable = predictor.predict(paths, n_aug=0)
    assert predictor.classes == ["cats", "dogs"]
    assert predictions.paths == [paths[0].as_posix()]
    assert predictions.predicted_classes[0] in predictor.classes
    assert set(unreadable) == {path.as_posix() for path in paths[1:]}
    assert predictor.predict(paths[1:])[0].probabilities.shape == (0, 2)


def test_predict_a_glob_of_files_without_numbers(
    run_command: Run, trained: Path, shared_root: Path, tmp_path: Path
) -> None:
    pattern = f"{shared_root}/valid/*/*.jpg"
    result = run_command("evaluate.py", f"run={trained}", f"predict={pattern}", "callbacks.tta.n_aug=0")
    assert result.returncode == 0, result.stderr
    run = written(tmp_path)
    expected = table(trained / "predictions_valid.csv")
    rows = table(run / "predictions.csv")
    assert [row["path"] for row in rows] == [f"{shared_root}/{row['path']}" for row in expected]
    assert not (run / "submission.csv").exists()


def test_python_gives_the_probabilities_of_the_run(trained: Path, shared_root: Path) -> None:
    rows = table(trained / "predictions_valid.csv")
    predictor = Predictor.load(trained / "checkpoints" / "last.ckpt")
    assert (predictor.size, predictor.seed) == (32, 3)
    assert predictor.trained_on["root"] == str(shared_root)
    predictions, unreadable = predictor.predict([shared_root / row["path"] for row in rows], n_aug=0)
    assert not unreadable
    data = predictor.data(shared_root)
    dataset = PhotoDataset(data.labelled("valid", predictor.classes), data.evaluation, 0)
    images = torch.stack([dataset[index, 0][0] for index in range(len(rows))])
    with torch.no_grad():
        expected = predictor.model(images).exp()
    torch.testing.assert_close(predictions.probabilities, expected)


@pytest.mark.draws
def test_predictions_are_explained(run_command: Run, trained: Path, tmp_path: Path) -> None:
    names = ["a b$(c)&.jpg", "a_b__c__.jpg", "x" * 150 + ".png", "猫.webp", "-rf.jpg"]
    for number, name in enumerate(names):
        draw_photo(tmp_path / "photos" / name, number % 2, number, (120, 60))
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no photo")
    result = run_command("evaluate.py", f"run={trained}", "predict=photos", "explain=true", "callbacks.tta.n_aug=1")
    assert result.returncode == 0, result.stderr
    run = written(tmp_path)
    rows = table(run / "predictions.csv")
    drawn = sorted((run / "explained").iterdir())
    assert len(rows) == len(drawn) == len(names)
    for number, (row, file) in enumerate(zip(rows, drawn, strict=True), start=1):
        assert re.fullmatch(rf"{number:03d}_[\w.-]+\.jpg", file.name)
        assert file.stem[4:8] == re.sub(r"[^\w.-]+", "_", Path(row["path"]).stem)[:4]
        assert len(file.name.encode()) < 200
        with Image.open(file) as picture:
            assert picture.format == "JPEG"
            assert np.asarray(picture).std() > 20
    assert "explained/001_" in result.stdout


def test_of_very_many_predictions_the_first_are_explained(
    run_command: Run, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_folder(tmp_path / "photos", 102)
    titles: list[str] = []

    def draw(explanation: Explanation, path: str, name: str, probability: float) -> Figure:
        titles.append(caption(path, name, probability))
        return Figure()

    monkeypatch.setattr("dogscats.predict.evaluation.draw_explanation", draw)
    result = run_command("evaluate.py", f"run={trained}", "predict=photos", "explain=true", "callbacks.tta.n_aug=0")
    assert result.returncode == 0, result.stderr
    assert "Explaining the first 100 of 102 photos; for others: predict=<file or glob>" in result.stdout
    assert "explained (100 files)" in result.stdout
    run = written(tmp_path)
    assert len(list((run / "explained").iterdir())) == 100
    first = table(run / "predictions.csv")[0]
    probability = max(float(first["prob_cats"]), float(first["prob_dogs"]))
    named = first["predicted"]
    if first["decision"] != named:
        named = f"{first['decision']}, perhaps {named}"
    assert titles[0].startswith(f"0.jpg\n{named[:23]}")
    assert titles[0].endswith(f"({int(100 * probability)} %)")
    decided = Counter(row["decision"] for row in table(run / "predictions.csv"))
    assert all(f"{count} {decision}" in result.stdout for decision, count in decided.items())


def test_explanations_in_python(trained: Path, shared_root: Path) -> None:
    predictor = Predictor.load(trained)
    predictions, _ = predictor.predict(sorted((shared_root / "valid" / "dogs").iterdir()), n_aug=0)
    explanations = list(predictor.explain(predictions.first(3)))
    assert [explanation.image.shape for explanation in explanations] == [(3, 32, 32)] * 3
    images = torch.stack([explanation.image for explanation in explanations])
    with torch.no_grad():
        torch.testing.assert_close(predictor.model(images).exp(), predictions.first(3).probabilities)
    for explanation in explanations:
        assert 0 <= explanation.heat.min() <= explanation.heat.max() <= 1


@pytest.mark.slow
def test_a_run_that_predicts_cached_activations_explains_too(
    run_command: Run, shared_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    explained: list[int] = []
    monkeypatch.setattr(
        "dogscats.report.figure_table.overlay",
        lambda explanation: (explained.append(len(explanation.image)), overlay(explanation))[1],
    )
    result = run_command(
        "train.py", f"data.root={shared_root}", *TINY, "recipe=head_only", "callbacks.lr_finder.before=none",
        "callbacks.tta.n_aug=0", "hydra.run.dir=run",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "could not be drawn" not in result.stdout
    assert len(explained) >= 4  # of the most uncertain at least


def test_export_gives_one_file_that_equals_pytorch(
    run_command: Run, trained: Path, shared_root: Path, tmp_path: Path
) -> None:
    import onnxruntime

    photos = digests(shared_root)
    result = run_command("evaluate.py", f"run={trained}", "export=onnx")
    assert result.returncode == 0, result.stderr
    assert "checked on 10 photos of valid" in result.stdout
    assert digests(shared_root) == photos
    run = written(tmp_path)
    assert {path.name for path in run.glob("*onnx*")} == {"model.onnx", "photo.onnx", "predict_onnx.py"}
    session = onnxruntime.InferenceSession(run / "model.onnx", providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == ["cats", "dogs"]
    assert metadata["size"] == "32"
    (given,) = session.get_inputs()
    assert (given.type, given.shape[1:]) == ("tensor(uint8)", [3, 32, 32])
    images = np.random.default_rng(0).integers(0, 256, (7, 3, 32, 32), dtype=np.uint8)
    with torch.no_grad():
        expected = Predictor.load(trained).model(torch.from_numpy(images)).exp()
    for count in (1, 7):
        found, unlike = session.run(["probabilities", "unlike"], {"images": images[:count]})
        assert unlike.shape == (count,)
        np.testing.assert_allclose(found, expected[:count], atol=1e-5)


@pytest.mark.slow
def test_an_export_without_photos_says_what_it_was_checked_on(run_command: Run, trained: Path, tmp_path: Path) -> None:
    result = run_command("evaluate.py", f"run={trained}", "export=onnx", "data.root=nowhere")
    assert result.returncode == 0, result.stderr
    assert "random photos, as there is no folder data.root=nowhere" in result.stdout
    assert (written(tmp_path) / "model.onnx").exists()


def test_an_export_without_the_packages_says_what_to_install(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"needs onnxruntime: pip install .*\[onnx\]"):
        export_files("onnx", Predictor.load(trained), tmp_path, None)


@pytest.mark.parametrize(
    ("arguments", "culprit", "advice"),
    [
        ([], "run=<run directory>", "not neither"),
        (["run=RUN", "ckpt=a.ckpt"], "ckpt=<checkpoint>", "not both"),
        (["run=RUN", "predict=nowhere/*.jpg"], "predict=nowhere/*.jpg", "a folder"),
        (["run=RUN", "export=tflite"], "export=tflite", "onnx"),
        (["run=RUN", "explain=true"], "explain=true", "predict=<file, folder or glob>"),
        (["run=RUN", "explain=all", "predict=photos"], "explain=all", "true or false"),
        (["run=RUN", "callbacks.tta.n_aug=-1"], "callbacks.tta.n_aug=-1", "0 or more"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) and value else "",
)
def test_a_mistake_gets_one_message_and_exit_code_1(
    run_command: Run, trained: Path, arguments: list[str], culprit: str, advice: str
) -> None:
    result = run_command("evaluate.py", *(argument.replace("RUN", str(trained)) for argument in arguments))
    assert result.returncode == 1
    assert culprit in result.stderr
    assert advice in result.stderr
    assert "Traceback" not in result.stderr + result.stdout


@pytest.mark.slow
def test_a_mistake_ends_the_process_with_one_message_and_exit_code_1(run_process: Run, trained: Path) -> None:
    result = run_process("evaluate.py", f"run={trained}", "split=nowhere")
    assert result.returncode == 1
    assert "error: split=nowhere: " in result.stderr
    assert "train, valid" in result.stderr
    assert "Traceback" not in result.stderr + result.stdout


def test_what_is_no_run_is_refused(trained: Path, tmp_path: Path) -> None:
    for missing in (tmp_path / "missing", tmp_path):
        with pytest.raises(UserError, match=str(missing)):
            Predictor.load(missing)
    broken = tmp_path / "broken.ckpt"
    broken.write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match="cannot be read"):
        Predictor.load(broken)
    # What Lightning saves while a stage trains, of the head alone.
    torch.save({"state_dict": {}, "epoch": 1}, broken)
    with pytest.raises(UserError, match="not a checkpoint saved by a stage"):
        Predictor.load(broken)


@pytest.mark.fault("malicious pickle as weights or checkpoint: refused, nothing executed")
@pytest.mark.parametrize(
    "target", ["os.system", "dogscats.lesson.backbone.torch.hub.load", "dogscats.lesson.backbone.cast"]
)
def test_a_checkpoint_cannot_name_a_function_of_its_choice(trained: Path, tmp_path: Path, target: str) -> None:
    checkpoint = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    checkpoint["hyper_parameters"]["model"]["_target_"] = target
    torch.save(checkpoint, tmp_path / "hostile.ckpt")
    with pytest.raises(UserError, match=f"names {target}, which is code that does not belong to dogscats"):
        Predictor.load(tmp_path / "hostile.ckpt")


def test_a_root_of_other_classes_is_refused(trained: Path, tmp_path: Path) -> None:
    predictor = Predictor.load(trained)
    root = draw_root(tmp_path / "photos", train=1, valid=1, classes=("cats", "wolves"))
    with pytest.raises(UserError, match="cats, wolves, but the classifier's are cats, dogs"):
        predictor.data(root).labelled("valid", predictor.classes)


@pytest.mark.real
@pytest.mark.slow
def test_one_real_photo_takes_at_most_15_seconds(run_command: Run, run_process: Run, tmp_path: Path) -> None:
    photo = REAL_DATA / "dogscats" / "test1" / "1.jpg"
    weights = REAL_DATA / "weights" / "resnet34-grown.pth"
    if not photo.exists():
        pytest.skip(f"no photos at {photo}")
    root = draw_root(tmp_path / "photos", train=4, valid=2)
    result = run_command(
        "train.py", f"data.root={root}", f"model.weights={weights}", "recipe=head_only", "data.batch_size=4",
        *QUIET, "hydra.run.dir=run",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    # The processors' time, start included: what the command takes on an idle machine is at most that.
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = run_process("evaluate.py", "run=run", f"predict={photo}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert result.returncode == 0, result.stderr
    assert table(written(tmp_path) / "predictions.csv")[0]["path"] == str(photo)
    assert seconds < 15


def test_globs_see_what_a_folder_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the ending; and folders whose own names have wildcards."""
    folder = tmp_path / "br[1]"
    for name in ("1.jpg", "2.JPEG", "10.jp2", "sub*/4.png", "sub*/deep?/5.tif"):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.new("RGB", (9, 9))
        picture.save(file)
    picture.save(folder / "no ending", "PNG")
    picture.save(folder / ".hidden.jpg")
    (folder / "notes.txt").write_text("no photo")
    (tmp_path / "br1").mkdir()
    picture.save(tmp_path / "br1" / "other.jpg")
    for name in ("br[1]b.jpg", "br1b.jpg", "[ab]/2.jpg", "a/1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture.save(tmp_path / name)
    every = find_photos(str(folder))
    assert len(every) == 6
    assert find_photos(f"{folder}/*") == find_photos(f"{folder}/**") == every
    monkeypatch.chdir(tmp_path)
    for pattern, found in {
        "br[1]/*.jpg": ["br[1]/1.jpg"],
        "br[1]/**/*.*": [file.relative_to(tmp_path).as_posix() for file in every if file.suffix],
        "br[1]/*/*.png": ["br[1]/sub*/4.png"],
        "br[1]/*/deep?/*": ["br[1]/sub*/deep?/5.tif"],
        "br?/*": ["br1/other.jpg"],
        "br*/1.jpg": ["br[1]/1.jpg"],
        "br[1]*": [*(file.relative_to(tmp_path).as_posix() for file in every), "br[1]b.jpg"],
        "[ab]/": ["[ab]/2.jpg"],
        "[ab]/*": ["[ab]/2.jpg"],
    }.items():
        assert [file.as_posix() for file in find_photos(pattern)] == found, pattern
    with pytest.raises(UserError, match="no photos found"):
        find_photos("br[1]/*.txt")


def test_paths_are_those_of_where_the_command_was_given(run_command: Run, finished: Path, tmp_path: Path) -> None:
    draw_photo(tmp_path / "photos" / "a.jpg", 0, 1)
    (tmp_path / "run").symlink_to(finished)
    result = run_command("evaluate.py", "run=run", "predict=photos", "hydra.job.chdir=true", "hydra.run.dir=out")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out" / "predictions.csv").is_file()
