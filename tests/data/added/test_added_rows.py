"""New labels: photos that join the training photos wherever they lie, and tables that contradict themselves."""

import csv
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import QUIET, TINY, Run, draw_classes, draw_folder, draw_root

from dogscats import DogsCatsDataModule
from dogscats.base.errors import UserError
from dogscats.base.files import read_csv, read_json
from dogscats.data.added.additions import apart
from dogscats.data.photos.layouts import Photos
from dogscats.reliability.left_out import MIN_JUDGED, judged_alone

HEADER = ["path", "label", "by", "asked", "folder"]


def draw_unsorted(folder: Path, count: int = 16) -> Path:
    return draw_folder(folder, count, first=900)


def write_labels(file: Path, rows: Sequence[Sequence[object]], folder: Path | str = "") -> str:
    with file.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        writer.writerow(HEADER)
        writer.writerows([path, label, "you", "margin", folder] for path, label in rows)
    return str(file)


def ready(root: Path, **settings: Any) -> DogsCatsDataModule:
    data = DogsCatsDataModule(root, size=32, num_workers=0, **settings)
    data.prepare_data()
    data.setup()
    return data


@pytest.mark.parametrize("where", ["elsewhere", "inside"])
def test_rows_join_training_or_become_strangers(
    where: str, root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    folder = draw_unsorted(root / "unsorted" if where == "inside" else tmp_path / "unsorted")
    shutil.copy(root / "valid" / "cats" / "cat.1.jpg", folder / "valid.jpg")
    shutil.copy(root / "train" / "cats" / "cat.1.jpg", folder / "train.jpg")
    rows = [("0.jpg", "cats"), ("1.jpg", "Dogs "), ("2.jpg", "wasps"), (str(folder / "3.jpg"), "dogs")]
    rows += [(f"{number}.jpg", "none") for number in range(4, 15)] + [("valid.jpg", "cats"), ("train.jpg", "cats")]
    data = ready(root, add=write_labels(tmp_path / "labels.csv", rows, folder))
    assert data.classes == ["cats", "dogs", "wasps"]
    assert len(data.train.paths) == 24 + 4
    assert len(data.valid.paths) == 10
    counts = Counter(data.train.labels)
    assert [counts[label] for label in range(3)] == [13, 14, 1]
    assert {*data.train.paths[24:]} == data.train.added
    assert (str(folder / "0.jpg") in data.train.added) == (where == "elsewhere")
    assert data.strangers is not None
    assert data.strangers.kinds == ["none"]
    assert len(data.strangers.photos.paths) == 11
    assert (
        "4 photos for training, 11 of no class; 1 are there already; 1 left out, copies of validation or test photos; "
        "new classes: wasps"
    ) in caplog.text


def test_a_folder_of_unsorted_photos_in_class_folders_is_no_class(tmp_path: Path) -> None:
    root = draw_classes(tmp_path / "photos", 10)
    folder = draw_unsorted(root / "unsorted")
    data = ready(root, add=write_labels(folder / "labels.csv", [("0.jpg", "cats")]))
    assert data.classes == ["cats", "dogs"]
    assert data.train.added == {"unsorted/0.jpg"}
    assert data.left_out == ""


def test_decisions_are_also_about_added_photos(root: Path, tmp_path: Path) -> None:
    folder = draw_unsorted(tmp_path / "unsorted")
    labels = write_labels(tmp_path / "labels.csv", [("0.jpg", "cats"), ("1.jpg", "dogs")], folder)
    file = tmp_path / "decisions.csv"
    file.write_text(f"path,decision,label\n{folder / '0.jpg'},drop,\n{folder / '1.jpg'},relabel,cats\n")
    data = ready(root, add=labels, decisions=str(file))
    assert data.train.paths[24:] == [str(folder / "1.jpg")]
    assert data.train.labels[24:] == [0]


def test_a_class_called_none_stays_one(tmp_path: Path) -> None:
    root = draw_root(tmp_path / "photos", classes=("cats", "none"))
    folder = draw_unsorted(tmp_path / "unsorted")
    data = ready(root, add=write_labels(tmp_path / "labels.csv", [("0.jpg", "none"), ("1.jpg", "(none)")], folder))
    assert data.train.labels[24:] == [1]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("0.jpg", "cats"), ("0.jpg", "dogs")], r"line 3 '.*0\.jpg' is 'dogs', but 'cats' in line 2\. Remove one"),
        ([("0.jpg", "cats"), ("again.jpg", "none")], r"again\.jpg' \(the same photo as '.*0\.jpg'\) is 'none', but 'c"),
        ([("train.jpg", "dogs")], r"line 2 .*is 'dogs', but 'cats' in the dataset\. .*data\.decisions"),
        ([("x.jpg", "cats"), ("0.jpg", "cats"), ("y.jpg", "cats")], r"2 of 3 rows name photos that are gone: .*x.*y"),
        ([("0.jpg", "")], r"line 2: it has no label"),
    ],
)
def test_bad_rows_are_named(rows: list[tuple[str, str]], message: str, root: Path, tmp_path: Path) -> None:
    folder = draw_unsorted(tmp_path / "unsorted", 2)
    shutil.copy(folder / "0.jpg", folder / "again.jpg")
    shutil.copy(root / "train" / "cats" / "cat.1.jpg", folder / "train.jpg")
    with pytest.raises(UserError, match=message):
        ready(root, add=write_labels(tmp_path / "labels.csv", rows, folder))


