"""Two ranks on one CPU, started by Lightning and by torchrun."""

import copy
import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, TINY, Run
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn

from dogscats import DogsCatsDataModule
from dogscats.data.pixels import shrink
from dogscats.data.pixels.images import Decoded
from dogscats.lesson.activations import precompute
from dogscats.lesson.backbone import Backbone
from dogscats.lesson.classifier import Classifier
from dogscats.lesson.heads import Heads
from dogscats.lesson.lr_finder import LRFinder
from dogscats.lesson.tta import TTA, tta_loaders

NO_PICTURES = "callbacks.reports.pictures=null"  # which take long to draw
TWO = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "data.batch_size=6"]
SHORT = ["recipe.augmented.cycles=1", "recipe.finetune.cycles=1", "callbacks.lr_finder.before=none", NO_PICTURES]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def check(run: Path, output: str) -> None:
    """Everything is there once."""
    paths = [row["path"] for row in table(run / "predictions_valid.csv")]
    assert paths == [f"valid/{name}s/{name}.{n}.jpg" for name in ("cat", "dog") for n in range(5)]
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["final"]["n"] == 10
    stages = list(metrics["stages"])
    assert output.count("Device    2 x CPU") == 1
    computed = re.findall(r"Computing activations of (?:train|valid): (/.*)", output)
    assert len([file for file in computed if "/.features/" not in file]) == 2  # those of a trained body come last
    assert output.count("Written to") == 1
    assert "Traceback" not in output
    steps = [(row["stage"], int(row["step"])) for row in table(run / "lr_trace.csv")]
    assert len(steps) == len(set(steps)) == 4 * sum(stage["epochs"] for stage in metrics["stages"].values())
    assert len(list((run / "tensorboard" / stages[0]).glob("events*"))) == 1
    assert {path.name for path in run.glob("*.log")} == {"train.log"}


