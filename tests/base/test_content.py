"""Samples of the content of files."""

import os
import time
from pathlib import Path

import pytest

from dogscats.base import content
from dogscats.base.content import cache_folder, file_versions, fingerprint, load_samples, save_samples
from dogscats.base.errors import UserError


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were read, in order, by processes that begin with `forget`."""
    files: list[str] = []
    sampled = content._sampled

    def counting(file: str, size: int) -> bytes:
        files.append(Path(file).name)
        return sampled(file, size)

    monkeypatch.setattr(content, "_sampled", counting)
    monkeypatch.setattr(content, "RECENT", -1)
    forget(monkeypatch)
    return files


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, empty in ("_known", {}), ("_others", {}), ("_loaded", set()):
        monkeypatch.setattr(content, name, empty)


def test_only_changed_files_are_read_again(root: Path, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    paths, samples = sorted(f"train/cats/cat.{n}.jpg" for n in range(5)), root / "tmp" / "checked-samples.bin"
    before = fingerprint(root, paths)
    assert len(read) == 5
    save_samples(samples)
    forget(monkeypatch)  # as in another process
    load_samples(samples)
    assert fingerprint(root, paths) == before
    assert len(read) == 5
    photo = root / paths[3]
    status, data = photo.stat(), bytearray(photo.read_bytes())
    data[len(data) // 2] ^= 255
    photo.write_bytes(data)
    os.utime(photo, ns=(status.st_atime_ns, status.st_mtime_ns))  # the same size and modification time
    assert fingerprint(root, paths) != before
    assert read[5:] == ["cat.3.jpg"]


@pytest.mark.fault("damaged samples of content: files are read anew")
def test_damaged_samples_are_not_used(root: Path, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    paths, samples = ["train/cats/cat.1.jpg", "train/cats/cat.2.jpg"], root / "tmp" / "checked-samples.bin"
    before = fingerprint(root, paths)
    save_samples(samples)
    damaged = bytearray(samples.read_bytes())
    damaged[-1] ^= 1
    samples.write_bytes(damaged)
    forget(monkeypatch)
    load_samples(samples)
    assert fingerprint(root, paths) == before
    assert len(read) == 4
    assert not samples.exists()


def test_a_file_that_has_just_changed_is_read_every_time(
    root: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another change could get the same time."""
    monkeypatch.setattr(content, "RECENT", 2_000_000_000)
    photo = root / "train/cats/cat.1.jpg"
    photo.touch()
    for _ in range(2):
        list(file_versions(root, ["train/cats/cat.1.jpg"]))
    assert len(read) == 2
    monkeypatch.setattr(time, "time_ns", lambda: photo.stat().st_ctime_ns + 3_000_000_000)
    for _ in range(2):
        list(file_versions(root, ["train/cats/cat.1.jpg"]))
    assert len(read) == 3


def test_missing_files_and_pipes_are_not_waited_for(root: Path) -> None:
    os.mkfifo(root / "pipe")
    missing, pipe = file_versions(root, ["none", "pipe"])
    assert missing is None
    assert pipe is not None
    assert pipe[1:] == (0, "")


def test_only_a_training_makes_its_cache_beside_the_photos(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, beside, own = root.parent / "home", root / "tmp", root.parent / "own"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    of_user = cache_folder(root, trains=False)
    assert of_user.parent == home / "dogscats"
    assert of_user.is_dir()
    assert not beside.exists()
    assert cache_folder(root, str(own), trains=False, of_run=beside) == own
    assert cache_folder(root) == cache_folder(root, trains=False, of_run=beside) == beside
    (root.parent / "file").touch()  # stands for a folder on another machine, and for one that cannot be written
    assert cache_folder(root, trains=False, of_run=root.parent / "file" / "cache") == of_user
    monkeypatch.setenv("XDG_CACHE_HOME", str(root.parent / "file"))
    assert cache_folder(root, trains=False) == beside
    with pytest.raises(UserError, match=r"cannot be created .* activations\.dir=<folder>"):
        cache_folder(root, str(root.parent / "file" / "cache"))


def test_a_read_only_folder_of_photos(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(root.parent / "home"))
    root.chmod(0o555)
    assert cache_folder(root) == cache_folder(root, trains=False)
