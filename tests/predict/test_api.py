"""The Python API: dogscats with a Trainer of one's own."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPOSITORY, TinyNetwork
from pytorch_lightning import Callback, Trainer

import dogscats
from dogscats import SGDR, TTA, Backbone, Classifier, DogsCatsDataModule, KernelHead, LRSchedule, find_lr, timm_backbone
from dogscats.base.errors import UserError


def trainer(folder: Path, **arguments: Any) -> Trainer:
    settings = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(default_root_dir=folder, **settings | arguments)  # type: ignore[arg-type]


class Steps(Callback):
    """Writes the steps and photos of each rank, since a forked one returns nothing else."""

    photos = 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.photos += len(batch.labels)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        file = Path(trainer.default_root_dir) / f"rank_{trainer.global_rank}"
        file.write_text(f"{trainer.global_step} {self.photos}")


@pytest.fixture
def data(shared_root: Path) -> DogsCatsDataModule:
    return DogsCatsDataModule(shared_root, size=32, batch_size=6, num_workers=0)


def classifier(**arguments: Any) -> Classifier:
    return Classifier(Backbone(TinyNetwork(), "first", 8), **{"classes": 2} | arguments)


def test_the_lines_in_readme_run(
    shared_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (REPOSITORY / "README.md").read_text()
    (code,) = re.findall(r"^## Python API\n.*?^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    code = code.replace('"photos", size=224', f'"{shared_root}", size=32, batch_size=6')
    code = code.replace("resnet34()", 'timm_backbone("test_resnet", "none")').replace("resnet34", "timm_backbone")
    code = code.replace("Trainer(", "Trainer(accelerator='cpu', ")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    (suggestion,) = re.findall(r"^\d\S*$", capsys.readouterr().out, re.MULTILINE)
    assert 1e-6 <= float(suggestion) <= 1
    assert names["model"].classes == ["cats", "dogs"]
    assert sum(len(indices) for indices, _ in names["batches"]) == 10
    torch.testing.assert_close(names["batches"][0][1].sum(1), torch.ones(6))
    assert sum(1 for line in code.splitlines() if line) <= 13


def test_fit_validate_test_and_predict(data: DogsCatsDataModule, shared_root: Path, tmp_path: Path) -> None:
    model = Classifier(timm_backbone("test_resnet", "none"), data.classes)
    model.freeze_to(2)
    frozen = {key: value.clone() for key, value in model.body.state_dict().items()}
    one = trainer(tmp_path, max_epochs=2, callbacks=[LRSchedule("one_cycle")])
    one.fit(model, data)
    (valid,), (test,) = one.validate(model, data, verbose=False), one.test(model, data, verbose=False)
    assert set(valid) == {"valid_loss", "valid_acc", "valid_balanced_acc", "valid_macro_f1"}
    assert (test["test_loss"], test["test_acc"]) == (valid["valid_loss"], valid["valid_acc"])  # there is no test/
    indices, probabilities = (torch.cat(parts) for parts in zip(*one.predict(model, data), strict=True))  # type: ignore[arg-type, misc]
    assert indices.tolist() == list(range(10))
    right = (probabilities.argmax(1) == torch.tensor(data.valid.labels)).double().mean().item()
    assert right == pytest.approx(valid["valid_acc"])
    assert all(torch.equal(value, model.body.state_dict()[key]) for key, value in frozen.items())


def test_test_and_predict_take_their_own_folders(root: Path, tmp_path: Path) -> None:
    (root / "valid").rename(root / "test")
    data = DogsCatsDataModule(root, size=32, batch_size=6, num_workers=0)
    data.setup()
    assert len(data.test_dataloader().dataset) == 10  # type: ignore[arg-type]
    (root / "test").rename(root / "valid")
    (root / "test1").mkdir()
    (root / "valid" / "cats" / "cat.0.jpg").rename(root / "test1" / "1.jpg")
    data = DogsCatsDataModule(root, size=32, batch_size=6, num_workers=0)
    data.setup()
    (batch,) = data.predict_dataloader()
    assert batch.labels.tolist() == [-1]


def test_two_ranks(data: DogsCatsDataModule, tmp_path: Path) -> None:
    model = Classifier(timm_backbone("test_resnet", "none"), data.classes)
    model.freeze_to(2)
    two = trainer(
        tmp_path, max_epochs=1, devices=2, strategy="ddp_fork", enable_checkpointing=False, callbacks=[Steps()]
    )
    two.fit(model, data)
    assert "valid_acc" in two.callback_metrics
    # 24 photos in global batches of 6, and none twice
    assert [(tmp_path / f"rank_{rank}").read_text() for rank in range(2)] == ["4 12", "4 12"]


def test_a_checkpoint_of_ones_own_trainer_is_loaded(data: DogsCatsDataModule, tmp_path: Path) -> None:
    model = Classifier(timm_backbone("test_resnet", "none"), data.classes, heads=2, lrs=(0.001, 0.01, 0.1))
    one = trainer(tmp_path, max_epochs=1)
    one.fit(model, data)
    path = one.checkpoint_callback.best_model_path  # type: ignore[union-attr]
    loaded = Classifier.load_from_checkpoint(path)
    assert (loaded.classes, len(loaded.heads), loaded.lrs) == (["cats", "dogs"], 2, [0.001, 0.01, 0.1])
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())


def test_a_kernel_head_in_five_lines(data: DogsCatsDataModule, tmp_path: Path) -> None:
    data.setup()
    body = timm_backbone("test_resnet", "none", features="all").eval()
    with torch.no_grad():
        features = torch.cat([body(batch.inputs) for batch in data.loader(data.train_dataset("fit", augment=False))])
    fitted = KernelHead.fit(features, data.train.labels, num_classes=2, widths=body.widths(32))
    assert 0 <= fitted.accuracy <= 1
    model = Classifier(body, data.classes, heads=fitted.head)
    one = trainer(tmp_path)
    one.validate(model, data)
    assert one.callback_metrics["valid_loss"].isfinite()
    loaded = Classifier(timm_backbone("test_resnet", "none", features="all"), model.classes, model.hparams["heads"])
    loaded.load_state_dict(model.state_dict())
    assert torch.equal(loaded.heads(features), fitted.head(features))


def test_a_backbone_of_ones_own_is_given_when_loading(data: DogsCatsDataModule, tmp_path: Path) -> None:
    def network() -> Backbone:
        return Backbone(TinyNetwork(), last_early="first", channels=8)

    model = Classifier(network(), 2)
    assert model.classes == ["0", "1"]
    one = trainer(tmp_path, max_epochs=1)
    one.fit(model, data)
    path = one.checkpoint_callback.best_model_path  # type: ignore[union-attr]
    loaded = Classifier.load_from_checkpoint(path, model=network())
    assert torch.equal(loaded.heads[0][6].weight, model.heads[0][6].weight)
    with pytest.raises(UserError, match="give the model itself"):
        Classifier.load_from_checkpoint(path)


def test_classes_are_known_before_the_photos_are_checked(
    data: DogsCatsDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise AssertionError

    monkeypatch.setattr("dogscats.data.loading.photo_check.check_images", fail)
    assert data.classes == ["cats", "dogs"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DogsCatsDataModule("photos", size=0), "size=0: expected a whole number"),
        (lambda: DogsCatsDataModule("photos", batch_size=1), "batch_size=1: expected"),
        (lambda: DogsCatsDataModule("nowhere").classes, "root=nowhere: there is no such folder"),
        (lambda: timm_backbone("resnet99", "none"), "name=resnet99: timm has no such model"),
        (lambda: timm_backbone("test_resnet", "nothing.pth"), "weights=nothing.pth: there is no such file"),
        (lambda: TTA(n_aug=-1), "n_aug=-1: expected"),
        (lambda: LRSchedule("linear"), "schedule=linear: expected constant, sgdr, one_cycle or"),
        (lambda: LRSchedule("one_cycle", div=0), "schedule=one_cycle: division by zero"),
        (lambda: SGDR(cycle_len=0), "cycle_len=0: expected a whole number"),
        (lambda: classifier(heads=0), "heads=0: expected"),
        (lambda: classifier(classes="cats"), "classes=cats: expected the names"),
        (lambda: classifier(lrs=[0.1]), "lrs=[0.1]: expected one for each"),
        (lambda: classifier().freeze_to(3), "first=3: expected 0 (all)"),
        (lambda: find_lr(classifier(), DogsCatsDataModule("photos"), steps=0), "steps=0: expected"),
    ],
)
def test_argument_errors_are_in_terms_of_python(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        call()


def test_a_checkpoint_from_a_url_executes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", lambda *args, **given: seen.update(given) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Classifier.load_from_checkpoint("http://localhost/evil.ckpt", weights_only=False)
    assert seen["weights_only"] is True


def test_one_cycle_needs_to_know_its_end(data: DogsCatsDataModule, tmp_path: Path) -> None:
    limited = trainer(tmp_path, max_epochs=-1, max_time="00:00:00:01", callbacks=[LRSchedule("one_cycle")])
    with pytest.raises(ValueError, match="set max_epochs or max_steps"):
        limited.fit(classifier(), data)


def test_names_are_loaded_when_they_are_used() -> None:
    assert set(dogscats.__all__) <= set(dir(dogscats))
    assert all(getattr(dogscats, name) for name in dogscats.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        dogscats.nothing  # noqa: B018
    code = (
        "import sys, dogscats, dogscats.data, dogscats.runs.directory, dogscats.runs.sweep\n"
        "print([name for name in ('torch', 'pytorch_lightning', 'matplotlib') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_types_are_shipped() -> None:
    assert (REPOSITORY / "dogscats" / "py.typed").exists()
