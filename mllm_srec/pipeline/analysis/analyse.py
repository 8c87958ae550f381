"""Results of finished runs by stratum: one tidy table of all analyses, and the notes that explain it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.files.atomic import check_output_file, write_output_file
from mllm_srec.metrics.comparison import FEW
from mllm_srec.pipeline.analysis.list_metrics import as_measured, check_same_lists, check_split, read_results
from mllm_srec.pipeline.analysis.run_groups import RunGroup
from mllm_srec.pipeline.analysis.run_strata import cold_items, history_length, negative_kinds, popularity_matched
from mllm_srec.pipeline.analysis.scored_tables import ScoredTables, read_scored
from mllm_srec.pipeline.analysis.strata import ALL, LEFT_OUT, ROW_SCHEMA, StrataSettings, StratumRow
from mllm_srec.pipeline.evaluation.schema import TARGETS
from mllm_srec.pipeline.runs.protocol import SAME_IN_A_GROUP, common_protocol
from mllm_srec.pipeline.runs.settings import read_settings
from mllm_srec.types import ConfigError, DataError, Split

SCHEMA = {"run": pl.String, **ROW_SCHEMA, "n_seeds": pl.Int64}
"""Columns of the table of an analysis."""


@dataclass(frozen=True)
class Analysis:
    """Results of runs by stratum.

    Attributes:
        table: Table with columns `SCHEMA`, one row per run, analysis, stratum and metric.
        notes: Explanations of the table and of what it leaves out, one line each.
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
    """Split the results of finished runs by stratum; all must be measured on the same candidates of one data set.

    Args:
        groups: Groups of `run_groups`; folders of a group are seeds of one variant.
        metrics: Columns of `predictions/<split>_users.parquet` that are split by length of history.
        split: `test` or `val`.
        settings: Bins of the strata, and settings of the intervals.
        data_root: Replacement of `data.root` in the runs' settings, for data sets that were moved.

    Raises:
        ConfigError: A run is not finished, runs were measured differently, a metric is unknown, or the data set is not
            the one that was scored.
        DataError: A file is damaged.
    """
    check_split(split)
    folders = [folder for group in groups for folder in group.folders]
    results = {folder: read_results(folder, split) for folder in folders}
    common_protocol(results)
    for group in groups:
        common_protocol({folder: results[folder] for folder in group.folders}, SAME_IN_A_GROUP, group.name)
    metrics = as_measured(metrics, results[folders[0]])
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
    """Run all analyses on the seeds of one variant."""
    return [
        *history_length(seeds, metrics, settings),
        *cold_items(seeds, settings),
        *popularity_matched(seeds, settings),
        *negative_kinds(seeds, settings),
    ]


def _data_set(folder: Path, results: Mapping[str, Any], data_root: Path | str | None) -> PreparedDataset:
    """Open the data set of a run; refuse it if it was prepared again since the run was measured."""
    location = read_settings(folder, data_root)["data"]
    data = PreparedDataset.open(Path(location["root"]) / location["name"])
    if data.candidates_hash != results.get("candidates_hash"):
        raise ConfigError(
            f"candidates_hash={data.candidates_hash!r}: {str(data.folder)!r} was prepared again since {str(folder)!r} "
            f"was measured with {results.get('candidates_hash')!r}; test the run again, or give --data_root"
        )
    return data


def _check_same_targets(
    first: tuple[Path, ScoredTables], other: tuple[Path, ScoredTables], metrics: Sequence[str]
) -> None:
    """Refuse runs that did not score the same targets."""
    (name, one), (other_name, two) = first, other
    columns = ["group_id", "user_id", *metrics]
    check_same_lists((name, one.lists.select(columns)), (other_name, two.lists.select(columns)))
    positives = pl.col("label") == 1
    compared = {
        "pairs": (one.pairs, two.pairs) if one.pairs.height and two.pairs.height else (one.pairs, one.pairs),
        "positives": (one.candidates.filter(positives), two.candidates.filter(positives)),
    }
    if one.complete and two.complete:
        compared["candidates"] = (one.candidates, two.candidates)
    for table, (here, there) in compared.items():
        if not here.select(*TARGETS).equals(there.select(*TARGETS)):
            raise DataError(
                f"{str(name)!r} and {str(other_name)!r}: their {table} differ although their protocols agree; measure "
                "both again on the same data"
            )


def _notes(
    groups: Sequence[RunGroup], tables: Mapping[Path, ScoredTables], table: pl.DataFrame, settings: StrataSettings
) -> list[str]:
    """Explain the table and name what it leaves out, one line each."""
    first = tables[groups[0].folders[0]]
    lines = [
        f"intervals: {settings.confidence:.0%}, bootstrap over users, {settings.n_resamples} resamples, seed "
        f"{settings.seed}; seeds of a run are averaged first, so that intervals say nothing of other seeds. Strata "
        "hold different users or items, so that differences between them are not effects of the model alone",
        "cold_items: positives by train likes of their item; auc compares them with all sampled negatives",
        f"popularity_matched: train likes in up to {settings.popularity_bins} bins; the weight of a negative is the "
        "number of positives per negative in its bin, as if negatives were drawn by the positives' popularity; "
        "popularity/auc is the AUC of popularity itself as a score",
    ]
    single = [group.name for group in groups if not tables[group.folders[0]].pairs.height]
    if single:
        lines.append(f"no labelled pairs, since no single targets were scored: {', '.join(map(repr, single))}")
    if not first.complete:
        lines.append("popularity_matched has no user_auc: catalogue lists keep only their first items")
    missing = table.filter(pl.col("stratum").str.starts_with(LEFT_OUT))
    for row in missing.unique(["analysis", "stratum", "metric", "unit"], maintain_order=True).iter_rows(named=True):
        lines.append(f"{row['analysis']} {row['metric']}: {row['n']} {row['unit']} {row['stratum']}, without a value")
    few = table.filter(pl.col("value").is_not_null() & (pl.col("n_users") < FEW))
    if few.height:
        lines.append(f"fewer than {FEW} users, so that intervals are too narrow: {_named(few)}")
    empty = table.filter((pl.col("n") == 0) & (pl.col("stratum") != ALL))
    if empty.height:
        lines.append(f"empty strata: {_named(empty)}")
    return lines


def _named(rows: pl.DataFrame) -> str:
    """List the strata of each analysis once: `history_length 0, 1-2; cold_items 0`."""
    strata = rows.group_by("analysis", maintain_order=True).agg(pl.col("stratum").unique(maintain_order=True))
    return "; ".join(f"{analysis} {', '.join(names)}" for analysis, names in strata.iter_rows())


def check_output(path: Path) -> None:
    """Check that the table may be written to `path`; see `check_output_file`."""
    check_output_file(path, "analyse", lambda text: text.partition("\n")[0] == ",".join(SCHEMA))


def write_analysis(analysis: Analysis, path: Path) -> None:
    """Write the table as CSV; see `write_output_file`."""
    write_output_file(analysis.table.write_csv(), path)
