"""Settings that would change nothing beside the others, such as the recommender's learning rate beside a baseline.

A configuration file may hold them, since it serves models of every kind; who types one expects something of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

OF_ANY_MODEL = frozenset({"model.backbone", "model.revision", "model.quantization", "model.dtype"})
"""Settings of the backbone, whose features of pictures and texts baselines may read."""

PROMPT_DATA = ("prompt", "packing", "max_length", "eval_batch_tokens", "negatives", "balance")
"""Settings of the section `data` that are about prompts."""


def without_effect(names: Iterable[str], settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings that would do nothing, each with the reason and what to do.

    Args:
        names: Dotted names of the settings in question.
        settings: All settings, nested.
    """
    rules = (_beside_a_baseline, _without_a_baseline, _of_another_source, _of_what_is_not_trained)
    found = {}
    for name in names:
        reasons = (rule(name, settings) for rule in rules)
        if (reason := next(filter(None, reasons), None)) is not None:
            found[name] = reason
    return found


def _beside_a_baseline(name: str, settings: Mapping[str, Any]) -> str | None:
    """Settings of the recommender, of prompts and of summaries, which no baseline reads."""
    baseline = settings.get("baseline")
    if not isinstance(baseline, Mapping):
        return None
    section, _, rest = name.partition(".")
    model = str(baseline.get("class_path")).rpartition(".")[2]
    if section == "model" and rest and name not in OF_ANY_MODEL:
        if rest in (baseline.get("init_args") or {}):
            return f"is of the recommender, and {model} does not read it; set baseline.init_args.{rest}"
        return f"is of the recommender, and {model} has nothing of the kind; leave it out"
    if section == "data" and rest.partition(".")[0] in PROMPT_DATA:
        return f"is about prompts, which {model} does not read; leave it out"
    if section == "summaries" and settings.get("summaries", {}).get("variant") != "none":
        return f"is about summaries, which {model} does not read; leave it out"
    return None


def _without_a_baseline(name: str, settings: Mapping[str, Any]) -> str | None:
    """Settings of the features of items, which only baselines read."""
    if settings.get("baseline") is None and name.startswith("item_features."):
        return "is about vectors of items, which only baselines read; leave it out, or choose a baseline"
    return None


def _of_another_source(name: str, settings: Mapping[str, Any]) -> str | None:
    """Settings of `prepare` that the source does not read."""
    section, _, rest = name.partition(".")
    prepare = settings.get("prepare") or {}
    source, first = prepare.get("source"), rest.partition(".")[0]
    if section != "prepare" or source is None:
        return None
    if source == "demo" and first in ("reviews", "metadata", "users", "images", "columns"):
        return "is about raw files, and prepare.source=demo has none; set prepare.source"
    if source != "demo" and first == "demo":
        return f"is about the demo shop, and prepare.source is {source}; leave it out"
    if source not in ("demo", "tables") and first in ("users", "columns"):
        return f"is read with prepare.source=tables only, and it is {source}; leave it out"
    return None


def _of_what_is_not_trained(name: str, settings: Mapping[str, Any]) -> str | None:
    """Settings of training where the recommender is not trained, and of adapters where it has none."""
    model = settings.get("model") or {}
    finetune = model.get("finetune")
    if settings.get("baseline") is not None or finetune not in ("none", "full"):
        return None
    if name.startswith("model.lora."):
        return f"is about adapters, and model.finetune={finetune} has none; set model.finetune to lora"
    if finetune == "none" and name in ("model.lr", "model.weight_decay", "model.warmup_steps", "model.loss_on"):
        return "is about training, and model.finetune=none trains nothing; leave it out"
    return None
