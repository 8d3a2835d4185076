"""What happens to photos that cannot be read, and `python -m dogscats.check`."""

import csv
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, TINY, Run, draw_root
from PIL import Image

import dogscats.data.loading.photo_check
from dogscats import DogsCatsDataModule
from dogscats.base.errors import UserError
from dogscats.base.text import shown
from dogscats.data.loading.photo_check import Findings, check_images, write_bad_images
from dogscats.data.photos.layouts import DatasetFinder
from dogscats.suspects.search_folder import find_leaks, report


def spoil(root: Path) -> dict[str, str]:
    """Add and damage files; give each path with a part of its reason."""
    whole = (root / "train/dogs/dog.7.jpg").read_bytes()
    (root / "train/dogs/dog.7.jpg").write_bytes(whole[:700])
    (root / "valid/cats/cat.0.jpg").write_bytes(b"")
    (root / "train/cats/text.jpg").write_text("no photo")
    (root / "train/cats/broken.jpg").symlink_to(root / "absent.jpg")
    (root / "train/cats/circle.jpg").symlink_to(root / "train/cats/circle.jpg")
    odd = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    (root / "train/cats" / odd).write_bytes(whole)
    return {
        "train/dogs/dog.7.jpg": "truncated",
        "valid/cats/cat.0.jpg": "empty",
        "train/cats/text.jpg": "not a picture",
        "train/cats/broken.jpg": "No such file",
        "train/cats/circle.jpg": "symbolic links",
        f"train/cats/{odd}": "UTF-8",
    }


def module(root: Path, **settings: object) -> DogsCatsDataModule:
    data = DogsCatsDataModule(root, size=24, batch_size=5, num_workers=0, **settings)  # type: ignore[arg-type]
    data.prepare_data()
    data.setup()
    return data


def contents(root: Path) -> dict[str, tuple[int, bytes]]:
    return {
        os.fspath(path): (path.stat().st_mtime_ns, path.read_bytes())
        for path in root.rglob("*")
        if path.is_file() and "tmp" not in path.parts[len(root.parts) :]
    }


def test_error_names_every_photo(root: Path) -> None:
    bad = spoil(root)
    with pytest.raises(UserError, match=r"6 photos cannot be read(.|\n)*on_bad_image=skip") as error:
        module(root)
    for path, reason in bad.items():
        (line,) = [line for line in str(error.value).splitlines() if shown(path) in line]
        assert reason in line


def test_skipping_is_no_advice_where_a_class_has_no_readable_photo(root: Path) -> None:
    for file in (root / "train" / "cats").iterdir():
        file.write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(UserError, match=r"12 photos cannot be read\. Remove or replace them:\n"):
        module(root)
    assert "\nRemove or replace them.\n" in report(root)[0]


def test_skip_leaves_them_out_and_touches_none(root: Path) -> None:
    bad = spoil(root)
    before = contents(root)
    for _ in range(2):  # the second time from the cache
        data = module(root, on_bad_image="skip")
        assert set(data.bad) == set(bad)
        assert all(reason in data.bad[path] for path, reason in bad.items())
        assert (len(data.train.paths), len(data.valid.paths)) == (23, 9)
        assert not {*data.train.paths, *data.valid.paths} & set(bad)
        assert "6 unreadable left out" in data.summary
        assert sum(len(batch.labels) for batch in data.val_dataloader()) == 9
    assert contents(root) == before


def test_a_class_left_empty_is_an_error(root: Path) -> None:
    for photo in (root / "valid/dogs").iterdir():
        photo.write_bytes(b"")
    with pytest.raises(UserError, match=r"no photo of class 'dogs' in valid(.|\n)*dog\.4\.jpg: the file is empty"):
        module(root, on_bad_image="skip")


def test_only_bad_photos_are_decoded_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = spoil(root)
    decoded: list[str] = []
    decode = dogscats.data.loading.photo_check.decode

    def counting(path: Path, **options: Any) -> object:
        decoded.append(path.name)
        return decode(path, **options)

    monkeypatch.setattr(dogscats.data.loading.photo_check, "decode", counting)
    found = DatasetFinder(root).find()
    paths = [*found.train.paths, *found.valid.paths]
    assert set(check_images(root, paths, root / "tmp").bad) == set(bad)
    assert len(decoded) == len(paths) - 1  # all but the one whose name is enough
    decoded.clear()
    assert set(check_images(root, paths[::-1], root / "tmp").bad) == set(bad)
    assert len(decoded) == len(bad) - 1
    (remembered,) = (root / "tmp").glob("checked-*.json")
    renamed = json.loads(remembered.read_text()) | {"bad": {"k\udcc3\udca4se.jpg": "its name is not valid UTF-8"}}
    remembered.write_text(json.dumps(renamed))  # as where names were decoded otherwise
    assert set(check_images(root, paths, root / "tmp").bad) == set(bad)
    remembered.write_text('{"bad": ')
    assert set(check_images(root, paths, root / "tmp").bad) == set(bad)
    assert set(json.loads(remembered.read_text())["bad"]) == set(bad)


def test_bad_images_csv(tmp_path: Path) -> None:
    write_bad_images(tmp_path / "bad_images.csv", {"train/a,b.jpg": "empty", "train/\udce9.jpg": "name"})
    with (tmp_path / "bad_images.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [
            ["path", "reason"],
            ["train/a,b.jpg", "empty"],
            ["train/\\udce9.jpg", "name"],
        ]


