"""`evaluate.py label=<folder>`: which photos come first, what is left out, and what is refused."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FAST, Run, command_runner, draw_folder, draw_photo

from dogscats.base.files import read_csv
from dogscats.data.loading.cached_array import read_array, seal_array
from dogscats.labelling.label_page import Sure, _packed
from dogscats.labelling.order import distinct, k_center, margins
from dogscats.predict.label_folder import doubts
from dogscats.reliability.measured import Reliability, Version
from dogscats.reliability.neighbors import ROWS, blocks
from dogscats.reliability.strangers import StrangerDetector
from dogscats.reliability.thresholds import Judged, Thresholds

BEGIN = ["classes=[ants,bees]", "model=timm", "model.name=test_resnet", "model.weights=none", "data.size=32"]
SMALL = [*BEGIN[1:], "recipe=small", "callbacks.tta.n_aug=0"]


def embedded(page: Path) -> dict[str, Any]:
    """The data of a page."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script', page.read_text(), re.DOTALL)
    assert found
    return dict(json.loads(found[1]))


@pytest.fixture(scope="module")
def pool(shared_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos without labels: new ones, one twice, one as a small copy, a labelled one, and one that is no photo."""
    folder = tmp_path_factory.mktemp("pool")
    draw_folder(folder / "card 1", 30, first=5000)
    shutil.copy(folder / "card 1/3.jpg", folder / "same.jpg")
    draw_photo(folder / "copy.jpg", 0, 5000, (120, 96))  # not the same picture: its noise differs
    shutil.copy(shared_root / "train/cats/cat.0.jpg", folder / "known.jpg")
    (folder / "broken.jpg").write_bytes(b"no photo")
    return folder


@pytest.fixture(scope="module")
def labelling(finished: Path, pool: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Directory and console of a labelling with the quickest run."""
    folder = tmp_path_factory.mktemp("labelling")
    arguments = [f"run={finished}", f"label={pool}", "activations.dir=cache"]
    run = command_runner(folder)
    result = run("evaluate.py", *arguments, "classes=[birds]", "hydra.run.dir=out")
    assert result.returncode == 0, result.stderr
    again = run("evaluate.py", *arguments, "hydra.run.dir=again")
    assert "Reusing activations" in again.stdout
    return folder / "out", result.stdout + result.stderr


def test_photos_are_ordered_by_margin(labelling: tuple[Path, str]) -> None:
    out, console = labelling
    rows = read_csv(out / "label.csv")
    assert list(rows[0]) == [
        *("path", "proposed", "probability", "margin", "decision", "unlike", "reason", "twin"),
        *("prob_cats", "prob_dogs"),
    ]
    assert len({row["path"] for row in rows}) == len(rows) == 31
    uncertain = [float(row["margin"]) for row in rows if row["reason"] == "margin"]
    assert uncertain == sorted(uncertain)
    strangers = [float(row["unlike"]) for row in rows if row["reason"] == "none"]
    assert strangers == sorted(strangers, reverse=True)
    assert all((row["decision"] == "none") == (row["reason"] == "none") for row in rows)
    for row in rows:
        shares = {name: float(row[f"prob_{name}"]) for name in ("cats", "dogs")}
        assert row["proposed"] == max(shares, key=lambda name: shares[name])
        assert float(row["margin"]) == pytest.approx(abs(shares["cats"] - shares["dogs"]), abs=1e-5)
    assert "33 photos; 1 left out: it is" in console
    assert "labelled in the run already" in console
    assert "the same as another photo" in console
    assert [row["path"] for row in read_csv(out / "bad_images.csv")] == ["broken.jpg"]
    assert "data.add=<file>" in console


@pytest.mark.parametrize("trained", ["finished", "uninterrupted"])
def test_predictions_are_those_of_predict(
    trained: str, request: pytest.FixtureRequest, run_command: Run, pool: Path, tmp_path: Path
) -> None:
    run = f"run={request.getfixturevalue(trained)}"  # of a frozen body, and of one that was trained
    for task in (["callbacks.tta.n_aug=0", f"predict={pool}"], [f"label={pool}", "activations.dir=cache"]):
        result = run_command("evaluate.py", run, *task, "hydra.run.dir=out")
        assert result.returncode == 0, result.stderr
        (tmp_path / "out").rename(tmp_path / task[0].partition("=")[0])
    rows = read_csv(tmp_path / "callbacks.tta.n_aug/predictions.csv")
    predicted = {Path(row["path"]).relative_to(pool).as_posix(): row for row in rows}
    for row in read_csv(tmp_path / "label/label.csv"):
        same = predicted[row["path"]]
        assert row["decision"] == same["decision"]
        for key in ("prob_cats", "unlike"):
            assert float(row[key]) == pytest.approx(float(same[key]), abs=1e-4)


def test_the_page_has_both_lists_and_the_rest(labelling: tuple[Path, str], pool: Path) -> None:
    rows, page = read_csv(labelling[0] / "label.csv"), embedded(labelling[0] / "label.html")
    assert [name["name"] for name in page["classes"]] == ["cats", "dogs", "birds"]
    asked = [item["asked"] for item in page["items"]]
    assert {each["asked"]: each["count"] for each in page["lists"]} == {name: asked.count(name) for name in set(asked)}
    shown = [row["path"] for row in rows if row["reason"] == "margin"]
    assert [photo["name"] for photo in page["photos"]][: asked.count("margin")] == shown
    for item, photo in zip(page["items"], page["photos"], strict=True):
        row = next(row for row in rows if row["path"] == photo["name"])
        assert item["proposed"] == ("none" if item["asked"] == "none" else row["proposed"])
    sure = [row for row in rows if float(row["probability"]) >= 0.95 and row["decision"] == row["proposed"]]
    assert len(page["rest"]["paths"]) == len(sure)
    assert page["folder"]["url"] == pool.as_uri()


def test_without_a_run_by_diversity(run_command: Run, pool: Path, tmp_path: Path) -> None:
    result = run_command("evaluate.py", f"label={pool}", *BEGIN, "hydra.run.dir=out")
    assert result.returncode == 0, result.stderr
    rows, page = read_csv(tmp_path / "out/label.csv"), embedded(tmp_path / "out/label.html")
    assert list(rows[0]) == ["path", "reason", "twin"]
    assert len(rows) == 32  # no run has the labelled one
    assert {row["reason"] for row in rows} <= {"diversity", "duplicate"}
    assert [name["name"] for name in page["classes"]] == ["ants", "bees"]
    assert {item["proposed"] for item in page["items"]} == {None}
    assert "data.labels=<file> model=timm model.name=test_resnet " in result.stdout
    assert "data.size=32 recipe=small" in result.stdout


def test_labels_csv_alone_trains(run_command: Run, pool: Path, tmp_path: Path) -> None:
    names = [f"card 1/{number}.jpg" for number in range(20)]
    lines = [f"{name},{'ab'[n % 2]},you,diversity,{pool}" for n, name in enumerate(names)]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label,by,asked,folder", *lines]))
    result = run_command("train.py", f"data.root={pool}", "data.labels=labels.csv", "activations.dir=cache", *FAST)
    assert result.returncode == 0, result.stderr
    assert "of a, b" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["label=missing", "run=RUN"], "label=missing: there is no such folder. Give a folder of photos."),
        (["label=empty", "run=RUN"], "label=empty: it has no photos. Give another folder."),
        (["label=TRAIN", "run=RUN"], "all its photos are labelled already"),
        (["label=empty", "run=RUN", "classes=[None]"], "classes=['None']: expected different names in a list"),
        (["label=empty", "run=RUN", "classes=[a,A]"], "classes=['a', 'A']: expected different names in a list"),
        (["label=empty", "run=RUN", "classes=birds"], "classes=birds: expected different names in a list"),
        (["label=empty", "run=RUN", "model=resnet34"], "model=: this needs label=<folder of photos> without a run"),
        (["label=empty"], "label=: give run=<run directory>, or begin without a run: classes=[ants,bees]"),
        (["label=empty", *BEGIN[1:], "classes=[ants]"], "expected the names of at least two classes"),
        (["label=empty", *BEGIN, "keep=0.9"], "keep=: this needs a run."),
        (["run=RUN", "classes=[a,b]"], "classes=: this needs label=<folder of photos>."),
        (["label=empty", "run=RUN", "suspects=true"], "are separate runs: give one of them."),
        (["label=empty", "run=RUN", "explain=true"], "explain=true: this needs predict="),
    ],
)
def test_refused(
    run_command: Run, finished: Path, shared_root: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    replaced = {"run=RUN": f"run={finished}", "label=TRAIN": f"label={shared_root / 'train'}"}
    result = run_command("evaluate.py", *(replaced.get(each, each) for each in arguments), "activations.dir=cache")
    assert (result.returncode, message in result.stderr) == (1, True), result.stderr
    assert "Traceback" not in result.stderr


def test_the_cycle_from_labels_with_none(run_command: Run, pool: Path, tmp_path: Path) -> None:
    """`none` in labels.csv is a class of the first run; on the page it is the key 0, and it may come back."""
    label = lambda n: "none" if n % 5 == 0 else "ab"[n % 2]  # noqa: E731
    rows = [f"card 1/{number}.jpg,{label(number)},you,diversity,{pool}" for number in range(30)]
    for name, some in (("first", rows[:20]), ("labels", rows[20:])):
        (tmp_path / f"{name}.csv").write_text("\n".join(["path,label,by,asked,folder", *some]))
    train = [f"data.root={pool}", "data.labels=first.csv", "activations.dir=cache", *SMALL]
    result = run_command("train.py", *train, "hydra.run.dir=run")
    assert result.returncode == 0, result.stderr
    assert "of a, b, none" in result.stdout
    assert "files left out" not in result.stdout  # photos that are not labelled yet
    result = run_command("evaluate.py", "run=run", f"label={pool}", "activations.dir=cache", "hydra.run.dir=out")
    assert result.returncode == 0, result.stderr
    page = embedded(tmp_path / "out/label.html")
    assert [name["name"] for name in page["classes"]] == ["a", "b"]
    proposed = {row["path"]: row["proposed"] for row in read_csv(tmp_path / "out/label.csv")}
    for item, photo in zip(page["items"], page["photos"], strict=True):
        assert item["proposed"] == ("none" if item["asked"] == "none" else proposed[photo["name"]])
    result = run_command("train.py", *train, "data.add=labels.csv", "hydra.run.dir=again")
    assert "10 photos for training, 0 of no class" in result.stdout
    assert "Reusing activations of 10 of 10 photos" in result.stdout  # those that label= has computed
    assert "of a, b, none" in result.stdout


def test_reasons_to_doubt_photos_that_are_sure(tmp_path: Path) -> None:
    def found(right: int, wrong: int, **final: object) -> list[str]:
        (tmp_path / "metrics.json").write_text(json.dumps({"final": final}))
        rights = torch.arange(right + wrong + 5) < right
        probable = torch.where(torch.arange(right + wrong + 5) < right + wrong, 0.97, 0.6)
        version = Version(1, Thresholds(0, 1), [Judged("validation", probable, 0 * probable, rights)], {})
        return doubts(Reliability(StrangerDetector([], []), version), tmp_path)

    assert found(99, 1) == []
    assert found(45, 5) == ["Of 50 validation photos with 95 % or more, 90 % are right."]
    assert found(5, 0) == ["Only 5 validation photos with 95 % or more can tell how often that is right."]
    passed = found(99, 1, n_strangers=20, strangers_passed=0.45, strangers_passed_ci95=[0.3, 0.6])
    assert passed[0].startswith("Of 20 known strangers, 45 % (95 % interval 30 to 60 %)")
    assert len(doubts(None, tmp_path / "missing")) == 1


def test_margins_and_k_center() -> None:
    probabilities = torch.tensor([[0.5, 0.4, 0.1], [0.9, 0.05, 0.05], [0.4, 0.2, 0.4]])
    assert margins(probabilities).tolist() == pytest.approx([0.1, 0.85, 0])
    points = torch.tensor([[0.0], [1.0], [9.0], [9.0], [4.0], [4.1]])
    assert k_center(points, 3).tolist()[:3] == [5, 2, 0]
    assert sorted(k_center(points, 3).tolist()) == sorted(k_center(points, 100).tolist()) == [*range(6)]
    assert k_center(torch.zeros(3, 2), 2).tolist() == [0, 1, 2]  # the same photo three times
    assert k_center(torch.ones(1, 2), 5).tolist() == [0]


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux")
def test_features_are_not_in_memory_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "features.npy"
    np.save(file, np.random.default_rng(0).random((30_000, 1000), np.float32))
    seal_array(file)
    features = read_array(file, (30_000, 1000))
    assert features is not None

    def mapped() -> int:
        lines = Path("/proc/self/smaps").read_text().split(str(file))[1].splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Rss:")) * 1024

    most = max(mapped() for rows in blocks(features) if rows.sum() > 0)
    assert ROWS * 4000 <= most < file.stat().st_size / 4
    assert mapped() == 0


def test_near_duplicates_come_once(tmp_path: Path) -> None:
    from PIL import Image

    for number in range(4):
        draw_photo(tmp_path / f"{number}.jpg", number % 2, number, (200, 160))
    Image.open(tmp_path / "1.jpg").resize((150, 120)).save(tmp_path / "4.jpg", quality=60)
    paths = [f"{number}.jpg" for number in range(5)]
    assert distinct(tmp_path, paths, [4, 2, 1, 0, 3], 3) == ([4, 2, 0], {1: 4})
    assert distinct(tmp_path, paths, [3], 3) == ([3], {})
    assert distinct(tmp_path, paths, [], 3) == ([], {})


def test_paths_of_the_rest_are_packed() -> None:
    names = ["a/1.jpg", "a/10.jpg", "a/10.jpg.jpg", "b", "🐕/1.jpg", "🐕/2.jpg"]
    packed = _packed([Sure(name, 0, 0.97) for name in names])
    before, unpacked = "", []
    for units, ending in packed["paths"]:
        start = before.encode("utf-16-le")[: 2 * units].decode("utf-16-le")
        unpacked.append(before := start + ending)
    assert unpacked == names
    assert packed["paths"][1] == [3, "0.jpg"]
