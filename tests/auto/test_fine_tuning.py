"""`recipe=auto`: the best network is fine-tuned, and taken if it predicts a fifth of the photos better."""

import shutil
import signal
import time
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
from conftest import QUIET, Run, draw_photo
from omegaconf import OmegaConf

from dogscats.auto.choice import LeftOutTable
from dogscats.auto.fine_tuning import FOLDER
from dogscats.base.files import read_csv, read_json
from dogscats.base.signals import Interrupted
from dogscats.report.facts import Facts
from dogscats.report.verdict import verdict

NETWORK = "{model: {_target_: dogscats.timm_backbone, name: test_resnet, weights: none}, size: 32}"

SETTINGS = [
    *("data.root=photos", "recipe=auto", "budget=10m", f"candidates=[{NETWORK}]"),
    *("callbacks.tta.n_aug=1", "activations.dir=cache", *QUIET),
]


@pytest.fixture(autouse=True)
def few_photos(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Twelve photos of each class, one of them twice, are enough; the process that runs the tests is a young one."""
    monkeypatch.setattr("dogscats.auto.fine_tuning.MIN_GROUPS", 3)
    monkeypatch.setattr("dogscats.auto.fine_tuning.MIN_ERROR", -1.0)
    for module in ("auto_search", "fine_tuning"):
        monkeypatch.setattr(f"dogscats.auto.{module}.process_seconds", lambda: 5.0)
    for kind, name in enumerate(("cats", "dogs")):
        for number in range(12):
            draw_photo(tmp_path / "photos" / "train" / name / f"{number}.jpg", kind, number)
        shutil.copy(tmp_path / "photos" / "train" / name / "0.jpg", tmp_path / "photos" / "train" / name / "copy.jpg")


@pytest.fixture
def wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LeftOutTable, "is_better", lambda self, candidate, than: True)


def photos_of(run: Path) -> dict[str, list[str]]:
    splits: dict[str, list[str]] = {}
    for row in read_csv(run / "photos.csv"):
        splits.setdefault(row["split"], []).append(row["path"])
    return splits


def files(run: Path) -> dict[str, object]:
    """What a resumed run must have as an uninterrupted one has."""
    weights = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return {
        "weights": {key: value.tolist() for key, value in weights.items()},
        "predictions": (run / "predictions_valid.csv").read_text(),
        "photos": (run / "photos.csv").read_text(),
    }


def succeeded(result: CompletedProcess[str]) -> CompletedProcess[str]:
    assert result.returncode == 0, result.stderr
    return result


@pytest.mark.usefixtures("wins")
def test_a_fine_tuned_network_is_the_run(run_command: Run, tmp_path: Path) -> None:
    began, run = time.perf_counter(), tmp_path / "run"
    printed = succeeded(run_command("train.py", *SETTINGS, "hydra.run.dir=run")).stdout
    assert "Chosen    test_resnet at 32, fine-tuned" in printed
    config, splits = OmegaConf.load(run / "config.yaml"), photos_of(run)
    assert [*config.recipe] == ["precompute", "finetune"]
    assert config.recipe.finetune.keep == "last"
    assert config.recipe.finetune.epochs == 10  # as there is time
    assert config.augment._target_ == config.data.augment._target_ == "dogscats.side_on"
    assert config.budget is None
    assert not (run / FOLDER).exists()
    assert sum(map(len, splits.values())) <= 26
    for name in ("cats", "dogs"):  # near-duplicates are on one side
        copies = {f"train/{name}/0.jpg", f"train/{name}/copy.jpg"}
        assert not (copies & {*splits["train"]} and copies & {*splits["valid"]})
    (row,) = (row for row in read_csv(run / "auto.csv") if row["chosen"])
    assert "which chose between it and the kernel head" in row["note"]
    assert int(row["photos"]) == len(splits["valid"])
    assert read_json(run / "metrics.json")["seconds"] < time.perf_counter() - began  # nothing counts twice
    assert any("chose between" in obstacle for obstacle in verdict(Facts(run)).obstacles)
    assert "is finished" in succeeded(run_command("train.py", "resume=run")).stdout
    moved = run.rename(tmp_path / "moved")
    evaluated = succeeded(run_command("evaluate.py", f"run={moved}", "hydra.run.dir=evaluated"))
    assert "Right on" in evaluated.stdout


def test_a_worse_network_leaves_no_trace(run_command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LeftOutTable, "is_better", lambda self, candidate, than: False)
    succeeded(run_command("train.py", *SETTINGS, "hydra.run.dir=run"))
    assert [*OmegaConf.load(tmp_path / "run" / "config.yaml").recipe] == ["kernel"]
    assert not (tmp_path / "run" / FOLDER).exists()
    assert not (tmp_path / "run" / "decisions.csv").exists()
    assert len(photos_of(tmp_path / "run")["train"]) == 26
    tuned = read_csv(tmp_path / "run" / "auto.csv")[1]
    assert tuned["candidate"] == "test_resnet at 32, fine-tuned"
    assert not tuned["chosen"]
    assert float(tuned["log_loss"]) > 0


@pytest.mark.slow
@pytest.mark.usefixtures("wins")
def test_with_validation_photos_the_fifth_is_dropped(run_command: Run, tmp_path: Path) -> None:
    for kind, name in enumerate(("cats", "dogs")):
        for number in range(100, 103):
            draw_photo(tmp_path / "photos" / "valid" / name / f"{number}.jpg", kind, number)
    (tmp_path / "own.csv").write_text("path,decision,label\ntrain/cats/5.jpg,drop,\ntrain/cats/6.jpg,relabel,dogs\n")
    succeeded(run_command("train.py", *SETTINGS, "hydra.run.dir=run", "data.decisions=own.csv", "augment=crops"))
    assert OmegaConf.load(tmp_path / "run" / "config.yaml").augment._target_ == "dogscats.crops"  # as it was chosen
    splits = photos_of(tmp_path / "run")
    assert len(splits["valid"]) == 6
    fifth = {row["path"] for row in read_csv(tmp_path / "run" / "decisions.csv") if row["decision"] == "drop"}
    assert 4 <= len(fifth) <= 7
    assert "train/cats/5.jpg" in fifth
    assert not fifth & {*splits["train"]}
    labels = {row["path"]: row["label"] for row in read_csv(tmp_path / "run" / "photos.csv")}
    assert labels.get("train/cats/6.jpg", "dogs") == "dogs"


@pytest.mark.slow
@pytest.mark.usefixtures("wins")
@pytest.mark.parametrize("place", ["fine_tuning.predict", "fine_tuning._move", "auto_search._report"])
def test_a_killed_run_resumes_to_the_same(
    run_command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    succeeded(run_command("train.py", *SETTINGS, "hydra.run.dir=whole"))
    from dogscats.auto import auto_search, fine_tuning

    module, name = {"fine_tuning": fine_tuning, "auto_search": auto_search}[place.split(".")[0]], place.split(".")[1]
    calls, original = [], getattr(module, name)

    def interrupted(*arguments: object, **others: object) -> object:
        calls.append(1)
        if len(calls) == (4 if name == "_move" else 1):
            raise Interrupted(signal.SIGTERM)
        return original(*arguments, **others)

    with monkeypatch.context() as patched:
        patched.setattr(module, name, interrupted)
        assert run_command("train.py", *SETTINGS, "hydra.run.dir=run").returncode == 143
    resumed = succeeded(run_command("train.py", "resume=run"))
    if name != "_report":
        assert "Stage finetune" not in resumed.stdout
    assert files(tmp_path / "run") == files(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.usefixtures("wins")
def test_the_users_files_in_the_run_directory_stay(run_command: Run, tmp_path: Path) -> None:
    mine = [tmp_path / "auto" / "mine", tmp_path / "checkpoints" / "mine.ckpt", tmp_path / "tensorboard" / "mine"]
    for file in mine:
        file.parent.mkdir()
        file.write_text("mine")
    succeeded(run_command("train.py", *SETTINGS, "hydra.run.dir=."))
    assert [file.read_text() for file in mine] == ["mine"] * 3
    assert [*OmegaConf.load(tmp_path / "config.yaml").recipe] == ["precompute", "finetune"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.decisions=decisions.csv", "decisions.csv is in the way"),
        ("data.limit=5", "data.limit leaves other photos"),
    ],
)
def test_what_prevents_fine_tuning(run_command: Run, tmp_path: Path, setting: str, message: str) -> None:
    decisions = tmp_path / "decisions.csv"
    decisions.write_text("path,decision,label,note\ntrain/cats/5.jpg,keep,,checked\n")
    before = decisions.read_text()
    printed = succeeded(run_command("train.py", *SETTINGS, "hydra.run.dir=.", setting)).stdout
    assert "No fine-tuning: " in printed
    assert message in printed
    assert decisions.read_text() == before


@pytest.mark.parametrize(
    "reason", ["time", *(pytest.param(reason, marks=pytest.mark.slow) for reason in ("groups", "error", "deadline"))]
)
def test_why_nothing_is_fine_tuned(
    run_command: Run, monkeypatch: pytest.MonkeyPatch, reason: str, tmp_path: Path
) -> None:
    expected = {
        "time": "it takes about",
        "groups": "without near-duplicates in the rest",
        "error": "the kernel head is wrong on",
        "deadline": "it took longer than estimated",
    }[reason]
    if reason == "time":
        monkeypatch.setattr("dogscats.auto.fine_tuning._seconds", lambda *_: (0.0, 1000.0))
    elif reason == "groups":
        monkeypatch.setattr("dogscats.auto.fine_tuning.MIN_GROUPS", 50)
    elif reason == "error":
        monkeypatch.setattr("dogscats.auto.fine_tuning.MIN_ERROR", 1.0)
    else:
        times = iter([5.0])
        monkeypatch.setattr("dogscats.auto.fine_tuning.process_seconds", lambda: next(times, 1e6))
    printed = succeeded(run_command("train.py", *SETTINGS, "hydra.run.dir=run")).stdout
    assert "No fine-tuning: " in printed
    assert expected in printed
    assert not (tmp_path / "run" / FOLDER).exists()
