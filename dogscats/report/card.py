"""`MODEL_CARD.md`: a model card in Hugging Face's form, which names no folder of the machine that trained it."""

import re
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from dogscats.base.files import write_text
from dogscats.base.text import shown
from dogscats.base.trust import needs_trust
from dogscats.lesson.metrics import METRICS
from dogscats.reliability.kept import thresholds_text
from dogscats.report.facts import SPLITS, Facts, Result
from dogscats.report.templates import capitalised, template
from dogscats.report.verdict import verdict

FILE = "MODEL_CARD.md"

MOST_CLASSES = 100
"""Classes in the table; the metadata of `model.safetensors` names all."""

SAME_WEIGHTS = {"dogscats.resnet34": "timm/resnet34.tv_in1k"}
"""Hugging Face's names of backbones whose `weights=imagenet` are downloaded from elsewhere."""


def write_card(run_dir: Path) -> Path:
    """Write the model card of a finished run.

    Args:
        run_dir: run directory.

    Returns:
        The card.
    """
    facts = Facts(run_dir)
    metadata = yaml.safe_dump(_metadata(facts), sort_keys=False, allow_unicode=True, width=1000)
    body = template("card.md", markdown).render(
        facts=facts,
        verdict=verdict(facts),
        splits=SPLITS,
        most=MOST_CLASSES,
        trust=bool(needs_trust([facts.config["model"], facts.config["augment"]])),
        base=base_model(facts.config["model"]),
        thresholds_text=thresholds_text,
    )
    write_text(run_dir / FILE, f"---\n{metadata}---\n\n{body}\n")
    return run_dir / FILE


def base_model(model: dict[str, Any]) -> str | None:
    """Return Hugging Face's name of the network that was fine-tuned; `None` if it is not known.

    Args:
        model: config group `model`.
    """
    if model.get("weights") != "imagenet":
        return None
    if model["_target_"] != "dogscats.timm_backbone":
        return SAME_WEIGHTS.get(model["_target_"])
    import timm  # of a run with a network of timm

    config = timm.get_pretrained_cfg(model["name"])
    return str(config.hf_hub_id) if config and config.hf_hub_id else None


def _metadata(facts: Facts) -> dict[str, Any]:
    """Return the YAML block: licence and language are left to whoever publishes the model."""
    base, name = base_model(facts.config["model"]), shown(facts.data_name)
    kind = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "photos"
    results = {result.split: result for result in facts.results}  # the last of each split: with TTA if it ran
    evaluations = [
        {
            "task": {"type": "image-classification", "name": "Image classification"},
            "dataset": {"type": kind, "name": name, "split": SPLITS[split]},
            "metrics": _metrics(result),
        }
        for split, result in results.items()
    ]
    return {
        "library_name": "dogscats",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "pytorch", "dogscats"],
        **({"base_model": base, "base_model_relation": "finetune"} if base else {}),
        "model-index": [{"name": shown(f"{facts.model_name}-{facts.data_name}"), "results": evaluations}],
    }


def _metrics(result: Result) -> list[dict[str, Any]]:
    found = []
    for metric in METRICS:
        kind, title = metric.card or (metric.evaluated_as or metric.key, capitalised(metric.title))
        if (value := result.values.get(metric.key)) is not None:
            found.append({"type": kind, "value": round(value, 6), "name": title})
    return found


def markdown(value: Any) -> Any:
    """Return text as Markdown that shows it as it is: a name cannot end a table's cell, or become a formula or HTML."""
    return re.sub(r"([\\`*_\[\]<>|$~#&])", r"\\\1", shown(value)) if isinstance(value, str) else value
