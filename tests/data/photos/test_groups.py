"""Photos that belong together are held out together: `data.group`."""

import random
from collections import Counter
from pathlib import Path

import pytest
from named import photos

from dogscats import DogsCatsDataModule
from dogscats.base.errors import ArgumentError, UserError
from dogscats.data.photos.layouts import DatasetFinder
from dogscats.data.photos.split import held_out, held_out_groups


def patients(sizes: dict[str, list[int]]) -> dict[str, list[str]]:
    """Photos of each class, of patients with so many each; a patient of two classes has the same number in both."""
    return {
        name: [f"{name}/p{patient}_{photo}.jpg" for patient, count in enumerate(counts) for photo in range(count)]
        for name, counts in sizes.items()
    }


def patient(path: str) -> str:
    return path.split("/")[1].split("_")[0]


def patient_of_class(path: str) -> str:
    return path.split("_")[0]


def test_single_photos_are_held_out_as_without_groups() -> None:
    paths = [f"a/{number}.jpg" for number in range(50)]
    chosen = held_out_groups({"a": paths}, lambda path: None, 0.2, 3)
    assert len(chosen["a"]) == len(held_out(paths, 0.2, 3)) == 10
    assert chosen == held_out_groups({"a": paths[:]}, lambda path: None, 0.2, 3)
    assert chosen != held_out_groups({"a": paths}, lambda path: None, 0.2, 4)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("sizes", "fraction", "expected"),
    [
        ([4, 4, 4, 4, 4], 0.2, 4),
        ([3, 3, 4], 0.4, 4),
        ([4, 4, 3, 3, 3], 9 / 17, 9),
        ([6, 5, 5], 10 / 16, 10),
        ([10, 10], 0.2, 10),
        ([9, 1], 0.5, 1),
        ([19, 1], 0.9, 19),
        ([1] * 10_000, 0.3, 3000),
        ([7] * 2000, 0.25, 3500),
    ],
)
def test_of_a_class_the_nearest_share_is_held_out(sizes: list[int], fraction: float, expected: int, seed: int) -> None:
    chosen = held_out_groups(patients({"a": sizes}), patient, fraction, seed)["a"]
    assert len(chosen) == expected
    for key, count in Counter(map(patient, chosen)).items():
        assert count == sizes[int(key[1:])]


@pytest.mark.parametrize("seed", range(5))
def test_groups_of_several_classes_stay_whole(seed: int) -> None:
    rng = random.Random(seed)
    by_class = patients({name: [rng.randint(0, 4) for _ in range(60)] for name in ("a", "b", "c")})
    chosen = held_out_groups(by_class, patient, 0.2, seed)
    held = {patient(path) for paths in chosen.values() for path in paths}
    for name, paths in by_class.items():
        kept = [path for path in paths if path not in set(chosen[name])]
        assert not held & set(map(patient, kept))
        assert abs(len(chosen[name]) - 0.2 * len(paths)) <= 1
    assert chosen == held_out_groups(by_class, patient, 0.2, seed)


def touch(root: Path, by_class: dict[str, list[str]]) -> Path:
    for paths in by_class.values():
        for path in paths:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).touch()
    return root


def test_groups_of_a_dataset(tmp_path: Path) -> None:
    root = touch(tmp_path, patients({"a": [4] * 5, "b": [2] * 10}))
    (root / "a" / "stray.jpg").touch()
    found = DatasetFinder(root, group=r"(p\d+)_").find()
    assert found.layout == "<class>/, 20 % held out by data.group"
    assert found.notes == ["1 of 41 photos match no data.group and are on their own: a/stray.jpg"]
    assert not {patient(path) for path in found.train.paths} & {patient(path) for path in found.valid.paths}
    whole = DatasetFinder(root, group=r"./p\d+_|stray").find()  # without a group in it: the whole match
    assert not whole.notes
    assert not set(map(patient_of_class, whole.train.paths)) & set(map(patient_of_class, whole.valid.paths))
    assert len(whole.valid.paths) == 8
    with pytest.raises(
        ArgumentError, match=r"^group=\(q\.\*\): it matches no path of a photo\. The first is a/p0_0\.jpg"
    ):
        DatasetFinder(root, group="(q.*)").find()
    for bad in ("(", "", "*", 5):
        with pytest.raises(ArgumentError, match=r"^group=.*: expected a regular expression"):
            DogsCatsDataModule(root, group=bad)  # type: ignore[arg-type]


def test_a_class_that_groups_do_not_divide_is_named(tmp_path: Path) -> None:
    root = touch(tmp_path, patients({"a": [4, 4], "b": [8]}))
    with pytest.raises(UserError, match=r"the 8 photos of class 'b' are in too few groups of data\.group"):
        DatasetFinder(root, group=r"(./p\d+)_").find()


def test_groups_in_two_given_splits_are_named(tmp_path: Path) -> None:
    for split, numbers in (("train", range(4)), ("val", range(3, 6)), ("test", (0, 9))):
        photos(tmp_path, *(f"{split}/{name}/p{n}_{split}.jpg" for name in ("cats", "dogs") for n in numbers))
    notes = DatasetFinder(tmp_path, group="(p[0-9]+)_").find().notes
    for note, split, folder, number in zip(notes, ("valid", "test"), ("val", "test"), (3, 0), strict=True):
        assert note.startswith(f"1 group of data.group is in train and in {split}, for example 'p{number}': ")
        assert f"train/cats/p{number}_train.jpg and {folder}/cats/p{number}_{folder}.jpg." in note
