"""Which files are photos, and what happens when they change, are odd, or cannot be read."""

import errno
import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import FAST, TINY, Run, draw_photo, draw_root
from interrupted_runs import outcome
from PIL import Image, features

from dogscats.base.content import fingerprint
from dogscats.base.errors import Failure
from dogscats.data.loading.photo_check import check_images
from dogscats.data.photos.layouts import DatasetFinder
from dogscats.data.photos.listing import list_images
from dogscats.data.pixels.images import MAX_SCANS, UnreadableImageError, read_image


def encoded(format_: str, size: tuple[int, int] = (48, 32)) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.full((size[1], size[0], 3), 200, np.uint8)).save(content, format_)
    return content.getvalue()


@pytest.mark.fault("photos with odd or no endings, among NAS and camera leftovers: found by content")
def test_photos_are_found_by_content(tmp_path: Path) -> None:
    photos = {
        **{f"a{ending}": "JPEG" for ending in ("", ".jfif", ".jpe", ".jpg_large", ".JPG~", ".dat", ".1")},
        **{"b.avif": "AVIF", "c.png_": "PNG", "d.tiff": "TIFF", "e.scan": "TIFF", "f.bmp": "BMP", "g.jp2": "JPEG2000"},
        "h.webp ": "WEBP",
    }
    if not features.check("avif"):  # came with Pillow 11.3
        del photos["b.avif"]
    for name, format_ in photos.items():
        (tmp_path / name).write_bytes(encoded(format_))
    others = ["@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", "#recycle/a.jpg", "$RECYCLE.BIN/a.jpg", ".@__thumb/a.jpg"]
    others += ["IMG_1.THM", "._a.jpg", "Thumbs.db", "raw.cr2", "raw.nef", ".thumbnails/a.jpg", "x.lrdata/a.jpg"]
    for name in others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encoded("TIFF" if name.startswith("raw") else "JPEG"))
    (tmp_path / "notes.txt").write_text("P6 is a format")
    (tmp_path / "movie.mov").write_bytes(b"\0\0\0\x14ftypqt  \0\0\0\0qt  ")
    os.mkfifo(tmp_path / "pipe")
    found = list_images(tmp_path)
    assert {path.name for path in found} == set(photos)
    for path in found:
        assert read_image(path).shape == (3, 32, 48)


def test_heic_photos_need_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heif = pytest.importorskip("pillow_heif", reason="needs the extra 'heif'")
    root = draw_root(tmp_path / "photos")
    file = root / "train" / "cats" / "phone.HEIC"
    heif.from_pillow(Image.new("RGB", (64, 48), "red")).save(file)
    assert "train/cats/phone.HEIC" in DatasetFinder(root).find().train.paths
    assert read_image(file).shape == (3, 48, 64)
    monkeypatch.setattr("dogscats.data.pixels.picture.formats", lambda: ("JPEG", "PNG", "TIFF"))
    assert "train/cats/phone.HEIC" in DatasetFinder(root).find().train.paths
    with pytest.raises(UnreadableImageError, match="HEIC photo, which needs pillow-heif: pip install"):
        read_image(file)


@pytest.mark.fault("what lies in the root and is not used: counted and named in one line")
def test_what_is_left_out_is_named(run_command: Run, tmp_path: Path) -> None:
    root = draw_root(tmp_path / "photos")
    draw_photo(root / "dev" / "cats" / "a.jpg", 0, 1)
    draw_photo(root / "stray.jpg", 0, 2)
    draw_photo(root / "test1" / "1.jpg", 0, 3)
    (root / "train" / "cats" / "notes.txt").write_text("x")
    for _ in range(2):  # the second time with a cache of activations
        result = run_command("train.py", f"data.root={root}", *FAST)
        assert result.returncode == 0
        (line,) = [line for line in result.stdout.splitlines() if "left out" in line]
        assert "3 files left out: dev/cats/a.jpg, stray.jpg, train/cats/notes.txt. If dev/ has your" in line
        assert "left out" not in result.stderr