def test_duplicates_across_train_and_valid_are_found(root: Path) -> None:
    found = DatasetFinder(root).find()
    train, valid = found.train, found.valid
    assert find_leaks(train, valid) == []
    # A duplicate in the other class, one by a link, and a file of the same size that is another photo.
    (root / "valid/cats/duplicate.jpg").write_bytes((root / "train/dogs/dog.3.jpg").read_bytes())
    (root / "valid/dogs/link.jpg").symlink_to(root / "train/dogs/dog.4.jpg")
    changed = bytearray((root / "train/dogs/dog.5.jpg").read_bytes())
    changed[-3] ^= 1
    (root / "valid/dogs/similar.jpg").write_bytes(changed)
    found = DatasetFinder(root).find()
    train, valid = found.train, found.valid
    assert find_leaks(train, valid) == [
        ("train/dogs/dog.3.jpg", "valid/cats/duplicate.jpg"),
        ("train/dogs/dog.4.jpg", "valid/dogs/link.jpg"),
    ]


@pytest.mark.slow
def test_the_command_on_a_good_dataset(root: Path) -> None:
    draw_root(root, train=20, valid=0, classes=("cats",))
    (root / "test1").mkdir()
    (root / "test1/1.jpg").write_bytes((root / "train/cats/cat.0.jpg").read_bytes())
    result = subprocess.run(
        [sys.executable, "-W", "default", "-m", "dogscats.check", os.fspath(root)],
        capture_output=True, text=True, check=False, cwd=REPOSITORY,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()[:4]]
    assert rows == [
        ["photos", "cats", "dogs", "all"],
        ["train", "20", "12", "32"],
        ["valid", "5", "5", "10"],
        ["test", "1"],
    ]
    assert "1.7 times as many cats as dogs" in result.stdout
    assert result.stdout.count(": none") == 5
    assert "Photos of bad quality: 42\n" in result.stdout
    assert "suspects=true" in result.stdout
    lines = [
        line for line in result.stderr.splitlines() if "/matplotlib/" not in line
    ]  # older ones, of newer pyparsing
    assert not [line for line in lines if "DeprecationWarning" in line or "FutureWarning" in line]


def test_the_command_on_a_bad_dataset(run_command: Run, root: Path) -> None:
    bad = spoil(root)
    (root / "valid/cats/duplicate.jpg").write_bytes((root / "train/cats/cat.3.jpg").read_bytes())
    (root / "test1").mkdir()
    (root / "test1/1.jpg").write_text("text")
    result = run_command("dogscats/check.py", os.fspath(root))
    assert result.returncode == 1
    assert "Unreadable photos: 7" in result.stdout
    for path, reason in {**bad, "test1/1.jpg": "not a picture"}.items():
        shown = path.encode(errors="backslashreplace").decode()
        assert any(shown in line and reason in line for line in result.stdout.splitlines())
    assert "Photos in train and in valid: 1\n  train/cats/cat.3.jpg = valid/cats/duplicate.jpg" in result.stdout
    assert "Traceback" not in result.stderr


def test_a_folder_of_what_git_left(run_command: Run, root: Path) -> None:
    for file in root.rglob("*.jpg"):
        file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n")
    result = run_command("dogscats/check.py", os.fspath(root))
    assert result.returncode == 1
    assert "Unreadable photos: 34" in result.stdout
    assert result.stdout.count("a Git LFS pointer, not the file itself: run git lfs pull") == 34
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_altered_copies_across_splits_are_leaks(run_command: Run, root: Path) -> None:
    with Image.open(root / "train/cats/cat.3.jpg") as picture:
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(root / "valid/cats/again.jpg")
    result = run_command("dogscats/check.py", os.fspath(root))
    assert result.returncode == 1
    assert "Photos in two splits, altered: 1\n  train/cats/cat.3.jpg = valid/cats/again.jpg" in result.stdout
    assert "Remove one photo of each pair" in result.stdout


def test_the_command_without_a_dataset(run_command: Run, tmp_path: Path) -> None:
    result = run_command("dogscats/check.py", os.fspath(tmp_path / "nowhere"))
    assert result.returncode == 1
    assert "nowhere: there is no such folder" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_a_run_that_skips_lists_them(run_command: Run, root: Path, tmp_path: Path) -> None:
    bad = spoil(root)
    result = run_command(
        "train.py", f"data.root={root}", "recipe=head_only", *TINY, "data.on_bad_image=skip", "data.num_workers=0",
        "callbacks.lr_finder.before=none",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "23 training and 9 validation photos of cats, dogs; warning: 6 unreadable left out" in result.stdout
    (file,) = tmp_path.glob("outputs/*/*/bad_images.csv")
    assert len(file.read_text().splitlines()) == 1 + len(bad)
    assert json.loads(file.with_name("metrics.json").read_text())["final"]["n"] == 9


@pytest.mark.fault("the ranks of torchrun check the same photos at once: decoded once")
def test_two_processes_check_the_photos_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that waits for the lock finds the result of the other."""
    found = DatasetFinder(root).find()
    paths = [*found.train.paths, *found.valid.paths]
    examined: list[int] = []

    def counting(root: Path, paths: list[str], *others: object) -> Findings:
        examined.append(len(paths))
        time.sleep(0.3)  # the others reach the lock
        return Findings({}, {}, {})

    monkeypatch.setattr(dogscats.data.loading.photo_check, "examine", counting)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: check_images(root, paths, root / "tmp"), range(3)))
    assert sorted(examined) == [0, 0, len(paths)]  # only the bad ones: none
