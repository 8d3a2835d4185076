"""The page: a photo, and beside it what a classifier says about it.

Photos are not kept: an upload is deleted as soon as its verdict is shown. Nothing on the page comes from elsewhere.
"""

import base64
import io
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder
from PIL import Image

MOST_CLASSES = 10
"""Classes whose probabilities are shown, the most probable ones."""

GONE = "it is no longer there: choose it again"
"""Reason without a file: its verdict has been shown to another visitor, who chose the same photo."""


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


def make_page(judge: Callable[[str], Verdict], classes: Callable[[], Sequence[str]]) -> gr.Blocks:
    """Make the page.

    Args:
        judge: function from the path of an uploaded file to the verdict, which may raise `Refused`.
        classes: function that returns the class names; both are called once the page is open, and may take a while.
    """

    def answer(file: str | None) -> str:
        if file is None:
            return _welcome(classes())
        try:
            return render(judge(file))
        except Refused as error:
            return f'<p class="refused" role="alert">This photo cannot be used: {escape(str(error))}.</p>'

    # Uploads without a verdict, as when a tab is closed, are looked for every 60 s, and deleted if older than 600 s.
    with gr.Blocks(title="Try a photo", analytics_enabled=False, delete_cache=(60, 600)) as page:
        with gr.Row(elem_id="try"):
            with gr.Column(min_width=320):
                photo = gr.Image(
                    sources=["upload", "clipboard", "webcam"],
                    label="Photo",
                    show_label=False,
                    placeholder="Drop a photo here\nor click to choose one",
                    buttons=[],
                    height=420,
                    webcam_options=gr.WebcamOptions(mirror=False),
                    elem_id="photo",
                )
                # The file as it was uploaded: gr.Image would decode it, and refuse what Pillow alone cannot read.
                photo.preprocess = lambda upload: upload and _uploaded(upload.path)
            with gr.Column(min_width=320):
                answered = gr.HTML(elem_id="answer", apply_default_css=False, js_on_load=None)
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}
        page.load(answer, photo, answered, **private)
        shown = photo.change(answer, photo, answered, **private)
        shown.then(_delete, photo, None, **private)  # not before: the browser is still loading its preview
    count_checked = page.validate_inputs

    def check_inputs(function: Any, inputs: list[Any]) -> None:
        count_checked(function, inputs)
        for number, value in enumerate(inputs):
            if value is not None:
                path = _uploaded(value.get("path") if isinstance(value, dict) else None)
                inputs[number] = {"path": path, "meta": {"_type": "gradio.FileData"}}

    # Before `preprocess`, Gradio would copy or download what a request names, or print a traceback.
    page.validate_inputs = check_inputs
    return page


def look() -> dict[str, Any]:
    """Return the arguments of `launch` or `mount_gradio_app`: system fonts, and nothing that is recorded."""
    theme = gr.themes.Default(
        primary_hue="teal",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    return {
        "theme": theme,
        "css_paths": [Path(__file__).with_suffix(".css")],
        "max_file_size": 50 * 1024**2,  # bytes
        "footer_links": [],
        "run_history": False,
    }


def _uploaded(file: Any) -> str:
    """Return the real path of an upload. A request can also name any other file of the server, or an address.

    Raises:
        gr.Error: if it is not in the folder of uploads.
    """
    with suppress(OSError, TypeError, ValueError):  # such as a name that is too long
        path = Path(file).resolve()
        if Path(get_upload_folder()).resolve() in path.parents:
            return str(path)
    raise gr.Error("This photo was not uploaded.", print_exception=False)


def _delete(file: str | None) -> None:
    if file is not None:
        with suppress(OSError):  # gone, a folder, or in one with the same photo by another name
            Path(file).unlink(missing_ok=True)
            Path(file).parent.rmdir()


def _welcome(classes: Sequence[str]) -> str:
    names = [f"<b>{escape(name)}</b>" for name in classes[:MOST_CLASSES]]
    more = f" and {len(classes) - len(names)} more" if len(classes) > len(names) else ""
    return (
        f'<p class="welcome">This classifier knows {", ".join(names)}{more}.<br>'
        "Drop, paste or take a photo. It is not kept.</p>"
    )


def render(verdict: Verdict) -> str:
    """Render a verdict as HTML, with its pictures inside."""
    ranked = sorted(verdict.probabilities.items(), key=lambda item: -item[1])
    name, texts = ranked[0][0], _percents([probability for _, probability in ranked])
    kind, title, why = "certain", name, f"with a probability of {texts[0]}"
    # If a class is called `unsure`, the decision is `(unsure)`.
    word = "" if verdict.decision in verdict.probabilities else (verdict.decision or "").strip("()")
    if word == "unsure":
        kind, title, why = "unsure", "Unsure", f"perhaps {name}"
    elif word == "none":
        kind, title, why = "none", "None of these", "it is unlike any class"
    bars = "".join(_bar(*each, text) for each, text in list(zip(ranked, texts, strict=True))[:MOST_CLASSES])
    rest = len(ranked) - MOST_CLASSES
    more = f'<p class="more">and {rest} less probable ones</p>' if rest > 0 else ""
    return (
        f'<p class="decision {kind}" role="status"><b>{escape(title)}</b> <span>{escape(why)}</span></p>'
        f'<ul class="bars">{bars}</ul>{more}{_pictures("seen", verdict.seen)}'
        + (f"<h2>Most similar training photos</h2>{_pictures('similar', verdict.similar)}" if verdict.similar else "")
    )


def _bar(name: str, probability: float, text: str) -> str:
    return (
        f"<li><span>{escape(name)}</span>"
        f'<span class="bar" role="meter" aria-label="{escape(name)}" aria-valuemin="0" aria-valuemax="1" '
        f'aria-valuenow="{probability:.6f}"><span style="width: {100 * probability:.1f}%"></span></span>'
        f"<span>{text}</span></li>"
    )


def _percents(ranked: Sequence[float]) -> list[str]:
    """As `dogscats.base.text.percents`, which a Space lacks: probabilities that sum to 100.0 %, none of them 100.0."""
    most = 999 if len(ranked) > 1 else 1000
    tenths = [min(int(1000 * probability), most) for probability in ranked]
    by_remainder = sorted(range(len(ranked)), key=lambda number: tenths[number] - 1000 * ranked[number])
    for number in [number for number in by_remainder if tenths[number] < most][: 1000 - sum(tenths)]:
        tenths[number] += 1
    return [f"{tenth / 10:.1f} %" for tenth in tenths]


def _pictures(kind: str, pictures: Sequence[Picture]) -> str:
    figures = "".join(
        f'<figure><img src="{_data_url(picture.image)}" alt="{escape(picture.caption)}">'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
        for picture in pictures
    )
    return f'<div class="pictures {kind}">{figures}</div>' if figures else ""


def _data_url(image: Image.Image) -> str:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