@pytest.mark.fault("photos added, removed, moved or replaced before `resume=`: refused, or accepted")
@pytest.mark.parametrize(
    "change", ["added", *(pytest.param(change, marks=pytest.mark.slow) for change in ("removed", "moved", "changed"))]
)
def test_a_run_is_not_resumed_with_other_photos(run_command: Run, root: Path, tmp_path: Path, change: str) -> None:
    mine = "+callbacks.mine={_target_: mine.Epochs, word: hi}"
    arguments = [f"data.root={root}", *FAST, "recipe.precompute.epochs=2", "hydra.run.dir=run", mine]
    assert run_command("train.py", *arguments, INTERRUPT="precompute 1").returncode == 143
    photo = root / "train" / "cats" / "cat.3.jpg"
    if change == "added":
        draw_photo(photo.with_name("new.jpg"), 0, 77)
    elif change == "removed":
        photo.unlink()
    elif change == "moved":
        shutil.move(photo, root / "valid" / "cats" / "x.jpg")
    else:  # another photo of the same size and time
        status, content = photo.stat(), bytearray(photo.read_bytes())
        content[-500:-400] = bytes(100)
        photo.write_bytes(content)
        os.utime(photo, ns=(status.st_atime_ns, status.st_mtime_ns))
    result = run_command("train.py", "resume=run", "trust=true")
    assert result.returncode == 1
    assert "the photos have changed" in result.stderr
    named = {"added": "1 added (train/cats/new.jpg)", "moved": "1 added (valid/cats/x.jpg)"}
    assert named.get(change, f"1 {change} (train/cats/cat.3.jpg)") in result.stderr
    accepted = run_command("train.py", "resume=run", "trust=true", "data.changed=accept")
    assert accepted.returncode == 0, accepted.stderr
    assert "The photos have changed since this run began, accepted" in accepted.stdout


@pytest.mark.slow
def test_a_run_is_resumed_from_another_folder_with_moved_photos(run_command: Run, root: Path, tmp_path: Path) -> None:
    mine = "+callbacks.mine={_target_: mine.Epochs, word: hi}"
    arguments = ["data.root=photos", *TINY, "recipe.precompute.epochs=2", "callbacks.lr_finder.before=none", mine]
    assert run_command("train.py", *arguments, "hydra.run.dir=straight").returncode == 0
    assert run_command("train.py", *arguments, "hydra.run.dir=run", INTERRUPT="augmented 1").returncode == 143
    assert f"root: {root}" in (tmp_path / "run" / "config.yaml").read_text()  # absolute
    root.rename(tmp_path / "moved")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    missing = run_command("train.py", f"resume={tmp_path / 'run'}", "trust=true")
    assert missing.returncode == 1
    assert f"data.root={root}" in missing.stderr
    result = run_command("train.py", f"resume={tmp_path / 'run'}", "trust=true", f"data.root={tmp_path / 'moved'}")
    assert result.returncode == 0, result.stderr
    assert outcome(tmp_path / "run") == outcome(tmp_path / "straight")


