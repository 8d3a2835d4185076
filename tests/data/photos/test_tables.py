"""Tables of labelled photos, and photos in Parquet files."""

import csv
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import FAST, Run, draw_photo
from named import NAMES, labelled, photos, table

from dogscats import DogsCatsDataModule
from dogscats.base.errors import ArgumentError, UserError, user_message
from dogscats.data.photos.layouts import DatasetFinder
from dogscats.data.photos.listing import left_out
from dogscats.data.photos.run_photos import labels_at
from dogscats.data.photos.tables.label_table import Table

LABELS = {name: "cat" if "a" in name[6:] else "dog" for name in NAMES}


@pytest.mark.parametrize("path", ["path", "File", "FILENAME", "file_name", "image", "image_id", "id", "name"])
@pytest.mark.parametrize("label", ["label", "Class", "category", "BREED", "species", "target"])
def test_columns_by_their_usual_names(tmp_path: Path, path: str, label: str) -> None:
    photos(tmp_path, *NAMES, "train/extra.jpg")
    name = table(tmp_path, f"number,{label}, {path}", *(f"7,{text},{file}" for file, text in LABELS.items()))
    found = DatasetFinder(tmp_path, labels=name).find()
    assert labelled(found) == LABELS
    assert found.layout == "labels.csv, 20 % held out"
    assert left_out(tmp_path, found.used) == ["train/extra.jpg"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_separators_and_encodings(tmp_path: Path, separator: str, encoding: str) -> None:
    photos(tmp_path, *NAMES, "a, é;.jpg")
    labels = {"a, é;.jpg": 'big "cat", or\nso', **LABELS}
    with (tmp_path / "labels.csv").open("w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=separator).writerows([("path", "label"), *labels.items(), ()])
    labels["a, é;.jpg"] = "cat"
    rows = Table(tmp_path, tmp_path / "labels.csv", "labels.csv").by_class("train")
    assert rows['big "cat", or\nso'] == ["a, é;.jpg"]
    assert rows["cat"] == NAMES[:5]


def test_ids_of_a_competition_with_and_without_extension(tmp_path: Path) -> None:
    photos(tmp_path, *NAMES, "test/c1.jpg")
    for ending in ("", ".jpg"):
        lines = (f"{Path(name).stem}{ending},{label}" for name, label in LABELS.items())
        found = DatasetFinder(tmp_path, labels=table(tmp_path, "id,breed", *lines)).find()
        assert labelled(found) == LABELS
        assert found.unlabelled.paths == ["test/c1.jpg"]


def test_paths_are_exact_first_and_then_looked_for(tmp_path: Path) -> None:
    outside = photos(tmp_path / "elsewhere", "x/1.jpg") / "x" / "1.jpg"
    root = photos(tmp_path / "root", "a/1.jpg", "b/1.jpg", "1.png", "images/c/2.jpg", "d/3.x.jpg", ".hidden/4.jpg")
    for written, path in {
        "a/1.jpg": "a/1.jpg",
        "./a//1.jpg": "a/1.jpg",
        "a\\1.jpg": "a/1.jpg",
        str(root / "a" / "1.jpg"): "a/1.jpg",
        str(outside): str(outside),
        "../elsewhere/x/1.jpg": "../elsewhere/x/1.jpg",
        "1": "1.png",
        "c/2.jpg": "images/c/2.jpg",
        "c/2": "images/c/2.jpg",
        "3.x": "d/3.x.jpg",
        ".hidden/4.jpg": ".hidden/4.jpg",
    }.items():
        rows = Table(root, root / table(root, "path,label", f"{written},0"), "labels.csv").by_class("train")
        assert rows == {"0": [path]}
        assert (root / path).is_file()
    both = (
        r"labels\.csv: line 2: '1\.jpg' may be a/1\.jpg, b/1\.jpg\. Write the path from data\.root on, such as a/1\.jpg"
    )
    with pytest.raises(UserError, match=both):
        DatasetFinder(root, labels=table(root, "path,label", "1.jpg,0")).find()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["file,kind", "1.jpg,a"], "no column for the label. Its columns are file, kind; expected one of label,"),
        (["1.jpg,a"], r"no column for the path. Its columns are 1\.jpg, a; expected one of path, file"),
        ([], "no column for the path. Its columns are none"),
        (["path,label,label", "1.jpg,a,b"], "it has the column 'label' twice"),
        (
            ["path,label", "1.jpg,a", "x.jpg,b", "y.jpg,b"],
            r"2 of 3 rows name files .*: line 3 'x\.jpg', line 4 'y\.jpg'\.",
        ),
        (["path,label", "1.jpg,a", "2.jpg,"], "line 3: it has no label"),
        (["path,label", "1.jpg,a", ",b"], "line 3: it has no path"),
        (["path,label", "1.jpg,a", "2.jpg"], "line 3: it has 1 columns, but the header has 2"),
        (["path,label", "1.jpg,a", "2.jpg,a,b"], "line 3: it has 3 columns, but the header has 2"),
        (
            ["path,label,split", "1.jpg,a,train", "2.jpg,b,dev"],
            "line 3: its split is 'dev', expected one of train, training, ",
        ),
        (["path,label,split", "1.jpg,a,"], "line 2: its split is '', expected"),
        (["path,label", "1.jpg,a", "1,b"], r"line 3: 1\.jpg is 'b' in train, but 'a' in train in line 2"),
        (
            ["path,label,split", "1.jpg,a,train", "1.jpg,a,val"],
            r"line 3: 1\.jpg is 'a' in valid, but 'a' in train in line 2",
        ),
        (["path,label", "1.jpg,a", "2.jpg,a"], "has only one class, 'a'"),
        (["path,label", "1.jpg,a", "2.jpg,b"], "class 'a' has only one photo"),
        (
            ["path,label,split", "1.jpg,a,train", "2.jpg,b,train", "3.jpg,a,val"],
            r"Only in train of labels\.csv: b\. Only in valid of labels\.csv: none",
        ),
        (["path,label,set", "1.jpg,a,train", "2.jpg,b,train", "3.jpg,c,test"], "test of .* has photos of c, but"),
        (["path,label,set", "1.jpg,a,val"], "it has no rows of train"),
        (["path,label", f"{'x' * 300}.jpg,a"], "1 of 1 row name files"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistakes_in_a_table_are_named(tmp_path: Path, lines: Sequence[str], message: str) -> None:
    root = photos(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    with pytest.raises(UserError, match=message) as raised:
        DatasetFinder(root, labels=table(root, *lines)).find()
    assert "labels.csv" in str(raised.value)


def test_files_that_are_no_tables_are_named(tmp_path: Path) -> None:
    table(tmp_path, "path,label", name="other.csv")
    with pytest.raises(
        ArgumentError, match=r"^labels=labels\.csv: there is no such file .*; other\.csv is there"
    ) as error:
        DatasetFinder(tmp_path, labels="labels.csv").find()
    assert str(user_message(error.value)).startswith("data.labels=labels.csv: ")
    (tmp_path / "labels.csv").write_bytes("path,label\n1,é".encode("utf-16"))
    with pytest.raises(UserError, match=r"labels\.csv: it is not text in UTF-8"):
        DatasetFinder(tmp_path, labels="labels.csv").find()
    with pytest.raises(ArgumentError, match="labels=: expected a table"):
        DogsCatsDataModule(tmp_path, labels="")


def test_a_path_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    photos(tmp_path, *NAMES)
    lines = [f"{name},{label}" for name, label in LABELS.items()]
    found = DatasetFinder(tmp_path, labels=table(tmp_path, "path,label", *lines, "a0,cat", *lines)).find()
    assert len(found.train.paths) + len(found.valid.paths) == 10


def test_splits_of_a_table(tmp_path: Path) -> None:
    splits = ["Train", "train", "TRAINING", "val", "Testing"] * 2
    lines = [f"{name},{label},{split}" for (name, label), split in zip(LABELS.items(), splits, strict=True)]
    found = DatasetFinder(photos(tmp_path, *NAMES), labels=table(tmp_path, "path,label,subset", *lines)).find()
    assert found.layout == "labels.csv, splits from its column subset"
    assert found.train.paths == ["train/a0.jpg", "train/a1.jpg", "train/a2.jpg", *NAMES[5:8]]
    assert found.valid.paths == ["train/a3.jpg", "train/b3.jpg"]
    assert found.test is not None
    assert (found.test.paths, found.test.labels) == (["train/a4.jpg", "train/b4.jpg"], [0, 1])
    assert DatasetFinder(tmp_path, labels="labels.csv").find_split("validation") == (["cat", "dog"], found.valid, "")
    assert DatasetFinder(tmp_path, labels="labels.csv").find_split("test")[1] == found.test
    without = [line for line in lines if "val" not in line]
    found = DatasetFinder(tmp_path, labels=table(tmp_path, "path,label,subset", *without)).find()
    assert found.layout == "labels.csv, splits from its column subset, 20 % held out"
    assert (len(found.train.paths), len(found.valid.paths)) == (4, 2)
    with pytest.raises(UserError, match=r"split=fold: .*has no rows of it, only of train, test"):
        DatasetFinder(tmp_path, labels="labels.csv").find_split("fold")


def test_the_table_of_a_run_is_that_of_another_root_only_where_it_is(tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    own.mkdir()
    other.mkdir()

    def at(root: Path | None, labels: str) -> str | None:
        return labels_at(root, {"root": str(own), "labels": labels})["labels"]

    assert at(None, "labels.csv") == at(own, "labels.csv") == "labels.csv"
    assert at(other, "labels.csv") is at(other, str(own / "labels.csv")) is None
    table(other, "path,label")
    assert at(other, "labels.csv") == "labels.csv"


def test_a_run_on_a_table_is_evaluated_on_the_same_photos(run_command: Run, tmp_path: Path) -> None:
    root = tmp_path / "photos"
    for number in range(10):
        for label, name in enumerate("ab"):
            draw_photo(root / "train" / f"{name}{number}.jpg", label, number)
    table(root, "id,label", *(f"{name}{number},{label}" for number in range(10) for label, name in enumerate("ab")))
    result = run_command("train.py", f"data.root={root}", "data.labels=labels.csv", *FAST, "hydra.run.dir=run")
    assert result.returncode == 0, result.stderr
    assert "16 training and 4 validation photos of 0, 1; layout: labels.csv, 20 % held out" in result.stdout
    evaluated = run_command("evaluate.py", "run=run", "split=val", "hydra.run.dir=evaluated")
    assert evaluated.returncode == 0, evaluated.stderr
    assert "These are 20 % of the photos in labels.csv; split=train has the others" in evaluated.stdout
    with (
        (tmp_path / "run" / "predictions_valid.csv").open() as ours,
        (tmp_path / "evaluated" / "predictions.csv").open() as theirs,
    ):
        assert [row["path"] for row in csv.DictReader(ours)] == [row["path"] for row in csv.DictReader(theirs)]
    (root / "folder" / "0").mkdir(parents=True)
    (root / "train" / "a0.jpg").rename(root / "folder" / "0" / "a0.jpg")
    missing = run_command("evaluate.py", "run=run", "data.labels=none.csv", "hydra.run.dir=missing")
    assert "data.labels=none.csv: there is no such file" in missing.stderr
    assert "Traceback" not in missing.stderr


@pytest.mark.slow
@pytest.mark.fault("labels in a table changed before `resume=`: refused")
def test_a_run_is_not_resumed_with_other_labels(run_command: Run, tmp_path: Path) -> None:
    """Also with class folders in the root whose names a spreadsheet would take for formulas."""
    root = tmp_path / "photos"
    lines = ["path,label"]
    for label, name in enumerate(("=a", "-b")):
        for number in range(6):
            draw_photo(root / name / f"{number}.jpg", label, number)
            lines.append(f"{name}/{number}.jpg,{name}")
    table(root, *lines)
    arguments = [
        *FAST,
        "hydra.run.dir=run",
        "recipe.precompute.epochs=2",
        "+callbacks.mine={_target_: mine.Epochs, word: hi}",
    ]
    for run_dir, labels in (("a", "null"), ("b", "labels.csv")):
        settings = [f"data.root={root}", *arguments, f"data.labels={labels}", f"hydra.run.dir={run_dir}"]
        assert run_command("train.py", *settings, INTERRUPT="precompute 1").returncode == 143
        resumed = run_command("train.py", f"resume={run_dir}", "trust=true")
        assert resumed.returncode == 0, resumed.stderr
    assert run_command("train.py", *settings, "hydra.run.dir=c", INTERRUPT="precompute 1").returncode == 143
    table(root, *lines[:-1], lines[-1].replace(",-b", ",=a"))
    accepting = ["trust=true", "data.changed=accept"]
    table(root, *(line.replace(",-b", ",-c") for line in lines))
    renamed = run_command("train.py", "resume=c", *accepting)
    assert renamed.returncode == 1
    assert "the classes are -c, =a now, but those of the run in" in renamed.stderr
    table(root, *lines[:-1], lines[-1].replace(",-b", ",=a"))
    refused = run_command("train.py", "resume=c", "trust=true")
    assert refused.returncode == 1
    assert "1 changed ('-b/5.jpg)" in refused.stderr or "moved between splits" in refused.stderr


def test_fastais_column_is_valid_and_excels_line_for_the_separator(tmp_path: Path) -> None:
    for number in range(6):
        draw_photo(tmp_path / f"{number}.jpg", 0, number)
    rows = [f"{number}.jpg;{'ab'[number % 2]};{number > 3}" for number in range(6)]
    found = DatasetFinder(tmp_path, labels=table(tmp_path, "sep=;", "name;label;is_valid", *rows)).find()
    assert found.valid.paths == ["4.jpg", "5.jpg"]
    assert found.layout == "labels.csv, splits from its column is_valid"
    ones = [row.replace("True", "1").replace("False", "0.0") for row in rows]
    again = DatasetFinder(tmp_path, labels=table(tmp_path, "name;label;Is_Valid", *ones)).find()
    assert again.valid.paths == found.valid.paths
    with pytest.raises(UserError, match=r"line 2: its is_valid is 'no', expected one of true, 1, 1\.0, false"):
        DatasetFinder(tmp_path, labels=table(tmp_path, "name;label;is_valid", *(row[:8] + "no" for row in rows))).find()
    more = [f"{row};{'val' if row[0] in '01' else 'train'}" for row in rows]
    both = DatasetFinder(tmp_path, labels=table(tmp_path, "name;label;is_valid;split", *more)).find()
    assert both.valid.paths == ["0.jpg", "1.jpg"]
    assert both.layout == "labels.csv, splits from its column split"
    found = DatasetFinder(tmp_path, labels=table(tmp_path, "name;label;is, it, valid, or, not", *rows)).find()
    assert len(found.train.paths) + len(found.valid.paths) == 6


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("Image Name", "Class Label"),
        ("file_id", "diagnosis"),
        ("Image Index", "Finding Labels"),
        ("id_code", "Diagnosis"),
        ("isic_id", "target"),
        ("Photo ID", "Species Name"),
        ("ImagePath", "ClassId"),
        ("FILE NAME", "true label"),
        ("img-file", "Scientific Name"),
        ("image_id", "dx"),
    ],
)
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_columns_as_kaggle_instruments_and_spreadsheets_name_them(
    tmp_path: Path, path: str, label: str, separator: str
) -> None:
    rows = [("id", path, label, "patient_id"), *((7, name, text, 1) for name, text in LABELS.items())]
    lines = [separator.join(map(str, row)) for row in rows]
    found = DatasetFinder(photos(tmp_path, *NAMES), labels=table(tmp_path, *lines, encoding="utf-8-sig")).find()
    assert labelled(found) == LABELS


def test_columns_of_the_users_choice(tmp_path: Path) -> None:
    lines = ["Bild;Art;Teil;label", *(f"{name};{text};train;x" for name, text in LABELS.items())]
    root = photos(tmp_path, *NAMES)
    columns = {"path": "Bild", "label": "art"}
    data = DogsCatsDataModule(root, labels=table(root, *lines), columns=columns)
    assert data.classes == ["cat", "dog"]
    with pytest.raises(UserError, match=r"no column for the path\. Its columns are Bild, Art, .*data\.columns={path: "):
        DatasetFinder(root, labels="labels.csv").find()
    with pytest.raises(
        UserError, match=r"no columns 'Kunst', which data\.columns names for the label\. Its columns are Bild"
    ):
        DatasetFinder(root, labels="labels.csv", columns={"path": "Bild", "label": "Kunst"}).find()
    with pytest.raises(ArgumentError, match=r"columns={'photo': 'Bild'}: expected names of columns"):
        DogsCatsDataModule(root, columns={"photo": "Bild"})
    with pytest.raises(ArgumentError, match="extension=jpg: it needs a table"):
        DatasetFinder(root, extension="jpg").find()
    several = table(root, "image,true label,final diagnosis", *(f"{name},a,b" for name in NAMES))
    with pytest.raises(UserError, match=r"several columns may have the label: true label, final diagnosis\. Say which"):
        DatasetFinder(root, labels=several).find()


def test_columns_of_zeros_and_ones_are_labels(tmp_path: Path) -> None:
    root = photos(tmp_path, *NAMES)
    rows = [(name, *((1, 0, 0) if text == "cat" else (0, 1, 0)), 33, "train") for name, text in LABELS.items()]
    for true in ("1", "1.0", "True"):
        lines = (",".join(map(str, row)).replace(",1,", f",{true},") for row in rows)
        found = DatasetFinder(root, labels=table(root, "id,cat,dog,cow,age,split", *lines)).find()
        assert labelled(found) == LABELS
    table(root, "id,cat,dog,age", *(f"{name},1,{int(text == 'dog')},3" for name, text, *_ in LABELS.items()))
    with pytest.raises(UserError, match=r"line 7: it has 1 in 2 of its columns of 0 and 1, cat, dog\. A photo has one"):
        DatasetFinder(root, labels="labels.csv").find()
    with pytest.raises(UserError, match="no column for the label"):
        DatasetFinder(root, labels=table(root, "id,cat,dog", *(f"{name},.5,.5" for name in NAMES))).find()


def test_lists_without_a_header(tmp_path: Path) -> None:
    root = photos(tmp_path, *NAMES)
    for separator in (" ", "\t", ", "):
        lines = [f"{name}{separator}{text}" for name, text in LABELS.items()]
        for header in ([], [f"path{separator}label"]):
            assert labelled(DatasetFinder(root, labels=table(root, *header, *lines, name="train.txt")).find()) == LABELS
    table(root, "cat", "dog", name="labels.txt")
    with pytest.raises(UserError, match=r"labels\.txt: line 1: it has no path and label, only 'cat'"):
        DatasetFinder(root, labels="labels.txt").find()
    classes = photos(tmp_path / "classes", *(f"{name}/{n}.jpg" for name in ("cat", "dog") for n in range(3)))
    table(classes, "cat", "dog", name="labels.txt")
    assert DatasetFinder(classes).find().classes == ["cat", "dog"]


@pytest.mark.parametrize("name", ["labels.csv", "labels.parquet"])
def test_a_pointer_of_git_lfs_is_no_table(tmp_path: Path, name: str) -> None:
    pytest.importorskip("pyarrow", reason="needs the extra 'parquet'")
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(UserError, match=rf"{name}: it is a Git LFS pointer, .* run git lfs pull"):
        DatasetFinder(tmp_path, labels=name).find()


def test_ids_without_their_leading_zeros(tmp_path: Path) -> None:
    root = photos(tmp_path, *(f"images/{number:04d}.jpg" for number in range(10)))
    found = DatasetFinder(root, labels=table(root, "id,label", *(f"{n},{'ab'[n % 2]}" for n in range(10)))).find()
    assert labelled(found) == {f"images/{n:04d}.jpg": "ab"[n % 2] for n in range(10)}
    assert "10 paths in labels.csv differ from the files' names" in found.notes[0]
    floats = table(root, "id,label", *(f"{n}.0,{'ab'[n % 2]}" for n in range(10)))
    assert len(labelled(DatasetFinder(root, labels=floats).find())) == 10
    numbers = table(root, "id,label", *(f"IMG_{n}_b,{'ab'[n % 2]}" for n in range(10)))
    cameras = photos(tmp_path / "cameras", *(f"IMG_{n:04d}_b.jpg" for n in range(10)))
    assert len(labelled(DatasetFinder(cameras, labels=root / numbers).find())) == 10
    table(root, "id,label", *(f"{n}.0,{'ab'[n % 2]}" for n in range(10)))
    photos(root, "images/007.jpg")
    with pytest.raises(UserError, match=r"'7\.0' may be images/0007\.jpg, images/007\.jpg"):
        DatasetFinder(root, labels=floats).find()


def test_names_of_files_in_other_spellings(tmp_path: Path) -> None:
    root = photos(tmp_path, "Caf\u00e9 1.JPG", "b/IMG_2.jpg", "c/d e.png", "c/4.png")
    lines = ["path,label", "cafe\u0301 1.jpg,a", "B/img_2.JPG,b", "C/D  E.png,b", "4,a"]
    found = DatasetFinder(root, labels=table(root, *lines)).find()
    assert labelled(found) == {"Caf\u00e9 1.JPG": "a", "b/IMG_2.jpg": "b", "c/d e.png": "b", "c/4.png": "a"}


def test_the_ending_of_the_others_decides_among_files_of_one_stem(tmp_path: Path) -> None:
    root = photos(tmp_path, *(f"p/{n}.jpg" for n in range(5)), "p/5.JPEG", *(f"masks/{n}.png" for n in range(3)))
    lines = ["id,label", *(f"{n},{'ab'[n % 2]}" for n in range(6))]
    found = DatasetFinder(root, labels=table(root, *lines)).find()
    assert sorted(labelled(found)) == [*(f"p/{n}.jpg" for n in range(5)), "p/5.JPEG"]
    assert "3 rows of labels.csv with several files: those with .jpg are used" in found.notes
    photos(root, "p/6.tif")
    table(root, *lines, "6,a")
    with pytest.raises(UserError, match=r"line 2: '0' may be masks/0\.png, p/0\.jpg.* data\.extension=jpg"):
        DatasetFinder(root, labels="labels.csv").find()
    chosen = DogsCatsDataModule(root, labels="labels.csv", extension="png")
    assert "masks/2.png" in labelled(chosen._found)
    assert "p/6.tif" in labelled(chosen._found)


def test_a_table_is_found_from_the_working_directory_too(
    run_command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "photos"
    for number in range(5):
        for label, name in enumerate("ab"):
            draw_photo(root / f"{name}{number}.jpg", label, number)
    lines = ("image name,class", *(f"{name}{number},{name}" for number in range(5) for name in "ab"))
    table(tmp_path, *lines, name="train.csv")
    result = run_command("train.py", f"data.root={root}", "data.labels=train.csv", *FAST, "hydra.run.dir=run")
    assert result.returncode == 0, result.stderr
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert f"labels: {tmp_path / 'train.csv'}" in (tmp_path / "run" / "config.yaml").read_text()


def test_labels_in_several_spellings_and_hints(tmp_path: Path) -> None:
    texts = ["scab", "Scab ", "SCAB", "rust", "Rust", "rust", "scab rust", "scab rust", "caf\u00e9", "cafe\u0301"]
    rows = (f"{name},{text}" for name, text in zip(NAMES, texts, strict=True))
    found = DatasetFinder(photos(tmp_path, *NAMES), labels=table(tmp_path, "path,label", *rows)).find()
    assert len(found.classes) == 4
    assert {"rust", "scab rust"} <= {*found.classes}
    assert sum("are one class" in note for note in found.notes) == 3
    assert any("Classes that join others: scab rust." in note for note in found.notes)


def test_empty_cells_are_named_with_their_rows(tmp_path: Path) -> None:
    rows = (f"{name},{'' if name[-5] == '1' else 'NaN' if name[-5] == '2' else 'x'}" for name in NAMES)
    with pytest.raises(UserError, match=r"labels\.csv: line 3, line 4, line 8, line 9: they have no label"):
        DatasetFinder(photos(tmp_path, *NAMES), labels=table(tmp_path, "path,label", *rows)).find()
