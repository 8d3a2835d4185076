"""Tables and photos in Parquet files."""

import io
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import FAST, Run, draw_folder, draw_photo
from named import NAMES, labelled, photos
from PIL import Image

from dogscats import DogsCatsDataModule
from dogscats.base.errors import UserError
from dogscats.data.photos.layouts import DatasetFinder
from dogscats.data.photos.listing import left_out


def test_damaged_parquet_and_missing_parts_are_named(tmp_path: Path) -> None:
    photos = [{"bytes": encoded(number % 2, number, tmp_path / "drawn"), "path": None} for number in range(8)]
    columns = {"image": photos, "label": ["a", "b"] * 4, "split": ["train"] * 8}
    file = write_parquet(tmp_path / "root" / "data" / "train-00000-of-00002.parquet", columns)
    with pytest.raises(UserError, match=r"train-00001-of-00002\.parquet is missing"):
        DatasetFinder(tmp_path / "root").find()
    file = file.rename(file.with_name("test-0.parquet"))
    with pytest.raises(UserError, match="row 1: split is 'train', but the file is named test"):
        DatasetFinder(tmp_path / "root").find()
    file = file.rename(file.with_name("train-0.parquet"))
    content = bytearray(file.read_bytes())
    content[100:600] = bytes(500)
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"train-0\.parquet: it is damaged"):
        DatasetFinder(tmp_path / "root").find()


def test_parquet_needs_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "labels.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"labels\.parquet: Parquet files need pyarrow: pip install .*\[parquet\]"):
        DatasetFinder(tmp_path, labels="labels.parquet").find()


def encoded(label: int, number: int, folder: Path) -> bytes:
    draw_photo(folder / "x.jpg", label, number)
    return (folder / "x.jpg").read_bytes()


def write_parquet(file: Path, columns: dict[str, Any], names: Sequence[str] = ()) -> Path:
    """Write a Parquet file; with `names`, as `datasets` writes a column of type ClassLabel."""
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra 'parquet'")
    parquet = pytest.importorskip("pyarrow.parquet")
    content = pyarrow.table(columns)
    if names:
        features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
        content = content.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(content, file)
    return file


def test_a_table_in_parquet(tmp_path: Path) -> None:
    photos(tmp_path, *NAMES)
    numbers = [0] * 5 + [1] * 5
    write_parquet(tmp_path / "labels.parquet", {"id": [Path(name).stem for name in NAMES], "label": numbers})
    found = DatasetFinder(tmp_path, labels="labels.parquet").find()
    assert (found.classes, found.layout) == (["0", "1"], "labels.parquet, 20 % held out")
    assert sorted(labelled(found)) == NAMES
    hashes = [b"x"] * 10  # not images
    write_parquet(tmp_path / "labels.parquet", {"hash": hashes, "id": NAMES, "label": numbers})
    assert sorted(labelled(DatasetFinder(tmp_path, labels="labels.parquet").find())) == NAMES
    write_parquet(tmp_path / "labels.parquet", {"id": ["a0", "a1"], "label": ["cat", None]})
    with pytest.raises(UserError, match="row 2: it has no label"):
        DatasetFinder(tmp_path, labels="labels.parquet").find()


@pytest.mark.parametrize("images", [False, True])
def test_fastais_column_is_valid_in_parquet(tmp_path: Path, images: bool) -> None:
    names = photos(tmp_path / "root", *NAMES) and [Path(name).stem for name in NAMES]
    column: dict[str, Any] = {"id": names}
    if images:
        column = {"image": [encoded(number % 2, number, tmp_path) for number in range(10)]}
    columns = {**column, "label": ["a", "b"] * 5, "is_valid": [number > 5 for number in range(10)]}
    write_parquet(tmp_path / "root" / "labels.parquet", columns)
    found = DatasetFinder(tmp_path / "root", labels="labels.parquet").find()
    assert (len(found.train.paths), len(found.valid.paths)) == (6, 4)
    assert found.layout.startswith("labels.parquet, splits from its column ")
    columns["is_valid"] = ["maybe"] * 10
    write_parquet(tmp_path / "root" / "labels.parquet", columns)
    with pytest.raises(UserError, match=r"row 1: (its )?is_valid is 'maybe', expected "):
        DatasetFinder(tmp_path / "root", labels="labels.parquet").find()


def dataset(root: Path, scratch: Path, named: bool = True) -> Path:
    """A dataset as on the hub of Hugging Face."""
    for split, count in (("train", 6), ("validation", 2), ("test", 2)):
        images = [
            {"bytes": encoded(label, number + 100 * count, scratch), "path": f"p{number}_{label}.jpg"}
            for label in (0, 1)
            for number in range(count)
        ]
        write_parquet(
            root / "data" / f"{split}-00000-of-00001.parquet",
            {"image": images, "label": [0] * count + [1] * count},
            ["cat", "dog"] if named else (),
        )
    return root


