"""Leave-one-out in the place of validation photos, and beside them."""

from pathlib import Path

import pytest
from conftest import QUIET, TINY, Run, command_runner, draw_root

from dogscats import Predictor
from dogscats.base.files import read_csv, read_json
from dogscats.report.facts import Facts
from dogscats.report.verdict import verdict
from dogscats.runs.checkpoint import body_trained_by

SMALL = [*TINY, "recipe=small", "data.size=32", "callbacks.tta.n_aug=1"]


@pytest.fixture(scope="module")
def all_train(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The directory of a run on all photos, none of them for validation, and what it printed."""
    folder = tmp_path_factory.mktemp("all")
    draw_root(folder / "photos", train=26, valid=0)
    result = command_runner(folder)(
        "train.py", "data.root=photos", *SMALL, "data.valid_fraction=0", "hydra.run.dir=run",
        "optimized_metric=final.valid_acc_tta", "activations.dir=cache",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return folder / "run", result.stdout


def test_leave_one_out_takes_the_place_of_validation(all_train: tuple[Path, str]) -> None:
    run, printed = all_train
    final = read_json(run / "metrics.json")["final"]
    assert (final["n"], final["n_loo"]) == (52, 52)
    assert "valid_acc" not in final
    low, high = final["loo_ci95"]
    assert low <= final["loo_acc"] <= high
    assert set(final["loo_recall"]) == {"cats", "dogs"}
    assert final["confusion_matrix"] == final["loo_confusion_matrix"]
    assert final["loo_loss"] == pytest.approx(read_json(run / "metrics.json")["stages"]["kernel"]["loo_loss"], abs=1e-4)
    rows = read_csv(run / "predictions_loo.csv")
    assert not (run / "predictions_valid.csv").exists()
    assert len(rows) == 52
    assert sum(row["predicted"] == row["label"] for row in rows) == round(52 * final["loo_acc"])
    assert {"decision", "unlike"} <= set(rows[0])
    facts = Facts(run)
    assert facts.judged.split == facts.best.split == "loo"
    assert "of 52 left-out training photos" in verdict(facts).headline or "all 52" in verdict(facts).headline
    assert "52 left-out training photos" in printed
    for picture in ("most_wrong", "reliability", "confusion_matrix"):
        assert (run / f"{picture}.png").exists()
    page, card = ((run / name).read_text() for name in ("report.html", "MODEL_CARD.md"))
    assert "Left-out training, plain" in page
    assert "left-out training, plain" in card


def test_thresholds_are_from_left_out_photos(all_train: tuple[Path, str]) -> None:
    run, printed = all_train
    saved = read_json(run / "reliability.json")
    assert (saved["photos"], saved["kind"]) == (52, "left-out training")
    for name in ("plain", "tta"):
        assert (saved[name]["unsure_from"], saved[name]["unsure_below"]) == (None, 0)
        assert saved[name]["none_from"] == "52 left-out training photos"
        assert saved[name]["expected_share_ci95"][0] < saved[name]["expected_share"] < 1
    assert "no photo is called unsure, as there are too few" in printed
    assert "of new photos of the same kind, about " in printed
    predictor = Predictor.load(run, keep=0.9)
    assert predictor.reliability is not None
    assert predictor.reliability.plain.thresholds.unsure_below > 0  # 2 % of 52 photos


def test_an_evaluation_needs_other_photos(
    all_train: tuple[Path, str], run_command: Run, shared_root: Path, tmp_path: Path
) -> None:
    run, _ = all_train
    result = run_command("evaluate.py", f"run={run}")
    assert (result.returncode, result.stderr.count("error:")) == (1, 1)
    assert "split=valid: the run has no validation photos (data.valid_fraction=0)." in result.stderr
    quick = ("callbacks.tta.n_aug=0", "callbacks.reports=null")
    result = run_command("evaluate.py", f"run={run}", f"data.root={shared_root}", *quick, "hydra.run.dir=valid")
    assert result.returncode == 0, result.stderr
    assert read_json(tmp_path / "valid" / "metrics.json")["n"] == 10
    result = run_command("evaluate.py", f"run={run}", f"data.root={shared_root / 'train'}", *quick, "hydra.run.dir=a")
    assert result.returncode == 0, result.stderr
    assert read_json(tmp_path / "a" / "metrics.json")["n"] == 24
    result = run_command("evaluate.py", f"run={run}", "suspects=true", "hydra.run.dir=suspects")
    assert result.returncode == 0, result.stderr


def test_a_run_that_was_killed_at_its_end_resumes_to_the_same(all_train: tuple[Path, str]) -> None:
    run, _ = all_train
    before, predictions = read_json(run / "metrics.json")["final"], (run / "predictions_loo.csv").read_text()
    (run / ".unreported").touch()
    left_out = run / "checkpoints" / "left_out.npz"
    for damage in (False, True):
        if damage:
            left_out.write_bytes(left_out.read_bytes()[:-300])
        (run / ".unreported").touch()
        (run / "predictions_loo.csv").unlink()
        result = command_runner(run.parent)("train.py", f"resume={run}")
        assert result.returncode == 0, result.stderr
        assert ("Stage kernel" in result.stdout) == damage
        assert read_json(run / "metrics.json")["final"] == before
        assert (run / "predictions_loo.csv").read_text() == predictions


def test_it_is_refused_where_leave_one_out_is_not_valid(
    all_train: tuple[Path, str], run_command: Run, tmp_path: Path
) -> None:
    root = all_train[0].parent / "photos"
    result = run_command("train.py", f"data.root={root}", *TINY, "recipe=head_only", "data.valid_fraction=0")
    assert result.returncode == 1
    assert "data.valid_fraction=0: stage precompute needs validation photos." in result.stderr
    trained = ["+recipe.kernel={fit: closed_form, precompute: true}", "recipe.finetune.cycles=1", "~recipe.augmented"]
    short = [*TINY, *QUIET, *trained, "~recipe.precompute", "callbacks.tta.n_aug=0"]
    result = run_command("train.py", f"data.root={root}", *short, "optimized_metric=final.loo_acc")
    assert result.returncode == 1
    assert "optimized_metric=final.loo_acc: metrics.json will have no such number." in result.stderr
    result = run_command("train.py", f"data.root={root}", *short, "hydra.run.dir=tuned")
    assert result.returncode == 0, result.stderr
    assert "No leave-one-out: the body was trained by stage finetune" in result.stdout
    metrics = read_json(tmp_path / "tuned" / "metrics.json")
    assert not [key for key in metrics["final"] if "loo" in key]
    assert "loo_loss" not in metrics["stages"]["kernel"]
    checkpoint = tmp_path / "tuned" / "checkpoints" / "last.ckpt"
    assert body_trained_by([], str(checkpoint)) == f"the run of load={checkpoint}"
    assert body_trained_by([], str(all_train[0] / "checkpoints" / "last.ckpt")) is None
    moved = checkpoint.rename(tmp_path / "moved.ckpt")
    assert body_trained_by([], str(moved)) == f"load={moved}, as far as is known"
