"""What people type: unknown keys and choices, other commands' habits, the newest run, and --help."""

import json
import os
import re
import sys
from pathlib import Path

import pytest
from conftest import FAST, REPOSITORY, TINY, Run
from omegaconf import OmegaConf

from dogscats.base.errors import UserError
from dogscats.base.newest import newest_run, newest_runs
from dogscats.predict.demo import server
from dogscats.runs.command_line import check_words, helpful_command_line

HINTS = [
    ("train.py", "data.rot=x", "data.rot: there is no such setting. Did you mean data.root?"),
    ("train.py", "+data.rot=x", "data.rot: dogscats.DogsCatsDataModule has no such argument. Did you mean data.root?"),
    ("train.py", "++model.feature=all", "model.feature: dogscats.timm_backbone has no such argument. Did you mean"),
    ("train.py", "+augment.zoom=2", "dogscats.side_on has no such argument. Did you mean augment.max_zoom?"),
    ("train.py", "batch_size=8", "batch_size: there is no such setting. Did you mean data.batch_size?"),
    ("train.py", "n_aug=0", "Did you mean callbacks.tta.n_aug?"),
    ("train.py", "+heds=3", "heds: there is no such setting. Did you mean heads?"),
    ("train.py", "++activations.view=3", "activations.view: there is no such setting. Did you mean activations.views?"),
    ("train.py", "recipe.finetun.lr=1", "Did you mean recipe.finetune.lr?"),
    ("train.py", "+recipe.finetun.lr=1", "Did you mean recipe.finetune?"),
    ("train.py", "recipe.finetune.schedul=x", "Did you mean recipe.finetune.schedule?"),
    ("train.py", "+recipe.finetune.cycle=3", "Did you mean recipe.finetune.cycles?"),
    ("train.py", "recipe.finetune.weight_decay=1", "+recipe.finetune.weight_decay=<value> does"),
    ("train.py", "trainer.max_time=5", "+trainer.max_time=<value> adds it"),
    (
        "train.py",
        "+callbacks.tta.n_agu=4",
        "n_agu: dogscats.TTA has no such argument. Did you mean callbacks.tta.n_aug?",
    ),
    ("train.py", "callbacks.tta.n_agu=4", "there is no such setting. Did you mean callbacks.tta.n_aug? --help"),
    ("train.py", "+logger.tensorboard.save_dri=x", "has no such argument. Did you mean logger.tensorboard.save_dir?"),
    ("train.py", "trainer.max_epchs=3", "there is no such setting. Did you mean trainer.max_epochs? --help"),
    ("train.py", "~epohcs", "epohcs: there is no such setting. Did you mean epochs?"),
    ("train.py", "hydra.run.dri=x", "hydra.run.dri: there is no such setting. Did you mean hydra.run.dir?"),
    (
        "train.py",
        "recipe.224_lastlayer.lr=1",
        "224_lastlayer are the weights of a stage, whose settings are recipe.augm",
    ),
    ("train.py", "data={rot: 5}", "data.rot: there is no such setting. Did you mean data.root?"),
    ("train.py", "callbacks={tta: {n_agu: 3}}", "Did you mean callbacks.tta.n_aug?"),
    ("train.py", "+data.root=x", "+data.root: it is there already; drop the +."),
    ("train.py", "+recipe=small", "+recipe: it is there already; drop the +."),
    ("train.py", "~recipe.finetun", "recipe.finetun: there is no such setting"),
    ("train.py", "recipe=smal", "recipe=smal: there is no such choice. Did you mean recipe=small?"),
    ("train.py", "model=resnet50", "Did you mean model=timm model.name=resnet50?"),
    ("train.py", "logger=[csv,tensorbord]", "Did you mean logger=tensorboard?"),
    ("train.py", "epochs=3", "set recipe.precompute.epochs, recipe.augmented.cycle_len, recipe.finetune.cycle_len"),
    ("train.py", "+recipe.augmented.epochs=3", "Set the length of the first cycle, recipe.augmented.cycle_len"),
    ("train.py", "recipe.augmented.epochs=3", "has cycles. Set the length of the first, recipe.augmented.cycle_len="),
    ("train.py", "load=nope", "nope: there is no such run or checkpoint"),
    ("evaluate.py", "suspect=true", "suspect: there is no such setting. Did you mean suspects?"),
    ("evaluate.py", "+epochs=5", "epochs: there is no such setting"),
    ("evaluate.py", "+data.rot=x", "data.rot: there is no such setting. Did you mean data.root?"),
]