def test_photos_in_parquet_files_are_unpacked_once(tmp_path: Path) -> None:
    root = dataset(tmp_path / "root", tmp_path)
    found = DatasetFinder(root).find()
    assert found.classes == ["cat", "dog"]
    assert found.test is not None
    assert [len(part.paths) for part in (found.train, found.valid, found.test)] == [12, 4, 4]
    assert left_out(root, found.used) == []
    (folder,) = (root / "tmp").glob("parquet-*[!k]")
    assert found.train.root == folder
    assert found.train.paths[0] == "train/0000001_p0_0.jpg"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert DatasetFinder(root).find() == found
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    # Of another root with the cache elsewhere, too: names of photos are the same.
    elsewhere = DatasetFinder(root, cache_dir=str(tmp_path / "cache")).find()
    assert (elsewhere.train.paths, elsewhere.valid.paths) == (found.train.paths, found.valid.paths)
    dataset(root, tmp_path, named=False)
    assert DatasetFinder(root).find().classes == ["0", "1"]


@pytest.mark.parametrize("binary", [True, False])
def test_one_parquet_file_as_labels(tmp_path: Path, binary: bool) -> None:
    images: list[Any] = [encoded(label, number, tmp_path) for label in (0, 1) for number in range(5)]
    images = images if binary else [{"bytes": image, "path": None} for image in images]
    file = write_parquet(tmp_path / "root" / "all.parquet", {"photo": images, "breed": ["cat"] * 5 + ["dog"] * 5})
    data = DogsCatsDataModule(file.parent, size=24, batch_size=4, num_workers=0, labels="all.parquet", limit=3)
    data.prepare_data()
    data.setup()
    assert data.layout == "all.parquet, 20 % held out"
    assert data.summary == "6 training and 2 validation photos of cat, dog"
    assert next(iter(data.val_dataloader())).inputs.shape == (2, 3, 24, 24)
    assert data.left_out == ""


def test_unlabelled_and_damaged_parquet(tmp_path: Path) -> None:
    image = encoded(0, 0, tmp_path)
    root = tmp_path / "root"
    for split, labels in (("train", [0, 0, 1, 1]), ("test", [-1, -1])):
        write_parquet(root / f"{split}.parquet", {"image": [image] * len(labels), "label": labels}, ["cat", "dog"])
    found = DatasetFinder(root).find()
    assert found.test is None
    assert len(found.unlabelled.paths) == 2
    assert all((found.unlabelled.root / path).is_file() for path in found.unlabelled.paths)
    write_parquet(root / "train.parquet", {"image": [image], "label": [-1]}, ["cat", "dog"])
    with pytest.raises(UserError, match=r"train\.parquet: row 1: it has no label"):
        DatasetFinder(root).find()
    write_parquet(root / "train.parquet", {"image": [image, None], "label": [0, 1]}, ["cat", "dog"])
    with pytest.raises(UserError, match=r"train\.parquet: row 2: it has no image"):
        DatasetFinder(root).find()
    write_parquet(root / "train.parquet", {"id": ["a"], "label": [0]})
    with pytest.raises(UserError, match=r"train\.parquet: it has no column of images; its columns are id, label"):
        DatasetFinder(root).find()
    (root / "train.parquet").write_bytes(b"no table")
    with pytest.raises(UserError, match=r"train\.parquet: it is not a Parquet file"):
        DatasetFinder(root).find()
    assert not list((root / "tmp").glob(".parquet-*.unfinished"))


