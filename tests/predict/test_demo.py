"""The page to try a run, also in a browser."""

import base64
import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import chromium, cut_off, faults, until
from conftest import FAST, REPOSITORY, TinyNetwork, draw_photo, draw_root, offline
from interrupted_runs import run
from PIL import Image

from dogscats.base.environment import how_to_install
from dogscats.base.errors import UserError
from dogscats.lesson.backbone import Backbone
from dogscats.lesson.classifier import Classifier
from dogscats.predict.demo import server
from dogscats.predict.demo.server import Settings, parse
from dogscats.predict.predictor import Predictor

CLASSES = ("<i>cats", "$5 ${x} {{y}}")


@pytest.fixture(scope="module")
def page() -> Any:
    return import_page()


def import_page() -> Any:
    pytest.importorskip("gradio", reason="needs the extra 'demo'")
    from dogscats.predict.demo import demo_page as page

    return page


def test_settings() -> None:
    assert parse(["run=2024"]) == Settings("2024", "127.0.0.1", 7860, trust=False)
    given = ["ckpt=a=b.ckpt", "host=0.0.0.0", "port=80", "trust=true"]
    assert parse(given) == Settings("a=b.ckpt", "0.0.0.0", 80, trust=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Give either run=<run directory>, .* not neither"),
        (["run=a", "ckpt=b"], "not both"),
        (["run="], "^run=: expected the directory of a run"),
        (["run=a", "port=http"], "^port=http: expected a whole number of at least 1 and at most 65535"),
        (["run=a", "port=70000"], "^port=70000: expected"),
        (["run=a", "trust=yes"], "^trust=yes: expected true or false"),
        (["run=a", "share=true"], "^share=true: there is no such setting. Give run=, ckpt=, host=, port=, trust="),
        (["outputs/run"], "^outputs/run: it is no setting"),
        (["run=missing"], "^missing: there is no such run or checkpoint"),
    ],
)
def test_a_wrong_setting_is_one_message(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        server.serve(arguments)


def test_a_port_in_use_is_one_message() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=rf"^port={port}: it is in use"), server.listening("127.0.0.1", port):
            pass
    with pytest.raises(UserError, match=r"^host=192.0.2.1: it cannot be listened on"), server.listening("192.0.2.1", 1):
        pass


