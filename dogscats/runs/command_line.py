"""Command lines as people type them: hints for slips, `last` for the newest run, and keys that do not exist."""

import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from difflib import get_close_matches
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from dogscats.base.environment import CONF
from dogscats.base.errors import UserError, user_message
from dogscats.base.newest import newest_run
from dogscats.base.text import hydra_text, setting, shown_lines
from dogscats.lesson.stage import Stage
from dogscats.runs.directory import PATH_SETTINGS, empty_folders_removed
from dogscats.runs.settings import check_settings

OPEN_GROUPS = ("callbacks", "logger", "trainer")
"""Groups that take any key: what each builds refuses those that it does not know."""

SETTING = re.compile(r"\+{0,2}[\w./@:-]+=")
"""Start of a setting."""

WINDOWS_PATH = re.compile(r"[A-Za-z]:\\|\\\\\w")
"""Start of a path of Windows."""

STRIPPED_PATH = re.compile(r"[A-Za-z]:\w")
"""Start of one whose backslashes the shell has dropped, in one of `PATHS`."""

PARSER = OverridesParser.create()

PATHS = (*PATH_SETTINGS, "run", "ckpt", "resume", "predict", "label", "data.labels")


@contextmanager
def helpful_command_line() -> Iterator[None]:
    """Say what to type instead of arguments that Hydra does not understand, and replace `last` by the newest run.

    `sys.argv` is changed, so that all jobs of a sweep and all ranks work with the same run.

    Raises:
        UserError: for such an argument, or if there is no such run.
    """
    actions = get_args_parser()._actions
    check_words(sys.argv[1:], {name: action.nargs != 0 for action in actions for name in action.option_strings})
    words = [_with_newest_run(word) for word in sys.argv[1:]]
    sys.argv[1:] = sorted(words, key=lambda word: word not in ("-m", "--multirun"))  # Hydra takes it only in front
    try:
        with empty_folders_removed():
            yield
    except HydraException as error:
        if message := _composition_message(error):
            raise UserError(message) from error
        raise


def check_words(words: Sequence[str], options: Mapping[str, bool]) -> None:
    """Refuse arguments that are not `key=value`, with the likely intention.

    Args:
        words: arguments of a command.
        options: its options, such as `--help`, and whether each takes a value.

    Raises:
        UserError: for an option that does not exist, text with spaces that is not quoted, or a Windows path.
    """
    rest = iter(enumerate(words))
    for place, word in rest:
        name, equals, value = word.partition("=")
        if word.startswith("-"):
            takes = next((takes for option, takes in options.items() if _abbreviates(name, option)), None)
            if takes is None or (equals and not takes):
                given = value or " ".join(words[place + 1 : place + 2]) or "<value>"
                raise UserError(f"{word}: settings have no dashes: {_quoted(name.lstrip('-'), given)}")
            if takes and not equals:
                next(rest, None)
        elif not word.startswith("~") and not SETTING.match(word):
            raise UserError(_stray(words, place))
        elif re.search(r"(?:^|\.)\d+[^\W\d]", key := name.lstrip("+~")):  # Hydra reads no such key
            raise UserError(_no_such_setting(key, _defaults()))
        elif os.name != "nt" and _is_windows_path(name, value):
            forward = _quoted(name, value.replace("\\", "/"))
            raise UserError(f"{word}: write a Windows path with forward slashes, {forward}, and in WSL as /mnt/c/...")


def _is_windows_path(name: str, value: str) -> bool:
    alike = WINDOWS_PATH.match(value) or (name in PATHS and STRIPPED_PATH.match(value))
    return bool(alike) and not Path(value).exists()


def _abbreviates(name: str, option: str) -> bool:
    return name == option or (name.startswith("--") and len(name) > 2 and option.startswith(name))


def _stray(words: Sequence[str], place: int) -> str:
    """Say what is wrong with a word that is no setting: most often it belongs to the one before."""
    follows = place and SETTING.match(words[place - 1]) and words[place + 1 : place + 2] != ["="]
    first = place - 1 if follows else place
    end = next((n for n in range(place + 1, len(words)) if SETTING.match(words[n])), len(words))
    key, equals, value = " ".join(words[first:end]).partition("=")
    if not equals or not key.strip():
        return f"{words[place]}: it is no setting, which is written <key>=<value>; --help lists them."
    typed = _quoted(key.strip(), value.strip())
    return f"{words[place]}: it is no setting. Write one without spaces around =, and with spaces in quotes: {typed}"


