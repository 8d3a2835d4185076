"""`recipe=auto`: what is tried within the time, what is chosen, and the run that follows."""

import shutil
import signal
from pathlib import Path
from unittest import mock

import pytest
import torch
from conftest import QUIET, Run, command_runner, draw_photo
from omegaconf import OmegaConf

from dogscats.auto.candidates import Candidate, Plan
from dogscats.auto.choice import LeftOutTable
from dogscats.base.files import read_csv, read_json
from dogscats.base.signals import Interrupted
from dogscats.report.page import write_page


def entry(name: str, size: int) -> str:
    return f"{{model: {{_target_: dogscats.timm_backbone, name: {name}, weights: none}}, size: {size}}}"


AUTO = [
    "recipe=auto",
    "budget=10m",
    f"candidates=[{entry('test_resnet', 32)},{entry('test_efficientnet', 24)},{entry('no_such_network', 24)},"
    "{model: {_target_: dogscats.resnet34, wieghts: none}, size: 24},{model: timm, size: 24}]",
    *("data.batch_size=5", "callbacks.tta.n_aug=1", *QUIET),
]


@pytest.fixture(autouse=True)
def young_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that runs the tests has run for a while."""
    monkeypatch.setattr("dogscats.auto.auto_search.process_seconds", lambda: 5.0)


@pytest.fixture(scope="module")
def searched(shared_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The directory of a run that chose by itself, and what it printed."""
    folder = tmp_path_factory.mktemp("auto")
    settings = [f"data.root={shared_root}", *AUTO, "hydra.run.dir=run", f"activations.dir={folder / 'cache'}"]
    with mock.patch("dogscats.auto.auto_search.process_seconds", return_value=5.0):
        result = command_runner(folder)("train.py", *settings)
    assert result.returncode == 0, result.stderr
    return folder / "run", result.stdout


def test_all_candidates_are_listed_and_the_best_is_the_runs_own(searched: tuple[Path, str]) -> None:
    run, printed = searched
    rows = {row["candidate"]: row for row in read_csv(run / "auto.csv")}
    assert {"test_resnet at 32", "test_efficientnet at 24", "no_such_network at 24"} <= rows.keys()
    assert "timm has no such model" in rows["no_such_network at 24"]["note"]
    assert "timm has no such model" in rows["timm at 24"]["note"]
    assert "has no such argument" in rows["resnet34 at 24"]["note"]
    (chosen,) = (row for row in rows.values() if row["chosen"])
    assert "with the choice resampled" in chosen["note"]
    config = OmegaConf.load(run / "config.yaml")
    assert config.budget is None
    assert config.candidates is None
    final = read_json(run / "metrics.json")["final"]
    assert float(chosen["accuracy"]) == pytest.approx(final["loo_acc"])
    if config.members is None:
        assert f"{config.model.name} at {config.data.size}" == chosen["candidate"]
    assert "Chosen" in printed
    text = write_page(run).read_text()
    assert all(name in text for name in rows)
    assert (run / "auto.png").is_file()


def test_a_finished_search_is_not_repeated(searched: tuple[Path, str], run_command: Run) -> None:
    result = run_command("train.py", f"resume={searched[0]}")
    assert result.returncode == 0, result.stderr
    assert "is finished" in result.stdout


def test_a_killed_search_resumes(shared_root: Path, run_command: Run, tmp_path: Path) -> None:
    settings = [f"data.root={shared_root}", *AUTO, "hydra.run.dir=run", f"activations.dir={tmp_path / 'cache'}"]
    with mock.patch("dogscats.auto.auto_search._choose", side_effect=Interrupted(signal.SIGTERM)):
        killed = run_command("train.py", *settings)
    assert killed.returncode == 143
    assert "To resume:" in killed.stdout
    result = run_command("train.py", "resume=run")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("Reusing activations of train") >= 2
    assert OmegaConf.load(tmp_path / "run" / "config.yaml").budget is None


def test_no_candidate_can_be_built(shared_root: Path, run_command: Run, tmp_path: Path) -> None:
    candidates = f"candidates=[{entry('no_such_network', 24)}]"
    result = run_command("train.py", f"data.root={shared_root}", "recipe=auto", candidates, "hydra.run.dir=run")
    assert result.returncode == 1
    assert result.stderr.count("error: model.name=no_such_network: timm has no such model.") == 1
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["budget=10m"], "it is for recipe=auto"),
        (["recipe=auto", "budget=30s"], "budget=30s: expected a time of at least 1m"),
        (["recipe=auto", "budget=90"], "budget=90: expected a time"),
        (["recipe=auto", "data.size=64"], "data.size=64: recipe=auto chooses"),
        (["recipe=auto", "candidates=[resnet34]"], "candidates[0]=resnet34: expected {model: <name>"),
        (["recipe=auto", "candidates=[]"], "candidates=[]: expected a list"),
        (["recipe=auto", "candidates=[{model: {name: a}, size: 32}]"], "candidates[0]={'model': {'name': 'a'}"),
        (["recipe=small", "members=[{model: resnet34, size: 32}]"], "at least two"),
        (["members=[{model: resnet34, size: 32}, {model: resnet34, size: 24}]"], "Choose recipe=small"),
        (["-m", "recipe=small,auto"], "it cannot be swept"),
    ],
)
def test_bad_settings(settings: list[str], message: str, shared_root: Path, run_command: Run) -> None:
    result = run_command("train.py", f"data.root={shared_root}", *settings)
    assert result.returncode != 0
    assert message in result.stderr + result.stdout