def test_without_gradio_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match=f"needs gradio: {re.escape(how_to_install('demo'))}"):
        server.application(Future())


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A photo as a camera, a scanner and an editor write it."""
    folder = tmp_path_factory.mktemp("photos")
    draw_photo(folder / "plain.jpg", 1, 0, (96, 64))
    picture = Image.open(folder / "plain.jpg")
    turned = Image.Exif()
    turned[0x0112] = 6
    picture.save(folder / "turned.jpg", exif=turned)
    layer = picture.convert("RGBA")
    layer.putalpha(Image.linear_gradient("L").resize(picture.size))
    layer.save(folder / "transparent.png")
    Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 250).save(folder / "deep.png")
    picture.save(folder / "<b>$5 ${x}.webp", lossless=True)
    return {path.name: path for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bad")
    (folder / "text.jpg").write_text("no photo")
    Image.new("L", (12_000, 9_000)).save(folder / "vast.png")
    draw_photo(folder / "whole.jpg", 0, 0)
    (folder / "cut.png").write_bytes(png_of(folder / "whole.jpg")[:300])
    return {path.name: path for path in folder.iterdir()}


def png_of(file: Path) -> bytes:
    Image.open(file).save(file.with_suffix(".png"))
    return file.with_suffix(".png").read_bytes()


def tiny_predictor(**trained_on: Any) -> Predictor:
    torch.manual_seed(0)
    model = Classifier(Backbone(TinyNetwork(), last_early="first", channels=8), classes=list(CLASSES))
    return Predictor(model, 32, trained_on=trained_on)


def test_a_verdict_is_that_of_a_prediction(page: Any, photos: dict[str, Path], bad_files: dict[str, Path]) -> None:
    from dogscats.predict.demo.judge import judge

    predictor = tiny_predictor()
    for file in photos.values():
        verdict = judge(predictor, file)
        predictions, _ = predictor.predict([file], n_aug=0)
        assert verdict.probabilities == dict(zip(CLASSES, predictions.probabilities[0].tolist(), strict=True))
        assert verdict.decision is None
        assert [picture.image.size for picture in verdict.seen] == [(32, 32)] * 2
        assert verdict.seen[1].caption == f"Where it sees {predictions.predicted_classes[0]}"
        assert verdict.similar == []
    for name, message in {"text.jpg": "not a picture of a known format", "vast.png": "12000 x 9000 pixels"}.items():
        with pytest.raises(page.Refused, match=message):
            judge(predictor, bad_files[name])


@pytest.mark.parametrize("word", ["unsure", "none"])
def test_the_map_of_a_photo_without_a_class_is_captioned_so(
    page: Any, photos: dict[str, Path], monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    from dogscats.predict.demo.judge import judge

    predictor = tiny_predictor()
    predictions, _ = predictor.predict(photos["plain.jpg"], n_aug=0)
    monkeypatch.setattr(predictor, "predict", lambda *_, **__: (replace(predictions, decisions=[word]), {}))
    verdict = judge(predictor, photos["plain.jpg"])
    best = max(verdict.probabilities, key=lambda name: verdict.probabilities[name])
    assert verdict.decision == word
    assert verdict.seen[1].caption == f"Where it would see {best} if it had to choose"


def test_a_reason_names_no_path_and_has_no_full_stop(
    page: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dogscats.predict.demo.judge import judge

    draw_photo(file := tmp_path / "photo.jpg", 0, 0)

    def lost(path: Path) -> bytes:
        raise OSError(errno.EIO, "I/O error", str(path))

    monkeypatch.setattr(Path, "read_bytes", lost)
    with pytest.raises(page.Refused, match=r"^it cannot be read now \(I/O error\)") as refused:
        judge(tiny_predictor(), file)
    assert not str(refused.value).endswith(".")


@pytest.fixture
def client(page: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from fastapi.testclient import TestClient

    (tmp_path / "uploads").mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    loaded: Future[Any] = Future()
    loaded.set_result(tiny_predictor())
    with TestClient(server.application(loaded)) as client:
        yield client


def ask(client: Any, function: str, value: Any) -> Any:
    """Call a function of the page, and return its answer."""
    (component,) = (each for each in client.get("/config").json()["components"] if each["type"] == "html")
    body = {"session_hash": "x", "component_id": component["id"], "fn_name": function, "data": value}
    answer = client.post("/gradio_api/component_server", json=body)
    assert answer.status_code == 200
    return answer.json()


def upload(client: Any, file: Path) -> str:
    with file.open("rb") as content:
        return str(client.post("/gradio_api/upload", files={"files": content}).json()[0])


def test_only_uploads_are_looked_at(
    client: Any, photos: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    uploads = tmp_path / "uploads"
    assert client.get("/config").json()["dependencies"] == []  # there is no other way to name a file
    (elsewhere := tmp_path / "photo.jpg").write_bytes(photos["plain.jpg"].read_bytes())
    os.mkfifo(tmp_path / "pipe")
    (uploads / "link.jpg").symlink_to(elsewhere)
    paths = [elsewhere, "/etc/passwd", tmp_path / "pipe", uploads, uploads / "link.jpg", f"{uploads}/../photo.jpg"]
    names = [str(path) for path in paths] + ["http://127.0.0.1:9/a.jpg", "a" * 9999, "a\0", ""]
    for value in [*names, None, 3, {"path": str(elsewhere)}, names[:1]]:
        assert ask(client, "judge", value) == {"refused": "it was not uploaded"}
    assert elsewhere.exists()
    assert ask(client, "classes", None) == list(CLASSES)
    assert "Traceback" not in capfd.readouterr().err


def test_an_upload_is_deleted_with_its_verdict(
    client: Any, photos: dict[str, Path], bad_files: dict[str, Path]
) -> None:
    path = upload(client, photos["plain.jpg"])
    found = ask(client, "judge", path)
    assert found["classes"] == list(CLASSES)
    assert sum(found["probabilities"]) == pytest.approx(1)
    assert [picture["src"][:23] for picture in found["seen"]] == ["data:image/jpeg;base64,"] * 2
    assert not Path(path).parent.exists()
    assert ask(client, "judge", path) == {"gone": True}  # another visitor's, of the same photo: uploaded again
    path = upload(client, bad_files["text.jpg"])
    assert ask(client, "judge", path) == {"refused": "it is not a picture of a known format"}
    assert not Path(path).exists()


STUCK = """\
import os, signal, sys
from dogscats.predict.demo.server import folder_for_uploads
from dogscats.base import signals
signals.SECONDS_BEFORE_EXIT = 0.5
with signals.interruptible(), folder_for_uploads() as folder:
    open("stuck.py", "w").write("import os, time; os.kill(os.getpid(), 2); time.sleep(60)")
    print(folder, flush=True)
    sys.path.insert(0, ".")
    import stuck
