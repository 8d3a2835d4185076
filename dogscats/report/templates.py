"""Templates of the page and the model card."""

from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from dogscats.lesson.metrics import final_metrics
from dogscats.report.facts import number


def template(name: str, finalize: Callable[[Any], Any], autoescape: bool = False) -> Any:
    """Load a template of this package, whose filters `number` and `count` write metrics and numbers of photos.

    Its global `metrics` has the rows of `METRICS` that a run computes.

    Args:
        name: file of the template.
        finalize: function of each value before it is written.
        autoescape: whether values are escaped for HTML.
    """
    environment = Environment(
        loader=PackageLoader("dogscats.report", ""),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=finalize,
    )
    environment.filters.update(number=number, count=lambda value: f"{value:,}")
    environment.globals["metrics"] = final_metrics()
    return environment.get_template(name)
