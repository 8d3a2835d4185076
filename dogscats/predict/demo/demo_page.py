"""The page: a photo, and beside it what a classifier says about it.

Photos are not kept: an upload is deleted with its verdict. Nothing on the page comes from elsewhere.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder
from PIL import Image

from dogscats.base.pages.static_page import SCRIPT, STYLE, jpeg_url

HTML, CSS, JS = (Path(__file__).with_suffix(f".{ending}") for ending in ("html", "css", "js"))

MOST_BYTES = 50 * 1024**2
"""Largest size of a photo."""


class Refused(Exception):
    """A photo without a verdict; the message is the reason."""


@dataclass(frozen=True)
class Picture:
    """A picture and its caption."""

    image: Image.Image
    caption: str


@dataclass(frozen=True)
class Verdict:
    """What a classifier says about a photo.

    Attributes:
        probabilities: probability of each class, by its name.
        decision: name of the class, `unsure`, or `none` for a photo unlike any class, the latter in parentheses if a
            class is called so; `None` if the classifier does not decide.
        seen: pictures of what the network sees, and where.
        similar: the most similar training photos.
    """

    probabilities: dict[str, float]
    decision: str | None = None
    seen: Sequence[Picture] = ()
    similar: Sequence[Picture] = ()


def make_page(judge: Callable[[Path], Verdict], classes: Callable[[], Sequence[str]]) -> gr.Blocks:
    """Make the page: one component of our own, for which Gradio uploads photos and calls functions.

    Args:
        judge: function from an uploaded file to the verdict, which may raise `Refused`.
        classes: function that returns the class names; both are called once the page is open, and may take a while.
    """
    one_at_a_time = Lock()

    def judge_upload(path: Any) -> dict[str, Any]:
        file = uploaded(path)
        if file is None:
            return {"refused": "it was not uploaded"}
        try:
            with one_at_a_time:
                return answer(judge(file))
        except Refused as error:
            return {"refused": str(error)} if file.exists() else {"gone": True}
        finally:
            _delete(file)

    def class_names(_: None) -> list[str]:
        return list(classes())

    style, script = (
        "".join(file.read_text(encoding="utf-8") for file in files) for files in ((STYLE, CSS), (SCRIPT, JS))
    )
    judge_upload.__name__, class_names.__name__ = "judge", "classes"
    # Uploads without a verdict, as when a tab is closed, are looked for every 60 s, and deleted if older than 600 s.
    with gr.Blocks(title="Try a photo", analytics_enabled=False, delete_cache=(60, 600)) as page:
        gr.HTML(
            f"<style>{style}</style>{HTML.read_text(encoding='utf-8')}",  # behind the style sheets of Gradio
            js_on_load=script,
            server_functions=[judge_upload, class_names],
            elem_id="demo",
            apply_default_css=False,
            most_bytes=MOST_BYTES,
        )
    return page


def look() -> dict[str, Any]:
    """Return the arguments of `launch` or `mount_gradio_app`: system fonts, and nothing that is recorded."""
    return {
        "theme": gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        "max_file_size": MOST_BYTES,
        "footer_links": [],
        "run_history": False,
    }


def uploaded(path: Any) -> Path | None:
    """Return the real path of an upload; `None` for any other file of the server, which a request can also name."""
    with suppress(OSError, TypeError, ValueError):  # such as a name that is too long
        file = Path(path).resolve()
        if Path(get_upload_folder()).resolve() in file.parents and not file.is_dir():
            return file
    return None


def _delete(file: Path) -> None:
    with suppress(OSError):  # gone, or in a folder with the same photo by another name
        file.unlink(missing_ok=True)
        file.parent.rmdir()


def answer(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as `verdict` in `pages.js` takes it, and its pictures with `src` and `caption`."""
    seen, similar = (
        [{"src": jpeg_url(picture.image, 85), "caption": picture.caption} for picture in pictures]
        for pictures in (verdict.seen, verdict.similar)
    )
    return {
        "classes": [*verdict.probabilities],
        "probabilities": [*verdict.probabilities.values()],
        "decision": verdict.decision,
        "seen": seen,
        "similar": similar,
    }
