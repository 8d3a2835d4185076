"""Folders and names that are not classes, and folders that cannot be listed."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import FAST, Run, draw_root
from named import labelled, photos, table

from dogscats import DogsCatsDataModule
from dogscats.base.errors import Failure, UserError
from dogscats.data.photos.class_names import joined_labels, one_spelling
from dogscats.data.photos.dataset_parts import masks_among, parts_among
from dogscats.data.photos.layouts import DatasetFinder
from dogscats.data.photos.listing import left_out


@pytest.mark.parametrize(
    "names",
    [
        ["train_images", "test_images"],
        ["train_images", "test_images", "extras"],
        ["images", "masks"],
        ["Images", "Annotations"],
        ["JPEGImages", "SegmentationClass", "SegmentationObject"],
        ["images", "labels", "depth"],
        ["images_001", "images_002", "images_003"],
        ["HAM10000_images_part_1", "HAM10000_images_part_2"],
        ["stage_1_train_images", "stage_1_test_images"],
        ["fold0", "fold1", "fold2"],
        ["part_A", "part_B"],
        ["cells_img", "cells_mask"],
        ["xrayTrain", "xrayVal"],
        ["cats", "dogs", "ground_truth"],
        ["cats", "dogs", "annotations"],
        ["2021-01-01", "2021-01-02"],
        ["100CANON", "101CANON"],
        ["eval", "holdout"],
        ["2021-01", "2021-02"],
        ["01-01-2021", "02-01-2021"],
        ["Jan 2021", "Feb 2021", "misc"],
        ["2021-01-01 beach", "2021-01-02 zoo"],
        ["HR", "LR"],
        ["trainHR", "trainLR"],
        ["high_res", "low_res"],
        ["input", "target"],
        ["labeled", "unlabeled"],
        ["cats", "dogs", "Unlabelled"],
        ["cats", "dogs", "cats_masks"],
        ["cats", "cats_thumbnails"],
    ],
    ids=lambda names: names[0],
)
def test_folders_that_look_like_parts_are_no_classes(tmp_path: Path, names: list[str]) -> None:
    photos(tmp_path, *(f"{name}/{number}.jpg" for name in names for number in range(2)))
    with pytest.raises(UserError, match=r"may be splits or classes|look like parts of a dataset") as error:
        DatasetFinder(tmp_path).find()
    assert "data.labels=<table>" in str(error.value)


@pytest.mark.parametrize(
    "names",
    [
        ["mask", "no_mask"],
        ["with_mask", "without_mask"],
        ["photo", "sketch"],
        ["images_cats", "images_dogs"],
        ["Training_Real", "Training_Fake"],
        ["label_0", "label_1"],
        ["type_1", "type_2", "type_3"],
        ["0", "1", "2"],
        ["A", "B"],
        ["test_positive", "test_negative"],
        ["cats", "dogs", "masks"],
        ["train_station", "bus_station"],
        ["1990", "2000"],
        [str(digit) for digit in range(10)],
        ["000", "001"],
        ["target", "background"],
        ["face", "face_mask"],
        ["eggs", "egg_boxes"],
        ["before", "after"],
    ],
    ids=lambda names: names[0],
)
def test_classes_whose_names_have_such_words_are_classes(tmp_path: Path, names: list[str]) -> None:
    assert parts_among(names) == []
    photos(tmp_path, *(f"{name}/{name}{number}.jpg" for name in names for number in range(2)))
    assert DatasetFinder(tmp_path).find().classes == sorted(names)


@pytest.mark.parametrize(
    ("names", "noted"),
    [
        (["session_1", "session_2"], True),
        (["Patient 3", "Patient 11", "Patient 20"], True),
        (["type_1", "type_2"], False),
        (["0", "1"], False),
        (["n02085620", "n02085936"], False),
        (["session_1", "cats"], False),
    ],
)
def test_folders_that_differ_by_a_number_are_noted(tmp_path: Path, names: list[str], noted: bool) -> None:
    photos(tmp_path, *(f"{split}/{name}/{n}.jpg" for split in ("train", "valid") for name in names for n in range(2)))
    notes = DatasetFinder(tmp_path).find().notes
    assert len(notes) == int(noted)
    assert all("differ by a number alone" in note and "data.labels=<table>" in note for note in notes)


def test_the_folder_to_choose_is_named(tmp_path: Path) -> None:
    photos(tmp_path, *(f"{part}/{name}/1.png" for part in ("images", "masks") for name in ("cats", "dogs")))
    with pytest.raises(UserError, match=rf"set data\.root={tmp_path}/images"):
        DatasetFinder(tmp_path).find()
    photos(tmp_path / "b", *(f"train/{part}/{n}.png" for part in ("image", "mask") for n in range(3)))
    with pytest.raises(UserError, match=r"image, mask in .*train look like parts"):
        DatasetFinder(tmp_path / "b").find()


@pytest.mark.parametrize(
    ("paths", "masks"),
    [
        (["a/1.png", "a/1_mask.png", "a/2.png"], ["a/1_mask.png"]),
        (["a/benign (1).png", "a/benign (1)_mask.png", "a/benign (1)_mask_1.png"], 2),
        (["a/images/1.png", "a/masks/1.png", "b/images/2.png"], ["a/masks/1.png"]),
        (["a/1.jpg", "a/Masks/1.png"], ["a/Masks/1.png"]),
        (["a/1.jpg", "b/2.jpg", "masks/1.png", "masks/2.png"], ["masks/1.png", "masks/2.png"]),
        (["mask/1.jpg", "face/1.jpg"], []),
        (["ppe/mask/1.jpg", "ppe/helmet/1.jpg"], []),
        (["cat/1.jpg", "cat_mask/1.png", "dog/2.jpg"], ["cat_mask/1.png"]),
        (["face/1.jpg", "face_mask/1.jpg"], []),
        (["a/mask.jpg", "a/face_mask.jpg", "b/label_1.jpg"], []),
    ],
)
def test_masks_are_found_by_the_photos_that_they_are_named_after(paths: list[str], masks: list[str] | int) -> None:
    found = masks_among(paths)
    assert (len(found) if isinstance(masks, int) else sorted(found)) == masks


def test_masks_in_a_class_are_refused(tmp_path: Path) -> None:
    photos(
        tmp_path, *(f"{name}/{kind}/{number}.png" for name in "ab" for kind in ("images", "masks") for number in "12")
    )
    with pytest.raises(UserError, match=r"4 files look like masks of other photos: a/masks/1\.png"):
        DatasetFinder(tmp_path).find()


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("labels.csv", ["id,label", *(f"{n},{'xy'[n // 4]}" for n in range(8))]),  # without their zeros
        ("labels.csv", ["file,label", *(f"{n % 2}/{n:03d}.jpg,{'xy'[n // 4]}" for n in range(8))]),
        ("truth.csv", ["image,x,y,z", *(f"{n:03d},{n // 4}.0,{1 - n // 4}.0,0.0" for n in range(8))]),
        ("train.txt", [f"{n % 2}/{n:03d}.jpg {'xy'[n // 4]}" for n in range(8)]),
    ],
)
@pytest.mark.parametrize("folder", ["", "photos/", "a/photos/"])
def test_tables_of_any_kind_beside_or_above_folders_decide(
    tmp_path: Path, name: str, lines: list[str], folder: str
) -> None:
    photos(tmp_path, *(f"{folder}{n % 2}/{n:03d}.jpg" for n in range(8)))
    table(tmp_path, *lines, name=name)
    with pytest.raises(UserError, match=rf"{name} has other labels .* 0, 1: x, y\. Set data\.labels={name}"):
        DatasetFinder(tmp_path).find()
    assert DatasetFinder(tmp_path, labels=name).find().classes == ["x", "y"]
    if folder:
        (note,) = DatasetFinder(tmp_path / folder[:-1]).find().notes if folder == "photos/" else [f"../{name}"]
        assert f"../{name}" in note


def test_files_of_the_same_name_in_several_classes_belong_to_their_folders(tmp_path: Path) -> None:
    photos(tmp_path, *(f"{name}/{n}.jpg" for name in ("000", "001") for n in range(4)))
    table(tmp_path, "path,label", *(f"{name}/{n}.jpg,{'xy'[n % 2]}" for name in ("000", "001") for n in range(4)))
    with pytest.raises(UserError, match=r"labels\.csv has other labels"):
        DatasetFinder(tmp_path).find()


def test_a_table_beside_folders_that_names_their_photos_decides(tmp_path: Path) -> None:
    photos(tmp_path, *(f"{name}/{name}{number}.jpg" for name in ("cats", "dogs") for number in range(4)))
    names = [f"{name}{number}" for name in ("cats", "dogs") for number in range(4)]
    table(tmp_path, "id,label", *(f"{name},{name[:-1]}" for name in names))
    assert DatasetFinder(tmp_path).find().classes == ["cats", "dogs"]
    table(tmp_path, "id,label", *(f"{name},{int(name[0] == 'd')}" for name in names))
    assert DatasetFinder(tmp_path).find().classes == ["cats", "dogs"]
    table(tmp_path, "id,label", *(f"{name},{'xy'[int(name[-1]) % 2]}" for name in names))
    with pytest.raises(
        UserError, match=r"labels\.csv has other labels .* cats, dogs: x, y\. Set data\.labels=labels\.csv"
    ):
        DatasetFinder(tmp_path).find()
    assert DatasetFinder(tmp_path, labels="labels.csv").find().classes == ["x", "y"]


@pytest.mark.parametrize(
    "names",
    [
        [f"WhatsApp Image 2021-01-01 at 10.20.{second}.jpeg" for second in range(20, 24)],
        [f"WhatsApp Image 2021-01-0{day} at 10.20.2{n}.jpeg" for day in (1, 2) for n in range(3)],
        [f"Screenshot 2021-01-01 at 1{hour}.20.2{n}.png" for hour in (1, 2) for n in range(3)],
        [f"Bildschirmfoto 2021-01-01 um 1{hour}.20.2{n}.png" for hour in (1, 2) for n in range(3)],
        [f"IMG_000{number}.{n}.jpg" for number in (1, 2) for n in range(3)],
        [f"{word}.000{n}.jpg" for word in ("IMG", "DSC") for n in range(3)],
        [f"PXL_20210101_10202212{number}.MP.{n}.jpg" for number in (1, 2) for n in range(3)],
        [f"202{year}.01.0{day}.jpg" for year in (1, 2) for day in (1, 2)],
        [f"{hour}.20.2{n}.jpg" for hour in (11, 12) for n in range(3)],
        [f"Photo 0{day}.01.21 10.2{n}.jpg" for day in (1, 2) for n in range(3)],
        [f"holiday {day}.{n}.jpg" for day in (1, 2) for n in range(3)],
        [f"image (1).{n}.jpg" for n in range(3)] + [f"image (2).{n}.jpg" for n in range(3)],
        [f"image.{n}.jpg" for n in range(3)] + [f"photo.{n}.jpg" for n in range(3)],
        [f"Screenshot from Mon {hour}.2{n}.png" for hour in (10, 11) for n in range(3)],
        [f"{place} at 10.2{n}.jpg" for place in ("Sunset", "Beach") for n in range(3)],
        [f"{month}.{day}.2020.jpg" for month in ("Jan", "Feb") for day in (1, 2)],
        [f"{day}.{n}.jpg" for day in ("mon", "Tuesday") for n in (1, 2)],
        [f"{title}. Smith {n}.jpg" for title in ("Dr", "Mr") for n in (1, 2)],
        [f"{animal}_jpg.rf.{n}a1b2c3d4e5f60718293a4b5c6d7e8f9.jpg" for animal in ("cat", "dog") for n in (1, 2)],
        [f"{camera}.{n}.jpg" for camera in ("GOPRA001", "DSCA001", "P101a0001") for n in (1, 2)],
        ["my.holiday.jpg", "my.dog.jpg", "the.cat.jpg", "the.dog.jpg"],
    ],
    ids=lambda names: names[0],
)
@pytest.mark.parametrize("folder", ["", "train/"])
def test_names_of_cameras_and_programs_are_no_classes(tmp_path: Path, names: list[str], folder: str) -> None:
    photos(tmp_path, *(f"{folder}{name}" for name in names))
    with pytest.raises(UserError, match=r"its class is unknown.* data\.labels=<table>"):
        DatasetFinder(tmp_path).find()


@pytest.mark.parametrize(
    "classes",
    [
        ("cat", "dog"),
        ("n02085620", "n02085936"),
        ("7", "3"),
        ("type1", "type2"),
        ("T800", "R2"),
        ("sun", "moon"),
        ("St Bernard", "Pug"),
    ],
)
def test_flat_names_of_classes_still_count(tmp_path: Path, classes: tuple[str, ...]) -> None:
    photos(tmp_path, *(f"{name}.{number}.jpg" for name in classes for number in range(1000, 1005)))
    assert DatasetFinder(tmp_path).find().classes == sorted(classes)


def test_each_class_of_flat_names_has_two_photos(tmp_path: Path) -> None:
    photos(tmp_path, "train/cat.1.jpg", "train/cat.2.jpg", "train/dog.3.jpg", "valid/cat.1.jpg", "valid/dog.2.jpg")
    with pytest.raises(UserError, match=r"'dog' has only one photo, dog\.3\.jpg(.|\n)*data\.labels=<table>"):
        DatasetFinder(tmp_path).find()


SCANDIR = os.scandir


class HalfListing:
    """Stands in for `os.scandir`: a folder cannot be listed, at once or after its first file."""

    def __init__(self, folder: str, number: int, files: int):
        self.folder, self.number, self.files, self.scandir = folder, number, files, SCANDIR

    def __call__(self, folder: str) -> object:
        if str(folder).rstrip("/").endswith(self.folder):
            if not self.files:
                raise OSError(self.number, os.strerror(self.number), str(folder))
            return self.half(folder)
        return self.scandir(folder)

    def half(self, folder: str) -> object:
        listing, number, files = self.scandir(folder), self.number, self.files

        class Half:
            def __enter__(self) -> Iterator[os.DirEntry[str]]:
                return self.entries()

            def __exit__(self, *error: object) -> None:
                listing.close()

            def entries(self) -> Iterator[os.DirEntry[str]]:
                for _ in range(files):
                    yield next(listing)
                raise OSError(number, os.strerror(number), folder)

        return Half()


@pytest.mark.fault("a folder in a class that cannot be listed, or only half: named, or left out and counted")
@pytest.mark.parametrize("files", [0, 1])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_folder_that_cannot_be_listed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: int, number: int
) -> None:
    photos(
        tmp_path,
        *(f"{name}/{n}.jpg" for name in ("cats", "dogs") for n in range(5)),
        "cats/new/1.jpg",
        "cats/new/2.jpg",
    )
    monkeypatch.setattr(os, "scandir", HalfListing("cats/new", number, files))
    with pytest.raises(UserError, match=r"cats/new/?: it cannot be listed \(.*data\.on_bad_image=skip"):
        DatasetFinder(tmp_path).find()
    found = DatasetFinder(tmp_path, skip=True).find()
    assert len(labelled(found)) == 10
    (note,) = found.notes
    assert note.startswith("1 folder left out that cannot be listed: ")
    assert note.rstrip("/").endswith("cats/new")
    assert left_out(tmp_path, found.used) == ["cats/new/"]
    monkeypatch.setattr(os, "scandir", HalfListing("cats", number, files))
    with pytest.raises(UserError, match=r"cats: no photo of this class can be listed"):
        DatasetFinder(tmp_path, skip=True).find()
    monkeypatch.setattr(os, "scandir", HalfListing("cats/new", errno.ESTALE, files))
    with pytest.raises(Failure, match=r"cats/new/?: it cannot be listed now"):
        DatasetFinder(tmp_path, skip=True).find()


def test_a_run_leaves_out_such_a_folder_and_says_so(
    run_command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = draw_root(tmp_path / "photos")
    photos(root, "train/cats/new/1.jpg")
    monkeypatch.setattr(os, "scandir", HalfListing("cats/new", errno.EACCES, 0))
    result = run_command("train.py", f"data.root={root}", *FAST, "data.on_bad_image=skip")
    assert result.returncode == 0, result.stderr
    assert "1 folder left out that cannot be listed: " in result.stdout


def test_spellings_of_one_class_are_joined(tmp_path: Path) -> None:
    photos(tmp_path, *(f"train/{name}/{n}.jpg" for name in ("Cats", "dogs", "caf\u00e9") for n in range(3)))
    photos(tmp_path, *(f"train/cats /{n}.jpg" for n in range(2)), *(f"valid/{n}/1.jpg" for n in ("CATS", "Dogs")))
    photos(tmp_path, "valid/cafe\u0301/1.jpg", "test/cats/1.jpg")
    found = DatasetFinder(tmp_path).find()
    assert found.classes == ["Cats", "caf\u00e9", "dogs"]
    assert list(found.train.labels).count(0) == 5
    assert found.valid.paths == ["valid/CATS/1.jpg", "valid/cafe\u0301/1.jpg", "valid/Dogs/1.jpg"]
    assert found.test is not None
    assert len([note for note in found.notes if "are one class" in note]) == 3
    data = DogsCatsDataModule(tmp_path, size=24)
    assert data._finder.find_split("valid")[0] == ["CATS", "Dogs", "cafe\u0301"]


def test_letters_of_an_alphabet_stay_apart() -> None:
    letters = dict.fromkeys("abcdefABCDEF", 5)
    assert one_spelling(letters) == {letter: letter for letter in letters}
    assert set(one_spelling({"a": 1, "A": 2, "1": 3, "1.0": 1}).values()) == {"A", "1"}


def test_labels_that_join_others_are_hinted_at() -> None:
    labels = ["scab", "rust", "scab rust", "healthy", "frog_eye_leaf_spot", "rust frog_eye_leaf_spot", "black rot"]
    assert joined_labels(labels) == ["scab rust", "rust frog_eye_leaf_spot"]
    assert joined_labels(["a, b", "b, c", "d"]) == ["a, b", "b, c"]
    assert joined_labels(["scab", "rust", "scab_rust", "rust-scab", "healthy"]) == ["scab_rust", "rust-scab"]
    assert joined_labels(["red apple", "green apple", "red pear"]) == []
