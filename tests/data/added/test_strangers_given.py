"""Photos of no class: which they are, where they may lie, and what decisions say of them."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import draw_classes, draw_folder, draw_root

from dogscats import DogsCatsDataModule
from dogscats.base.errors import UserError


def draw_strangers(folder: Path, count: int = 12, seed: int = 500) -> Path:
    return draw_folder(folder, count, first=seed)


def ready(root: Path, **settings: Any) -> DogsCatsDataModule:
    data = DogsCatsDataModule(root, size=32, num_workers=0, **settings)
    data.prepare_data()
    data.setup()
    return data


def test_strangers_have_the_kind_of_their_folder_and_train_no_class(root: Path, tmp_path: Path) -> None:
    folder = draw_strangers(tmp_path / "others")
    draw_strangers(folder / "foxes", 3, 700)
    data, without = ready(root, strangers=str(folder)), ready(root)
    assert data.strangers is not None
    assert data.strangers.kinds == ["foxes", "others"]
    assert [data.strangers.kinds[label] for label in data.strangers.photos.labels].count("foxes") == 3
    assert (data.classes, data.train, data.valid) == (without.classes, without.train, without.valid)
    assert without.strangers is None


def test_a_folder_in_the_dataset_is_no_class_and_not_left_out(tmp_path: Path) -> None:
    root = draw_classes(tmp_path / "photos", 10)
    draw_strangers(root / "others")
    (tmp_path / "linked").symlink_to(root)
    for folder in (root / "others", tmp_path / "linked" / "others", os.path.relpath(root / "others")):
        data = ready(root, strangers=str(folder))
        assert data.classes == ["cats", "dogs"]
        assert data.left_out == ""
        assert data.strangers is not None
        assert len(data.strangers.photos.paths) == 12
    assert ready(root, strangers=str(root / "others")).strangers.photos.paths[0] == "others/0.jpg"  # type: ignore[union-attr]
    assert ready(root).classes == ["cats", "dogs", "others"]
    assert len(data.labelled("valid", data.classes).paths) == 4


def test_copies_are_left_out(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = draw_strangers(tmp_path / "others")
    shutil.copy(root / "valid" / "cats" / "cat.1.jpg", folder / "copy.jpg")
    shutil.copy(folder / "3.jpg", folder / "again.jpg")
    data = ready(root, strangers=str(folder))
    assert data.strangers is not None
    assert len(data.strangers.photos.paths) == 12
    assert "2 strangers left out, copies of labelled photos, or of each other: " in caplog.text


def test_with_too_few_a_run_does_without(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = ready(root, strangers=str(draw_strangers(tmp_path / "others", 9)))
    assert data.strangers is None
    assert "9 strangers given: that is too few" in caplog.text


def test_a_decision_makes_a_photo_a_stranger(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "decisions.csv"
    folder = draw_strangers(tmp_path / "others")
    file.write_text(
        f"path,decision,label\ntrain/cats/cat.3.jpg,none,\nvalid/dogs/dog.0.jpg,none,\n{folder / '0.jpg'},drop,\n"
    )
    data = ready(root, strangers=str(folder), decisions=str(file))
    assert (len(data.train.paths), len(data.valid.paths)) == (23, 9)
    assert data.strangers is not None
    assert data.strangers.kinds == ["none", "others"]
    assert {"train/cats/cat.3.jpg", "valid/dogs/dog.0.jpg"} < {*data.strangers.photos.paths}
    assert len(data.strangers.photos.paths) == 13
    assert "1 photo dropped (strangers 1), 0 relabeled, 2 of no class (train 1, valid 1). 3 of 3" in data.decided
    file.write_text(f"path,decision,label\n{folder / '0.jpg'},relabel,cats\n")
    with pytest.raises(UserError, match="line 2: it relabels a stranger"):
        ready(root, strangers=str(folder), decisions=str(file))


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("nowhere", r"strangers=nowhere: there is no such folder\."),
        ("empty", r"there are no photos in it\."),
        (".", r"data\.root=.*photos is in it\. Give a folder that has only photos of no class\."),
    ],
)
def test_a_bad_folder_is_named(folder: str, message: str, root: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    given = folder if folder == "nowhere" else str(tmp_path / folder)
    with pytest.raises(UserError, match=message):
        DogsCatsDataModule(root, strangers=given).prepare_data()


def test_an_unreadable_stranger_is_named(tmp_path: Path) -> None:
    root, folder = draw_root(tmp_path / "photos"), draw_strangers(tmp_path / "others")
    (folder / "bad.jpg").write_bytes(b"no photo")
    with pytest.raises(UserError, match=r"others/bad\.jpg"):
        ready(root, strangers=str(folder))
    data = ready(root, strangers=str(folder), on_bad_image="skip")
    assert list(data.bad) == [str(folder / "bad.jpg")]
    assert data.strangers is not None
    assert len(data.strangers.photos.paths) == 12
