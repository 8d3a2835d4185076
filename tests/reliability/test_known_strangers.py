"""A sign learned from photos of no class, what a run says of it, and that exported files decide alike."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, Run, command_runner, draw_folder, draw_root
from PIL import Image

from dogscats import Predictor
from dogscats.base.files import read_csv, read_json
from dogscats.reliability.known_strangers import MOST_CLASSES, KnownStrangers
from dogscats.reliability.signs import ForwardPass, GivenStrangers, TrainingPhotos
from dogscats.reliability.strangers import StrangerDetector

SIZE = 24

ONE_EPOCH = ["recipe.precompute.cycle_len=1", "recipe.finetune.epochs=1", "callbacks.reports=null"]


def around(center: int, count: int, seed: int) -> torch.Tensor:
    """Features of photos around one of the axes."""
    features = torch.randn(count, SIZE, generator=torch.Generator().manual_seed(seed)) + 2
    features[:, center] += 4
    return features


def known(classes: int = 2, depths: int = 0) -> TrainingPhotos:
    """Photos of two classes, and strangers of two kinds."""
    features = torch.cat([around(0, 60, 0), around(1, 60, 1)])
    strangers = torch.cat([around(2, 20, 2), around(3, 20, 3)])
    extra, more = (torch.rand(count, depths) if depths else None for count in (120, 40))
    given = GivenStrangers(strangers, more, torch.arange(40) % 5, torch.arange(40) // 20)
    widths = [SIZE, depths] if depths else [SIZE]
    return TrainingPhotos(features, extra, [0] * 60 + [1] * 60, classes, lambda: widths, given)


def passed(features: torch.Tensor, depths: torch.Tensor | None = None) -> ForwardPass:
    return ForwardPass(features, torch.zeros(1, len(features), 2), depths)


@pytest.mark.parametrize(("classes", "depths"), [(2, 0), (MOST_CLASSES + 1, 0), (2, 7)])
def test_new_photos_of_the_kinds_that_were_given_stand_out(classes: int, depths: int) -> None:
    sign = KnownStrangers.fit(known(classes, depths))
    assert sign is not None
    more = torch.rand(50, depths) if depths else None
    of_class, of_kind = (sign.score(passed(around(center, 50, 10 + center), more)) for center in (1, 2))
    assert of_class.quantile(0.95) < of_kind.quantile(0.05)
    assert not list(sign.state_dict())  # checkpoints stay as they are
    restored = KnownStrangers.restore(sign.arrays())
    assert restored is not None
    assert torch.equal(restored.score(passed(around(2, 50, 12), more)), of_kind)
    assert KnownStrangers.restore({"points": torch.empty(0)}) is None
    assert KnownStrangers.fit(known()._replace(strangers=None)) is None


def test_strangers_are_judged_without_their_part_and_without_their_kind() -> None:
    photos = known()
    sign = KnownStrangers.fit(photos)
    assert sign is not None
    assert photos.strangers is not None
    values, plain = sign.left_out(photos), sign.score(passed(photos.strangers.features))
    others = photos.strangers.kinds == 1
    without = GivenStrangers(*(part if part is None else part[others] for part in photos.strangers))
    alone = KnownStrangers.fit(photos._replace(strangers=without))
    assert alone is not None
    truth = alone.score(passed(photos.strangers.features[~others]))
    assert values.rows.tolist() == list(range(40))
    assert values.kinds[~others].mean() == pytest.approx(truth.mean().item(), abs=0.3 * plain.mean().item())
    assert values.kinds.mean() < values.parts.mean() < plain.mean()
    assert values.known.mean() > sign.score(passed(photos.features)).mean()
    assert sign.fitted is None


def run_with_strangers(folder: Path, *settings: str) -> Path:
    """A run with strangers of two kinds that are bright at one side of another colour."""
    root = draw_root(folder / "photos", train=30, valid=15)
    for kind, channel in (("red", 0), ("blue", 2)):
        for file in draw_folder(root / "others" / kind, 12, first=500).iterdir():
            pixels = np.array(Image.open(file))
            pixels[..., channel] = 255
            Image.fromarray(pixels).save(file)
    result = command_runner(folder)(
        "train.py", f"data.root={root}", *TINY, "callbacks.tta.n_aug=0", *settings,
        f"data.strangers={root / 'others'}", f"activations.dir={folder / 'cache'}", "hydra.run.dir=run",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "Strangers 24 photos of no class: blue, red" in result.stdout
    assert "would pass as a class, each fifth held out in turn" in result.stdout
    assert "Of a kind that was left out altogether, " in result.stdout
    return folder / "run"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a kernel head."""
    return run_with_strangers(tmp_path_factory.mktemp("strangers"), "recipe=small")


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with five heads and a trained body."""
    return run_with_strangers(tmp_path_factory.mktemp("adapted"), "recipe=adapt", *ONE_EPOCH)


def test_a_run_says_how_many_of_the_strangers_would_pass(trained: Path) -> None:
    final = read_json(trained / "metrics.json")["final"]
    assert final["n_strangers"] == 24
    assert final["strangers_passed"] <= 0.25
    low, high = final["strangers_passed_ci95"]
    assert 0 <= low <= final["strangers_passed"] <= high < 1
    assert set(final["strangers_by_kind"]) == {"blue", "red"}
    assert {"strangers_kind_left_out_passed", "strangers_kind_left_out_passed_ci95"} <= set(final)
    for file in ("MODEL_CARD.md", "report.html"):
        text = (trained / file).read_text()
        assert "would pass as a class, each fifth held out in turn" in text
        assert re.search(
            r"Of a kind that was left out altogether, [\d.]+ % \(95 % interval [\d.]+ to [\d.]+ %\): blue", text
        )
    rows = [row for row in read_csv(trained / "photos.csv") if row["split"] == "strangers"]
    assert (len(rows), rows[0]["path"], rows[0]["label"]) == (24, "others/blue/0.jpg", "blue")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["trained", "adapted"])
def test_exported_files_decide_about_strangers_as_the_predictor_does(
    request: pytest.FixtureRequest, run_command: Run, name: str
) -> None:
    trained: Path = request.getfixturevalue(name)
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    predictor = Predictor.load(trained)
    assert isinstance(predictor.model.scorer, StrangerDetector)
    assert isinstance(predictor.model.scorer.signs[-1], KnownStrangers)
    root = trained.parent / "photos"
    paths = [*sorted((root / "others").glob("*/*.jpg")), *sorted((root / "valid").glob("*/*.jpg"))]
    expected, _ = predictor.predict(paths, n_aug=0)
    if name == "trained":  # the other has hardly been
        assert expected.decisions[:24].count("none") >= 18
        assert expected.decisions[24:].count("none") <= 5
    result = run_command("evaluate.py", f"run={trained}", "export=onnx", f"hydra.run.dir={trained.parent / 'out'}")
    assert result.returncode == 0, result.stderr
    session = onnxruntime.InferenceSession(trained.parent / "out" / "photo.onnx", providers=["CPUExecutionProvider"])
    limit = float(session.get_modelmeta().custom_metadata_map["none_above"])
    found = [session.run(["unlike"], {"photo": np.asarray(Image.open(path).convert("RGB"))})[0] for path in paths]
    assert [unlike > limit for unlike in found] == [decision == "none" for decision in expected.decisions]


def test_a_run_is_not_resumed_with_other_strangers_unnoticed(run_command: Run, trained: Path, tmp_path: Path) -> None:
    metrics = read_json(trained / "metrics.json")
    (trained / "metrics.json").write_text(json.dumps(metrics | {"final": {}}))
    others = trained.parent / "photos" / "others"
    (others / "red" / "0.jpg").rename(tmp_path / "0.jpg")
    try:
        refused = run_command("train.py", f"resume={trained}")
        assert refused.returncode == 1
        assert "1 removed (others/red/0.jpg)" in refused.stderr
    finally:
        (tmp_path / "0.jpg").rename(others / "red" / "0.jpg")
    result = run_command("train.py", f"resume={trained}")
    assert result.returncode == 0, result.stderr
    again = read_json(trained / "metrics.json")["final"]
    assert again == metrics["final"]
