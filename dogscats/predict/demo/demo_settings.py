"""Settings of `python -m dogscats.demo`, as `key=value`, checked before torch is imported."""

from collections.abc import Sequence
from dataclasses import dataclass

from dogscats.base.errors import UserError
from dogscats.base.rules import SWITCH, Rule, whole

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

python -m dogscats.demo run=<run>
python -m dogscats.demo ckpt=<checkpoint>

host=127.0.0.1   address to listen on; 0.0.0.0 lets other machines in
port=7860        port to listen on
trust=false      true allows a backbone, augmentation or data module from outside dogscats that the run names"""


@dataclass(frozen=True)
class Settings:
    """Settings of the page.

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
    values: dict[str, str | int | bool] = {"host": "127.0.0.1", "port": 7860, "trust": False}
    for argument in arguments:
        key, _, text = argument.partition("=")
        if key not in RULES:
            raise UserError(f"{argument}: there is no such setting. Give {'=, '.join(RULES)}=.")
        value = _value(key, text)
        good, expected = RULES[key]
        if not good(value):
            raise UserError(f"{key}={text}: expected {expected}.")
        values[key] = value
    if ("run" in values) == ("ckpt" in values):
        raise UserError(
            "Give either run=<run directory>, for example run=outputs/<date>/<time>, or ckpt=<checkpoint>, "
            f"not {'both' if 'run' in values else 'neither'}."
        )
    host, port = str(values["host"]), int(values["port"])
    return Settings(str(values.get("run", values.get("ckpt"))), host, port, values["trust"] is True)


def _value(key: str, text: str) -> str | int | bool:
    if key == "port" and text.isdecimal():
        return int(text)
    return text == "true" if key == "trust" and text in ("true", "false") else text
