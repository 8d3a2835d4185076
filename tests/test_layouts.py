from pathlib import Path

import pytest
from conftest import draw_photo

from dogscats.data import DogsCatsDataModule
from dogscats.data.layouts import Photos, find_dataset, find_photos, held_out, leave_out
from dogscats.runs.errors import ArgumentError, UserError, user_message


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
    classes, train, valid = find_photos(root, valid_fraction=0.25)
    assert classes in (["cat", "dog"], ["cats", "dogs"])
    assert counts(train) == [15, 15]
    assert counts(valid) == [5, 5]
    assert not set(train.paths) & set(valid.paths)
    on_disk = {path.relative_to(root).as_posix() for path in (root / "train").rglob("*.jpg")}
    assert {*train.paths, *valid.paths} == on_disk
    for photos in (train, valid):
        for path, label in zip(photos.paths, photos.labels, strict=True):
            assert path.startswith((f"train/{classes[label]}.", f"train/{classes[label]}/"))
    assert len(find_dataset(root).unlabelled.paths) == 10


def test_the_split_is_a_function_of_names_and_seed_alone(tmp_path: Path) -> None:
    _, _, valid = find_photos(flat(tmp_path / "a"), 0.25, seed=3)
    _, _, again = find_photos(flat(tmp_path / "elsewhere"), 0.25, seed=3)
    assert valid.paths == again.paths
    # Pinned: a split that changes between versions would let old models be judged on what they have seen.
    pinned = {"cat": [6, 7, 8, 9, 14], "dog": [0, 1, 4, 11, 15]}
    assert valid.paths == [f"train/{c}.{n}.jpg" for c, numbers in pinned.items() for n in numbers]
    _, _, other = find_photos(tmp_path / "a", 0.25, seed=4)
    assert valid.paths != other.paths
    # Further classes and a limit leave it as it is.
    flat(tmp_path / "a", classes=("ant",))
    classes, train, more = find_photos(tmp_path / "a", 0.25, seed=3)
    assert classes == ["ant", "cat", "dog"]
    assert [path for path in more.paths if "ant" not in path] == valid.paths
    _, few_train, few_valid = find_photos(tmp_path / "a", 0.25, seed=3, limit=2)
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
    _, train, valid = find_photos(tmp_path, 0.25)
    assert counts(train) == [20, 20]
    assert valid.paths == [f"valid/{name}.{number}.jpg" for name in ("cat", "dog") for number in range(3)]


def test_mistakes_of_the_flat_layout_are_named(tmp_path: Path) -> None:
    flat(tmp_path / "one", 1)
    with pytest.raises(UserError, match="'cat' has only one photo"):
        find_photos(tmp_path / "one")
    flat(tmp_path / "cats", classes=("cat",))
    with pytest.raises(UserError, match="only one class, 'cat'"):
        find_photos(tmp_path / "cats")
    (flat(tmp_path / "odd") / "train" / "portrait.jpg").touch()
    with pytest.raises(UserError, match=r"portrait\.jpg: its class is unknown(.|\n)*<class>\.<number>\.jpg"):
        find_photos(tmp_path / "odd")
    flat(folders(tmp_path / "mixed"), 3, "valid")
    with pytest.raises(UserError, match=r"Only in train/: cats, dogs\. Only in valid/: cat, dog"):
        find_photos(tmp_path / "mixed")
    (tmp_path / "hollow" / "train").mkdir(parents=True)
    with pytest.raises(UserError, match="train/ has no class folders"):
        find_photos(tmp_path / "hollow")


def test_leaving_out_keeps_labels_with_their_photos(tmp_path: Path) -> None:
    photos = Photos(tmp_path, ["a", "b", "c"], [0, 1, 1])
    assert leave_out(photos, {"b"}) == Photos(tmp_path, ["a", "c"], [0, 1])


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
        ("valid_fraction", 0),
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
