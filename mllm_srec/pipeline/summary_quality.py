"""Checks what a stage wrote: `summaries/<stage>/quality.json`, and the same for the terminal."""

from __future__ import annotations

import json
from typing import Any

import polars as pl

from mllm_srec.models.clip import clip_similarity
from mllm_srec.pipeline.summary_inputs import SummaryInputs
from mllm_srec.pipeline.summary_plan import SummaryPlan
from mllm_srec.reports.summaries import print_quality
from mllm_srec.summaries.demo_quality import demo_quality
from mllm_srec.summaries.quality import Number, text_quality, title_leaks, unchanged
from mllm_srec.summaries.settings import STAGES, Stage


def check_quality(plan: SummaryPlan, stage: Stage, table: pl.DataFrame) -> dict[str, Any]:
    """Measure, save and print.

    Args:
        plan: What was asked of which model.
        stage: What was written.
        table: Its view.

    Returns:
        Content of `quality.json`.
    """
    part = plan.plan(stage)
    texts = text_quality(table, part.prompt)
    numbers: dict[str, Any] = dict(texts.numbers)
    examples = dict(texts.examples)
    if stage == "preference":
        leaks = title_leaks(table, plan.data)
        numbers |= unchanged(table) | leaks.numbers
        examples |= leaks.examples
    numbers |= demo_quality(stage, table, plan.data, plan.settings.modality)
    if stage == "image" and plan.settings.clip:
        numbers |= _clip(plan, table)
    about = {"view": plan.view(stage), "backbone": part.info.name, "random_backbone": part.info.random_weights}
    content = {**about, **numbers}
    (plan.folder(stage) / "quality.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print_quality(stage, numbers, examples)
    if part.info.random_weights:
        print(f"the {stage} summaries were written by a model of random weights: they say nothing", flush=True)
    return content


ACCURACIES: dict[Stage, str] = {
    "image": "attribute_accuracy",
    "item": "attribute_accuracy",
    "preference": "current_taste_accuracy",
}
"""The number that judges a stage on the demo shop."""


def summary_accuracy(plan: SummaryPlan) -> dict[str, float]:
    """How right a plan's summaries are: `image/attribute_accuracy` and so on; empty where no truth is known.

    Args:
        plan: Its stages have been written.
    """
    found = {}
    for stage in (stage for stage in STAGES if stage in plan.parts):
        quality = demo_quality(stage, SummaryInputs(plan).table(stage), plan.data, plan.settings.modality)
        if (value := quality.get(ACCURACIES[stage])) is not None:
            found[f"{stage}/{ACCURACIES[stage]}"] = float(value)
    return found


def summary_tokens(plan: SummaryPlan) -> int:
    """Tokens of all summaries of a plan, the early ones that others were written from included.

    Args:
        plan: Its stages have been written.
    """
    inputs = SummaryInputs(plan)
    return sum(int(inputs.table(part)["n_tokens"].sum()) for part in plan.parts)


def _clip(plan: SummaryPlan, table: pl.DataFrame) -> dict[str, Number]:
    """Mean CLIP similarities of image summaries with titles (the article's hallucination score) and pictures."""
    items = table.join(plan.data.items.select("item_id", "title"), on="item_id", how="left", maintain_order="left")
    images = plan.images
    keys = [images.picture_of(item_id) if images else None for item_id in items["item_id"]]
    pictures = [images.pixels(key) if images and key else None for key in keys]
    found = clip_similarity(str(plan.settings.clip), None, items["text"].to_list(), items["title"].to_list(), pictures)
    return found.numbers()
