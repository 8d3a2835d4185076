from collections.abc import Sequence
from pathlib import Path
from typing import Self

import pytest
from conftest import draw_photo

from dogscats import DogsCatsDataModule
from dogscats.base.errors import ArgumentError, UserError, user_message
from dogscats.data.loading.photo_check import leave_out
from dogscats.data.photos.folders import Folders
from dogscats.data.photos.layouts import SOURCES, DatasetFinder, Photos
from dogscats.data.photos.listing import image_names, left_out, left_out_summary
from dogscats.data.photos.split import held_out
from dogscats.data.photos.tables.columns import LabelTable


def flat(root: Path, count: int = 20, split: str = "train", classes: tuple[str, ...] = ("dog", "cat")) -> Path:
    """Kaggle's layout; only names matter here."""
    (root / split).mkdir(parents=True, exist_ok=True)
    for name in classes:
        for number in range(count):
            (root / split / f"{name}.{number}.jpg").touch()
    return root


def folders(root: Path, count: int = 20, split: str = "train") -> Path:
    for name in ("dogs", "cats"):
        (root / split / name).mkdir(parents=True)
        for number in range(count):
            (root / split / name / f"{number}.jpg").touch()
    return root


def counts(photos: Photos) -> list[int]:
    return [list(photos.labels).count(label) for label in sorted(set(photos.labels))]


@pytest.mark.parametrize("layout", [flat, folders])
def test_without_valid_a_share_of_each_class_is_held_out(tmp_path: Path, layout: object) -> None:
    root = layout(tmp_path)  # type: ignore[operator]
    flat(root, 5, "test1")
    found = DatasetFinder(root, valid_fraction=0.25).find()
    classes, train, valid = found.classes, found.train, found.valid
    assert classes in (["cat", "dog"], ["cats", "dogs"])
    assert counts(train) == [15, 15]
    assert counts(valid) == [5, 5]
    assert not set(train.paths) & set(valid.paths)
    on_disk = {path.relative_to(root).as_posix() for path in (root / "train").rglob("*.jpg")}
    assert {*train.paths, *valid.paths} == on_disk
    for photos in (train, valid):
        for path, label in zip(photos.paths, photos.labels, strict=True):
            assert path.startswith((f"train/{classes[label]}.", f"train/{classes[label]}/"))
    assert len(DatasetFinder(root).find().unlabelled.paths) == 10


def test_the_split_is_a_function_of_names_and_seed_alone(tmp_path: Path) -> None:
    valid = DatasetFinder(flat(tmp_path / "a"), 0.25, seed=3).find().valid
    again = DatasetFinder(flat(tmp_path / "elsewhere"), 0.25, seed=3).find().valid
    assert valid.paths == again.paths
    # Pinned: a split that changes between versions would let old models be judged on what they have seen.
    pinned = {"cat": [6, 7, 8, 9, 14], "dog": [0, 1, 4, 11, 15]}
    assert valid.paths == [f"train/{c}.{n}.jpg" for c, numbers in pinned.items() for n in numbers]
    other = DatasetFinder(tmp_path / "a", 0.25, seed=4).find().valid
    assert valid.paths != other.paths
    # Further classes and a limit leave it as it is.
    flat(tmp_path / "a", classes=("ant",))
    found = DatasetFinder(tmp_path / "a", 0.25, seed=3).find()
    classes, train, more = found.classes, found.train, found.valid
    assert classes == ["ant", "cat", "dog"]
    assert [path for path in more.paths if "ant" not in path] == valid.paths
    few = DatasetFinder(tmp_path / "a", 0.25, seed=3, limit=2).find()
    few_train, few_valid = few.train, few.valid
    assert counts(few_train) == counts(few_valid) == [2, 2, 2]
    assert set(few_train.paths) <= set(train.paths)
    assert set(few_valid.paths) <= set(more.paths)


def test_an_added_photo_moves_at_most_one_other() -> None:
    names = [f"train/cat.{number}.jpg" for number in range(200)]
    before = set(held_out(names[:100], 0.2, 0))
    moved = 0
    for count in range(101, 201):
        after = set(held_out(names[:count], 0.2, 0))
        assert len(after) == round(0.2 * count)
        step = len((before ^ after) - {names[count - 1]})
        assert step <= 1
        moved += step
        before = after
    assert moved < 60


@pytest.mark.parametrize(("total", "fraction", "expected"), [(2, 0.01, 1), (2, 0.99, 1), (3, 0.5, 2), (1, 0.5, 0)])
def test_neither_split_is_left_without_a_class(total: int, fraction: float, expected: int) -> None:
    assert len(held_out([f"{number}.jpg" for number in range(total)], fraction, 0)) == expected