"""


def test_the_uploads_are_removed_although_the_process_is_stuck(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", STUCK],
        **{"capture_output": True, "text": True, "cwd": tmp_path, "check": False},
        env=os.environ | python_path(REPOSITORY),
    )
    assert (result.returncode, result.stderr) == (130, "")
    assert "dogscats-demo-" in result.stdout
    assert not Path(result.stdout.strip()).exists()


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    root = draw_root(folder / "photos", classes=CLASSES)
    run(root, folder / "run", *FAST)
    return folder / "run"


def test_decisions_and_similar_photos_of_a_run(
    page: Any, run_dir: Path, photos: dict[str, Path], tmp_path: Path
) -> None:
    from dogscats.predict.demo.judge import judge

    predictor, file = Predictor.load(run_dir), photos["plain.jpg"]
    verdict = judge(predictor, file)
    assert [verdict.decision] == predictor.predict(file, n_aug=0)[0].decisions
    (similar,) = predictor.similar([file], 3)
    assert [picture.caption for picture in verdict.similar] == [f"{path}, {value:.2f}" for path, value in similar]
    assert verdict.similar[0].image.size == (60, 48)
    root = Path(predictor.trained_on["root"])
    removed = root.joinpath(similar[0][0]).rename(tmp_path / "removed.jpg")
    assert len(judge(predictor, file).similar) == 2
    removed.rename(root / similar[0][0])
    predictor.trained_on["root"] = str(tmp_path / "moved")
    assert judge(predictor, file).similar == []
    assert judge(tiny_predictor(root=str(root)), file).similar == []  # it has not kept its training photos


def test_a_predictor_works_in_any_thread(photos: dict[str, Path]) -> None:
    predictor, found = tiny_predictor(), []
    thread = threading.Thread(target=lambda: found.append(predictor.predict(photos["plain.jpg"])[0].probabilities))
    thread.start()
    thread.join()
    assert torch.equal(found[0], predictor.predict(photos["plain.jpg"])[0].probabilities)


AUDIT = """\
import os, sys

