"""Protocol of a measurement, reference rows beside its results (chance, popularity, ceilings), and their JSON keys."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from mllm_srec.data.loading.candidate_lists import lists_hash
from mllm_srec.data.loading.examples import GroupExamples
from mllm_srec.data.loading.ranking_datamodule import Lists, RankingDataModule
from mllm_srec.data.tables.popularity import item_popularity
from mllm_srec.files.reading import read_table
from mllm_srec.metrics.evaluation import EvaluationMetrics
from mllm_srec.pipeline.evaluation.scored_rows import padded, padding_mask
from mllm_srec.types import EVAL_TOP_K, USER_AUC, Split, user_auc_name

CEILINGS = "ceilings.parquet"
"""File of the demo shop's known scores, in the folder of the data set."""

READERS = ("oracle_", "hindsight_", "reader_", "averaging_", "shuffled_", "recent_")
"""Beginnings of the names of its columns: the ceilings, from what knows most to what knows least."""

ScoreFunction = Callable[[GroupExamples], np.ndarray | None]
"""Groups -> one score per target `(N,)`, or None without scores for them."""

CEILINGS_NOTE = (
    "ceilings: the oracle knows each user's taste at that time, the reader draws every conclusion that the history "
    "before it allows; hindsight (later) also reads what the user rated later, as models with a vector per user do. "
    "The heading says which modality they may use"
)
"""Explains the columns that `references` adds on the demo shop."""

RULES_NOTE = (
    "averaging: a reader who knows what is common to all shops and nothing of the rules of this one, as a model "
    "without training can; recent: the reader of the latest prepare.demo.last_likes likes"
)
"""Explains the further columns of a shop with rules of its own."""


def protocol(
    datamodule: RankingDataModule, split: Split, score: str, checkpoint: str | None, fitting: bool = False
) -> dict[str, Any]:
    """Return the protocol of a measurement; two runs are comparable only if all of it is equal.

    Args:
        datamodule: Data module of the run.
        split: Measured split.
        score: Kind of the model's score.
        checkpoint: File name of the weights within the run; None for weights as loaded.
        fitting: True for the validation of `fit`, which has its own limit of groups.
    """
    max_groups = datamodule.max_eval_groups if fitting else datamodule.max_test_groups
    evaluator = datamodule.evaluator_of(fitting)
    reranked = evaluator == "rerank"
    labels = {"sampled": f"sampled@{datamodule.n_negatives}", "rerank": f"rerank@{datamodule.n_retrieved}"}
    lists = datamodule.eval_examples(split)[1] if reranked else None
    return {
        "evaluator": labels.get(evaluator, evaluator),
        "candidates_hash": datamodule.data.candidates_hash,
        "corruption": datamodule.data.corruption,
        "m": datamodule.n_negatives if evaluator == "sampled" else None,
        "retriever": Path(datamodule.retriever).resolve().name if reranked else None,
        "lists_hash": lists_hash(lists) if isinstance(lists, GroupExamples) else None,
        "max_groups": max_groups,
        "groups_seed": None if max_groups is None else datamodule.seed,
        "split": split,
        "ties": "expected",
        "score": score,
        "prompt": datamodule.inputs_label,
        "checkpoint": checkpoint,
    }


def measure(
    pairs: GroupExamples, lists: Lists, scores: ScoreFunction, cut_offs: Sequence[int] = EVAL_TOP_K
) -> dict[str, float]:
    """Measure scores by the code that measures models; metrics of groups without scores are left out.

    Args:
        pairs: Pair groups.
        lists: Candidate lists.
        scores: Function that scores both.
        cut_offs: Cut-offs of the metrics of lists.
    """
    # Every calling process has all rows, so nothing is summed over processes.
    metrics = EvaluationMetrics(top_k=cut_offs, sync_on_compute=False)
    values: dict[str, torch.Tensor] = {}
    if (of_pairs := scores(pairs)) is not None:
        relevance, kind = padded(pairs, pairs.relevance), padded(pairs, pairs.kind, -1)
        metrics.add_pairs(padded(pairs, of_pairs), relevance, kind, padding_mask(pairs))
        values |= metrics.auc.compute()
    for part in (lists,) if isinstance(lists, GroupExamples) else (few.written_out() for few in lists.chunks()):
        if (of_lists := scores(part)) is None:
            return _finite(values)
        n_missed = torch.from_numpy(part.n_missed)
        metrics.add_lists(padded(part, of_lists), padded(part, part.relevance), padding_mask(part), n_missed)
    return _finite(values | metrics.ranking.compute())


