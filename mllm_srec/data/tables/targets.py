"""The tables `groups`, `samples` and `candidates`, built from interactions with a split.

Train is built first and independently: its numbers, contexts and negatives depend only on train rows, the catalogue
and the seed, so exchanging held-out items for others changes no byte of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.data.settings import CandidateSettings, PrepareSettings
from mllm_srec.data.tables.contexts import CONTEXT_SCHEMA, add_contexts, pair_groups, rank_groups
from mllm_srec.data.tables.negatives import draw_users, random_stream, sample_negatives
from mllm_srec.types import SPLITS, DataError, Purpose, Split

GROUP_SCHEMA: dict[str, pl.DataType] = {
    "group_id": pl.Int64(),
    "purpose": pl.String(),
    **CONTEXT_SCHEMA,
}
SAMPLE_SCHEMA: dict[str, pl.DataType] = {
    "sample_id": pl.Int64(),
    "group_id": pl.Int64(),
    "user_id": pl.String(),
    "item_id": pl.String(),
    "label": pl.Int8(),
    "kind": pl.String(),
    "split": pl.String(),
}
CANDIDATE_SCHEMA: dict[str, pl.DataType] = {
    "group_id": pl.Int64(),
    "user_id": pl.String(),
    "item_id": pl.String(),
    "label": pl.Int8(),
    "kind": pl.String(),
    "position": pl.Int64(),
    "split": pl.String(),
}


@dataclass(frozen=True)
class Tables:
    """The three tables of contexts and their targets.

    Attributes:
        groups: Columns of `GROUP_SCHEMA`; ids count from 0: pair groups of train, val, test, then rank groups.
        samples: Columns of `SAMPLE_SCHEMA`, the targets of the pair groups.
        candidates: Columns of `CANDIDATE_SCHEMA`, the targets of the rank groups.
    """

    groups: pl.DataFrame
    samples: pl.DataFrame
    candidates: pl.DataFrame


def build_tables(
    interactions: pl.DataFrame,
    item_ids: pl.Series,
    settings: PrepareSettings,
    candidates: CandidateSettings,
    report: PrepareReport,
) -> Tables:
    """Build the groups of both purposes and their targets.

    Args:
        interactions: Interactions with `split`, one row per (user, item), in any order.
        item_ids: Ids of the catalogue from which negatives are drawn; holds every item of the interactions.
        settings: Settings of the preparation; `max_history` is used.
        candidates: Settings of the candidate lists.
        report: Receives counts of empty contexts and of lists that are too short.

    Returns:
        The tables, each sorted by its id (candidates by group and position).

    Raises:
        DataError: An interaction's item is not in the catalogue.
    """
    catalogue = item_ids.unique().sort()
    unknown = interactions.filter(~pl.col("item_id").is_in(catalogue.to_list()))
    if unknown.height:
        raise DataError(
            f"item_ids: {unknown.height} interactions have an item outside the catalogue of {len(catalogue)} items, "
            f"for example {unknown.item(0, 'item_id')!r}; pass the ids of all kept items"
        )
    groups: list[pl.DataFrame] = []
    samples: list[pl.DataFrame] = []
    lists: list[pl.DataFrame] = []
    begin = 0
    for split in SPLITS:
        table, targets = _pairs(interactions, catalogue, split, begin, candidates.seed, report)
        groups.append(_finish(table, interactions, "pair", split, settings.max_history, report))
        samples.append(targets)
        begin += table.height
    for split in SPLITS[1:]:
        table, targets = _rankings(interactions, catalogue, split, begin, candidates, report)
        groups.append(_finish(table, interactions, "rank", split, settings.max_history, report))
        lists.append(targets)
        begin += table.height
    numbered = _conform(pl.concat(samples).with_row_index("sample_id"), SAMPLE_SCHEMA)
    return Tables(pl.concat(groups), numbered, pl.concat(lists))


def _conform(table: pl.DataFrame, schema: dict[str, pl.DataType]) -> pl.DataFrame:
    """Select exactly the columns of a schema, in its order and types."""
    return table.select(pl.col(name).cast(dtype) for name, dtype in schema.items())


def _number(table: pl.DataFrame, begin: int) -> pl.DataFrame:
    """Add `group_id`, counting on from `begin`."""
    return table.with_columns(group_id=pl.int_range(pl.len(), dtype=pl.Int64) + begin)


def _finish(
    table: pl.DataFrame,
    interactions: pl.DataFrame,
    purpose: Purpose,
    split: Split,
    max_history: int,
    report: PrepareReport,
) -> pl.DataFrame:
    """Add contexts, select the columns of `GROUP_SCHEMA`, and count."""
    table = add_contexts(table, interactions, split, max_history).with_columns(purpose=pl.lit(purpose))
    report.fact(f"groups, {purpose} {split}", table.height)
    empty = table.filter(pl.col("history").list.len() == 0)
    report.count("groups", f"{purpose} {split}: no history", empty.height)
    return _conform(table, GROUP_SCHEMA)


def _pairs(
    interactions: pl.DataFrame, catalogue: pl.Series, split: Split, begin: int, seed: int, report: PrepareReport
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Make the pair groups of a split and their targets: the item and, if it is liked, one sampled negative."""
    groups = _number(pair_groups(interactions, split), begin)
    # held-out items may be train negatives: leaving them out would tell the model which items are held out
    excluded = interactions.filter(pl.col("split") == split) if split == "train" else interactions
    liked = groups.filter(pl.col("kind") == "liked")
    drawn = sample_negatives(liked, excluded, catalogue, 1, random_stream(seed, "pair", split))
    report.count("samples", f"{split}: no item left for a negative", liked.height - drawn.height)
    targets = pl.concat([_targets(groups, split), _negatives(drawn, split)]).sort("group_id", "position")
    return groups, targets.drop("position")


