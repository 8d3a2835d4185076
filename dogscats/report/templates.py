"""Templates that the page and the model card of a run are made from."""

from collections.abc import Callable
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from dogscats.base.text import counted, percent
from dogscats.lesson.metrics import final_metrics, loss_text


def number(value: float | None) -> str:
    """Return a temperature or threshold as text; a hyphen for one that is undefined or unknown."""
    return "-" if value is None else f"{value:.6g}"


def capitalised(text: str) -> str:
    """Return a text with a capital letter at its beginning, the others as they are."""
    return text[:1].upper() + text[1:]


def template(name: str, finalize: Callable[[Any], Any], autoescape: bool = False) -> Any:
    """Load a template of this package.

    Its filters write counts (`count`, `counted`), shares (`percent`), losses (`loss`), other numbers and headings. Its
    global `metrics` has the rows of `METRICS` that a run computes.

    Args:
        name: file of the template.
        finalize: function of each value before it is written.
        autoescape: whether values are escaped for HTML.
    """
    return _environment(finalize, autoescape).get_template(name, globals={"metrics": final_metrics()})


@cache
def _environment(finalize: Callable[[Any], Any], autoescape: bool) -> Environment:
    """Make an environment; it keeps the templates that it has compiled, for the next job of a sweep."""
    environment = Environment(
        loader=PackageLoader("dogscats.report", ""),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=finalize,
    )
    environment.filters.update(
        number=number,
        percent=lambda share, n: "-" if share is None else percent(share, n),
        loss=lambda value, n: "-" if value is None else loss_text(value, n),
        count=lambda value: f"{value:,}",
        counted=counted,
        capitalised=capitalised,
    )
    return environment
