"""A labelled `test/`: predicted once, at the end, and never used to choose anything."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import FAST, QUIET, TINY, Run, draw_photo, draw_root

from dogscats.base.files import read_csv
from dogscats.base.text import percent

RUN = [*FAST, "hydra.run.dir=run"]
FINAL = ("acc", "loss", "balanced_acc", "macro_f1")


@pytest.fixture
def tested(root: Path) -> Path:
    """Photos with a labelled test split."""
    for label, (name, count) in enumerate([("cats", 2), ("dogs", 4)]):
        for number in range(count):
            draw_photo(root / "Testing" / name / f"{number}.jpg", label, 5000 + number)
    return root


def final(run_dir: Path) -> dict[str, Any]:
    return dict(json.loads((run_dir / "metrics.json").read_text())["final"])


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_test_metrics_with_and_without_tta(run_command: Run, tested: Path, tmp_path: Path) -> None:
    result = run_command("train.py", f"data.root={tested}", *RUN, "+callbacks.tta={_target_: dogscats.TTA, n_aug: 2}")
    assert result.returncode == 0, result.stderr
    assert "layout: train/ + valid/ + Testing/" in result.stdout
    found, rows = final(tmp_path / "run"), table(tmp_path / "run" / "predictions_test.csv")
    assert {f"test_{name}{suffix}" for name in FINAL for suffix in ("", "_tta")} <= set(found)
    assert (found["n"], found["n_test"]) == (10, 6)
    assert [row["path"] for row in rows] == [
        f"Testing/{c}/{n}.jpg" for c, k in (("cats", 2), ("dogs", 4)) for n in range(k)
    ]
    right = sum(row["label"] == row["predicted"] for row in rows)
    assert found["test_acc_tta"] == pytest.approx(right / 6)
    lines = [line.strip() for line in result.stdout.splitlines()]
    (start,) = [number for number, line in enumerate(lines) if line.startswith("6 test photos")]
    assert any(line.startswith("10 validation photos") for line in lines[:start])
    for line, name in zip(lines[start + 1 : start + 3], ("", "_tta"), strict=True):
        assert percent(found[f"test_acc{name}"], 6) in line
    assert sum(row["split"] == "test" for row in read_csv(tmp_path / "run" / "photos.csv")) == 6
    evaluated = run_command("evaluate.py", "run=run", "split=test", "callbacks.tta.n_aug=2", "hydra.run.dir=evaluated")
    assert evaluated.returncode == 0, evaluated.stderr
    metrics = json.loads((tmp_path / "evaluated" / "metrics.json").read_text())
    assert metrics["accuracy"] == found["test_acc"]
    assert metrics["tta"]["log_loss"] == pytest.approx(found["test_loss_tta"], abs=1e-6)


@pytest.mark.slow
def test_a_test_split_changes_nothing_else(run_command: Run, tested: Path, tmp_path: Path) -> None:
    """Without test-time augmentation; a class may lack photos in test/, and unreadable ones are left out."""
    for photo in (tested / "Testing" / "cats").iterdir():
        photo.unlink()
    (tested / "Testing" / "dogs" / "bad.jpg").write_bytes(b"no photo")
    refused = run_command("train.py", f"data.root={tested}", *RUN)
    assert refused.returncode == 1
    assert "Testing/dogs/bad.jpg" in refused.stderr
    with_test = run_command("train.py", f"data.root={tested}", *RUN, "data.on_bad_image=skip")
    assert with_test.returncode == 0, with_test.stderr
    (tested / "Testing").rename(tmp_path / "elsewhere")
    without = run_command("train.py", f"data.root={tested}", *FAST, "hydra.run.dir=without")
    assert without.returncode == 0, without.stderr
    found, expected = final(tmp_path / "run"), final(tmp_path / "without")
    assert found["n_test"] == 4
    assert {key: value for key, value in found.items() if "test" not in key} == expected
    assert not (tmp_path / "without" / "predictions_test.csv").exists()


def test_nothing_is_chosen_by_test_metrics(run_command: Run, tested: Path) -> None:
    result = run_command("train.py", f"data.root={tested}", *RUN, "optimized_metric=final.test_acc")
    assert result.returncode == 1
    assert "optimized_metric=final.test_acc: what is chosen by its test metrics has no unbiased" in result.stderr
    assert "final.valid_acc" in result.stderr


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_run_interrupted_around_the_test_prediction_is_resumed(
    run_command: Run, tested: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    name = "keep_test_predictions" if moment == "before" else "finish_run"
    monkeypatch.setattr(f"dogscats.runs.finish.{name}", stop)
    assert run_command("train.py", f"data.root={tested}", *RUN).returncode != 0
    assert (tmp_path / "run" / "predictions_test.csv").exists() is (moment == "after")
    monkeypatch.undo()
    resumed = run_command("train.py", "resume=run")
    assert resumed.returncode == 0, resumed.stderr
    assert "test_acc" in final(tmp_path / "run")
    assert "is finished" in run_command("train.py", "resume=run").stdout


@pytest.mark.slow
def test_a_run_begun_without_a_test_split_is_resumed_with_one(run_command: Run, tmp_path: Path, tested: Path) -> None:
    (tested / "Testing").rename(tmp_path / "Testing")
    arguments = [f"data.root={tested}", *TINY, *QUIET, "recipe.precompute.epochs=1", "callbacks.tta.n_aug=0"]
    arguments += ["~recipe.finetune", "+callbacks.mine={_target_: mine.Epochs, word: hi}", "hydra.run.dir=run"]
    assert run_command("train.py", *arguments, INTERRUPT="augmented 1").returncode == 143
    (tmp_path / "Testing").rename(tested / "Testing")
    resumed = run_command("train.py", "resume=run", "trust=true")
    assert resumed.returncode == 0, resumed.stderr
    assert final(tmp_path / "run")["n_test"] == 6


def test_the_check_compares_all_three_splits(run_command: Run, tested: Path) -> None:
    good = run_command("dogscats/check.py", str(tested))
    assert good.returncode == 0, good.stderr
    assert "Layout: train/ + valid/ + Testing/." in good.stdout
    assert [line.split() for line in good.stdout.splitlines() if line.split()[:1] == ["test"]] == [
        ["test", "2", "4", "6"]
    ]
    for split, number in (("train", 1), ("valid", 2)):
        photo = tested / split / "dogs" / f"dog.{number}.jpg"
        (tested / "Testing" / "dogs" / f"{split}.jpg").write_bytes(photo.read_bytes())
    bad = run_command("dogscats/check.py", str(tested))
    assert bad.returncode == 1
    assert "Photos in train and in test: 1\n  train/dogs/dog.1.jpg = Testing/dogs/train.jpg" in bad.stdout
    assert "Photos in valid and in test: 1\n  valid/dogs/dog.2.jpg = Testing/dogs/valid.jpg" in bad.stdout


def test_the_check_knows_tables_and_groups(run_command: Run, tmp_path: Path) -> None:
    root = draw_root(tmp_path / "photos", train=6, valid=0)
    lines = [f"{number},{name}" for name in ("cat", "dog") for number in (f"{name}.{n}" for n in range(6))]
    (root / "labels.csv").write_text("id,label\n" + "\n".join(line.replace("jpg", "") for line in lines))
    result = run_command(
        "dogscats/check.py", str(root), "--labels", "labels.csv", "--group", "([0-9]).jpg", "--valid-fraction", "0.34"
    )
    assert result.returncode == 0, result.stderr
    assert "Layout: labels.csv, 34 % held out by data.group." in result.stdout
    assert "held out from labels.csv by data.valid_fraction=0.34 seed=0" in result.stdout
    for arguments in (["--labels", "none.csv"], ["--group", "("], ["--valid-fraction", "2"]):
        wrong = run_command("dogscats/check.py", str(root), *arguments)
        assert wrong.returncode == 1
        assert arguments[0][2:] in wrong.stderr
        assert "Traceback" not in wrong.stderr
