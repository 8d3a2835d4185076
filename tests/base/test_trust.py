"""A config from someone else builds nothing that the list does not name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import FAST, Run, command_runner
from omegaconf import OmegaConf

from dogscats import Classifier, Predictor
from dogscats.base.errors import UserError
from dogscats.base.trust import TRUSTED, checked, needs_trust, use_current_names
from dogscats.report.facts import Facts
from dogscats.runs.checkpoint import digest_file

OWN = [
    "model._target_=mine.network", "~model.name", "~model.weights", "data._target_=mine.Data",
    "augment._target_=mine.augmentation", "~augment.max_zoom", "~augment.degrees", "~augment.lighting",
    "+augment.strength=0.3",
]  # fmt: skip


@pytest.fixture(scope="module")
def own(shared_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run whose backbone, augmentation and data module are the user's."""
    folder = tmp_path_factory.mktemp("own")
    result = command_runner(folder)("train.py", f"data.root={shared_root}", *FAST, *OWN, "hydra.run.dir=run")
    assert result.returncode == 0, result.stderr
    return folder / "run"


def edited_config(finished: Path, run_dir: Path, old: str, new: str) -> Path:
    config = (finished / "config.yaml").read_text()
    assert old in config
    run_dir.mkdir()
    (run_dir / "config.yaml").write_text(config.replace(old, new, 1))
    return run_dir


def edited_checkpoint(finished: Path, file: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    checkpoint = torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)
    change(checkpoint["hyper_parameters"])
    torch.save(checkpoint, file)
    return file


@pytest.mark.slow
def test_what_a_run_was_trained_with_evaluates_it_once_trusted(own: Path, run_command: Run, tmp_path: Path) -> None:
    for folder, source in (("by_run", f"run={own}"), ("by_ckpt", f"ckpt={own / 'checkpoints' / 'last.ckpt'}")):
        result = run_command("evaluate.py", source)
        assert result.returncode == 1
        for name in ("mine.network", "mine.augmentation", "mine.Data", "trust=true"):
            assert name in result.stderr
        assert "Traceback" not in result.stderr
        result = run_command("evaluate.py", source, "trust=true", f"hydra.run.dir={folder}", "callbacks.tta.n_aug=1")
        assert result.returncode == 0, result.stderr
        assert "own data module" not in result.stdout  # evaluation lists the photos of one split by itself
        found = json.loads((tmp_path / folder / "metrics.json").read_text())
        trained = json.loads((own / "metrics.json").read_text())["final"]
        assert found["accuracy"] == trained["valid_acc"]
        assert found["log_loss"] == pytest.approx(trained["valid_loss"], rel=1e-5)
    data = Predictor.load(own, trust=True).data()
    assert type(data).__name__ == "Data"
    assert "strength" not in str(data.augmentation)
    assert "0.7, 1.3" in str(data.augmentation)


def test_what_the_user_names_for_a_new_run_needs_no_trust(own: Path, run_command: Run, shared_root: Path) -> None:
    load = f"load={own / 'checkpoints' / 'last.ckpt'}"
    result = run_command("train.py", f"data.root={shared_root}", *FAST, *OWN, load)
    assert result.returncode == 0, result.stderr
    result = run_command("train.py", f"data.root={shared_root}", *FAST, load)
    assert result.returncode == 1
    assert "mine.network" in result.stderr
    assert "trust=true" in result.stderr
    result = run_command("train.py", f"data.root={shared_root}", *FAST, load, "trust=true")
    assert result.returncode == 1
    assert "it was saved with model={'_target_': 'mine.network'}" in result.stderr


@pytest.mark.fault("config or checkpoint that names code: refused, nothing executed")
@pytest.mark.parametrize(
    "target", ["torch.hub.load", "dogscats.lesson.backbone.torch.hub.load", "builtins.eval", "os.system"]
)
@pytest.mark.parametrize("where", ["model", "data", "augment", "callbacks.sgdr", "trainer", "logger.tensorboard"])
def test_a_config_that_names_code_is_refused(
    finished: Path, run_command: Run, tmp_path: Path, where: str, target: str
) -> None:
    names = {
        "model": "dogscats.timm_backbone",
        "data": "dogscats.DogsCatsDataModule",
        "augment": "dogscats.side_on",
        "callbacks.sgdr": "dogscats.SGDR",
        "trainer": "pytorch_lightning.Trainer",
        "logger.tensorboard": "pytorch_lightning.loggers.TensorBoardLogger",
    }
    run_dir = edited_config(finished, tmp_path / "run", f"_target_: {names[where]}", f"_target_: {target}")
    result = run_command("train.py", f"resume={run_dir}")
    assert result.returncode == 1
    assert f"it names {target}" in result.stderr
    assert "trust=true" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.fault("config or checkpoint that names code: refused, nothing executed")
def test_a_checkpoint_that_names_code_is_refused_wherever_it_is_loaded(
    finished: Path, run_command: Run, shared_root: Path, tmp_path: Path
) -> None:
    evil = edited_checkpoint(
        finished, tmp_path / "evil.ckpt", lambda saved: saved["model"].update(_target_="torch.hub.load")
    )
    for command in (
        ["evaluate.py", f"ckpt={evil}"],
        ["evaluate.py", f"ckpt={evil}", "export=onnx"],
        ["train.py", f"data.root={shared_root}", *FAST, f"load={evil}"],
    ):
        result = run_command(*command)
        assert result.returncode == 1
        assert "it names torch.hub.load" in result.stderr
        assert "trust=true" in result.stderr
        assert "Traceback" not in result.stderr
    for load in (Predictor.load, Classifier.load_from_checkpoint):
        with pytest.raises(UserError, match=r"it names torch\.hub\.load"):
            load(evil)