def _quoted(key: str, value: str) -> str:
    """Return `key=value` for the shell; text with spaces is quoted for Hydra, too."""
    plain = value[:1] in ("{", "[", "<") or re.fullmatch(r"[\w.,:/+*-]+", value)
    return shlex.quote(f"{key}={value}") if plain else setting(key, value)


def _with_newest_run(word: str) -> str:
    """Replace `last` in `run=last`, `load=last` and `resume=last`, also where it is one value of a sweep."""
    if not (found := re.fullmatch(r"(\+*(run|load|resume)=)(.*)", word)):
        return word
    start, key, values = found.groups()
    return start + re.sub(r"(?<![^,])last(?![^,])", lambda _: hydra_text(newest_run(key)), values)


def _plain(config: Any) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(config, resolve=False)
    return plain if isinstance(plain, dict) else {}


def _defaults() -> dict[str, Any]:
    """Compose the config of this command as it is without arguments; empty for a command that has none."""
    name = Path(sys.argv[0]).stem
    if not (CONF / f"{name}.yaml").is_file():
        return {}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return _plain(compose(name))


def _composition_message(error: Exception) -> str | None:
    """Make the message for a key or a choice that does not exist."""
    text = str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        options = error.options or sorted(file.stem for file in (CONF / group).glob("*.yaml"))
        return _no_choice(group, name, options) if group else None
    if not isinstance(error, ConfigCompositionException):
        return None
    if there := re.match(r"(?:Could not append.* already at '|Multiple values for )([^']*?)(?:'|\. To )", text):
        return f"+{there[1]}: it is there already; drop the +."
    if unknown := re.match(r"Could not (?:override|delete from config\.) '([^']*)'", text):
        key, node = unknown[1], getattr(error.__cause__, "parent_node", None)
        config = _defaults() if node is None else _plain(node._get_root())
        several = [word for word in sys.argv[1:] if word.startswith(f"{key}={{")]  # `data={rot: 5}`
        given = [each for word in several for each in _keys(PARSER.parse_override(word).value(), f"{key}.")]
        return _no_such_setting(next((each for each in given if each not in _keys(config)), key), config)
    return None


def _no_choice(group: str, name: str, options: Sequence[str]) -> str:
    """Make the message for a choice that a config group does not have."""
    is_model = group == "model"  # the names of networks are alike
    similar = [f"{group}={choice}" for choice in get_close_matches(name, options, 1, 0.8 if is_model else 0.6)]
    similar += [f"model=timm {_quoted('model.name', name)}"] if is_model else []
    hint = f" Did you mean {' or '.join(similar)}?" if similar else ""
    return f"{group}={name}: there is no such choice.{hint} Choose from {', '.join(sorted(options))}."


def _no_such_setting(key: str, config: Mapping[str, Any]) -> str:
    """Make the message for a dotted key that nothing in a composed config takes, with similar ones."""
    group, _, name = key.rpartition(".")
    settings = {first: node for first, node in config.items() if (first == "hydra") is key.startswith("hydra.")}
    names = [known for known in _keys(settings) if not f"{known}.".startswith(f"{key}.")]
    if re.fullmatch(r"recipe\.[^.]+", group) and group in names:
        stage, taken = settings["recipe"][group.partition(".")[2]], [field.name for field in fields(Stage)[1:]]
        if name == "epochs" and stage.get("cycles"):
            return f"{key}: the stage has cycles. Set the length of the first, {group}.cycle_len=<epochs>."
        if name in taken:
            return f"{key}: the recipe does not set it; +{key}=<value> does."
        names += [f"{group}.{known}" for known in taken]
    by_weights = {f"recipe.{stage}": node.get("save") for stage, node in (settings.get("recipe") or {}).items()}
    if named := next((stage for stage, save in by_weights.items() if save and key.split(".")[1:2] == [save]), ""):
        return f"{key}: {by_weights[named]} are the weights of a stage, whose settings are {named}.<setting>."
    if group == "trainer":
        from pytorch_lightning import Trainer  # takes seconds

        names += [f"trainer.{known}" for known in signature(Trainer).parameters]
    last = {known.rpartition(".")[2]: known for known in reversed(names)}
    same = [known for known in names if known.rpartition(".")[2] == name]
    alike = get_close_matches(key, names, 1) or [last[known] for known in get_close_matches(name, last, 1)]
    close = get_close_matches(key, names, 1, 0.85)
    meant = [known for known in close or same[:3] or alike if known != key]
    similar = f" Did you mean {' or '.join(meant)}?" if meant else ""
    may_be_added = key.startswith(tuple(f"{name}." for name in OPEN_GROUPS)) and close in ([], [key])
    adds = f" +{key}=<value> adds it." if may_be_added else ""
    return f"{key}: there is no such setting.{similar}{adds} --help lists the first ones, --cfg job all."


