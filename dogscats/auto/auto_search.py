"""The search of `recipe=auto`: each candidate is a kernel head on cached features, cheapest first, while time lasts."""

import logging
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf, open_dict

from dogscats.auto.candidates import (
    SIZES,
    Candidate,
    Plan,
    build_candidate,
    final_passes,
    find_candidates,
    load_photos,
    process_seconds,
)
from dogscats.auto.choice import Kernel, LeftOutTable
from dogscats.auto.fine_tuning import FOLDER, Train, fine_tuned, is_to_take_over, take_over
from dogscats.base.content import cache_folder, stable_seed
from dogscats.base.errors import Failure, UserError, user_message
from dogscats.base.files import read_json, write_csv, write_json
from dogscats.base.text import counted, percent, shown, text_table
from dogscats.data.loading.class_weights import class_weights
from dogscats.data.loading.datamodule import DogsCatsDataModule
from dogscats.data.loading.dataset import PhotoDataset
from dogscats.data.photos.decisions import before_decisions
from dogscats.kernel.kernel_head import KernelHead
from dogscats.lesson.activations import Activations, activation_key
from dogscats.lesson.classifier import Classifier
from dogscats.lesson.metrics import loss_text, wilson_interval
from dogscats.report.facts import AUTO
from dogscats.runs.directory import replace_config
from dogscats.runs.run import Run
from dogscats.runs.settings import seconds_of, set_models
from dogscats.suspects.photo_groups import features_and_groups

log = logging.getLogger(__name__)

COLUMNS = ("candidate", "accuracy", "ci95_low", "ci95_high", "photos", "log_loss", "seconds", "chosen", "note")
"""Columns of `auto.csv`."""

MOST_ROWS = 20
"""Rows of the table on the console."""


def search(run: Run, train: Train) -> Run:
    """Choose network and image size of a run with `recipe=auto`, and write them into its config; all ranks together.

    Nothing is done for other recipes, and for a resumed run that has chosen already.

    Args:
        run: the run.
        train: trains a run that fine-tunes the best network.

    Returns:
        The run to go on with: this one, or the one that was fine-tuned.

    Raises:
        UserError: if no candidate can be built.
    """
    seconds = seconds_of(run.cfg.get("budget"))
    if seconds is None:
        return run
    run.fabric.launch()
    if is_to_take_over(run):
        return take_over(run)
    start = process_seconds()
    size = min([entry.size for entry in run.cfg.get("candidates") or []] or SIZES)
    data = {size: load_photos(run, size=size)}
    candidates = find_candidates(run, data[size])
    plan = Plan(seconds, start, len(data[size].train.paths), final_passes(run, data[size]))
    log.info("Search    %s, %s", counted(len(candidates), "candidate"), f"{seconds:g} s from the start of the command")
    last: Candidate | None = None
    for candidate in candidates:
        if candidate.note:
            continue
        file = _seconds_file(run, candidate, data[size])
        cached = run.fabric.broadcast(file.is_file())
        if last and not run.fabric.broadcast(plan.has_time(candidate, last, process_seconds(), cached)):
            needed = plan.seconds(candidate, last, cached) + plan.after(candidate, last=last)
            candidate.note = f"no time: about {needed:.0f} s with the rest of the run"
            continue
        if candidate.size not in data:
            data[candidate.size] = load_photos(run, size=candidate.size)
        deadline = plan.budget - plan.after(candidate, last=last) if last else float("inf")
        try:
            _try(run, plan, candidate, data[candidate.size], deadline, file)
        except Failure:  # such as a full disk
            raise
        except UserError as error:
            candidate.note = user_message(error) or ""
            log.warning("Left out  %s: %s", candidate.name, candidate.note)
            continue
        last = candidate
    tried = [candidate for candidate in candidates if candidate.seconds is not None]
    if not tried:
        raise UserError("\n".join(dict.fromkeys(candidate.note for candidate in candidates)))
    found = _choose(run, plan, tried) if run.fabric.is_global_zero else None
    choice: Choice = run.fabric.broadcast(found)  # type: ignore[assignment]
    chosen, best = [tried[number] for number in choice.chosen], tried[choice.best]
    better, row = False, dict[str, Any]()
    if choice.kernel.scored.any():
        deadline = plan.budget - plan.after(*chosen, last=chosen[0])
        better, row = fine_tuned(run, plan, best, data[best.size], choice.kernel, deadline, train)
    if run.fabric.is_global_zero:
        _report(run, choice.rows, row, better, candidates)
    if better:
        return take_over(run)
    _configure(run, chosen)
    shutil.rmtree(run.out / FOLDER, ignore_errors=True)
    return run