def _rankings(
    interactions: pl.DataFrame,
    catalogue: pl.Series,
    split: Split,
    begin: int,
    settings: CandidateSettings,
    report: PrepareReport,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Make the rank groups of a split and their candidate lists: all positives, then the sampled negatives."""
    generator = random_stream(settings.seed, "rank", split)
    groups = rank_groups(interactions, split, settings.unit)
    n_users = groups["user_id"].n_unique()
    groups = _number(draw_users(groups, settings.max_users, generator), begin)
    report.count("candidates", f"{split}: user not drawn (max_users)", n_users - groups["user_id"].n_unique())
    drawn = sample_negatives(groups, interactions, catalogue, settings.n_negatives, generator)
    full = drawn.filter(pl.col("position") == settings.n_negatives).height
    report.count("candidates", f"{split}: list with fewer than {settings.n_negatives} negatives", groups.height - full)
    positives = groups.explode("positives").rename({"positives": "item_id"})
    positives = positives.with_columns(label=pl.lit(1, pl.Int8), kind=pl.lit("liked"))
    targets = pl.concat([_targets(positives, split), _negatives(drawn, split)])
    return groups, targets.sort("group_id", "position", maintain_order=True)


def _targets(rows: pl.DataFrame, split: Split) -> pl.DataFrame:
    """Put observed targets at position 0."""
    return _as_candidates(rows.with_columns(position=pl.lit(0, pl.Int64)), split)


def _negatives(drawn: pl.DataFrame, split: Split) -> pl.DataFrame:
    """Label sampled targets, which keep the positions of the draw."""
    return _as_candidates(drawn.with_columns(label=pl.lit(0, pl.Int8), kind=pl.lit("sampled")), split)


def _as_candidates(rows: pl.DataFrame, split: Split) -> pl.DataFrame:
    """Add the split and select the columns of `CANDIDATE_SCHEMA`."""
    return _conform(rows.with_columns(split=pl.lit(split)), CANDIDATE_SCHEMA)