def _keys(node: Any, prefix: str = "") -> list[str]:
    """List the dotted keys of nested dicts."""
    if not isinstance(node, dict):
        return []
    return [full for key, value in node.items() for full in (f"{prefix}{key}", *_keys(value, f"{prefix}{key}."))]


class KnownKeys(Callback):
    """Refuses keys that nothing takes, before any folder is made: Hydra adds whatever is given with `+`.

    `OPEN_GROUPS`, `hydra`, and what has a `_target_` take any key; their arguments are checked when they are built. A
    recipe takes any stage, and checks its keys.

    Args:
        config: `train` or `evaluate`, whose file in `conf/` has the keys.
    """

    def __init__(self, config: str):
        self.config = config

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the config of a single run."""
        try:
            self._check_keys(config)
        except UserError as error:  # Hydra would go on with a warning
            raise SystemExit(f"error: {error}") from error

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the config of every job of a sweep, before the first one starts.

        Raises:
            SystemExit: with the number of a job, what is swept, and what is wrong.
        """
        jobs, before = job_overrides(config), HydraConfig.instance().cfg
        same = set[str]().union(*jobs).intersection(*jobs)
        for number, overrides in enumerate(jobs):
            try:
                self._check_job(config, number, overrides)
            except Exception as error:
                if (message := _composition_message(error) or user_message(error)) is None:
                    raise
                swept = " ".join(override for override in overrides if override not in same)
                raise SystemExit(f"error: {f'job {number}, {swept}: ' * bool(swept)}{shown_lines(message)}") from error
            finally:
                HydraConfig.instance().cfg = before

    def _check_keys(self, config: DictConfig) -> None:
        composed = _plain(config)
        for key in _undeclared(composed, _declared(self.config)):
            raise UserError(_no_such_setting(key, composed))

    def _check_job(self, config: DictConfig, number: int, overrides: list[str]) -> None:
        job = GlobalHydra.instance().config_loader().load_sweep_config(config, overrides)
        self._check_keys(job)
        if self.config == "train":
            with open_dict(job):  # as Hydra does before it runs the job
                job.hydra.job.num = number
                job.hydra.runtime.output_dir = str(Path(job.hydra.sweep.dir) / job.hydra.sweep.subdir)
            HydraConfig.instance().set_config(job)
            check_settings(job, here=job.hydra.runtime.choices["hydra/launcher"] in ("basic", "joblib"))
        from dogscats.runs.compose import check_nodes  # imports torch, which takes seconds

        check_nodes(job)


def job_overrides(config: DictConfig) -> list[list[str]]:
    """List the overrides of each job of a sweep; of the first alone if an optimizer chooses those of the others."""
    hydra = config.hydra
    given = [f"{key}={value}" for key, value in (hydra.sweeper.get("params") or {}).items()]
    parser = OverridesParser.create(GlobalHydra.instance().config_loader())
    parsed = parser.parse_overrides([*given, *hydra.overrides.task])
    known = [typed for typed in parsed if typed.is_discrete_sweep() or not typed.is_sweep_override()]
    (jobs,) = BasicSweeper.split_arguments(known, None)
    return jobs if hydra.runtime.choices["hydra/sweeper"] == "basic" else jobs[:1]


@cache
def _declared(name: str) -> dict[str, Any]:
    """Read the keys of a command from its file in `conf/`."""
    declared = _plain(OmegaConf.load(CONF / f"{name}.yaml"))
    groups = [group for default in declared.pop("defaults") if isinstance(default, dict) for group in default]
    return declared | dict.fromkeys(groups) | {"hydra": None}


def _undeclared(config: Mapping[str, Any], declared: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in config.items():
        if key not in declared:
            yield f"{prefix}{key}"
        elif isinstance(declared[key], Mapping) and isinstance(value, Mapping):
            yield from _undeclared(value, declared[key], f"{prefix}{key}.")