def _seconds_file(run: Run, candidate: Candidate, data: DogsCatsDataModule) -> Path:
    """Return the path of the file with the seconds of a candidate; it is there once its features are in the cache."""
    photos = PhotoDataset(before_decisions(data.train)[0], data.evaluation, data.seed)
    key = stable_seed(activation_key(None, photos, None), candidate.model, candidate.size)
    return cache_folder(data.root, run.cfg.activations.dir) / f"seconds-{key}.json"


def _try(run: Run, plan: Plan, candidate: Candidate, data: DogsCatsDataModule, deadline: float, file: Path) -> None:
    """Compute the features of a candidate, or read them from the cache, and fit a kernel head.

    Raises:
        UserError: if it cannot be built, or its features are not complete at the deadline.
    """

    def watch() -> None:
        if process_seconds() > deadline:
            raise UserError("no time: it took longer than estimated")
        times.append(time.perf_counter())

    started, times = time.perf_counter(), list[float]()
    body = build_candidate(run, candidate)
    activations = Activations(Classifier(body, data.classes), data, run.fabric, run.cfg.activations.dir)
    features, groups = features_and_groups(activations, run.settings["data"].get("group"), watch)
    began, widths = time.perf_counter(), body.widths(data.size)
    plan.compared.setdefault(candidate.size, began - (times or [began])[-1])
    weights = class_weights(run.settings["class_weights"], data.classes, data.train.labels)
    if run.fabric.is_global_zero:
        candidate.fit = fit = KernelHead.fit(features, data.train.labels, len(data.classes), widths, groups, weights)
        n = int(fit.scored.sum())
        judged = f"right on {percent(fit.accuracy, n)}, log loss {loss_text(fit.log_loss, n)}" if n else "not judged"
        log.info("Tried     %s: %s, %.0f s", candidate.name, judged, time.perf_counter() - started)
    candidate.fit_seconds = time.perf_counter() - began
    per_batch = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0
    measured = [time.perf_counter() - started, per_batch / data.batch_size / run.fabric.world_size]
    with suppress(UserError, TypeError, ValueError):  # of an earlier search, whose features were not cached
        measured = [max(pair) for pair in zip(measured, read_json(file), strict=True)]
    candidate.seconds, candidate.photo_seconds = run.fabric.broadcast(measured)
    if run.fabric.is_global_zero:
        with suppress(Failure):
            write_json(file, measured)


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        chosen: number of the candidate, or of both, larger images first.
        best: number of the best single candidate.
        kernel: what they say of the training photos by leave-one-out.
        rows: rows of `auto.csv` of all that were tried, lowest log loss first.
    """

    chosen: list[int]
    best: int
    kernel: Kernel
    rows: list[dict[str, Any]]


def _choose(run: Run, plan: Plan, tried: list[Candidate]) -> Choice:
    """Choose one or two candidates by leave-one-out."""
    fits = [candidate.fit for candidate in tried if candidate.fit]
    scored = torch.stack([fit.scored for fit in fits]).all(dim=0)
    n, now = int(scored.sum()), process_seconds()
    probabilities = [fit.log_probabilities.exp() for fit in fits]

    def has_time(one: Candidate, other: Candidate) -> bool:
        members = [one] if one is other else [one, other]
        return now + plan.after(*members, last=one) <= plan.budget

    allowed = torch.tensor([[has_time(one, other) for other in tried] for one in tried])
    first, second, note, table = 0, 0, "leave-one-out can judge no photo: the cheapest is taken", None
    if n:
        table = LeftOutTable([each[scored] for each in probabilities], fits[0].labels[scored], fits[0].groups[scored])
        first, second = table.choose(allowed)
        note = f"right on {percent(table.resampled_accuracy(allowed), n)} with the choice resampled"
        if table.loss[first, second].sum() >= table.guessing:
            log.warning(
                "Warning   no network tells the classes apart better than guessing by their frequencies. Look whether "
                "the labels belong to the photos: python evaluate.py run=%s suspects=true",
                shown(run.out),
            )

    def row(*members: int) -> dict[str, Any]:
        pair, found = (members[0], members[-1]), [tried[number] for number in members]
        values: dict[str, Any] = {"candidate": " + ".join(candidate.name for candidate in found)}
        values["seconds"] = round(sum(candidate.seconds or 0.0 for candidate in found), 1)
        if table:
            right = round(table.right[pair].sum().item())
            values |= {"photos": n, "accuracy": right / n, "log_loss": table.loss[pair].sum().item() / n}
            values["ci95_low"], values["ci95_high"] = wilson_interval(right, n)
        return values | ({"chosen": "yes", "note": note} if {*pair} == {first, second} else {})

    rows = [row(number) for number in range(len(tried))]
    rows += [row(first, other) for other in range(len(tried)) if other != first and (allowed[first, other] and n)]
    rows.sort(key=lambda values: values.get("log_loss", 0.0))
    numbers = sorted({first, second}, key=lambda number: -tried[number].size)
    chosen = [tried[number] for number in numbers]
    log.info("\nBest      %s: %s", " + ".join(candidate.name for candidate in chosen), note)
    if now + plan.after(*chosen, last=chosen[0]) > plan.budget:
        log.warning("Warning   the budget of %g s is too short: the run will end later", plan.budget)
    mean = (probabilities[first] + probabilities[second]) / 2
    return Choice(numbers, first, Kernel(mean, scored, fits[0].labels, fits[0].groups), rows)


def _report(
    run: Run, rows: list[dict[str, Any]], tuned: dict[str, Any], taken: bool, candidates: list[Candidate]
) -> None:
    """Write `auto.csv`, and print it.

    Args:
        run: the run.
        rows: rows of the candidates that were tried.
        tuned: row of the fine-tuned network; empty if there is none.
        taken: whether that is taken.
        candidates: all candidates.
    """
    if taken:
        rows = [tuned | {"chosen": "yes"}, *({**values, "chosen": ""} for values in rows)]
    elif tuned:
        rows = [*rows, tuned]
    rows += [{"candidate": candidate.name, "note": candidate.note} for candidate in candidates if candidate.note]
    write_csv(run.out / AUTO, COLUMNS, ([values.get(key, "") for key in COLUMNS] for values in rows))
    lines = [["network", "accuracy", "log loss", "seconds", "note"]]
    for values in rows[:MOST_ROWS]:
        n, metrics = values.get("photos", 0), ["", ""]
        if n:
            metrics = [percent(values["accuracy"], n), loss_text(values["log_loss"], n)]
        lines.append([values["candidate"], *metrics, str(values.get("seconds", "")), values.get("note", "")])
    log.info("\n%s", "\n".join(text_table(lines, left=1)))
    log.info("\nChosen    %s", next(values["candidate"] for values in rows if values.get("chosen")))


def _configure(run: Run, chosen: list[Candidate]) -> None:
    """Write the choice into the config of the run, as if it had been given on the command line."""
    cfg = run.cfg
    with open_dict(cfg):
        cfg.budget = cfg.candidates = None
        cfg.members = [{"model": c.model, "size": c.size} for c in chosen] if len(chosen) > 1 else None
    set_models(cfg, [(candidate.model, candidate.size) for candidate in chosen])
    values: Any = OmegaConf.to_container(cfg, resolve=True)
    changed = {key: values[key] for key in ("model", "members", "budget", "candidates")}
    run.settings |= changed | {"data": run.settings["data"] | {"size": cfg.data.size}}
    if run.fabric.is_global_zero:
        replace_config(cfg, run.out)
    run.fabric.barrier()