def test_valid_is_used_where_it_is(tmp_path: Path) -> None:
    flat(tmp_path)
    flat(tmp_path, 3, "valid")
    found = DatasetFinder(tmp_path, 0.25).find()
    train, valid = found.train, found.valid
    assert counts(train) == [20, 20]
    assert valid.paths == [f"valid/{name}.{number}.jpg" for name in ("cat", "dog") for number in range(3)]


def test_mistakes_of_the_flat_layout_are_named(tmp_path: Path) -> None:
    flat(tmp_path / "one", 1)
    with pytest.raises(UserError, match="'cat' has only one photo"):
        DatasetFinder(tmp_path / "one").find()
    flat(tmp_path / "cats", classes=("cat",))
    with pytest.raises(UserError, match="only one class, 'cat'"):
        DatasetFinder(tmp_path / "cats").find()
    (flat(tmp_path / "odd") / "train" / "portrait.jpg").touch()
    with pytest.raises(UserError, match=r"portrait\.jpg: its class is unknown(.|\n)*<class>\.<number>\.jpg"):
        DatasetFinder(tmp_path / "odd").find()
    flat(folders(tmp_path / "mixed"), 3, "valid")
    with pytest.raises(UserError, match=r"Only in train/: cats, dogs\. Only in valid/: cat, dog"):
        DatasetFinder(tmp_path / "mixed").find()
    (tmp_path / "hollow" / "train").mkdir(parents=True)
    with pytest.raises(UserError, match="train/ has no class folders"):
        DatasetFinder(tmp_path / "hollow").find()


def test_leaving_out_keeps_labels_with_their_photos(tmp_path: Path) -> None:
    photos = Photos(tmp_path, ["a", "b", "c"], [0, 1, 1])
    assert leave_out(photos, {"b"}) == Photos(tmp_path, ["a", "c"], [0, 1])