@pytest.mark.parametrize(("script", "typed", "message"), HINTS)
def test_what_does_not_exist_is_refused_with_what_was_meant(
    run_command: Run, shared_root: Path, tmp_path: Path, script: str, typed: str, message: str
) -> None:
    tiny = [] if typed.startswith("model=") else TINY
    given = [f"data.root={shared_root}", *tiny] if script == "train.py" else ["ckpt=none"]
    result = run_command(script, *given, typed, "hydra.run.dir=run")
    assert result.returncode == 1
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_sweep_refuses_them_before_it_makes_a_folder(run_command: Run, tmp_path: Path) -> None:
    for typed, meant in (
        ("+heds=1,2", "heads"),
        ("data.rot=a,b", "data.root"),
        ("++data.rot=a,b", "data.root"),
        ("++callbacks.tta.n_agu=1,2", "callbacks.tta.n_aug"),
        ("++recipe.finetune.cycle=1,2", "recipe.finetune.cycles"),
    ):
        result = run_command("train.py", "-m", "data.root=.", typed)
        assert (result.returncode, f"Did you mean {meant}?" in result.stderr) == (1, True)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--epochs", "5"], "--epochs: settings have no dashes: epochs=5"),
        (["--lr=1e-3"], "--lr=1e-3: settings have no dashes: lr=1e-3"),
        (["--run=last"], "settings have no dashes: run=last"),
        (["data.root=my", "new", "photos", "lr=1"], "in quotes: 'data.root=\"my new photos\"'"),
        (["lr", "=", "1e-3"], "Write one without spaces around =, and with spaces in quotes: lr=1e-3"),
        (["lr=", "1e-3"], "quotes: lr=1e-3"),
        (["+callbacks.x={_target_:", "a.B}"], "quotes: '+callbacks.x={_target_: a.B}'"),
        (["photos"], "photos: it is no setting, which is written <key>=<value>"),
        ([r"data.root=C:\My\photos"], "write a Windows path with forward slashes, data.root=C:/My/photos"),
        (["run=C:outputs"], "write a Windows path with forward slashes"),
    ],
)
def test_habits_from_other_commands_get_a_hint(words: list[str], hint: str) -> None:
    with pytest.raises(UserError) as caught:
        check_words(words, {"--run": False, "--config-name": True, "-m": False})
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_m_may_stand_behind_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for option in ("-m", "--multirun"):
        monkeypatch.setattr(sys, "argv", ["train.py", "lr=1,2", option, "seed=1"])
        with helpful_command_line():
            assert sys.argv == ["train.py", option, "lr=1,2", "seed=1"]


def test_what_hydra_understands_is_left_to_it() -> None:
    words = ["-m", "--config-name", "mine", "--conf=mine", "lr=1,2", "~recipe.finetune", "hydra/launcher=joblib"]
    check_words([*words, "+a@b.c:d={x: 1, y: [a b]}", "predict=my photos/*.jpg"], {"--config-name": True, "-m": False})


def test_the_hints_are_told_on_the_command_line(run_command: Run, tmp_path: Path) -> None:
    for script in ("train.py", "evaluate.py"):
        result = run_command(script, "--epochs", "5")
        assert (result.returncode, result.stderr) == (1, "error: --epochs: settings have no dashes: epochs=5\n")
    with pytest.raises(UserError, match="no dashes: port=80"):
        server.serve(["run=x", "--port", "80"])
    with pytest.raises(UserError, match=r"Did you mean port\?"):
        server.parse(["run=x", "prot=80"])
    assert [*tmp_path.iterdir()] == []


def draw_run(folder: Path, time: int, finished: bool = True, config: str = "recipe: {}") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config)
    (folder / "metrics.json").write_text(json.dumps({"final": {"n": 1} if finished else {}}))
    for file in folder.iterdir():
        os.utime(file, (time, time))
    return folder


def test_last_is_the_newest_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^run=last: there is no finished run of train\.py below outputs/"):
        newest_run("run")
    oldest = draw_run(Path("outputs/2026-01-01/b"), 1)
    job = draw_run(Path("multirun/2026-01-02/a/0"), 5)
    draw_run(Path("outputs/2026-01-03/a"), 7, finished=False)
    unfinished = draw_run(Path("outputs/mine"), 8, finished=False)
    draw_run(Path("outputs/evaluate/2026-01-03/a"), 9, config="run: x")
    draw_run(Path("outputs/refused/.hydra"), 9)
    assert newest_run("run") == newest_run("load") == job
    assert newest_run("resume") == unfinished
    assert newest_run("run", "other") == Path("other")
    (job / ".unreported").touch()
    assert newest_runs(finished=True) == [oldest]
    assert newest_run("resume") == unfinished
    (unfinished / "metrics.json").write_text("damaged")
    assert newest_run("resume") == unfinished


