"""The dataset is downloaded whole or not at all, from a server on localhost with every fault."""

import functools
import hashlib
import io
import os
import shutil
import stat
import struct
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run, draw_root
from PIL import Image

import dogscats.data.photos.download
from dogscats import DogsCatsDataModule
from dogscats.base.errors import UserError
from dogscats.data.photos.download import download_dataset

CUT = pytest.mark.fault("download cut, flipped, a web page, server gone: rejected or retried, no half dataset")

HARMFUL = pytest.mark.fault("archive with `../`, absolute path, link, bomb: 0 bytes outside the target")


class Server(ThreadingHTTPServer):
    """Serves `content`; each request takes the next of `faults`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.faults = b"", list[str]()
        self.ranges = True
        self.content_type: str = "application/zip"
        self.requests: list[str | None] = []
        self.users: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_port}/dogscats.zip"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        server, content = self.server, self.server.content
        wanted = self.headers.get("Range")
        server.requests.append(wanted)
        server.users.append(self.headers.get("Authorization"))
        fault = server.faults.pop(0) if server.faults else ""
        if fault.isdecimal():
            self.send_error(int(fault))
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and server.ranges else 0
        if start and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        if fault.startswith("to "):
            self.send_response(302)
            self.send_header("Location", fault.removeprefix("to "))
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            start -= 1 if fault == "another part" else 0
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        rest = content[start:]
        self.send_header("Content-Type", server.content_type)
        if fault != "no length":
            self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if fault == "slow":
            for byte in rest[:50]:
                self.wfile.write(bytes([byte]))
                time.sleep(0.02)
            return
        self.wfile.write(rest[: len(rest) // 2] if fault in ("cut", "no length") else rest)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(dogscats.data.photos.download, "PAUSE", 0.01)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    thread = threading.Thread(target=functools.partial(server.serve_forever, 0.02))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def zipped(folder: Path, prefix: str = "dogscats/") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, prefix + path.relative_to(folder).as_posix())
    return buffer.getvalue()


def made_of(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".data.lock"}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "place" / "data"


@pytest.mark.parametrize("prefix", ["dogscats/", ""])
def test_the_dataset_is_unpacked_to_the_root(server: Server, root: Path, target: Path, prefix: str) -> None:
    server.content = zipped(root, prefix)
    target.mkdir(parents=True)  # empty, as somebody may have made it
    download_dataset(server.url, target, hashlib.sha256(server.content).hexdigest().upper())
    assert tree(target) == tree(root)
    assert left_in(target.parent) == {"data"}
    assert stat.S_IMODE(target.stat().st_mode) & 0o755 == 0o755
    download_dataset(server.url, target)
    assert server.requests == [None]


@CUT
@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_connection_is_resumed(server: Server, shared_root: Path, target: Path, ranges: bool) -> None:
    server.content, server.ranges = zipped(shared_root), ranges
    server.faults = ["cut", "503", "cut", "another part"]
    download_dataset(server.url, target)
    assert (target / "train/cats/cat.0.jpg").read_bytes() == (shared_root / "train/cats/cat.0.jpg").read_bytes()
    half = len(server.content) // 2
    assert server.requests[:3] == [None, f"bytes={half}-", f"bytes={half}-"]
    assert left_in(target.parent) == {"data"}


@CUT
def test_a_later_run_goes_on_where_one_gave_up(server: Server, shared_root: Path, target: Path) -> None:
    server.content = zipped(shared_root)
    server.faults = ["cut", *["503"] * 5]
    with pytest.raises(UserError, match=r"503(.|\n)*already downloaded are kept"):
        download_dataset(server.url, target)
    assert not target.exists()
    assert left_in(target.parent) == {".data.zip.part"}
    download_dataset(server.url, target)
    assert server.requests[-1] == f"bytes={len(server.content) // 2}-"
    assert (target / "train").is_dir()


@CUT
def test_a_run_killed_before_unpacking_only_unpacks(server: Server, shared_root: Path, target: Path) -> None:
    server.content = zipped(shared_root)
    (target.parent / ".data.unfinished" / "train" / "old").mkdir(parents=True)
    (target.parent / ".data.zip.part").write_bytes(server.content)
    download_dataset(server.url, target)
    assert not (target / "train" / "old").exists()
    assert (target / "train" / "cats").is_dir()
    # And one whose part is of another, longer archive begins anew.
    shutil.rmtree(target)
    (target.parent / ".data.zip.part").write_bytes(server.content + b"more")
    download_dataset(server.url, target)
    assert (target / "train" / "cats").is_dir()


@CUT
def test_a_part_of_another_archive_is_not_mixed_in(server: Server, shared_root: Path, target: Path) -> None:
    server.content = zipped(shared_root)
    target.parent.mkdir()
    (target.parent / ".data.zip.part").write_bytes(bytes(len(server.content) // 2))
    with pytest.raises(UserError, match="removed"):
        download_dataset(server.url, target)
    assert left_in(target.parent) == set()
    download_dataset(server.url, target)
    assert (target / "train" / "cats").is_dir()


@CUT
def test_a_server_that_is_gone_is_asked_again_then_named(server: Server, target: Path) -> None:
    with pytest.raises(UserError, match=r"data\.url=http://127\.0\.0\.1:9/a\.zip(.|\n)*refused(.|\n)*Try again"):
        download_dataset("http://127.0.0.1:9/a.zip", target)
    server.faults = ["500"] * 20
    with pytest.raises(UserError, match="500"):
        download_dataset(server.url, target)
    assert len(server.requests) == dogscats.data.photos.download.ATTEMPTS
    server.faults = ["404"]
    with pytest.raises(UserError, match="404"):
        download_dataset(server.url, target)
    assert len(server.requests) == dogscats.data.photos.download.ATTEMPTS + 1
    assert left_in(target.parent) == set()


@CUT
def test_a_web_page_is_no_archive(server: Server, target: Path) -> None:
    server.content, server.content_type = b"<html>Please log in</html>", "text/html; charset=utf-8"
    with pytest.raises(UserError, match="web page"):
        download_dataset(server.url, target)
    server.content_type = "application/zip"
    with pytest.raises(UserError, match="not a whole zip archive"):
        download_dataset(server.url, target)
    assert left_in(target.parent) == set()


@CUT
def test_a_cut_that_the_server_does_not_tell_is_found(server: Server, shared_root: Path, target: Path) -> None:
    server.content, server.faults = zipped(shared_root), ["no length"]
    with pytest.raises(UserError, match="not a whole zip archive"):
        download_dataset(server.url, target)
    assert left_in(target.parent) == set()


def test_size_and_sha256_are_checked(
    server: Server, shared_root: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert dogscats.data.photos.download.KNOWN_BYTES == {"http://files.fast.ai/data/dogscats.zip": 857_214_334}
    server.content = zipped(shared_root)
    monkeypatch.setitem(dogscats.data.photos.download.KNOWN_BYTES, server.url, len(server.content) + 1)
    with pytest.raises(UserError, match=f"{len(server.content):,} bytes instead of"):
        download_dataset(server.url, target)
    monkeypatch.delitem(dogscats.data.photos.download.KNOWN_BYTES, server.url)
    with pytest.raises(UserError, match=r"data\.sha256=0000"):
        download_dataset(server.url, target, "0" * 64)
    assert left_in(target.parent) == set()


@CUT
def test_a_flipped_byte_is_found_wherever_it_matters(server: Server, shared_root: Path, target: Path) -> None:
    good = zipped(shared_root / "valid", "train/")
    expected = {f"train/{name}": content for name, content in tree(shared_root / "valid").items()}
    rejected = 0
    for place in np.random.default_rng(0).integers(len(good), size=40):
        flipped = bytearray(good)
        flipped[place] ^= 0x40
        server.content = bytes(flipped)
        try:
            download_dataset(server.url, target)
        except UserError:
            rejected += 1
            assert not target.exists()
        else:  # a time stamp, for example: no photo is changed
            assert tree(target) == expected
            shutil.rmtree(target)
        assert left_in(target.parent) == set()
    assert rejected > 30
    # With the SHA-256 known every one is.
    server.content = bytes(flipped)
    with pytest.raises(UserError, match="SHA-256"):
        download_dataset(server.url, target, hashlib.sha256(good).hexdigest())


def link(name: str, to: str) -> tuple[zipfile.ZipInfo, bytes]:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info, to.encode()


def lying_bomb() -> bytes:
    """10 MB of zeros that are declared as 100 bytes, in both headers."""
    content = bytearray(made_of(("train/cats/a.jpg", bytes(10_000_000))))
    sizes = struct.pack("<I", 10_000_000)
    while (place := content.find(sizes)) >= 0:
        content[place : place + 4] = struct.pack("<I", 100)
    return bytes(content)


PHOTO = ("train/cats/cat.0.jpg", os.urandom(3000))


@HARMFUL
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (made_of(PHOTO, ("../escaped.jpg", b"x")), "leads out"),
        (made_of(PHOTO, ("train/../../../escaped.jpg", b"x")), "leads out"),
        (made_of(PHOTO, ("..\\escaped.jpg", b"x")), "leads out"),
        (made_of(PHOTO, ("C:\\escaped.jpg", b"x")), "leads out"),
        (made_of(PHOTO, ("ABSOLUTE", b"x")), "leads out"),
        (made_of(PHOTO, link("train/dogs", "../../../outside"), ("train/dogs/escaped.jpg", b"x")), "a link"),
        (made_of(PHOTO, ("train/cats/zeros.jpg", bytes(20_000_000))), "times as much"),
        (made_of(*[(f"train/cats/{n}.jpg", bytes(100_000)) for n in range(100)]), "times as much"),
        (lying_bomb(), "damaged"),
        (made_of(("photos/cats/cat.0.jpg", b"x")), "no folder train/"),
        (made_of(PHOTO, ("train/cats/cat.1.jpg", b"x")).replace(b"cat.1", b"cat.0"), "damaged"),
        (made_of(PHOTO, (PHOTO[0] + "/below.jpg", b"x")), "damaged"),
        (b"PK\x05\x06" + bytes(18), "no folder train/"),
    ],
    ids=[
        "parent", "hidden parent", "backslash", "drive", "absolute", "link", "bomb", "many", "lying",
        "no train", "duplicate", "file as folder", "empty",
    ],
)  # fmt: skip
def test_a_harmful_archive_leaves_no_byte(server: Server, tmp_path: Path, content: bytes, reason: str) -> None:
    target = tmp_path / "place" / "data"
    absolute = os.fspath(tmp_path / "escaped.jpg")
    if b"ABSOLUTE" in content:
        content = made_of(PHOTO, (absolute, b"x"), ("//" + absolute, b"x"))
    server.content = content
    (tmp_path / "outside").mkdir()
    with pytest.raises(UserError, match=reason):
        download_dataset(server.url, target)
    assert tree(tmp_path) == {"place/.data.lock": b""}
    assert not list((tmp_path / "outside").iterdir())


@HARMFUL
def test_a_lying_bomb_is_never_unpacked_further_than_declared(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0
    copy = shutil.copyfileobj

    def counting(source: Any, out: Any, length: int = 0) -> None:
        nonlocal written
        try:
            copy(source, out, length)
        finally:
            written += out.tell()

    server.content = lying_bomb()
    monkeypatch.setattr(shutil, "copyfileobj", counting)
    with pytest.raises(UserError):
        download_dataset(server.url, tmp_path / "data")
    assert written <= 100


def test_too_little_room_is_noticed_beforehand(
    server: Server, shared_root: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.content = zipped(shared_root)
    usage = shutil.disk_usage(target.parent.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=len(server.content)))
    with pytest.raises(UserError, match=r"stored there(.|\n)*are needed, but only"):
        download_dataset(server.url, target)
    assert left_in(target.parent) == set()


def test_a_folder_with_something_else_is_left_alone(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "diary.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something"):
        download_dataset(server.url, tmp_path / "data")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot be stored there"):
        download_dataset(server.url, tmp_path / "file")
    with pytest.raises(UserError, match="cannot be stored there"):
        download_dataset(server.url, tmp_path / "file" / "data")
    with pytest.raises(UserError, match="begins with http"):
        download_dataset("file:///etc/passwd", tmp_path / "new")
    assert tree(tmp_path)["data/diary.txt"] == tree(tmp_path)["file"] == b"mine"
    assert server.requests == []


def test_two_at_once_fetch_it_once(server: Server, shared_root: Path, target: Path) -> None:
    server.content = zipped(shared_root)
    threads = [threading.Thread(target=download_dataset, args=(server.url, target)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.requests) == 1
    assert (target / "train" / "cats").is_dir()


def test_a_data_module_downloads_only_when_asked(server: Server, shared_root: Path, target: Path) -> None:
    server.content = zipped(shared_root)
    with pytest.raises(UserError, match=r"no such folder(.|\n)*data\.download=true"):
        DogsCatsDataModule(target, url=server.url).prepare_data()
    assert server.requests == []
    data = DogsCatsDataModule(target, url=server.url, download=True, num_workers=0)
    data.prepare_data()
    data.setup()
    assert len(data.train.paths) == 24


def test_train_downloads(run_command: Run, server: Server, tmp_path: Path) -> None:
    """Up to the message about a photo: what follows is the same for any data."""
    root = draw_root(tmp_path / "original", train=2, valid=1)
    (root / "train" / "cats" / "cat.0.jpg").write_bytes(b"no photo")
    server.content = zipped(root)
    result = run_command(
        "train.py",
        "data.root=new/photos",
        "data.download=true",
        f"data.url={server.url}",
        no_proxy="127.0.0.1",
    )
    assert f"Downloading {server.url} to {tmp_path / 'new' / 'photos'}" in result.stdout
    assert "new/photos/train/cats/cat.0.jpg: it is not a picture" in result.stderr
    assert "Traceback" not in result.stderr
    assert Image.open(tmp_path / "new/photos/train/cats/cat.1.jpg").size == (60, 48)


LIMITS = pytest.mark.fault("download of unknown size, very slow, redirected to ftp, of 300,000 entries: refused")


@LIMITS
def test_a_download_of_unknown_size_does_not_fill_the_disk(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.content, server.faults = made_of(("train/cats/a.jpg", bytes(100_000))), ["no length"]
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UserError, match="of unknown size, fills the disk"):
        download_dataset(server.url, tmp_path / "data")
    assert left_in(tmp_path) == set()


@LIMITS
def test_a_very_slow_server_is_given_up(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("MIN_BYTES_PER_SECOND", 1000), ("WINDOW", 0.2), ("ATTEMPTS", 2)):
        monkeypatch.setattr(dogscats.data.photos.download, name, value)
    server.content, server.faults = made_of(("train/cats/a.jpg", os.urandom(3000))), ["slow", "slow"]
    with pytest.raises(UserError, match="the server is too slow"):
        download_dataset(server.url, tmp_path / "data")
    assert len(server.requests) == 2


@LIMITS
@pytest.mark.parametrize("target", ["ftp://127.0.0.1/x.zip", "file:///etc/passwd"])
def test_a_redirect_elsewhere_is_refused(server: Server, tmp_path: Path, target: str) -> None:
    server.faults = [f"to {target}"]
    with pytest.raises(UserError, match=r"(?i)redirect.* (refused|not allowed)"):
        download_dataset(server.url, tmp_path / "data")
    assert left_in(tmp_path) == set()


def test_a_redirect_to_another_web_address_is_followed(server: Server, tmp_path: Path) -> None:
    server.content = made_of(*((f"train/{name}/a.jpg", os.urandom(3000)) for name in ("cats", "dogs")))
    server.faults = [f"to {server.url}?again"]
    download_dataset(server.url, tmp_path / "data")
    assert (tmp_path / "data" / "train" / "dogs" / "a.jpg").exists()


@LIMITS
def test_an_archive_of_very_many_empty_entries_is_refused(server: Server, tmp_path: Path) -> None:
    server.content = made_of(*((f"train/cats/{number}.jpg", b"") for number in range(5000)))
    with pytest.raises(UserError, match="5,000 entries, too small for photos"):
        download_dataset(server.url, tmp_path / "data")
    assert left_in(tmp_path) == set()


def test_user_and_password_of_the_address_are_sent_but_not_shown(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    server.faults = ["403"]
    with pytest.raises(UserError, match=r"http://me:\*\*\*@127") as error:
        download_dataset(server.url.replace("//", "//me:s%20cret@"), tmp_path / "data")
    assert server.users == ["Basic bWU6cyBjcmV0"]
    assert "cret" not in str(error.value) + caplog.text