def write_remote(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        address = arguments[1] if event == "socket.connect" else arguments[0]
        host = address[0] if isinstance(address, tuple) else address
        if host not in (None, "127.0.0.1", "localhost", b"127.0.0.1", b"localhost"):
            with open(os.environ["REMOTE"], "a") as file:
                print(event, address, file=file)

sys.addaudithook(write_remote)
"""
"""Lists the addresses elsewhere that a Python program asks for, as its `sitecustomize`."""


def python_path(folder: Path) -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))}


class Tab:
    """A page in a browser, as a visitor sees it."""

    def __init__(self, browser: Any, address: str):
        self.browser, self.address = browser, address
        browser.get(address)
        self.until("document.querySelector('#answer .welcome')")

    def until(self, script: str) -> Any:
        return until(self.browser, script)

    def click(self, name: str) -> None:
        self.browser.find_element("id", name).click()

    def forget(self) -> None:
        """Mark what is shown as the answer to an earlier photo."""
        self.browser.execute_script("for (const e of document.querySelector('#answer').children) e.dataset.old = ''")

    def choose(self, *files: Path) -> None:
        self.forget()
        for file in files:
            self.browser.find_element("id", "choose").send_keys(str(file))

    def hand_over(self, event: str, *files: Path) -> None:
        """Drop or paste files, one right after the other."""
        self.forget()
        contents = [(file.name, base64.b64encode(file.read_bytes()).decode()) for file in files]
        self.browser.execute_script(HAND_OVER, event, contents)

    def answer(self) -> str:
        """Wait for the answer to the last photo, and return its text."""
        new = "document.querySelector('#answer > :not([data-old]) .decision, #answer > .refused:not([data-old])')"
        self.until(f"{new} && !document.getElementById('status').innerText")
        return str(self.browser.execute_script("return document.getElementById('answer').innerText"))

    def probabilities(self) -> dict[str, float]:
        meters = self.browser.find_elements("css selector", "#answer [role=meter]")
        return {m.get_attribute("aria-label"): float(m.get_attribute("aria-valuenow")) for m in meters}

    def requests(self) -> set[str]:
        """Addresses of the requests that the page made."""
        messages = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        sent = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
        return {url for url in sent if not url.startswith(("data:", "blob:"))}


HAND_OVER = """
for (const [name, content] of arguments[1]) {
  const transfer = new DataTransfer(), bytes = Uint8Array.from(atob(content), char => char.charCodeAt(0));
  transfer.items.add(new File([bytes], name));
  const [type, key] = arguments[0] === "drop" ? [DragEvent, "dataTransfer"] : [ClipboardEvent, "clipboardData"];
  document.getElementById("answer").dispatchEvent(
    new type(arguments[0], {[key]: transfer, bubbles: true, cancelable: true}));
}
"""


Started = tuple[subprocess.Popen[str], str, Path]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """Starts a server, and returns its process, its address and the folder of its uploads."""
    started: list[subprocess.Popen[str]] = []

    def start_(*command: str, **options: Any) -> Started:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        uploads = tmp_path / "uploads"
        uploads.mkdir()
        (tmp_path / "sitecustomize.py").write_text(AUDIT)
        environment = {"TMPDIR": str(uploads), "GRADIO_SERVER_PORT": str(port)}
        environment |= {"REMOTE": str(tmp_path / "remote.txt")} | python_path(tmp_path)
        options["env"] = os.environ | offline(tmp_path) | environment | options.get("env", {})
        command = tuple(word.format(port=port) for word in command)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
        started.append(process)
        end = time.monotonic() + 300
        while time.monotonic() < end and process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.2)
        return process, f"http://127.0.0.1:{port}/", uploads

    yield start_
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def browser() -> Iterator[Any]:
    """Chromium with a camera, for which there is no other machine."""
    import_page()
    browser = chromium(
        *("window-size=1100,900", "use-fake-device-for-media-stream", "use-fake-ui-for-media-stream"),
        "host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
        logs=["browser", "performance"],
    )
    yield browser
    browser.quit()


def multipart(file: Path) -> tuple[bytes, dict[str, str]]:
    """The body and headers of a form with a file."""
    head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{file.name}"\r\n\r\n'
    return head.encode() + file.read_bytes() + b"\r\n--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"}


def uploaded(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def check_page(tab: Tab, uploads: Path, predictor: Predictor, files: list[Path], bad: Path) -> None:
    """Check what a visitor sees, that nothing is kept, and that nothing comes from elsewhere."""

    def check_answer(file: Path) -> None:
        expected, _ = predictor.predict(file, n_aug=0)
        (decision,) = expected.decisions
        title = {"unsure": "Unsure", "none": "None of these"}.get(decision, decision)
        text = tab.answer()
        assert text.startswith(f"{title}\n")
        assert ("If it had to choose" in text) == (title != decision)
        found = tab.probabilities()
        np.testing.assert_allclose([found[name] for name in expected.classes], expected.probabilities[0], atol=0.01)
        shares = re.findall(r"^([\d.]+) %$", text, re.MULTILINE)
        assert sum(map(float, shares)) == pytest.approx(100)
        assert tab.until("document.getElementById('shown').naturalWidth")

    refused = "This photo cannot be used: it is not a picture of a known format."
    by_drop, by_paste = (partial(tab.hand_over, event) for event in ("drop", "paste"))
    for by in (tab.choose, by_drop, by_paste):
        for file in files[:3]:  # one after the other, each shown in the place of the last
            by(file)
            check_answer(file)
        by(bad)
        assert tab.answer() == refused
        by(*files, bad, files[0], files[1], files[1])  # as fast as they come: the last is shown
        check_answer(files[1])
    for _ in range(2):
        tab.click("camera")
        tab.until("document.activeElement.id === 'take'")  # the camera is open, and its picture moves
        tab.forget()
        tab.click("take")
        assert "cannot" not in tab.answer()
    large = uploads.parent / "large.jpg"
    with large.open("wb") as file:
        file.truncate(50 * 1024**2 + 1)
    tab.choose(large)
    assert tab.answer() == "This photo cannot be used: it has more than 50 MB."
    post = urllib.request.Request(f"{tab.address}gradio_api/upload", *multipart(large))
    with pytest.raises(urllib.error.HTTPError, match="413"):  # also without the page
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(post)
    end = time.monotonic() + 10
    while uploaded(uploads) and time.monotonic() < end:
        time.sleep(0.1)
    assert uploaded(uploads) == []
    assert all(url.startswith(tab.address) for url in tab.requests())
    assert not (uploads.parent / "remote.txt").exists()
    assert cut_off(tab.browser) == []
    tab.choose(files[0])  # at a zoom of 200 %
    check_answer(files[0])
    assert faults(tab.browser) == []


@pytest.mark.slow
def test_a_run_in_a_browser(
    run_dir: Path, start: Callable[..., Started], browser: Any, photos: dict[str, Path], bad_files: dict[str, Path]
) -> None:
    predictor = Predictor.load(run_dir)
    command = [sys.executable, "-m", "dogscats.demo", f"run={run_dir}", "port={port}"]
    process, address, uploads = start(*command, cwd=REPOSITORY)
    tab = Tab(browser, address)

    check_page(tab, uploads, predictor, [*photos.values()], bad_files["text.jpg"])
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (130, "")
    assert f"Open {address[:-1]} in a browser" in output
    assert list(uploads.iterdir()) == []


@pytest.mark.slow
def test_a_run_that_cannot_be_loaded_ends_the_server(
    run_dir: Path, start: Callable[..., Started], tmp_path: Path
) -> None:
    import_page()
    (tmp_path / "bad.ckpt").write_text("no checkpoint")
    process, _, uploads = start(
        sys.executable, "-m", "dogscats.demo", f"ckpt={tmp_path}/bad.ckpt", "port={port}", cwd=REPOSITORY
    )
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    assert errors.startswith(f"error: {tmp_path}/bad.ckpt: ")
    assert errors.count("\n") == 1
    assert list(uploads.iterdir()) == []
