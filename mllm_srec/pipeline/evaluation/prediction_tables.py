"""Tables of predictions: rows of all processes joined to the targets, with no row missing, duplicate or unknown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl
import torch

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.loading.candidate_lists import KEYS
from mllm_srec.data.loading.catalogue_lists import CatalogueLists
from mllm_srec.data.loading.examples import GroupExamples
from mllm_srec.data.loading.ranking_datamodule import Lists
from mllm_srec.metrics.evaluation import with_missed
from mllm_srec.metrics.ranking import list_values
from mllm_srec.pipeline.evaluation.schema import PLACE
from mllm_srec.pipeline.evaluation.scored_rows import KEPT_TOP, kept_chunks
from mllm_srec.types import EVAL_TOP_K, LIST_KINDS, USER_AUC, MllmSrecError, user_auc_name

COLUMNS = ("group_id", "user_id", "item_id", "label", "kind", "score")
"""Columns of every table of predictions; logits, mass and the columns of `PLACE` follow if they exist."""


def pairs_table(examples: GroupExamples, rows: pl.DataFrame, data: PreparedDataset) -> pl.DataFrame:
    """Build the table of labelled targets with their scores, in the order of `examples`.

    Args:
        examples: Pair groups that were to be scored.
        rows: Stored rows of all processes, in any order.
        data: Prepared data set.

    Raises:
        MllmSrecError: A row is missing, duplicate or unknown.
    """
    return _joined("pairs", target_table(examples, data), rows)


def lists_table(examples: Lists, rows: pl.DataFrame, data: PreparedDataset) -> pl.DataFrame:
    """Build the table of candidate lists with their scores; positives that a retriever missed end a list, score null.

    Args:
        examples: Candidate lists that were to be scored.
        rows: Stored rows of all processes, in any order; if parts of lists were kept, with the columns of `PLACE`.
        data: Prepared data set.

    Raises:
        MllmSrecError: A row is missing, duplicate or unknown.
    """
    if "rank" in rows.columns or isinstance(examples, CatalogueLists):
        _check_places(examples, rows)
        parts = [_kept_targets(part, rows, data) for part in _parts(examples)]
        return pl.concat(parts).sort("group_id", "rank") if parts else rows.select("group_id", "score")
    expected = target_table(examples, data)
    joined = _joined("lists", expected, rows)
    missed = _missed(examples, expected, data)
    if not missed.height:
        return joined
    order = pl.DataFrame({"group_id": examples.group_id}).with_row_index("list")
    both = pl.concat([joined, missed], how="diagonal").join(order, on="group_id", how="left", maintain_order="left")
    return both.sort("list", maintain_order=True).drop("list")


def _parts(examples: Lists) -> Iterator[GroupExamples]:
    """Yield the lists, catalogue lists a chunk at a time."""
    if isinstance(examples, GroupExamples):
        yield examples
    else:
        yield from (part.written_out() for part in examples.chunks())


def _kept_targets(part: GroupExamples, rows: pl.DataFrame, data: PreparedDataset) -> pl.DataFrame:
    """Return the stored rows of some lists, after checking that each row is a candidate of its list."""
    expected = target_table(part, data)
    stored = rows.join(expected.select("group_id").unique(), on="group_id", how="semi")
    kept = expected.join(stored, on=["group_id", "item_index"], how="semi", maintain_order="left")
    return _joined("lists", kept, stored)


def user_table(
    examples: Lists,
    rows: pl.DataFrame,
    data: PreparedDataset,
    cut_offs: Sequence[int] = EVAL_TOP_K,
    evaluator: str | None = None,
) -> pl.DataFrame:
    """Build the table of metrics per list, with expected and worst ties; null: undefined.

    Args:
        examples: Candidate lists.
        rows: Stored rows of these lists, see `kept_lists`.
        data: Prepared data set.
        cut_offs: Cut-offs of the ranking metrics.
        evaluator: What was ranked, which names the last column.

    Returns:
        `group_id`, `user_id`, the ranking metrics and the AUC within the list, one row per list.
    """
    parts: list[dict[str, torch.Tensor]] = []
    for kept in kept_chunks(examples, rows):
        values = list_values(*with_missed(*kept), cut_offs)
        parts.append({user_auc_name(evaluator) if name == USER_AUC else name: of for name, of in values.items()})
    table = pl.DataFrame({"group_id": examples.group_id}).join(
        data.groups.select("group_id", "user_id"), on="group_id", how="left", maintain_order="left"
    )
    joined = {name: torch.cat([part[name] for part in parts]) for name in (parts[0] if parts else ())}
    return table.with_columns(pl.Series(name, value.numpy()).fill_nan(None) for name, value in joined.items())


def target_table(examples: GroupExamples, data: PreparedDataset) -> pl.DataFrame:
    """Write out every target: `group_id`, `user_id`, `item_id`, `item_index`, `label`, `kind`."""
    rows = pl.DataFrame(
        {
            "group_id": np.repeat(examples.group_id, np.diff(examples.offsets)),
            "item_id": data.items["item_id"][examples.item_index],
            "item_index": examples.item_index,
            "label": pl.Series(examples.relevance, dtype=pl.Int8),
            "kind": pl.Series(LIST_KINDS)[examples.kind],
        }
    )
    users = data.groups.select("group_id", "user_id")
    return rows.join(users, on="group_id", how="left", maintain_order="left")


def _joined(name: str, expected: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """Join targets with their scores, after checking that they match one to one."""
    keys = ["group_id", "item_index"]
    n_duplicate = rows.height - rows.n_unique(keys)
    n_missing = expected.join(rows, on=keys, how="anti").height
    n_unknown = rows.join(expected, on=keys, how="anti").height
    if n_duplicate or n_missing or n_unknown:
        raise MllmSrecError(
            f"of {expected.height} rows to be scored for {name}, {n_missing} have no score; {n_duplicate} scores are "
            f"duplicates and {n_unknown} belong to no row; nothing is written"
        )
    joined = expected.join(rows, on=keys, how="left", maintain_order="left", validate="1:1")
    optional = ("yes_logit", "no_logit", "yes_no_mass", *(column for column in PLACE if column in rows.columns))
    stated = [column for column in optional if joined[column].null_count() < joined.height]
    return joined.select(*COLUMNS, *stated)


def _check_places(examples: Lists, rows: pl.DataFrame) -> None:
    """Check that each list has all its positives and its top rows, and that no row belongs to another list."""
    sizes = {"n": examples.sizes, "n_positives": examples.n_positives}
    lists = pl.DataFrame({"group_id": examples.group_id, **sizes})
    kept = rows.group_by("group_id").agg(
        pl.col("n_candidates").first(),
        n_top=(pl.col("rank") <= KEPT_TOP).sum(),
        n_found=(pl.col("relevance") == 1).sum(),
    )
    both = lists.join(kept, on="group_id", how="full", coalesce=True)
    complete = (
        (pl.col("n_candidates") == pl.col("n"))
        & (pl.col("n_found") == pl.col("n_positives"))
        & (pl.col("n_top") == pl.min_horizontal("n", KEPT_TOP))
    )
    broken = both.filter(~complete.fill_null(False)).height
    if broken:
        raise MllmSrecError(f"of {lists.height} lists to be ranked, {broken} are incomplete; nothing is written")


def _missed(examples: GroupExamples, expected: pl.DataFrame, data: PreparedDataset) -> pl.DataFrame:
    """Return the positives that a retriever left out of their lists, with a null score."""
    short = examples.group_id[examples.n_missed > 0]
    positives = data.candidates.filter((pl.col("label") == 1) & pl.col("group_id").is_in(short.tolist()))
    missed = positives.join(expected, on=KEYS, how="anti", maintain_order="left")
    return missed.select(
        "group_id", "user_id", "item_id", pl.col("label").cast(pl.Int8), kind=pl.lit("liked"),
        score=pl.lit(None, pl.Float32),
    )  # fmt: skip