def test_rows_of_photos_that_are_gone_can_be_left_out(root: Path, tmp_path: Path) -> None:
    folder = draw_unsorted(tmp_path / "unsorted", 2)
    labels = write_labels(tmp_path / "labels.csv", [("0.jpg", "cats"), ("x.jpg", "dogs")], folder)
    assert len(ready(root, add=labels, on_bad_image="skip").train.added) == 1
    with pytest.raises(UserError, match=r"add=nowhere\.csv: there is no such file"):
        DogsCatsDataModule(root, add="nowhere.csv")


def test_the_table_alone_has_all_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = draw_unsorted(tmp_path / "first"), draw_unsorted(tmp_path / "second", 4)
    rows = [(f"{number}.jpg", ("cats", "none")[number % 2]) for number in range(16)]
    table = write_labels(tmp_path / "here" / "labels.csv", rows, first) if (tmp_path / "here").mkdir() is None else ""
    with Path(table).open("a") as lines:
        lines.write(f"0.jpg,cats,proposed,accepted,{os.path.relpath(second, tmp_path / 'here')}\n")
    monkeypatch.chdir(tmp_path)
    for root in (tmp_path / "first", Path("data/dogscats")):
        data = ready(root, labels=table, valid_fraction=0.25)
        assert data.classes == ["cats", "none"]
        assert len(data.train.paths) + len(data.valid.paths) == 17
        assert data.strangers is None


def test_added_photos_have_activations_of_their_own() -> None:
    photos = Photos(Path(), [f"{number}.jpg" for number in range(5)], [0] * 5, added={"3.jpg", "4.jpg"})
    assert [part.paths for part in apart(photos)] == [["0.jpg", "1.jpg", "2.jpg"], ["3.jpg", "4.jpg"]]
    assert [part.paths for part in apart(photos.select([0, 4]))] == [["0.jpg"], ["4.jpg"]]
    assert len(apart(photos.select([0, 1]))) == len(apart(photos.select([3]))) == 1


def test_leave_one_out_judges_the_photos_of_the_dataset_if_they_are_enough() -> None:
    paths = [f"{number}.jpg" for number in range(MIN_JUDGED + 5)]
    photos = Photos(Path(), paths, [0] * len(paths), added=frozenset(paths[MIN_JUDGED:]))
    judged = judged_alone(photos)
    assert judged is not None
    assert judged.nonzero().flatten().tolist() == list(range(MIN_JUDGED))
    assert judged_alone(photos.select(range(1, len(paths)))) is None
    assert judged_alone(Photos(Path(), paths, [0] * len(paths))) is None


def test_a_second_round_reuses_the_activations_of_the_dataset(
    run_command: Run, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dogscats.reliability.left_out.MIN_JUDGED", 20)
    folder = draw_unsorted(tmp_path / "unsorted")
    arguments = [f"data.root={root}", "recipe=small", *TINY, "callbacks.tta.n_aug=0", "callbacks.reports=null"]
    finals = []
    for number, count in enumerate((6, 12)):
        rows = [(f"{row}.jpg", ("cats", "dogs")[row % 2]) for row in range(count)]
        labels = write_labels(tmp_path / "labels.csv", rows, folder)
        result = run_command("train.py", *arguments, f"data.add={labels}", f"hydra.run.dir=run{number}")
        assert result.returncode == 0, result.stderr
        assert f"{count} photos for training, 0 of no class" in result.stdout
        assert f"Leave-one-out judges the 24 training photos of data.root, not the {count} added ones" in result.stdout
        finals.append(read_json(tmp_path / f"run{number}" / "metrics.json")["final"])
        assert ("Computing activations of train: " in result.stdout) == (number == 0)
        assert "Computing activations of train, added" in result.stdout
    assert [final["n_loo"] for final in finals] == [24, 24]
    rows = read_csv(tmp_path / "run1" / "photos.csv")
    assert sum(row["split"] == "train" for row in rows) == 36
    assert any(row["path"] == str(folder / "11.jpg") for row in rows)
    saved = torch.load(tmp_path / "run1" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["hyper_parameters"]["data"]["add"] == labels
    (tmp_path / "labels.csv").unlink()
    result = run_command("evaluate.py", "run=run1", "hydra.run.dir=out", "callbacks.reports=null")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "recipe",
    [
        ["recipe=small", "data.valid_fraction=0"],
        ["recipe=lesson1", "recipe.precompute.epochs=1", "recipe.finetune.cycles=1", "~recipe.augmented", "final=last"],
    ],
)
def test_rows_of_no_class_are_learned_by_every_recipe(recipe: list[str], run_command: Run, tmp_path: Path) -> None:
    root, folder = draw_classes(tmp_path / "photos", 30), draw_unsorted(tmp_path / "unsorted", 12)
    labels = write_labels(tmp_path / "labels.csv", [(f"{number}.jpg", "none") for number in range(12)], folder)
    result = run_command(
        "train.py", f"data.root={root}", *recipe, *TINY, *QUIET, "callbacks.tta.n_aug=0", f"data.add={labels}",
        "hydra.run.dir=run",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    final = read_json(tmp_path / "run" / "metrics.json")["final"]
    assert final["n_strangers"] == 12
    assert "strangers_kind_left_out_passed" not in final
    assert "known_points" in np.load(tmp_path / "run" / "strangers.npz").files
