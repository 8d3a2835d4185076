"""Photos are sorted into folders by their decision, and stay where they are."""

import csv
import os
from pathlib import Path

import pytest
from conftest import Run, draw_photo

from dogscats.predict import sorting
from dogscats.predict.sorting import folder_names, sort_photos


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as content:
        return list(csv.DictReader(content))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for number, name in enumerate(["a.jpg", "A.jpg", "b (1).png", "sub/deep er/a.jpg", "猫.webp", "x" * 250 + ".jpg"]):
        draw_photo(folder / name, number % 2, number)
        os.utime(folder / name, ns=(10**18, 10**18 + number * 10**9))
    (folder / "broken.jpg").write_bytes(b"no photo")
    (folder / "a.jpg").chmod(0o444)
    return folder


@pytest.mark.parametrize("how", ["copy", "link"])
def test_predicted_photos_are_sorted(run_command: Run, finished: Path, photos: Path, tmp_path: Path, how: str) -> None:
    before = {path: path.read_bytes() for path in photos.rglob("*") if path.is_file()}
    # Within the folder: what was sorted is not predicted again.
    command = ["evaluate.py", f"run={finished}", "predict=photos", f"sort={how}", "callbacks.tta.n_aug=0"]
    result = run_command(*command, "hydra.run.dir=photos/out")
    assert result.returncode == 0, result.stderr
    out = photos / "out"
    made, predicted = rows(out / "sorted.csv"), rows(out / "predictions.csv")
    assert [(row["path"], row["decision"]) for row in made] == [(row["path"], row["decision"]) for row in predicted]
    assert len(made) == 6
    assert f"Sorted    6 photos, by {how}, in {out / 'sorted'}: " in result.stdout
    assert "1 cannot be read" in result.stdout
    placed = [path for path in (out / "sorted").rglob("*") if not path.is_dir()]
    assert {path.relative_to(out).as_posix() for path in placed} == {row["destination"] for row in made}
    for row in made:
        source, target = tmp_path / row["path"], out / row["destination"]
        assert target.read_bytes() == source.read_bytes()
        assert target.stat().st_mtime_ns == source.stat().st_mtime_ns
        assert target.is_symlink() == (how == "link")
        assert Path(row["destination"]).parts[1] == row["decision"]
    assert {path: path.read_bytes() for path in before} == before

    again = run_command(*command, "hydra.run.dir=again")
    assert again.returncode == 0, again.stderr
    assert "6 photos of earlier predictions left out, in sorted/ or explained/" in again.stdout
    assert len(rows(tmp_path / "again" / "predictions.csv")) == 6


def test_names_are_kept_and_numbered_where_a_disk_takes_them_for_one(tmp_path: Path) -> None:
    for name in ("a.jpg", "A.jpg", "sub/a.jpg"):
        draw_photo(tmp_path / "photos" / name, 0, 0)
    decided = [(str(tmp_path / "photos" / name), "cats") for name in ("A.jpg", "a.jpg", "sub/a.jpg", "sub/../a.jpg")]
    sort_photos(decided, 4, ["cats"], tmp_path / "photos", tmp_path, "copy")
    destinations = [row["destination"] for row in rows(tmp_path / "sorted.csv")]
    assert destinations == [f"sorted/cats/{name}" for name in ("A.jpg", "a (2).jpg", "sub/a.jpg", "a (3).jpg")]


def test_sorting_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decided = [(str(tmp_path / f"{number}.jpg"), "cats") for number in range(4)]
    for number, (path, _) in enumerate(decided):
        draw_photo(Path(path), 0, number)
    folder, copied = tmp_path / "sorted" / "cats", list[str]()
    copy = sorting.shutil.copyfile

    def fail_at_last(source: Path, target: Path) -> None:
        copied.append(source.name)
        copy(source, target)
        if len(copied) == 3:  # the third is copied, and not yet in its place
            raise KeyboardInterrupt

    def names() -> list[str]:
        return sorted(path.name for path in folder.iterdir())

    monkeypatch.setattr(sorting.shutil, "copyfile", fail_at_last)
    with pytest.raises(KeyboardInterrupt):
        sort_photos(decided, 4, ["cats"], tmp_path, tmp_path, "copy")
    assert names() == ["0.jpg", "1.jpg"]
    (folder / "1.jpg").write_bytes(b"half")
    Path(decided[3][0]).unlink()
    sort_photos(decided, 4, ["cats"], tmp_path, tmp_path, "copy")
    assert copied == ["0.jpg", "1.jpg", "2.jpg", "1.jpg", "2.jpg"]
    assert names() == ["0.jpg", "1.jpg", "2.jpg"]
    assert len(rows(tmp_path / "sorted.csv")) == 3


def test_class_names_become_folder_names() -> None:
    classes = ["a/b", "a_b", "..", "", "CON", "nul.txt", "x. ", "none", "Unsure", "Cat", "cat", ".git", "é", "猫" * 99]
    folders = folder_names(classes)
    assert len({name.casefold() for name in folders.values()}) == len(classes) + 2
    assert (folders["unsure"], folders["(none)"]) == ("unsure", "none")
    assert (folders["a_b"], folders["a/b"], folders["é"], folders["Cat"]) == ("a_b", "a_b_", "é", "Cat")
    for folder in folders.values():
        assert len(folder.encode()) <= 255
        assert not set(folder) & set('/\\:*?"<>|')
        assert folder.strip(". ") == folder
        assert folder.split(".")[0].upper() not in ("CON", "NUL")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sort=move", "predict=photos"], "sort=move: expected copy or link"),
        (["sort=copy"], "sort=: this needs predict="),
        (["sort=copy", "predict=photos"], "GB are free in"),
        (["sort=link", "predict=photos"], "Set sort=copy."),
    ],
)
def test_what_cannot_be_sorted_is_refused_before(
    run_command: Run,
    finished: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("dogscats.predict.sorting.shutil.disk_usage", lambda _: type("Usage", (), {"free": 9}))
    monkeypatch.setattr(Path, "symlink_to", no_links)
    result = run_command("evaluate.py", f"run={finished}", *arguments, "hydra.run.dir=out")
    assert result.returncode == 1
    assert message in result.stderr
    assert {path.name for path in (tmp_path / "out").glob("*")} <= {"evaluate.log", ".lock"}
