"""The runtime of the page, ONNX Runtime Web: found or downloaded, and verified; none of it is part of this project."""

import logging
from pathlib import Path

from dogscats.base.content import users_cache
from dogscats.base.errors import UserError, as_user_error
from dogscats.base.files import atomic_path, digest
from dogscats.base.text import home_expanded, setting, shown
from dogscats.data.photos.download import fetch

log = logging.getLogger(__name__)

VERSION = "1.30.0"

SCRIPT, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"

SHA256 = {
    SCRIPT: "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    WASM: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
"""SHA-256 of the files of this version."""

ADDRESS = f"https://cdn.jsdelivr.net/npm/onnxruntime-web@{VERSION}/dist"


def find_runtime(given: str | None) -> Path:
    """Return the folder of the runtime's files: the one that is given, or the user's cache, where they are downloaded.

    Args:
        given: setting `web.runtime`, a folder such as `node_modules/onnxruntime-web/dist`.

    Raises:
        UserError: if a file is missing or another one than expected, or cannot be downloaded.
    """
    if given is not None:
        folder = home_expanded(given)
        for name in SHA256:
            if not (folder / name).is_file():
                raise UserError(f"web.runtime={shown(given)}: there is no {name}. {how_to_get()}")
            if not is_runtime(folder / name):
                raise UserError(f"web.runtime={shown(given)}: {name} is not that of version {VERSION}. {how_to_get()}")
        return folder
    folder = users_cache() / f"onnxruntime-web-{VERSION}"
    with as_user_error(shown(folder), "the runtime of the page cannot be stored there", how_to_get(), OSError):
        folder.mkdir(parents=True, exist_ok=True)
        for name in SHA256:
            if not is_runtime(folder / name):
                download(name, folder / name)
    return folder


def is_runtime(file: Path) -> bool:
    """Return whether a file is the expected one."""
    return file.is_file() and digest(file) == SHA256[file.name]


def download(name: str, file: Path) -> None:
    """Download a file of the runtime.

    Raises:
        UserError: if that fails, or it is another file than expected.
    """
    log.info("Downloading %s/%s", ADDRESS, name)
    with atomic_path(file) as temporary:
        try:
            fetch(f"{ADDRESS}/{name}", temporary)
        except UserError as error:
            reason = str(error).partition("\n")[0].partition(": ")[2]
            raise UserError(f"The runtime of the page, onnxruntime-web {VERSION}: {reason}\n{how_to_get()}") from error
        if (found := digest(temporary)) != SHA256[name]:
            raise UserError(f"{ADDRESS}/{name}: its SHA-256 is {found}, not the expected one. {how_to_get()}")


def how_to_get() -> str:
    """Return the advice to get the runtime by hand."""
    folder = setting("web.runtime", "node_modules/onnxruntime-web/dist")
    return f"Run npm install onnxruntime-web@{VERSION} on a machine with network, and set {folder}."
