"""Tables for other tools, and what Label Studio exports, in the formats of their documentation."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import FAST, Run, draw_photo

from dogscats.base.errors import UserError
from dogscats.base.files import read_csv, write_csv
from dogscats.data.photos.layouts import DatasetFinder
from dogscats.labelling import other_tools


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "my photos"
    for number, name in enumerate(["a/1.jpg", "a/2.jpg", "b/1.jpg", "=3.jpg"]):
        draw_photo(root / name, 0, number, (20, 20))
    return root


@pytest.fixture
def labels(photos: Path) -> Path:
    """As the page to label photos saves it."""
    rows = [["a/1.jpg", "cats"], ["a/2.jpg", "dogs & <co>"], ["b/1.jpg", "none"], ["=3.jpg", "cats"]]
    write_csv(
        photos.parent / "labels.csv",
        ["path", "label", "by", "asked", "folder"],
        ([path, label, "you", "margin", str(photos)] for path, label in rows),
    )
    return photos.parent / "labels.csv"


def converted(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["convert", *map(str, arguments)])
    other_tools.main()


def test_label_studio_imports_tasks_with_predictions(
    labels: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted(monkeypatch, labels, "--format=label_studio")
    tasks = json.loads((labels.parent / "label_studio/label_studio.json").read_text())
    assert [task["data"]["image"] for task in tasks][::3] == [
        "/data/local-files/?d=my%20photos/a/1.jpg",
        "/data/local-files/?d=my%20photos/%3D3.jpg",
    ]
    (prediction,) = tasks[1]["predictions"]
    assert prediction["result"] == [
        {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": ["dogs & <co>"]}}
    ]
    interface = (labels.parent / "label_studio/label_studio.xml").read_text()
    assert '<Choice value="dogs &amp; &lt;co&gt;"/>' in interface


def test_fiftyone_and_hugging_face(labels: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converted(monkeypatch, labels, "--format=fiftyone", "--output", labels.parent / "fo")
    found = json.loads((labels.parent / "fo/labels.json").read_text())
    files = json.loads((labels.parent / "fo/data.json").read_text())
    assert found["classes"] == ["cats", "dogs & <co>", "none"]
    assert [found["classes"][label] for label in found["labels"].values()] == ["cats", "dogs & <co>", "none", "cats"]
    assert files.keys() == found["labels"].keys()
    assert [Path(file).relative_to(photos).as_posix() for file in files.values()][3] == "=3.jpg"
    converted(monkeypatch, labels, "--format=huggingface")
    rows = read_csv(labels.parent / "huggingface/metadata.csv")
    assert rows[0] == {"file_name": "a/1.jpg", "label": "cats"}
    assert rows[3]["file_name"] == "=3.jpg"  # not protected from spreadsheets: it would not be found


def test_names_that_tables_escape_are_refused(photos: Path, tmp_path: Path) -> None:
    draw_photo(photos / "a\nb.jpg", 0, 9, (20, 20))
    write_csv(tmp_path / "labels.csv", ["path", "label", "folder"], [["a\nb.jpg", "cats", str(photos)]])
    with pytest.raises(UserError, match=r"a\\nb.jpg is not found. Tables have odd characters of names escaped"):
        other_tools.read_photos(tmp_path / "labels.csv")


def test_predictions_and_suspects(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "predictions.csv").write_text(
        f"path,label,predicted,prob_cats,prob_dogs\n{photos}/a/1.jpg,cats,dogs,0.2,0.8\n"
    )
    (tmp_path / "suspects.csv").write_text(
        "path,label,suggested,kind,score,twin,reason\na/1.jpg,cats,dogs,label,0.9,,r\nb/1.jpg,cats,,quality,0.5,,r\n"
    )
    assert other_tools.read_photos(tmp_path / "predictions.csv") == [(photos / "a/1.jpg", "dogs", 0.8)]
    suspects = other_tools.read_photos(tmp_path / "suspects.csv", photos)
    assert [(photo.label, photo.score) for photo in suspects] == [("dogs", 0.9), ("cats", 0.5)]
    with pytest.raises(UserError, match=r"2 photos not found.*--root=<folder>"):
        other_tools.read_photos(tmp_path / "suspects.csv")


def task(number: int, image: str, *choices: list[str], cancelled: bool = False) -> dict[str, Any]:
    """A task as Label Studio exports it: https://labelstud.io/guide/task_format."""
    result = [
        {"id": "x", "from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": each}}
        for each in choices
    ]
    annotation = {"id": number, "result": result, "was_cancelled": cancelled, "ground_truth": False}
    return {"id": number, "data": {"image": image}, "annotations": [annotation], "predictions": []}


def test_an_export_of_label_studio_is_a_table(photos: Path, tmp_path: Path) -> None:
    export = [
        task(1, "/data/local-files/?d=my%20photos/a/1.jpg", ["cats"]),
        task(2, "/data/upload/3/1b3ddfb2-2.jpg", ["dogs"]),
        task(3, "s3://bucket/b/1.jpg", ["dogs"], cancelled=True),
        task(4, "https://example.com/b/1.jpg", ["none"]),
        task(5, "/data/upload/3/1b3ddfb2-3.jpg"),
    ]
    (tmp_path / "export.json").write_text(json.dumps(export))
    found = DatasetFinder(photos, 0, labels=tmp_path / "export.json").find()
    names = [found.classes[label] for label in found.train.labels]
    assert dict(zip(found.train.paths, names, strict=True)) == {"a/1.jpg": "cats", "a/2.jpg": "dogs", "b/1.jpg": "none"}


@pytest.mark.parametrize(
    ("export", "message"),
    [
        ([task(1, "a/1.jpg", ["cats", "dogs"])], "task 1: it has the classes cats, dogs. Choose one."),
        ([task(1, "a/1.jpg")], "no task has a choice. Label some, and export again."),
        ([{"image": "a/1.jpg", "choice": "cats"}], "it is not an export of Label Studio"),
        (
            [task(1, "a/1.jpg", ["cats"]), task(2, "a/1.jpg", ["dogs"])],
            "task 2: a/1.jpg is 'dogs' in train, but 'cats'",
        ),
        ([task(1, "a/9.jpg", ["cats"])], "name files that are not in"),
    ],
)
def test_exports_that_are_refused(photos: Path, tmp_path: Path, export: list[Any], message: str) -> None:
    (tmp_path / "export.json").write_text(json.dumps(export))
    with pytest.raises(UserError) as error:
        DatasetFinder(photos, 0, labels=tmp_path / "export.json").find()
    assert message in str(error.value)


def test_there_and_back(root: Path, run_command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [[str(file), file.parent.name] for file in sorted((root / "train").rglob("*.jpg"))]
    write_csv(tmp_path / "predictions.csv", ["path", "predicted"], rows)
    converted(monkeypatch, tmp_path / "predictions.csv", "--format=label_studio", "--output", tmp_path)
    tasks = json.loads((tmp_path / "label_studio.json").read_text())
    for number, each in enumerate(tasks):  # all predictions are accepted
        each |= {"id": number, "annotations": [{"result": each["predictions"][0]["result"], "was_cancelled": False}]}
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    result = run_command("train.py", f"data.root={root / 'train'}", "data.labels=export.json", *FAST)
    assert result.returncode == 0, result.stderr
    assert "of cats, dogs" in result.stdout