@pytest.mark.slow
def test_two_ranks_started_by_lightning(run_process: Run, shared_root: Path, tmp_path: Path) -> None:
    result = run_process(
        "train.py", f"data.root={shared_root}", *TINY, *TWO, *SHORT, "recipe.finetune.lr=10",
        f"activations.dir={tmp_path / 'activations'}",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    (run,) = tmp_path.glob("outputs/*/*")
    check(run, result.stdout + result.stderr)
    metrics = json.loads((run / "metrics.json").read_text())
    assert (chosen := metrics["final"]["stage"]) != "finetune"
    # The first rank alone would find these, also for the photos that the other one has evaluated.
    assert metrics["final"]["valid_loss"] == pytest.approx(metrics["stages"][chosen]["valid_loss"], 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["test_resnet", "test_vit"])
def test_two_ranks_keep_the_same_best_weights(model: str, run_process: Run, shared_root: Path, tmp_path: Path) -> None:
    result = run_process(
        "train.py", f"data.root={shared_root}", *TINY, f"model.name={model}", *TWO, "recipe=adapt",
        "heads=2", "recipe.finetune.epochs=2", NO_PICTURES, "class_weights=balanced",
        f"activations.dir={tmp_path / 'activations'}",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    (run,) = tmp_path.glob("outputs/*/*")
    check(run, result.stdout + result.stderr)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["final"]["valid_loss"] == pytest.approx(metrics["stages"]["finetune"]["valid_loss"], 1e-4)


@pytest.mark.slow
def test_two_ranks_under_torchrun(shared_root: Path, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
        str(REPOSITORY / "train.py"), f"data.root={shared_root}", *TINY, *TWO, "recipe=head_only",
        f"activations.dir={tmp_path / 'activations'}",
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 0, result.stderr
    (run,) = tmp_path.glob("outputs/*/*")
    check(run, result.stdout + result.stderr)
    assert (run / "lr_finder.png").exists()


@pytest.mark.slow
def test_a_mistake_is_said_once(run_process: Run, shared_root: Path) -> None:
    result = run_process("train.py", f"data.root={shared_root}", *TINY, *TWO, "data.batch_size=5")
    assert result.returncode == 1
    assert (result.stdout + result.stderr).count("data.batch_size=5: it is shared out among 2 ranks") == 1
    assert "Traceback" not in result.stderr


def trainer_of(ranks: int, *callbacks: Callback) -> Trainer:
    return Trainer(
        accelerator="cpu", devices=ranks, strategy="ddp_fork" if ranks > 1 else "auto", max_steps=6,
        max_epochs=-1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, limit_val_batches=0,
        callbacks=list(callbacks),
    )  # fmt: skip


class Loading(Classifier):
    """Makes its loaders in the rank that uses them, as train.py does."""

    data: DogsCatsDataModule

    def train_dataloader(self) -> object:
        return self.data.loader(self.data.train_dataset("s", augment=True), shuffle=True)

    def predict_dataloader(self) -> object:
        return tta_loaders(self.data, self.data.valid, 1)


@pytest.fixture
def classifier(tiny_body: Backbone, shared_root: Path) -> Loading:
    torch.manual_seed(0)
    classifier = Loading(tiny_body, 2, Heads(16, 2, dropout=(0, 0)), lrs=(1e-3, 1e-2, 1e-1))
    classifier.data = DogsCatsDataModule(shared_root, size=24, batch_size=6, num_workers=0)
    classifier.data.setup()
    return classifier


def test_gradients_are_those_of_one_rank(classifier: Loading) -> None:
    """With BatchNorm in eval mode and no dropout, six steps give the same weights."""
    trained = []
    for ranks in (1, 2):
        model = copy.deepcopy(classifier)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.eval()
        trainer_of(ranks).fit(model)
        trained.append(model.state_dict())
    for key, value in trained[0].items():
        torch.testing.assert_close(trained[1][key], value, rtol=1e-4, atol=1e-5)
    assert not torch.equal(trained[0]["heads.0.6.weight"], classifier.heads[0][6].weight)


class Saving(TTA):
    """Saves what the first rank has found, since nothing else comes back from a forked process."""

    file: Path

    def on_predict_end(self, trainer: Trainer, pl_module: object) -> None:
        if trainer.is_global_zero:
            torch.save(self.best.probabilities, self.file)


def test_predictions_are_those_of_one_rank(classifier: Loading, tmp_path: Path) -> None:
    found: list[torch.Tensor] = []
    for ranks in (1, 2):
        tta = Saving(n_aug=1)
        tta.file = tmp_path / f"{ranks}.pt"
        trainer_of(ranks, tta).predict(classifier, return_predictions=False)
        found.append(torch.load(tta.file))
    assert found[0].shape == (10, 2)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-6)


class Precomputing(Callback):
    """Computes activations, and saves those of each rank and which photos it has decoded."""

    def __init__(self, folder: Path, caches: list[str]):
        self.folder, self.caches = folder, caches

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Loading)
        rank, decoded = trainer.global_rank, []
        decode = shrink.decode

        def counting(file: Path, quietly: bool, least: int) -> Decoded:
            decoded.append(file.name)
            return decode(file, quietly, least)

        torch.set_num_threads(1)
        shrink.decode = counting
        for photos in pl_module.data.train_dataset("s", augment=False), pl_module.data.train_dataset("s", augment=True):
            loader = pl_module.data.loader(photos, persistent=False, whole=True)
            view = 1 if loader.dataset.dataset.transform is pl_module.data.augmentation else None  # type: ignore[attr-defined]
            cache = self.folder / self.caches[rank]
            features = precompute(pl_module.body, loader, cache, torch.device("cpu"), view)  # type: ignore[arg-type]
            torch.save((features.clone(), list(decoded)), self.folder / f"{trainer.world_size}-{rank}-{view}.pt")
            decoded.clear()
        shrink.decode = decode


@pytest.mark.fault("activations by two ranks, with and without a shared folder: equal bits, each photo decoded once")
@pytest.mark.parametrize("caches", [["both", "both"], ["one", "other"]], ids=["shared folder", "own folders"])
def test_two_ranks_share_the_activations(classifier: Loading, tmp_path: Path, caches: list[str]) -> None:
    classifier.data = DogsCatsDataModule(classifier.data.root, size=24, batch_size=10, num_workers=0, shrink="auto")
    classifier.data.setup()  # 24 photos: the last batch is smaller, and of the first rank
    for ranks, folders in (1, ["single"]), (2, caches):
        trainer_of(ranks, Precomputing(tmp_path, folders)).predict(classifier, return_predictions=False)
    for view in (None, 1):
        single, everything = torch.load(tmp_path / f"1-0-{view}.pt")
        found = [torch.load(tmp_path / f"2-{rank}-{view}.pt") for rank in range(2)]
        assert all(torch.equal(features, single) for features, _ in found)
        assert [len(decoded) for _, decoded in found] == [14, 10]
        assert sorted(found[0][1] + found[1][1]) == sorted(everything)
    files = [{file.name: file.read_bytes() for file in (tmp_path / name).glob("*[!k]")} for name in ("single", *caches)]
    assert files[0] == files[1] == files[2]
    assert len(files[0]) == 4  # two arrays and their checksums; no file that is not finished
    # What two ranks have computed is reused by one.
    trainer_of(1, Precomputing(tmp_path, caches)).predict(classifier, return_predictions=False)
    assert torch.load(tmp_path / "1-0-1.pt")[1] == []


@pytest.mark.fault("photos kept decoded, read by two ranks: the same predictions as by one")
def test_two_ranks_read_photos_kept_decoded(classifier: Loading, tmp_path: Path) -> None:
    found = []
    for ranks in (1, 2):
        settings = {"size": 24, "batch_size": 10, "num_workers": 0, "resident": True}
        classifier.data = DogsCatsDataModule(classifier.data.root, cache_dir=str(tmp_path / str(ranks)), **settings)  # type: ignore[arg-type]
        classifier.data.keep_resident(torch.device("cpu"), 2)
        classifier.data.setup()
        tta = Saving(n_aug=1)
        tta.file = tmp_path / f"{ranks}.pt"
        trainer_of(ranks, tta).predict(classifier, return_predictions=False)
        found.append(torch.load(tta.file))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-6)