def references(datamodule: RankingDataModule, split: Split) -> dict[str, dict[str, float]]:
    """Measure the rows that are printed beside a result.

    These are chance and popularity; for reranked lists, the retriever's own order and the best order of its items; on
    the test split of the demo shop, its ceilings.
    """
    pairs, lists = datamodule.eval_examples(split)
    likes = item_popularity(datamodule.data.interactions, datamodule.data.items).astype(np.float64)
    functions: dict[str, ScoreFunction] = {
        "chance": lambda examples: np.zeros(examples.n_targets),
        "popularity": lambda examples: likes[examples.item_index],
    }
    evaluator = datamodule.running_evaluator
    if evaluator == "rerank":
        functions["retriever"] = lambda examples: None if examples is pairs else _order(examples)
        functions["retriever, best order"] = lambda examples: None if examples is pairs else examples.relevance * 1.0
    path = datamodule.folder / CEILINGS
    if split == "test" and path.exists():
        remedy = "delete it to measure without ceilings, or prepare the data set again"
        table = read_table(path, "the table of ceilings", remedy, schema={"group_id": pl.Int64, "item_id": pl.String})
        for name in [column for column in table.columns if column.startswith(READERS)]:
            functions[name.replace("_", ", ")] = _ceiling(datamodule, table, name)
    rows = {name: measure(pairs, lists, scores, datamodule.cut_offs) for name, scores in functions.items()}
    auc = user_auc_name(evaluator)
    return {name: {auc if key == USER_AUC else key: v for key, v in of.items()} for name, of in rows.items()}


def _order(examples: GroupExamples) -> np.ndarray:
    """Return scores `(N,)` that keep every list in its present order."""
    sizes = np.diff(examples.offsets)
    return np.repeat(examples.offsets[:-1], sizes) - np.arange(examples.n_targets, dtype=np.float64)


def _ceiling(datamodule: RankingDataModule, table: pl.DataFrame, column: str) -> ScoreFunction:
    """Make the function that looks up a column of the demo shop's known scores; None if a target is not there."""
    items = datamodule.data.items["item_id"]

    def scores(examples: GroupExamples) -> np.ndarray | None:
        sizes = np.diff(examples.offsets)
        rows = pl.DataFrame({"group_id": np.repeat(examples.group_id, sizes), "item_id": items[examples.item_index]})
        joined = rows.join(table, on=["group_id", "item_id"], how="left", maintain_order="left")[column]
        return None if joined.null_count() else joined.to_numpy()

    return scores


def _finite(values: Mapping[str, torch.Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if not math.isnan(float(value))}


def reference_metrics(rows: Mapping[str, Mapping[str, float]], split: Split) -> dict[str, float]:
    """Flatten reference rows into keys of `metrics.json`, such as `test/reference/oracle_both/auc`."""
    return {
        f"{split}/reference/{name.replace(', ', '_').replace(' ', '_')}/{metric}": value
        for name, values in rows.items()
        for metric, value in values.items()
    }


def split_metrics(values: Mapping[str, Any], split: str) -> dict[str, Any]:
    """Return the metrics of a split as plain numbers; undefined ones (not finite) become None, which JSON can hold."""
    plain: dict[str, Any] = {}
    for name, value in values.items():
        if name.startswith(f"{split}/"):
            number = float(value)
            counted = name.split("/")[1].startswith("n_")
            plain[name] = None if not math.isfinite(number) else int(number) if counted else number
    return plain
