"""What results are compared with: chance and, where the data set knows the truth, its ceilings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import torch

from mllm_srec.data.examples import GroupExamples
from mllm_srec.data.hashing import text_hash
from mllm_srec.data.prompt_datamodule import PromptDataModule
from mllm_srec.metrics.ranking import PairAUC, RankingMetrics
from mllm_srec.types import Split

CEILINGS = "ceilings.parquet"

CEILINGS_NOTE = (
    "ceilings: the oracle knows each user's taste, the reader draws every conclusion that the visible history allows; "
    "both see of an item what stands below"
)
"""Explains the columns that `references` adds on the demo shop."""


def protocol(
    datamodule: PromptDataModule, split: Split, score: str, checkpoint: str | None, fitting: bool = False
) -> dict[str, Any]:
    """What the numbers are measured with; two runs are comparable only where all of this is equal.

    Args:
        datamodule: The data, and how prompts are made of them.
        split: Split that is measured.
        score: Kind of score of the model.
        checkpoint: File name of the weights within the run; None for weights as loaded.
        fitting: Measured by `fit`, which has a limit of groups of its own.
    """
    max_groups = datamodule.max_eval_groups if fitting else datamodule.max_test_groups
    return {
        "evaluator": f"sampled@{datamodule.n_negatives}",
        "candidates_hash": datamodule.data.candidates_hash,
        "m": datamodule.n_negatives,
        "max_groups": max_groups,
        "groups_seed": None if max_groups is None else datamodule.seed,
        "split": split,
        "ties": "expected",
        "score": score,
        "prompt": prompt_label(datamodule),
        "checkpoint": checkpoint,
    }


def prompt_label(datamodule: PromptDataModule) -> str:
    """Version and settings of the prompt, short: `table1-article-v1/5f2c81ab`."""
    pictures = replace(datamodule.pictures, serve="none" if datamodule.pictures.serve == "none" else "pixels")
    summaries = datamodule.summaries.identity if datamodule.summaries else None
    settings = repr((datamodule.prompt, datamodule.max_length, pictures, summaries))  # features give what pixels do
    return f"{datamodule.prompt.version}/{text_hash(settings)[:8]}"


def measure(
    pairs: GroupExamples, lists: GroupExamples, scores: Callable[[GroupExamples], np.ndarray]
) -> dict[str, float]:
    """Metrics of any scorer through the same code that measures models.

    Args:
        pairs: Pair groups.
        lists: Candidate lists.
        scores: Gives one score per target `(N,)` of the examples it is asked about.
    """
    # Every process that asks has all the rows, so nothing is to be summed over processes.
    auc, ranking = PairAUC(sync_on_compute=False), RankingMetrics(sync_on_compute=False)
    relevance, kind, mask, padded = _padded(pairs, scores(pairs))
    auc.update(padded, relevance, kind, mask)
    relevance, _, mask, padded = _padded(lists, scores(lists))
    ranking.update(padded, relevance, mask)
    return _finite({**auc.compute(), **ranking.compute()})


def _padded(examples: GroupExamples, scores: np.ndarray) -> tuple[torch.Tensor, ...]:
    """Relevance, kind, mask and scores `(B, C)` of all groups."""
    sizes = torch.from_numpy(examples.offsets).diff()  # (B,)
    width = int(sizes.max()) if len(sizes) else 1
    mask = torch.arange(width) < sizes[:, None]  # (B, C)
    relevance, kind = torch.zeros(mask.shape, dtype=torch.long), torch.full(mask.shape, -1)
    relevance[mask], kind[mask] = torch.from_numpy(examples.relevance), torch.from_numpy(examples.kind)
    padded = torch.zeros(mask.shape, dtype=torch.float64)
    padded[mask] = torch.tensor(scores, dtype=torch.float64)
    return relevance, kind, mask, padded


def references(datamodule: PromptDataModule, split: Split) -> dict[str, dict[str, float]]:
    """Rows to print beside a result: chance, and on the test split of the demo shop its ceilings."""
    pairs, lists = datamodule.eval_examples(split)
    rows = {"chance": measure(pairs, lists, lambda examples: np.zeros(examples.n_targets))}
    path = datamodule.folder / CEILINGS
    if split == "test" and path.exists():
        table = pl.read_parquet(path)
        for name in [column for column in table.columns if column.startswith(("reader_", "oracle_"))]:
            rows[name.replace("_", ", ")] = measure(pairs, lists, _ceiling(datamodule, table, name))
    return rows


def _ceiling(datamodule: PromptDataModule, table: pl.DataFrame, column: str) -> Callable[[GroupExamples], np.ndarray]:
    """Scorer that looks up a column of the demo shop's known scores."""
    items = datamodule.data.items["item_id"]

    def scores(examples: GroupExamples) -> np.ndarray:
        sizes = np.diff(examples.offsets)
        rows = pl.DataFrame({"group_id": np.repeat(examples.group_id, sizes), "item_id": items[examples.item_index]})
        joined = rows.join(table, on=["group_id", "item_id"], how="left", maintain_order="left")
        return joined[column].to_numpy()

    return scores


def _finite(values: Mapping[str, torch.Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if not math.isnan(float(value))}


def stage_metrics(values: Mapping[str, Any], stage: str) -> dict[str, Any]:
    """Metrics of a stage as plain numbers; a value that is not defined (NaN) becomes None, which JSON can hold."""
    plain: dict[str, Any] = {}
    for name, value in values.items():
        if name.startswith(f"{stage}/"):
            number = float(value)
            counted = name.split("/")[1].startswith("n_")
            plain[name] = None if math.isnan(number) else int(number) if counted else number
    return plain
