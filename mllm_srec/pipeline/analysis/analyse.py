"""Finished runs, or groups of seeds, split by what was asked: one tidy table, and how it is to be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.files.atomic import check_output_file, write_output_file
from mllm_srec.pipeline.analysis.comparison import FEW
from mllm_srec.pipeline.analysis.list_metrics import COMMANDS, check_same_lists, read_results
from mllm_srec.pipeline.analysis.run_groups import RunGroup
from mllm_srec.pipeline.analysis.run_strata import cold_items, history_length, negative_kinds, popularity_matched
from mllm_srec.pipeline.analysis.scored_tables import ScoredTables, read_scored
from mllm_srec.pipeline.analysis.strata import ALL, LEFT_OUT, ROW_SCHEMA, StrataSettings, StratumRow
from mllm_srec.pipeline.evaluation.schema import TARGETS
from mllm_srec.pipeline.runs.folder import read_settings
from mllm_srec.pipeline.runs.protocol import SAME_IN_A_GROUP, common_protocol
from mllm_srec.types import ConfigError, DataError, Split

SCHEMA = {"run": pl.String, **ROW_SCHEMA, "n_seeds": pl.Int64}
"""Columns of the table."""


@dataclass(frozen=True)
class Analysis:
    """Results of runs by stratum.

    Attributes:
        table: Columns of `SCHEMA`, one row per run, analysis, stratum and metric.
        notes: How it is to be read, and what is left out, one line each.
    """

    table: pl.DataFrame
    notes: tuple[str, ...]


def analyse_runs(
    groups: Sequence[RunGroup],
    metrics: Sequence[str],
    split: Split = "test",
    settings: StrataSettings = StrataSettings(),  # noqa: B008 - frozen
    data_root: Path | str | None = None,
) -> Analysis:
    """Split the results of finished runs; all must have been measured on the same candidates of the same data set.

    Args:
        groups: From `run_groups`; folders of a group are seeds of one thing.
        metrics: Columns of `predictions/<split>_users.parquet` that are split by length of history.
        split: `test` or `val`.
        settings: How.
        data_root: Replaces `data.root` of the runs' settings, where the data sets were moved.

    Raises:
        ConfigError: A run is not finished or was measured in another way, a metric is unknown, or the data set is not
            the one that was scored.
        DataError: A file is damaged.
    """
    if split not in COMMANDS:
        raise ConfigError(f"split: got {split!r}; accepted are {', '.join(COMMANDS)}, which have rank lists")
    folders = [folder for group in groups for folder in group.folders]
    results = {folder: read_results(folder, split) for folder in folders}
    common_protocol(results)
    for group in groups:
        common_protocol({folder: results[folder] for folder in group.folders}, SAME_IN_A_GROUP, group.name)
    data = _data_set(folders[0], results[folders[0]], data_root)
    tables = {folder: read_scored(folder, split, metrics, results[folder], data) for folder in folders}
    for folder in folders[1:]:
        _check_same_targets((folders[0], tables[folders[0]]), (folder, tables[folder]), metrics)
    rows: list[tuple[Any, ...]] = []
    for group in groups:
        seeds = [tables[folder] for folder in group.folders]
        rows += [(group.name, *row, len(seeds)) for row in _rows(seeds, metrics, settings)]
    table = pl.DataFrame(rows, schema=SCHEMA, orient="row")
    return Analysis(table, tuple(_notes(groups, tables, table, settings)))


def _rows(seeds: Sequence[ScoredTables], metrics: Sequence[str], settings: StrataSettings) -> list[StratumRow]:
    return [
        *history_length(seeds, metrics, settings),
        *cold_items(seeds, settings),
        *popularity_matched(seeds, settings),
        *negative_kinds(seeds, settings),
    ]


def _data_set(folder: Path, results: Mapping[str, Any], data_root: Path | str | None) -> PreparedDataset:
    """The data set of a run, as it was when the run was measured."""
    location = read_settings(folder, data_root)["data"]
    data = PreparedDataset.open(Path(location["root"]) / location["name"])
    if data.candidates_hash != results.get("candidates_hash"):
        raise ConfigError(
            f"candidates_hash is {results.get('candidates_hash')!r} in {str(folder)!r} and {data.candidates_hash!r} in "
            f"{str(data.folder)!r}: the data set was prepared anew since. Test the run again, or give --data_root"
        )
    return data


def _check_same_targets(
    first: tuple[Path, ScoredTables], other: tuple[Path, ScoredTables], metrics: Sequence[str]
) -> None:
    """Refuse runs that were not asked about the same targets."""
    (name, one), (other_name, two) = first, other
    wanted = ["group_id", "user_id", *metrics]
    check_same_lists((name, one.lists.select(wanted)), (other_name, two.lists.select(wanted)))
    positives = pl.col("label") == 1
    kept = {
        "pairs": (one.pairs, two.pairs),
        "positives": (one.candidates.filter(positives), two.candidates.filter(positives)),
    }
    if one.complete and two.complete:
        kept["candidates"] = (one.candidates, two.candidates)
    for what, (here, there) in kept.items():
        if not here.select(*TARGETS).equals(there.select(*TARGETS)):
            raise DataError(
                f"{str(name)!r} and {str(other_name)!r} do not have the same {what} although their protocols agree; "
                "measure both again on the same data"
            )


def _notes(
    groups: Sequence[RunGroup], tables: Mapping[Path, ScoredTables], table: pl.DataFrame, settings: StrataSettings
) -> list[str]:
    first = tables[groups[0].folders[0]]
    lines = [
        f"intervals: {settings.confidence:.0%}, bootstrap over users, {settings.n_resamples} resamples, seed "
        f"{settings.seed}; seeds of a run are averaged first. Strata are different users or items: their differences "
        "are no effects of the model alone",
        "cold_items: positives by likes of their item in the train split; auc sets them against all sampled negatives",
        f"popularity_matched: train likes in up to {settings.popularity_bins} bins; a negative weighs as much as there "
        "are positives for each negative of its bin, as if negatives had been drawn by the positives' popularity; "
        "popularity/auc is what popularity itself gets as a score",
    ]
    if not first.complete:
        lines.append("popularity_matched has no user_auc: of the whole catalogue only the first items were kept")
    missing = table.filter(pl.col("stratum").str.starts_with(LEFT_OUT))
    for row in missing.unique(["analysis", "stratum", "metric", "unit"], maintain_order=True).iter_rows(named=True):
        lines.append(f"{row['analysis']} {row['metric']}: {row['n']} {row['unit']} {row['stratum']}, without a value")
    few = table.filter(pl.col("value").is_not_null() & (pl.col("n_users") < FEW))
    if few.height:
        lines.append(f"fewer than {FEW} users, intervals are too narrow: {_named(few)}")
    empty = table.filter((pl.col("n") == 0) & (pl.col("stratum") != ALL))
    if empty.height:
        lines.append(f"nobody and nothing in: {_named(empty)}")
    return lines


def _named(rows: pl.DataFrame) -> str:
    """Strata by analysis, each once: `history_length 0, 1-2; cold_items 0`."""
    strata = rows.group_by("analysis", maintain_order=True).agg(pl.col("stratum").unique(maintain_order=True))
    return "; ".join(f"{analysis} {', '.join(of)}" for analysis, of in strata.iter_rows())


def check_output(path: Path) -> None:
    """Look whether the table may be written; see `check_output_file`."""
    check_output_file(path, "analyse", lambda text: text.partition("\n")[0] == ",".join(SCHEMA))


def write_analysis(found: Analysis, path: Path) -> None:
    """Write the table as CSV; see `write_output_file`."""
    write_output_file(found.table.write_csv(), path)
