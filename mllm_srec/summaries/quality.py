"""The quality of one stage: text checks, accuracy on the demo shop and CLIP similarity, saved as `quality.json`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl

from mllm_srec.files.atomic import write_json
from mllm_srec.models.backbone_files import foreign_note
from mllm_srec.models.clip import clip_similarity
from mllm_srec.summaries.demo_quality import demo_quality
from mllm_srec.summaries.inputs import SummaryInputs
from mllm_srec.summaries.plan import SummaryPlan
from mllm_srec.summaries.settings import PARTS, STAGES, Stage
from mllm_srec.summaries.text_quality import Number, find_doubts, text_quality, title_leaks, unchanged

OnChecked = Callable[[Stage, Mapping[str, Any], Mapping[str, Sequence[str]], bool, Sequence[str]], None]
"""Receives a stage, its numbers, examples of faulty texts, True if its model is untrained, and sentences of doubt."""


def check_quality(
    plan: SummaryPlan, stage: Stage, table: pl.DataFrame, on_checked: OnChecked | None = None
) -> dict[str, Any]:
    """Measure the summaries of a stage, save the numbers as `quality.json` and hand them to `on_checked`.

    Args:
        plan: Plan by which they were written.
        stage: Stage that wrote them.
        table: Table of the stage.
        on_checked: Receiver of the numbers, which may show them.

    Returns:
        Content of `quality.json`.
    """
    part = plan.plan(stage)
    texts = text_quality(table, part.prompt)
    numbers: dict[str, Any] = dict(texts.numbers)
    examples = dict(texts.examples)
    if PARTS[stage].subject == "user":
        leaks = title_leaks(table, plan.data)
        numbers |= unchanged(table) | leaks.numbers
        if plan.windows_left_out[0]:
            numbers |= dict(zip(("n_chains_cut", "n_windows_left_out"), plan.windows_left_out, strict=True))
        examples |= leaks.examples
    numbers |= demo_quality(stage, table, plan.data, plan.settings.modality)
    if PARTS[stage].reads == "picture" and plan.settings.clip:
        numbers |= _clip(plan, table)
    about = {"view": plan.view(stage), "backbone": part.info.name, "random_backbone": part.info.random_weights}
    foreign = foreign_note(part.info, plan.data.manifest["prepare"]["source"])
    doubts = [*([foreign] if foreign else []), *find_doubts(table, texts.numbers)]
    content = {**about, **numbers, **({"doubts": doubts} if doubts else {})}
    write_json(content, plan.folder(stage) / "quality.json")
    if on_checked is not None:
        on_checked(stage, numbers, examples, part.info.random_weights, doubts)
    return content


def summary_accuracy(plan: SummaryPlan) -> dict[str, float]:
    """Return the accuracy of each stage, such as `image/attribute_accuracy`; empty where the truth is not known.

    Args:
        plan: Plan whose stages have been written.
    """
    accuracies = {}
    for stage in (stage for stage in STAGES if stage in plan.parts):
        name = PARTS[stage].accuracy
        numbers = demo_quality(stage, SummaryInputs(plan).table(stage), plan.data, plan.settings.modality)
        if (value := numbers.get(name)) is not None:
            accuracies[f"{stage}/{name}"] = float(value)
    return accuracies


def summary_tokens(plan: SummaryPlan) -> int:
    """Return the number of tokens of all summaries, earlier steps of preference chains included.

    Args:
        plan: Plan whose stages have been written.
    """
    inputs = SummaryInputs(plan)
    return sum(int(inputs.table(part)["n_tokens"].sum()) for part in plan.parts)


def _clip(plan: SummaryPlan, table: pl.DataFrame) -> dict[str, Number]:
    """Return mean CLIP similarities of image summaries with titles (the article's hallucination score) and pictures."""
    items = table.join(plan.data.items.select("item_id", "title"), on="item_id", how="left", maintain_order="left")
    images = plan.images
    keys = [images.picture_of(item_id) if images else None for item_id in items["item_id"]]
    pictures = [images.pixels(key) if images and key else None for key in keys]
    texts, titles = items["text"].to_list(), items["title"].to_list()
    return clip_similarity(str(plan.settings.clip), None, texts, titles, pictures).numbers()