def candidate(pass_seconds: float, photo_seconds: float = 0.0, size: int = 128, fit: float = 0.0) -> Candidate:
    return Candidate({"_target_": "dogscats.resnet34"}, size, pass_seconds, photo_seconds, fit_seconds=fit)


def test_what_fits_into_the_time() -> None:
    plan = Plan(budget=100, start=10, photos=100, passes=50, compared={128: 3.0})
    first = candidate(0.1, photo_seconds=0.14, fit=1)  # 0.04 s to decode a photo
    second = candidate(0.2)
    assert plan.seconds(second, first) == pytest.approx(24 + 1)
    assert plan.seconds(candidate(0.2, size=160), first) == pytest.approx(24 + 1 + 3)  # near-duplicates anew
    assert plan.after(second, last=first) == pytest.approx(10 + 12 + 2)
    assert plan.has_time(second, first, now=50.9)
    assert not plan.has_time(second, first, now=51.1)
    assert plan.has_time(second, first, now=74.9, cached=True)
    larger = candidate(0.1, photo_seconds=0.2, size=160, fit=1)
    both = 10 + 7 + 2 + 10 + 2 + 14  # the smaller one's features are computed anew
    assert plan.after(first, larger, last=first) == pytest.approx(both)


def table(*probabilities_of_label: list[float], groups: list[int] | None = None) -> LeftOutTable:
    """Candidates for two classes, of which the first is always right."""
    count = len(probabilities_of_label[0])
    each = [torch.tensor([[p, 1 - p] for p in values]) for values in probabilities_of_label]
    return LeftOutTable(each, torch.zeros(count, dtype=torch.long), torch.tensor(groups or range(count)))


def test_the_mean_of_two_is_taken_if_it_is_better_by_a_standard_error() -> None:
    everything = torch.ones(2, 2, dtype=torch.bool)
    apart = table([0.9, 0.3] * 20, [0.3, 0.89] * 20)
    assert apart.choose(everything) == (0, 1)
    assert apart.choose(torch.eye(2, dtype=torch.bool)) == (0, 0)  # there is no time for two
    alike = table([0.9, 0.3] * 20, [0.88, 0.3] * 20)
    assert alike.choose(everything) == (0, 0)
    copies = table([0.9, 0.3] * 20, [0.3, 0.89] * 20, groups=[0, 0, 1, 1, *[2] * 36])  # few photos, many copies
    assert copies.choose(everything)[0] == 0


def test_the_choice_is_judged_by_photos_that_did_not_make_it() -> None:
    torch.manual_seed(0)
    guesses = [torch.rand(60).tolist() for _ in range(12)]
    compared = table(*guesses)
    allowed = torch.eye(12, dtype=torch.bool)
    number, _ = compared.choose(allowed)
    flattered = compared.right[number, number].sum().item() / 60
    assert compared.resampled_accuracy(allowed) < flattered


def test_candidates_no_better_than_guessing(run_command: Run, tmp_path: Path) -> None:
    for name in ("a", "b"):  # photos of one kind
        for number in range(14):
            draw_photo(tmp_path / "photos" / name / f"{number}.jpg", 0, number + 100 * (name == "b"))
    small = f"candidates=[{entry('test_resnet', 32)}]"
    result = run_command("train.py", "data.root=photos", *AUTO[:2], small, *AUTO[3:])
    assert result.returncode == 0, result.stderr
    assert "no network tells the classes apart better than guessing" in result.stdout + result.stderr


@pytest.mark.slow
def test_two_ranks_search_together(shared_root: Path, run_process: Run, tmp_path: Path) -> None:
    ranks = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "data.batch_size=6"]
    settings = [setting for setting in AUTO if not setting.startswith("data.batch_size")]
    result = run_process("train.py", f"data.root={shared_root}", *settings, *ranks, "hydra.run.dir=run")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("Tried ") == 2
    assert result.stdout.count("Chosen ") == 1
    assert "Traceback" not in result.stderr
    assert len([row for row in read_csv(tmp_path / "run" / "auto.csv") if row["chosen"]]) == 1


@pytest.mark.slow
def test_a_class_of_one_photo_and_no_time(root: Path, run_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dogscats.auto.auto_search.process_seconds", lambda: 1000.0)
    for photo in sorted((root / "train" / "dogs").iterdir())[1:]:
        photo.unlink()
    shutil.rmtree(root / "valid")
    result = run_command("train.py", f"data.root={root}", *AUTO, "hydra.run.dir=run")
    assert "is not scored by leave-one-out" in result.stdout, result.stderr
    assert "the budget of 600 s is too short" in result.stdout
    assert result.stdout.count("Tried ") == 1