@pytest.mark.fault("disk full while photos are unpacked from Parquet files: named, nothing half-written")
def test_a_full_disk_leaves_nothing_half_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = dataset(tmp_path / "root", tmp_path)
    write, written = Path.write_bytes, io.StringIO()

    def fails(self: Path, data: bytes) -> int:
        if written.write("x") and len(written.getvalue()) > 5:
            raise OSError(28, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", fails)
    with pytest.raises(UserError, match=r"parquet-.*it cannot be written \(No space left"):
        DatasetFinder(root).find()
    monkeypatch.undo()
    assert not [path for path in (root / "tmp").iterdir() if path.is_dir()]
    assert len(DatasetFinder(root).find().train.paths) == 12


def test_a_run_on_photos_in_parquet_files(run_command: Run, tmp_path: Path) -> None:
    root = dataset(tmp_path / "root", tmp_path)
    result = run_command("train.py", f"data.root={root}", *FAST, "hydra.run.dir=run")
    assert result.returncode == 0, result.stderr
    assert (
        "12 training and 4 validation photos of cat, dog; layout: data/*.parquet, splits from the names of the"
        in result.stdout
    )
    final = json.loads((tmp_path / "run" / "metrics.json").read_text())["final"]
    assert {"test_acc", "test_loss"} <= set(final)
    evaluated = run_command("evaluate.py", "run=run", "split=test", "hydra.run.dir=evaluated", "callbacks.tta.n_aug=0")
    assert evaluated.returncode == 0, evaluated.stderr
    metrics = json.loads((tmp_path / "evaluated" / "metrics.json").read_text())
    assert (metrics["n"], metrics["accuracy"]) == (4, final["test_acc"])
    with Image.open(next((root / "tmp").glob("parquet-*/train/*.jpg"))) as picture:
        assert picture.size == (60, 48)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train-00000-of-00002-0123456789abcdef.parquet"], r"train-00001-of-00002-\*\.parquet is missing"),
        (
            ["train-00001-of-00003.parquet"],
            r": train-00002-of-00003\.parquet, train-00000-of-00003\.parquet or train-00003-of-00003\.parquet are",
        ),
        (["train-1-of-3.parquet", "train-3-of-3.parquet"], r": train-2-of-3\.parquet is missing"),
        (["train-00000-of-00002-abc123.parquet"], r"train-00001-of-00002-\*\.parquet is missing"),
        (["chunk2.parquet"], r": chunk1\.parquet is missing"),
        (["train_part3.parquet"], r": train_part1\.parquet, train_part2\.parquet are missing"),
        (["train_2.parquet", "train_3.parquet"], r"train_1\.parquet is missing"),
        (["train-0-of-2.parquet"], r"train-1-of-2\.parquet is missing"),
        (["train-2-of-2.parquet"], r"train-1-of-2\.parquet is missing"),
        (["0000.parquet", "0002.parquet"], r"0001\.parquet is missing"),
        (["0001.parquet"], r"0000\.parquet is missing"),
        (
            ["part-00000-0123abcd-01.snappy.parquet", "part-00002-0123abcd-02.snappy.parquet"],
            r"part-00001-\*\.parquet is",
        ),
        (["train-0.parquet", "train-2.parquet"], r"train-1\.parquet is missing"),
        (
            ["train-00000-of-00001-aaaaaaaaaaaaaaaa.parquet", "train-00000-of-00001-bbbbbbbbbbbbbbbb.parquet"],
            "several sets",
        ),
        (["train-00000-of-00001.parquet", "train-00000-of-00002.parquet"], "parts of several sets"),
    ],
)
def test_sets_of_shards_are_complete(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        write_parquet(tmp_path / name, {"image": [b"x"], "label": ["a"]})
    with pytest.raises(UserError, match=message):
        DatasetFinder(tmp_path).find()


@pytest.mark.parametrize("name", ["train-v2", "cifar10", "2021", "imagenet64", "train1"])
def test_a_number_that_is_no_part(tmp_path: Path, name: str) -> None:
    images = [encoded(n % 2, n, tmp_path) for n in range(4)]
    write_parquet(tmp_path / f"root/{name}.parquet", {"image": images, "label": ["a", "b"] * 2})
    assert DatasetFinder(tmp_path / "root").find().classes == ["a", "b"]


def test_one_part_of_a_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels-00000-of-00002.csv").write_text("path,label\n1.jpg,a\n")
    with pytest.raises(UserError, match="one of 2 parts of a table"):
        DatasetFinder(tmp_path, labels="labels-00000-of-00002.csv").find()


@pytest.mark.parametrize("base", ["", "default/"])
def test_the_layout_of_hugging_faces_conversion(tmp_path: Path, base: str) -> None:
    for split, count in (("train", 4), ("validation", 2)):
        for shard in range(2):
            images = [{"bytes": encoded(n % 2, n + 10 * shard, tmp_path), "path": f"{n}.jpg"} for n in range(count)]
            columns = {"image": images, "label": [n % 2 for n in range(count)]}
            write_parquet(tmp_path / f"root/{base}{split}/{shard:04d}.parquet", columns, ["cat", "dog"])
    found = DatasetFinder(tmp_path / "root").find()
    assert (len(found.train.paths), len(found.valid.paths), found.classes) == (8, 4, ["cat", "dog"])
    assert found.layout == f"{base}*.parquet, splits from the folders of the files"
    assert left_out(tmp_path / "root", found.used) == []
    (tmp_path / f"root/{base}train/0000.parquet").unlink()
    with pytest.raises(UserError, match=r"train: 0000\.parquet is missing"):
        DatasetFinder(tmp_path / "root").find()
    (tmp_path / f"root/{base}train").rename(tmp_path / f"root/{base}partial-train")
    partial = "the name partial-train/ says that it has only a part"
    with pytest.raises(UserError, match=partial):
        DatasetFinder(tmp_path / "root").find()
    shutil.rmtree(tmp_path / f"root/{base}validation")
    for root in (tmp_path / "root", tmp_path / f"root/{base}partial-train"):
        with pytest.raises(UserError, match=partial):
            DatasetFinder(root).find()


def test_several_configurations_are_named(tmp_path: Path) -> None:
    for name in ("full", "mini"):
        write_parquet(tmp_path / f"{name}/train/0000.parquet", {"image": [b"x"], "label": ["a"]})
    with pytest.raises(UserError, match=r"full, mini may each be a dataset.*data\.root=.*/full"):
        DatasetFinder(tmp_path).find()


@pytest.mark.parametrize("mixed", [False, True])
def test_rows_that_have_only_a_path(tmp_path: Path, mixed: bool) -> None:
    root = tmp_path / "root"
    draw_folder(root / "data" / "photos", 8)
    images = [{"bytes": None, "path": f"photos/{number}.jpg"} for number in range(8)]
    if mixed:
        images[0] = {"bytes": encoded(0, 99, tmp_path), "path": "x.jpg"}
    write_parquet(root / "data" / "all.parquet", {"image": images, "label": ["a", "b"] * 4})
    found = DatasetFinder(root, labels="data/all.parquet", cache_dir=str(tmp_path / "cache")).find()
    assert len(labelled(found)) == 8
    last = next(path for path in labelled(found) if path.endswith("_7.jpg"))
    assert (found.train.root / last).read_bytes() == (root / "data/photos/7.jpg").read_bytes()
    root.rename(tmp_path / "moved")  # the cache stays
    moved = DatasetFinder(tmp_path / "moved", labels="data/all.parquet", cache_dir=str(tmp_path / "cache")).find()
    assert moved.train.paths == found.train.paths
    assert all((moved.train.root / path).is_file() for path in moved.train.paths)
    (tmp_path / "moved/data/photos/7.jpg").unlink()
    with pytest.raises(UserError, match=r"row 8: its photo photos/7\.jpg is not in"):
        DatasetFinder(tmp_path / "moved", labels="data/all.parquet", cache_dir=str(tmp_path / "new")).find()


def test_rows_that_have_only_the_name_of_a_photo_in_a_folder(tmp_path: Path) -> None:
    photos(tmp_path, *(f"photos/{'xy'[n % 2]}/{n}.jpg" for n in range(6)))
    images = [{"bytes": None, "path": f"{n}.jpg"} for n in range(6)]
    write_parquet(tmp_path / "data" / "all.parquet", {"image": images, "label": ["a", "b"] * 3})
    found = DatasetFinder(tmp_path, labels="data/all.parquet", cache_dir=str(tmp_path / "tmp")).find()
    assert len(labelled(found)) == 6
    photos(tmp_path, "photos/y/0.jpg")
    with pytest.raises(UserError, match=r"row 1: its photo 0\.jpg may be .*/photos/x/0\.jpg, .*/photos/y/0\.jpg"):
        DatasetFinder(tmp_path, labels="data/all.parquet", cache_dir=str(tmp_path / "tmp/new")).find()


def test_columns_of_zeros_and_ones_in_parquet(tmp_path: Path) -> None:
    columns = {
        "id": [Path(name).stem for name in NAMES],
        "cat": [1, 0] * 5,
        "dog": [False, True] * 5,
        "tag": [[1]] * 10,
    }
    write_parquet(tmp_path / "labels.parquet", columns)
    assert DatasetFinder(photos(tmp_path, *NAMES), labels="labels.parquet").find().classes == ["cat", "dog"]


@pytest.mark.parametrize("labels", [[True, False], [1.0, 0.0], [["a"], ["b"]], [b"a", b"b"]])
def test_labels_of_other_types_are_class_names(tmp_path: Path, labels: list[Any]) -> None:
    write_parquet(tmp_path / "labels.parquet", {"id": [Path(name).stem for name in NAMES], "label": labels * 5})
    assert len(DatasetFinder(photos(tmp_path, *NAMES), labels="labels.parquet").find().classes) == 2


@pytest.mark.parametrize("labels", [[["a", "b"], ["b"]], [{"a": 1}, {"a": 2}]])
def test_labels_that_are_no_class_are_refused(tmp_path: Path, labels: list[Any]) -> None:
    write_parquet(tmp_path / "labels.parquet", {"id": [Path(name).stem for name in NAMES], "label": labels * 5})
    with pytest.raises(UserError, match=r"its column label has .*one class per photo"):
        DatasetFinder(photos(tmp_path, *NAMES), labels="labels.parquet").find()
