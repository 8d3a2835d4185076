"""Serving the page to this machine, or to those that `host=` lets in; settings are checked before torch is imported."""

import errno
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

from dogscats.base.environment import how_to_install, use_utf8
from dogscats.base.errors import UserError, user_errors_exit
from dogscats.base.newest import newest_run
from dogscats.base.rules import SWITCH, Rule, check_values, whole
from dogscats.base.signals import Interrupt, interruptible
from dogscats.base.text import did_you_mean, listed, shown
from dogscats.runs.command_line import check_words
from dogscats.runs.directory import checkpoint_of

GRACE_SECONDS = 2
"""Seconds that open pages get to finish when the server ends."""

RULES: dict[str, Rule] = {
    "run": (bool, "the directory of a run"),
    "ckpt": (bool, "a checkpoint"),
    "host": (bool, "an address of this machine, such as 127.0.0.1, or 0.0.0.0 for all"),
    "port": whole(1, 65535),
    "trust": SWITCH,
}
"""What is expected of each setting."""

HELP = """\
A page in the browser to try a run: drop, paste or take a photo.

python -m dogscats.demo run=<run>            last: the newest finished run
python -m dogscats.demo ckpt=<checkpoint>

host=127.0.0.1   address to listen on; 0.0.0.0 lets other machines in
port=7860        port to listen on
trust=false      true allows a backbone, augmentation or data module from outside dogscats that the run names"""


def main() -> None:
    """Serve the page until Ctrl-C."""
    use_utf8()
    with user_errors_exit(), interruptible():
        serve(sys.argv[1:])


def serve(arguments: Sequence[str]) -> None:
    """Serve the page, then load the run: the page opens at once, and what it asks waits for the run.

    Raises:
        UserError: if a setting is wrong, Gradio is missing, the port is taken, or the run cannot be loaded.
    """
    if {"-h", "--help"} & {*arguments}:
        print(HELP)
        return
    check_words(arguments, options={})
    settings = parse(arguments)
    checkpoint_of(settings.source)
    with listening(settings.host, settings.port) as listener, folder_for_uploads() as uploads:
        # Gradio and the libraries below it send nothing then.
        os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1", DO_NOT_TRACK="1")
        os.environ["GRADIO_TEMP_DIR"] = uploads
        loaded: Future[Any] = Future()
        with serving(application(loaded), listener) as server:
            host = f"[{settings.host}]" if ":" in settings.host else settings.host
            print(f"Open http://{host}:{settings.port} in a browser. Ctrl-C ends.", flush=True)
            try:
                from dogscats.base.console import set_progress
                from dogscats.predict.predictor import Predictor

                set_progress(False)
                predictor = Predictor.load(settings.source, settings.trust)
            except BaseException:
                loaded.cancel()  # lets those go who wait
                raise
            loaded.set_result(predictor)
            print(f"{shown(settings.source)}, classes {listed(predictor.classes)}", flush=True)
            server.join()


@dataclass(frozen=True)
class Settings:
    """Settings of `python -m dogscats.demo`, given as `key=value`.

    Attributes:
        source: run directory or checkpoint.
        host: address to listen on.
        port: port to listen on.
        trust: allow code from outside dogscats that the run names.
    """

    source: str
    host: str
    port: int
    trust: bool


def parse(arguments: Sequence[str]) -> Settings:
    """Parse `key=value` arguments.

    Raises:
        UserError: with the argument and what is expected.
    """
    values: dict[str, Any] = {"host": "127.0.0.1", "port": "7860", "trust": "false"}
    for argument in arguments:
        key, _, text = argument.partition("=")
        if key not in RULES:
            raise UserError(
                f"{argument}: there is no such setting.{did_you_mean(key, RULES)} Give {'=, '.join(RULES)}=."
            )
        values[key] = text
    if values["port"].isdecimal():
        values["port"] = int(values["port"])
    values["trust"] = {"true": True, "false": False}.get(values["trust"], values["trust"])
    check_values(RULES, values)
    if ("run" in values) == ("ckpt" in values):
        raise UserError(
            "Give either run=<run directory>, for example run=outputs/<date>/<time>, or ckpt=<checkpoint>, "
            f"not {'both' if 'run' in values else 'neither'}."
        )
    source = newest_run("run", values["run"]) if "run" in values else values["ckpt"]
    return Settings(str(source), values["host"], values["port"], values["trust"])


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Listen on a port, before anything is imported that takes its time.

    Raises:
        UserError: if that is not possible.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"port={port}: it is in use. Choose another, for example port={port % 65535 + 1}."
            ) from error
        key = f"port={port}" if error.errno == errno.EACCES else f"host={host}"
        raise UserError(f"{key}: it cannot be listened on ({error.strerror}).") from error
    with listener:
        yield listener


@contextmanager
def folder_for_uploads() -> Iterator[str]:
    """Make a folder that is removed at the end, also if the process is stuck then."""
    with tempfile.TemporaryDirectory(prefix="dogscats-demo-", ignore_cleanup_errors=True) as folder:
        Interrupt.farewell = lambda: shutil.rmtree(folder, ignore_errors=True)
        try:
            yield folder
        finally:
            Interrupt.farewell = None


def application(loaded: "Future[Any]") -> Any:
    """Make the web application, whose page waits for the `Predictor` in `loaded`.

    Raises:
        UserError: if Gradio is missing.
    """
    try:
        import gradio
        from fastapi import FastAPI

        from dogscats.predict.demo.demo_page import Verdict, look, make_page
    except ImportError as error:
        raise UserError(f"python -m dogscats.demo needs {error.name}: {how_to_install('demo')}.") from error

    def verdict(file: Path) -> Verdict:
        predictor = loaded.result()
        from dogscats.predict.demo.judge import judge

        return judge(predictor, file)

    page = make_page(verdict, lambda: [shown(name) for name in loaded.result().classes])
    page.has_launched = True  # or else Gradio accepts any file of this machine as an upload
    # Not `launch`, which asks the server for its own page, and thus any proxy between.
    outer = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    return gradio.mount_gradio_app(outer, page, path="/", **look())


@contextmanager
def serving(app: Any, listener: socket.socket) -> Iterator[Thread]:
    """Run the server in a thread of its own: signals are for the main thread."""
    import uvicorn

    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE_SECONDS)
    server = uvicorn.Server(config)
    thread = Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        server.should_exit = True
        thread.join(2 * GRACE_SECONDS)