@pytest.mark.fault(
    "a photo goes bad while two ranks compute activations: both stop with the message, nothing half-written"
)
def test_what_one_rank_cannot_read_is_said_by_both(classifier: Loading, tmp_path: Path) -> None:
    root = shutil.copytree(classifier.data.root, tmp_path / "photos")
    classifier.data = DogsCatsDataModule(root, size=24, batch_size=10, num_workers=0)
    classifier.data.setup()
    (root / classifier.data.train.paths[12]).write_bytes(b"gone bad after the check")  # in the batch of the second rank
    with pytest.raises(Exception, match="it became unreadable"):
        trainer_of(2, Precomputing(tmp_path, ["both", "both"])).predict(classifier, return_predictions=False)
    assert {file.suffix for file in (tmp_path / "both").iterdir()} <= {".lock"}


class SavingFinder(LRFinder):
    """Saves the losses that each rank has seen."""

    folder: Path

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        torch.save(self.curve.losses, self.folder / f"{trainer.global_rank}.pt")


def test_the_learning_rate_finder_sees_the_same_losses_in_both_ranks(classifier: Loading, tmp_path: Path) -> None:
    """Otherwise one could stop and leave the other one waiting."""
    finder = SavingFinder()
    finder.folder = tmp_path
    trainer_of(2, finder).fit(classifier)
    losses = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert len(losses[0]) == 6
    assert losses[0] == losses[1]


@pytest.mark.slow
@pytest.mark.parametrize("alone", [False, True])
def test_a_kernel_head_has_the_same_bits_with_any_number_of_ranks(
    alone: bool, run_process: Run, shared_root: Path, tmp_path: Path
) -> None:
    data = [f"data.root={shared_root / 'train'}", "data.valid_fraction=0"] if alone else [f"data.root={shared_root}"]
    states, final = [], []
    for name, ranks in (("one", TWO[2:]), ("two", TWO)):
        arguments = [*data, *TINY, *ranks, "recipe=small", "callbacks.tta.n_aug=1", NO_PICTURES]
        result = run_process("train.py", *arguments, f"activations.dir={tmp_path / name}", f"hydra.run.dir={name}")
        assert result.returncode == 0, result.stderr
        final.append(json.loads((tmp_path / name / "metrics.json").read_text())["final"])
        assert final[-1]["n_loo"] == 24
        assert ("valid_acc" in final[-1]) != alone
        states.append(torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])
        assert (tmp_path / name / "history.csv").read_text().count("\n") == 2
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert final[0]["loo_confusion_matrix"] == final[1]["loo_confusion_matrix"]