@pytest.mark.parametrize(
    "change",
    [
        lambda saved: saved["augment"].update(x=[{"deep": {"_target_": "os.system"}}]),
        lambda saved: saved["data"].update(_target_="os.system"),
        lambda saved: saved["data"]["augment"].update(_target_="os.system"),
    ],
    ids=["in a list", "data", "nested"],
)
def test_targets_are_found_at_any_depth(
    finished: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    with pytest.raises(UserError, match=r"it names os\.system"):
        Predictor.load(edited_checkpoint(finished, tmp_path / "evil.ckpt", change))


def test_interpolations_of_a_loaded_config_are_not_resolved(
    finished: Path, run_command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "hidden-word")
    run_dir = edited_config(finished, tmp_path / "run", "seed: 0", "seed: ${oc.env:SECRET}")
    for trust in ([], ["trust=true"]):
        result = run_command("train.py", f"resume={run_dir}", *trust)
        assert result.returncode == 1
        assert "${oc.env:SECRET}" in result.stderr
        assert "hidden-word" not in result.stdout + result.stderr


def test_names_are_compared_whole() -> None:
    assert needs_trust({"_target_": "dogscats.SGDR"}) == []
    for name in ("dogscats.SGDR ", "dogscats.SGDR.x", "Dogscats.SGDR", "dogscats", 3, ["dogscats.SGDR"], None, "${a}"):
        assert needs_trust([{"a": {"_target_": name}}]) == [str(name)]
    assert needs_trust({"_target_": "a.b"}, named=["a.b"]) == []
    assert checked({"_target_": "a.b"}, "file", trust=True) == {"_target_": "a.b"}


def test_the_list_names_nothing_that_runs_what_a_config_chooses() -> None:
    assert not any(name.startswith(("torch.hub", "builtins", "os", "subprocess")) for name in TRUSTED)
    known = ("dogscats.", "pytorch_lightning.", "torch.amp.", "torch.optim.swa_utils.")
    assert all(name.startswith(known) for name in TRUSTED)


@pytest.mark.slow
def test_a_run_from_before_the_modules_moved_is_resumed_evaluated_and_loaded(
    run_command: Run, shared_root: Path, tmp_path: Path
) -> None:
    """`config_c914319.yaml` is the config of a run of that commit."""
    config = (Path(__file__).parent / "config_c914319.yaml").read_text().replace("ROOT", str(shared_root))
    run_dir = tmp_path / "old"
    (run_dir / "checkpoints").mkdir(parents=True)
    (run_dir / "config.yaml").write_text(config)
    result = run_command("train.py", f"resume={run_dir}")
    assert result.returncode == 0, result.stderr
    assert list(json.loads((run_dir / "metrics.json").read_text())["stages"]) == ["precompute", "augmented", "finetune"]
    assert (run_dir / "lr_trace.csv").exists()
    assert (run_dir / "tensorboard" / "finetune").is_dir()
    assert Facts(run_dir).config["model"]["_target_"] == "dogscats.timm_backbone"

    # Its checkpoints have the same names as its config.
    last, old = run_dir / "checkpoints" / "last.ckpt", yaml.safe_load(config)
    checkpoint = torch.load(last, weights_only=True)
    assert old["data"]["_target_"] == "dogscats.data.DogsCatsDataModule"
    checkpoint["hyper_parameters"] |= {key: old[key] for key in ("model", "augment", "data")}
    torch.save(checkpoint, last)
    digest_file(last).unlink()
    result = run_command("evaluate.py", f"run={run_dir}", "callbacks.tta.n_aug=0")
    assert result.returncode == 0, result.stderr
    assert f"Data      {shared_root}: 10 photos of valid" in result.stdout
    for names in ([], ["model._target_=dogscats.backbone.timm_backbone"]):
        new = run_command("train.py", f"data.root={shared_root}", *FAST, f"load={last}", *names)
        assert new.returncode == 0, new.stderr


def test_former_names_in_a_config_of_the_users_own_are_understood() -> None:
    pictures = {"_target_": "dogscats.callbacks.pictures.Pictures", "count": 2}
    own = {"_target_": "mine.Pictures", "count": "${heads}"}
    config = OmegaConf.create({"heads": 1, "name": "???", "callbacks": [pictures, own], "again": "${callbacks}"})
    use_current_names(config)
    current = [{"_target_": "dogscats.Pictures", "count": 2}, {"_target_": "mine.Pictures", "count": 1}]
    assert OmegaConf.to_container(config, resolve=True) == {
        "heads": 1, "name": "???", "callbacks": current, "again": current,
    }  # fmt: skip


def test_the_synthetic_sample_under_its_old_name_is_trusted() -> None:
    found = checked({"data": {"_target_": "dogscats.data.sample.SampleDataModule"}}, "config.yaml")
    assert found == {"data": {"_target_": "dogscats.SampleDataModule"}}


def test_a_callback_that_became_a_figure_is_a_report_of_it_and_what_a_report_draws_is_checked() -> None:
    old = {"a": [{"_target_": "dogscats.callbacks.confusion_matrix.ConfusionMatrix"}]}
    assert needs_trust(old) == []
    assert checked(old, "file") == {"a": [{"_target_": "dogscats.Report", "draw": "confusion_matrix"}]}
    draw = {"_target_": "os.system", "_partial_": True}
    with pytest.raises(UserError, match=r"it names os\.system"):
        checked({"_target_": "dogscats.Report", "draw": draw}, "file")
    with pytest.raises(UserError, match=r"it names os\.system"):
        checked({"_target_": "dogscats.callbacks.reliability.Reliability", "x": draw}, "file")