def test_a_replaced_photo_of_the_same_size_and_time_is_noticed(root: Path) -> None:
    photo = root / "train" / "cats" / "cat.3.jpg"
    before, status, content = fingerprint(root, ["train/cats/cat.3.jpg"]), photo.stat(), bytearray(photo.read_bytes())
    content[len(content) // 2] ^= 255
    photo.write_bytes(content)
    os.utime(photo, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert fingerprint(root, ["train/cats/cat.3.jpg"]) != before


@pytest.mark.fault("EMFILE, ESTALE, EIO, too little memory: an error, not an unreadable photo")
@pytest.mark.parametrize("cause", [errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.EIO, errno.ENOMEM, MemoryError])
def test_only_its_content_makes_a_photo_unreadable(
    root: Path, run_command: Run, monkeypatch: pytest.MonkeyPatch, cause: int | type[Exception]
) -> None:
    read = Path.read_bytes

    def fails(self: Path) -> bytes:
        if self.name == "cat.3.jpg":
            raise OSError(cause, os.strerror(cause)) if isinstance(cause, int) else cause
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", fails)
    with pytest.raises(Failure, match=r"cat\.3\.jpg: (it cannot be read now|there is not enough memory)"):
        read_image(root / "train" / "cats" / "cat.3.jpg")
    result = run_command("train.py", f"data.root={root}", *FAST, "data.on_bad_image=skip")
    assert result.returncode == 1
    assert "cat.3.jpg" in result.stderr
    assert not list((root / "tmp").glob("checked-*.json"))


@pytest.mark.fault("JPEG with extraneous bytes: named once, then silent")
@pytest.mark.slow
def test_what_the_jpeg_library_prints_is_said_once(run_process: Run, root: Path, tmp_path: Path) -> None:
    photo = root / "train" / "cats" / "cat.3.jpg"
    content = photo.read_bytes()
    photo.write_bytes(content[:-2] + b"\x00" * 33 + content[-2:])
    arguments = [
        "train.py",
        f"data.root={root}",
        *TINY,
        "recipe.precompute.epochs=1",
        "callbacks.lr_finder.before=none",
    ]
    result = run_process(*arguments, "callbacks.tta.n_aug=1", "data.num_workers=0")
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("extraneous bytes") == 0
    (line,) = [line for line in result.stdout.splitlines() if "extraneous bytes" in line]
    assert str(photo) in line
    again = run_process(*arguments, "callbacks.tta.n_aug=0", "recipe=head_only")
    assert "extraneous" not in again.stdout + again.stderr


def test_odd_photos_are_remembered_with_the_check(root: Path, tmp_path: Path) -> None:
    photo = root / "train" / "cats" / "cat.3.jpg"
    content = photo.read_bytes()
    photo.write_bytes(content[:-2] + b"\x00" * 33 + content[-2:])
    found = DatasetFinder(root).find()
    paths = [*found.train.paths, *found.valid.paths]
    for _ in range(2):
        found = check_images(root, paths, tmp_path / "cache")
        assert list(found.odd) == ["train/cats/cat.3.jpg"]
        assert not found.bad


@pytest.mark.fault("progressive JPEG of very many scans: refused at once")
def test_a_jpeg_of_many_scans_is_refused(tmp_path: Path) -> None:
    content = io.BytesIO()
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(content, "JPEG", progressive=True)
    (tmp_path / "good.jpg").write_bytes(content.getvalue())
    assert read_image(tmp_path / "good.jpg").shape == (3, 64, 64)
    data = content.getvalue()
    scan = data[data.rindex(b"\xff\xda") : data.rindex(b"\xff\xd9")]
    (tmp_path / "bomb.jpg").write_bytes(data[:-2] + (MAX_SCANS + 1) * scan + b"\xff\xd9")
    with pytest.raises(UnreadableImageError, match=r"its \d+ scans would take too long"):
        read_image(tmp_path / "bomb.jpg")


def test_a_jpeg_is_decoded_at_a_fraction_of_its_size(tmp_path: Path) -> None:
    Image.fromarray(np.full((1200, 1600, 3), 90, np.uint8)).save(tmp_path / "a.jpg")
    assert read_image(tmp_path / "a.jpg", least=200).shape == (3, 300, 400)


@pytest.mark.slow
def test_too_few_photos_for_the_ranks(run_process: Run, tmp_path: Path) -> None:
    root = draw_root(tmp_path / "photos", train=1)
    ranks = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "data.batch_size=4"]
    result = run_process("train.py", f"data.root={root}", *FAST, *ranks)
    assert result.returncode == 1
    assert "2 training photos are too few for 2 ranks" in result.stderr
    assert "Traceback" not in result.stderr
