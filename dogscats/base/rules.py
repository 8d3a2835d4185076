"""Normalized settings, and rules for their values. Free of torch, to be checked before its import."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from dogscats.base.errors import UserError
from dogscats.base.trust import use_current_names

Rule = tuple[Callable[[Any], bool], str]
"""Condition, and the expected values in words, for an error message."""


def whole(least: int, most: int | None = None) -> Rule:
    """Make the rule for a whole number, which `true` is not."""
    limit = "" if most is None else f" and at most {most}"

    def good(value: Any) -> bool:
        number = isinstance(value, int) and not isinstance(value, bool)
        return number and least <= value and (most is None or value <= most)

    return good, f"a whole number of at least {least}{limit}"


def one_of(*choices: Any) -> Rule:
    """Make the rule for one of a few values."""
    *others, last = map(str, choices)
    return lambda value: value in choices, f"{', '.join(others)} or {last}" if others else last


def is_number(value: Any) -> bool:
    """Return whether a value is a number, which `true` is not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def or_none(rule: Rule) -> Rule:
    """Make a rule that `None` meets too."""
    good, expected = rule
    return lambda value: value is None or good(value), expected


def check_values(
    rules: Mapping[str, Rule],
    values: Mapping[str, Any],
    prefix: str = "",
    raises: Callable[[str], BaseException] = UserError,
) -> None:
    """Refuse values that break a rule; those without a rule, and rules without a value, are skipped.

    Args:
        rules: rule of each key.
        values: values by key.
        prefix: text before the key in the message, such as `trainer.`.
        raises: class of the error, or a function that makes it from the message.

    Raises:
        UserError: or what `raises` makes, with the key, its value and what is expected.
    """
    for key, (good, expected) in rules.items():
        if key in values and not good(values[key]):
            raise raises(f"{prefix}{key}={values[key]}: expected {expected}.")


SHARE: Rule = (
    lambda value: is_number(value) and 0 < value <= 1,
    "the share of validation photos that are classified, above 0 and at most 1",
)

SWITCH: Rule = (lambda value: isinstance(value, bool), "true or false")

TEXT_SETTINGS = (
    *("data.root", "data.cache_dir", "data.url", "data.labels", "data.extension", "data.group", "data.decisions"),
    *("activations.dir", "model.weights", "model.name", "load", "resume"),
    *("run", "ckpt", "predict", "label", "split", "optimized_metric"),
)
"""Settings that are names or paths, even if they look like a number: `data.root=2024`."""


def values_by_key(overrides: Iterable[object]) -> dict[str, str]:
    """Split overrides `<key>=<value>`."""
    return dict(text.split("=", 1) for text in map(str, overrides) if "=" in text)


def normalize(cfg: DictConfig) -> None:
    """Turn names that Hydra read as numbers back into text, and former names of targets into current ones, in place."""
    use_current_names(cfg)
    typed = values_by_key(HydraConfig.get().overrides.task)
    for key in TEXT_SETTINGS:
        *groups, name = key.split(".")
        node = cfg
        for group in groups:
            node = node.get(group) if isinstance(node, DictConfig) else None
        if isinstance(node, DictConfig) and not isinstance(node.get(name), str | None):
            with open_dict(node):
                node[name] = typed.get(key, typed.get(f"+{key}", str(node[name]))).strip()