def touch(root: Path, *names: str) -> Path:
    """Only names matter here."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def classes(folder: str, count: int = 5, names: tuple[str, ...] = ("cats", "dogs")) -> list[str]:
    return [f"{folder}{name}/{number}.jpg" for name in names for number in range(count)]


SPLIT = classes("train/") + classes("valid/", 2)


@pytest.mark.parametrize(
    ("files", "layout", "numbers"),
    [
        (SPLIT, "train/ + valid/", (10, 4, None, 0)),
        (classes("Training/") + classes("VAL/", 2), "Training/ + VAL/", (10, 4, None, 0)),
        (
            classes("train/") + classes("validation/", 2) + classes("Testing/", 1),
            "train/ + validation/ + Testing/",
            (10, 4, 2, 0),
        ),
        ([*SPLIT, "test/dogs/1.jpg"], "train/ + valid/ + test/", (10, 4, 1, 0)),
        ([*SPLIT, "test/cats.1.jpg", "test/dogs.1.jpg"], "train/ + valid/ + test/<class>.<number>.jpg", (10, 4, 2, 0)),
        ([*SPLIT, "test/1.jpg", "test1/2.jpg"], "train/ + valid/", (10, 4, None, 2)),
        ([*SPLIT, "test/unknown/1.jpg"], "train/ + valid/", (10, 4, None, 1)),
        (classes("train/"), "train/, 20 % held out", (8, 2, None, 0)),
        (classes(""), "<class>/, 20 % held out", (8, 2, None, 0)),
        ([*classes(""), *classes("test/", 1), *classes("test1/", 1)], "<class>/ + test/, 20 % held out", (8, 2, 2, 2)),
        (
            [*classes(""), "tmp/activations-1.npy", "tmp/a.jpg", "run/.hydra/x", "run/a.png"],
            "<class>/, 20 % held out",
            (8, 2, None, 0),
        ),
        (classes("PetImages/"), "PetImages/<class>/, 20 % held out", (8, 2, None, 0)),
        ([*classes("a/b/"), "readme.txt", "tmp/x"], "a/b/<class>/, 20 % held out", (8, 2, None, 0)),
        ([f"photos/{name}" for name in SPLIT], "photos/train/ + photos/valid/", (10, 4, None, 0)),
        (
            [f"train/{name}.{n}.jpg" for name in ("cat", "dog") for n in range(5)],
            "train/<class>.<number>.jpg, 20 % held out",
            (8, 2, None, 0),
        ),
        (
            [f"{name}.{n}.jpg" for name in ("cat", "dog") for n in range(5)],
            "<class>.<number>.jpg, 20 % held out",
            (8, 2, None, 0),
        ),
        (
            [f"pets/{name}.{n}.jpg" for name in ("cat", "dog") for n in range(5)],
            "pets/<class>.<number>.jpg, 20 % held out",
            (8, 2, None, 0),
        ),
        (
            [f"train/{name}s/a/b/{n}.jpg" for name in ("cat", "dog") for n in range(5)],
            "train/, 20 % held out",
            (8, 2, None, 0),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_layouts_are_found_by_looking(
    tmp_path: Path, files: list[str], layout: str, numbers: tuple[int, int, int | None, int]
) -> None:
    found = DatasetFinder(touch(tmp_path, *files)).find()
    assert found.layout == layout
    test = found.test and len(found.test.paths)
    assert (len(found.train.paths), len(found.valid.paths), test, len(found.unlabelled.paths)) == numbers
    assert len(found.classes) == 2
    for photos in filter(None, (found.train, found.valid, found.test)):
        assert all(found.classes[label] in path for path, label in zip(photos.paths, photos.labels, strict=True))
        assert all((photos.root / path).is_file() for path in photos.paths)
    unused = {*files} - {*found.train.paths, *found.valid.paths, *found.unlabelled.paths}
    unused -= {"run/.hydra/x", *(found.test.paths if found.test else [])}
    assert left_out(tmp_path, found.used) == sorted(unused - {"tmp/activations-1.npy"})


def test_folders_in_test_that_are_no_classes_are_named(tmp_path: Path) -> None:
    for file in [*SPLIT, *classes("test/", 2, ("lions", "tigers"))]:
        draw_photo(tmp_path / file, 0, 1)
    found = DatasetFinder(tmp_path).find()
    assert found.test is None
    assert found.notes == ["The photos in test/ are unlabelled: lions, tigers are not among the classes"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([*SPLIT, *classes("val/")], "val/ and valid/ are the same split"),
        ([*SPLIT, *classes("Train/")], "Train/ and train/ are the same split"),
        (
            [*classes(""), *classes("val/")],
            r"it has val/, but no train/\. Put the training photos of cats, dogs into train/",
        ),
        (classes("valid/"), r"it has valid/, but no train/\. Put photos for training into train/<class>/"),
        (
            classes("cats/train/") + classes("cats/val/") + classes("dogs/train/") + classes("dogs/val/"),
            r"cats: it has train/ and val/\. Put the splits on top.*: train/cats/ and val/cats/",
        ),
        (
            classes("cats/train/") + classes("cats/test/") + classes("dogs/train/") + classes("dogs/test/"),
            r"cats: it has train/ and test/\. Put the splits on top",
        ),
        (
            classes("seg_train/seg_train/") + classes("seg_test/seg_test/") + classes("seg_pred/"),
            "may be splits or classes. If they are splits, rename seg_train/ to train/ and seg_test/ to test/",
        ),
        (classes("trainSet/") + classes("valSet/"), "rename trainSet/ to train/ and valSet/ to valid/"),
        (classes("train/train/"), "only one class, 'train'. If the folders in train/ are the classes, move them up"),
        (
            [*SPLIT, *classes("test/", 1), "test/wolves/1.jpg"],
            "test/ has photos of wolves, but the classes of train/ are cats, dogs",
        ),
        ([*SPLIT, "test/cats.1.jpg", "test/wolf.1.jpg"], "test/ has photos of wolf"),
        (["cats/1.jpg", "cats/2.jpg"], "<class>/ has only one class, 'cats'"),
        (["a.jpg", "b.jpg"], r"a\.jpg: its class is unknown"),
        (
            ["PetImages/Cat/1.jpg", "test1/1.jpg"],
            r"only one class, 'PetImages'\. If the folders .* data.root=.*/PetImages\.",
        ),
        (
            ["train/a.jpg", "labels.csv"],
            r"a\.jpg: its class is unknown.* If labels\.csv has the labels, set data\.labels=labels\.csv",
        ),
        (["notes.txt"], r"no folder train/(.|\n)*dogscats.zip"),
        (classes("", 1), "class 'cats' has only one photo"),
        (classes("train/") + classes("Val/", 2, ("cats", "wolves")), r"Only in train/: dogs\. Only in Val/: wolves"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_roots_that_could_mean_several_things_are_refused(tmp_path: Path, files: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DatasetFinder(touch(tmp_path, *files)).find()


def test_folders_without_photos_are_named(tmp_path: Path) -> None:
    found = DatasetFinder(touch(tmp_path, *classes(""), "docs/readme.txt")).find()
    (tmp_path / "empty").mkdir()
    found = DatasetFinder(tmp_path).find()
    assert found.classes == ["cats", "dogs"]
    message = left_out_summary(left_out(tmp_path, found.used), found.empty_folders)
    assert message == "1 file left out: docs/readme.txt. Folders without photos, left out: docs, empty."
    beside = touch(tmp_path / "beside", *SPLIT, *classes("", 1))
    assert left_out(beside, DatasetFinder(beside).find().used) == ["cats/0.jpg", "dogs/0.jpg"]


def test_the_same_photos_are_held_out_from_a_folder_and_from_the_one_around_it(tmp_path: Path) -> None:
    touch(tmp_path, *classes("PetImages/", 20))
    inner, outer = DatasetFinder(tmp_path / "PetImages", seed=2).find(), DatasetFinder(tmp_path, seed=2).find()
    assert [f"PetImages/{path}" for path in inner.valid.paths] == outer.valid.paths


@pytest.mark.parametrize("split", ["valid", "val", "Validation"])
@pytest.mark.parametrize("folder", ["valid", "Val", "validation"])
def test_a_split_is_found_in_any_spelling(tmp_path: Path, split: str, folder: str) -> None:
    touch(tmp_path, *classes(f"{folder}/", 2), "held_out/cats/1.jpg")
    names, photos, held = DatasetFinder(tmp_path).find_split(split)
    assert (names, len(photos.paths), held) == (["cats", "dogs"], 4, "")
    assert DatasetFinder(tmp_path).find_split("held_out")[1].paths == ["held_out/cats/1.jpg"]
    with pytest.raises(UserError, match=rf"split=test: .*only {folder}, held_out|only held_out, {folder}"):
        DatasetFinder(tmp_path).find_split("test")


def test_class_folders_alone_are_split_as_in_training_or_evaluated_whole(tmp_path: Path) -> None:
    found = DatasetFinder(touch(tmp_path, *classes("", 10))).find()
    assert DatasetFinder(tmp_path).find_split("val") == (found.classes, found.valid, "<class>/")
    assert DatasetFinder(tmp_path).find_split("training") == (found.classes, found.train, "<class>/")
    assert len(DatasetFinder(tmp_path).find_split(".")[1].paths) == 20


def test_a_data_module_reads_the_flat_layout(tmp_path: Path) -> None:
    for label, name in enumerate(["cat", "dog"]):
        for number in range(8):
            draw_photo(tmp_path / "train" / f"{name}.{number}.jpg", label, number)
    data = DogsCatsDataModule(tmp_path, size=24, batch_size=4, num_workers=0, valid_fraction=0.25)
    data.prepare_data()
    data.setup()
    assert data.summary == "12 training and 4 validation photos of cat, dog"
    assert [batch.labels.tolist() for batch in data.val_dataloader()] == [[0, 0, 1, 1]]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("valid_fraction", -0.1),
        ("valid_fraction", 1),
        ("valid_fraction", "some"),
        ("on_bad_image", "ignore"),
        ("sha256", "1234"),
    ],
)
def test_bad_settings_are_named(tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(ArgumentError, match=f"^{key}={value}: expected") as raised:
        DogsCatsDataModule(tmp_path, **{key: value})  # type: ignore[arg-type]
    assert user_message(raised.value) == f"data.{raised.value}"


@pytest.mark.parametrize("names", [("a\nb", "a\\nb"), ("=a", "'=a")])
def test_classes_that_are_the_same_in_tables_are_refused(names: tuple[str, str], tmp_path: Path) -> None:
    for name in (*names, "c"):
        (tmp_path / name).mkdir()
        for number in range(20):
            (tmp_path / name / f"{number}.jpg").touch()
    with pytest.raises(UserError, match="look the same in tables") as error:
        DatasetFinder(tmp_path).find()
    assert all(repr(name) in str(error.value) for name in names)
    assert "\n" not in str(error.value)


class SplitsInClasses(Folders):
    """A layout of its own: `<class>/train/` and `<class>/valid/`, which is refused otherwise."""

    @classmethod
    def found_in(cls, root: Path, labels: LabelTable | None, cache_dir: str | None) -> Self | None:
        return cls(root) if labels is None and any(root.glob("*/train")) else None

    @property
    def splits(self) -> list[str]:
        return ["train", "valid"]

    def by_class(self, split: str) -> dict[str, list[str]]:
        names = {name: image_names(self.root / name / split) for name in self.names}
        return {name: [f"{name}/{split}/{image}" for image in images] for name, images in names.items()}

    def layout(self, splits: Sequence[str]) -> str:
        return " + ".join(f"<class>/{split}/" for split in splits)


def test_a_new_layout_is_one_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, *(f"{name}/{split}/1.jpg" for name in ("cats", "dogs") for split in ("train", "valid")))
    with pytest.raises(UserError, match="Put the splits on top"):
        DatasetFinder(tmp_path).find()
    monkeypatch.setattr("dogscats.data.photos.layouts.SOURCES", (SplitsInClasses, *SOURCES))
    found = DatasetFinder(tmp_path).find()
    assert found.layout == "<class>/train/ + <class>/valid/"
    assert (found.train.paths, found.valid.labels) == (["cats/train/1.jpg", "dogs/train/1.jpg"], [0, 1])