def test_a_run_is_evaluated_by_last(run_command: Run, finished: Path, tmp_path: Path) -> None:
    result = run_command("evaluate.py", "run=last")
    assert "run=last: there is no finished run" in result.stderr
    assert not (tmp_path / "outputs").exists()
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "first").symlink_to(finished)
    result = run_command("evaluate.py", "run=outputs/nope")
    assert "outputs/nope: there is no such run or checkpoint. The newest: outputs/first." in result.stderr
    result = run_command("evaluate.py", "run=last", "callbacks.tta.n_aug=0", "callbacks.reports=null")
    assert result.returncode == 0, result.stderr
    assert "Model     outputs/first, classes" in result.stdout
    assert server.parse(["run=outputs/first"]).source == "outputs/first"
    assert {path.name for path in (tmp_path / "outputs").iterdir()} == {"first", "evaluate"}


@pytest.mark.slow
def test_runs_are_loaded_and_resumed_by_last(
    run_command: Run, finished: Path, shared_root: Path, tmp_path: Path
) -> None:
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "first").symlink_to(finished)
    settings = [f"data.root={shared_root}", *FAST, "logger=[]"]
    sweep = run_command("train.py", "-m", *settings, "load=last", "epochs=1,2", "hydra.sweep.dir=multirun/s")
    assert sweep.returncode == 1
    assert "epochs=1: recipe.precompute.epochs is given too" in sweep.stdout + sweep.stderr
    settings.remove("recipe.precompute.epochs=1")
    sweep = run_command("train.py", "-m", *settings, "load=last", "epochs=1,2", "hydra.sweep.dir=multirun/t")
    assert sweep.returncode == 0, sweep.stderr
    assert sweep.stdout.count("Weights   ") == 2
    for job in ("0", "1"):  # not the run of the job before
        config = OmegaConf.load(tmp_path / "multirun" / "t" / job / "config.yaml")
        assert config.load == str(tmp_path / "outputs" / "first" / "checkpoints" / "last.ckpt")
        assert config.recipe.precompute.epochs == int(job) + 1
    (tmp_path / "multirun" / "t" / "0" / ".unreported").touch()
    result = run_command("train.py", "resume=last")
    assert result.returncode == 0, result.stderr
    assert "Resuming  " in result.stdout
    assert not (tmp_path / "multirun" / "t" / "0" / ".unreported").exists()


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        ("on_train_epoch_ended", "Did you mean on_train_epoch_end?"),
        ("other", "callbacks.mine: this has no effect: it has none of the hooks that Lightning calls."),
    ],
)
def test_a_callback_without_hooks_is_refused(
    run_command: Run, shared_root: Path, tmp_path: Path, hook: str, message: str
) -> None:
    code = f"import pytorch_lightning\n\n\nclass Mine(pytorch_lightning.Callback):\n    def {hook}(self): ...\n"
    (tmp_path / f"my_{hook}.py").write_text(code)
    mine = f"+callbacks.mine={{_target_: my_{hook}.Mine}}"
    result = run_command("train.py", f"data.root={shared_root}", *FAST, mine)
    assert result.returncode == 1
    assert message in result.stderr


def test_help_shows_settings_that_exist_with_their_defaults(run_command: Run) -> None:
    shown = run_command("train.py", "--help").stdout
    config = OmegaConf.create(run_command("train.py", "--cfg", "job").stdout)
    choices = {"model": "resnet34", "recipe": "lesson1", "augment": "side_on", "hydra.run.dir": "<folder>"}
    settings = re.findall(r"^([a-z_.]+)=(\S+)  +\S", shown.partition("Settings")[2], re.MULTILINE)
    assert len(settings) == 15
    for key, value in settings:
        expected = choices.get(key) or OmegaConf.select(config, key, default="missing")
        assert OmegaConf.create({"x": expected}) == OmegaConf.create(f"x: {value}"), key
    assert "recipe: adapt, auto, gradual, head_only, heads, lesson1, quickstart, small" in shown
    shown = run_command("evaluate.py", "--help").stdout
    config = OmegaConf.create(run_command("evaluate.py", "--cfg", "job").stdout)
    for key in re.findall(r"(?<![\w.])([a-z_.]+)=", shown.partition("Tasks")[2]):
        assert OmegaConf.select(config, key, default="missing") != "missing" or key in ("hydra.run.dir", "ckpt"), key
    for task in ("predict", "export", "suspects"):
        assert f"run=<run> {task}=" in shown
    assert str(REPOSITORY) not in shown
