"""Sections of a page: how a grid or a run was measured, its results, its training, its cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from mllm_srec.pipeline.grid.read import GridFolder
from mllm_srec.pipeline.grid.results import (
    SCHEMA,
    CellRecord,
    code_names,
    of_generated_shop,
    other_information,
    random_weights,
)
from mllm_srec.pipeline.report.case_studies import case_studies
from mllm_srec.pipeline.runs.folder import RunFolder
from mllm_srec.pipeline.runs.protocol import protocol_words
from mllm_srec.pipeline.runs.settings import read_settings
from mllm_srec.pipeline.runs.training_log import training_log
from mllm_srec.reports.figures.drawing import Drawing
from mllm_srec.reports.figures.training_charts import TrainingLog, has_curves, training_chart
from mllm_srec.reports.page.findings import findings
from mllm_srec.reports.page.grid_blocks import grid_blocks
from mllm_srec.reports.page.page import Block, CaseBlock, FigureBlock, NoteBlock, Section, TableBlock
from mllm_srec.reports.tables.grid import in_order, result_table, summarise
from mllm_srec.reports.tables.metric_words import headline_columns, higher_is_better, shown_cut_offs
from mllm_srec.types import ConfigError, DataError

Cases = tuple[int, int]
"""Number of right and of wrong cases of a run that are shown, possibly 0, and the seed that draws them."""


def grid_section(grid: GridFolder, anchor: str, cases: Cases) -> Section:
    """Make a section of a grid.

    Args:
        grid: Result of `read_grid`.
        anchor: Safe name of the section and of its files.
        cases: Number of right and of wrong cases of one of its runs, and the seed that draws them.

    Raises:
        DataError: The log of a training is damaged.
    """
    about, records = grid.about, grid.records
    slug = f"{anchor}-"  # no anchor has two hyphens, so files of different sections differ
    blocks = grid_blocks(about, slug, grid.summary, grid.differences, records)
    if grid.missing:
        blocks.insert(0, NoteBlock("Not finished", grid.missing))
    there = [record for record in records if _is_there(record)]
    n_gone = len(records) - len(there)
    facts = list(_facts(grid))
    if n_gone:
        facts.append(("Run folders", f"{n_gone} of {len(records)} are not here: no curves and no cases of these runs"))
    logs = [training_log(Path(record["run"]), _row_name(record, records), record["seed"]) for record in there]
    blocks += training_blocks([log for log in logs if log is not None], n_gone, len(records), slug, about.stamp)
    blocks += _grid_cases(grid, there, cases)
    demo = any(of_generated_shop(record["metrics"]) for record in records)
    return Section(
        anchor, about.title, about.report.caption, about.quick, demo, tuple(facts), tuple(blocks),
        tuple(about.shown_metrics), findings(about, grid.summary, grid.differences),
    )  # fmt: skip


def _is_there(record: CellRecord) -> bool:
    """Return True if the run folder exists with the results of the record: another run may have its name now."""
    run = RunFolder(Path(record["run"]))
    return run.path.is_dir() and _tested(run.read_metrics()) == _tested(record["metrics"])


def _tested(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the results of the test split."""
    return {key: value for key, value in metrics.items() if key.startswith("test/")}


def _row_name(record: CellRecord, records: Sequence[CellRecord]) -> str:
    """Return the row of a cell, with its data set if there are several."""
    several = len({other["data_set"] for other in records}) > 1
    return f"{record['row']}, {record['data_set']}" if several else str(record["row"])


# --- how it was measured --------------------------------------------------------------------------------------------


def _facts(grid: GridFolder) -> Iterator[tuple[str, str]]:
    """Yield name and text of each fact about how a grid was measured."""
    records = grid.records
    protocols: dict[str, list[str]] = {}
    by_data_set = [[r for r in records if r["data_set"] == data_set.name] for data_set in grid.about.data_sets]
    for data_set in grid.about.data_sets:
        of_data_set = [record for record in records if record["data_set"] == data_set.name]
        if of_data_set:  # all of one data set were measured alike
            protocols.setdefault(protocol_words(of_data_set[0]["metrics"]), []).append(data_set.name)
    for words, names in protocols.items():
        yield f"Protocol on {', '.join(names)}", words
    seeds = sorted({record["seed"] for record in records})
    rows = dict.fromkeys(record["row"] for record in records)
    yield "Size", f"{len(rows)} rows, seeds {', '.join(map(str, seeds))}: {len(records)} runs"
    counts = Counter((record["row"], record["data_set"]) for record in records)
    fewer = [f"{row} on {data_set} only {n}" for (row, data_set), n in counts.items() if n < len(seeds)]
    if fewer:
        yield "Fewer seeds than others", ", ".join(fewer)
    for line in random_weights(records):
        yield "Random weights", line
    for line in dict.fromkeys(line for of in by_data_set for line in other_information(of)):
        yield "Other information", line
    commits = code_names(records)
    yield "Code", ", ".join(commits) + ("; runs used different code" if len(commits) > 1 else "")
    versions = dict.fromkeys(
        ", ".join(f"{name} {version}" for name, version in record["versions"].items()) for record in records
    )
    yield "Versions", "; also ".join(versions)


# --- training and cases ---------------------------------------------------------------------------------------------


def training_blocks(logs: Sequence[TrainingLog], n_gone: int, n_runs: int, slug: str, stamp: str) -> list[Block]:
    """Draw the training curves of all trained runs; none if nothing was trained or all folders are missing.

    Args:
        logs: Logs of the trained runs.
        n_gone: Number of runs whose folders are missing.
        n_runs: Number of all runs.
        slug: First part of the names of the figures' files.
        stamp: Mark on the figures, such as that the runs were quick.
    """
    without = (
        f" {n_gone} of {n_runs} runs are not drawn: their folders are missing or hold other runs." if n_gone else ""
    )
    blocks: list[Block] = []
    metrics = dict.fromkeys(log.metric.removeprefix("val/") for log in logs if log.metric)
    for quantity, label, words in (
        ("loss", "loss", "each panel has its own axis, since losses of different models cannot be compared"),
        ("validation", f"validation {' or '.join(metrics)}", "all panels share one axis"),
    ):
        if has_curves(logs, quantity):
            heading = f"Training: {label}"
            caption = f"{label[0].upper()}{label[1:]} by optimiser step, a line for each seed; {words}.{without}"
            alt = f"{label} of {len({log.row for log in logs})} rows."
            drawing = Drawing(f"{slug}-training-{quantity}", caption, alt, training_chart(logs, quantity, label), stamp)
            blocks.append(FigureBlock(heading, drawing))
    return blocks


def case_blocks(run: Path, title: str, cases: Cases) -> list[Block]:
    """Return the case studies of a run, or a note on why there are none."""
    try:
        studies = case_studies(run, cases[0], cases[0], cases[1])
    except (ConfigError, DataError) as error:
        return [NoteBlock(title, (f"None are shown: {error}.",))]
    return [CaseBlock(title, studies)]


def _grid_cases(grid: GridFolder, there: Sequence[CellRecord], cases: Cases) -> list[Block]:
    """Return cases of the best row on the first data set, of the recommender's rows if there are any."""
    if not cases[0]:
        return []
    there = [record for record in there if RunFolder(Path(record["run"])).config.is_file()]
    if not there:  # results without run folders: nothing to show
        return []
    own = [record for record in there if not read_settings(Path(record["run"])).get("baseline")]
    data_set = (own or there)[0]["data_set"]
    here = [record for record in own or there if record["data_set"] == data_set]
    metric = grid.about.shown_metrics[0]
    best = grid.summary.filter(
        pl.col("row").is_in([record["row"] for record in here]) & ~pl.col("reference"), data_set=data_set, metric=metric
    ).sort("mean", descending=higher_is_better(metric), nulls_last=True, maintain_order=True)["row"]
    chosen = min(here, key=lambda record: (record["row"] != next(iter(best), None), record["seed"]))
    title = f"Case studies: {chosen['row']} on {chosen['data_set']}, seed {chosen['seed']}"
    return case_blocks(Path(chosen["run"]), title, cases)


# --- single runs ----------------------------------------------------------------------------------------------------


def run_section(run: Path, anchor: str, cases: Cases) -> Section:
    """Make a section of a single run.

    Args:
        run: Folder of a tested run.
        anchor: Safe name of the section and of its files.
        cases: Number of right and of wrong cases, and the seed that draws them.

    Raises:
        ConfigError: The folder holds no results of the test split.
        DataError: A log is damaged.
    """
    if not run.is_dir() or "test/n_users" not in (metrics := RunFolder(run).read_metrics()):
        raise ConfigError(
            f"runs={str(run)!r}: holds no test results; give folders that `test` wrote, such as runs/demo/a"
        )
    name, slug = run.resolve().name, f"{anchor}-"
    numbers = {
        key: value for key, value in metrics.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }
    table = pl.DataFrame(
        [("", name, "", 0, key, float(value)) for key, value in numbers.items()], schema=SCHEMA, orient="row"
    )
    cut_offs = shown_cut_offs(metrics, "test")
    shown = [name for name in headline_columns(cut_offs) if f"test/{name}" in numbers]
    summary = in_order(summarise(table, shown), [name])
    results = result_table(summary, shown, {}).captioned(f"Run {name}: one seed; variation between seeds unknown.")
    blocks: list[Block] = [TableBlock(f"{slug}-results", "Results", results)]
    log = training_log(run, name, None)
    blocks += training_blocks([] if log is None else [log], 0, 1, slug, "")
    if cases[0]:
        blocks += case_blocks(run, "Case studies", cases)
    demo = of_generated_shop(metrics)
    facts = (("Protocol", protocol_words(metrics)), ("Score", str(metrics.get("test/score"))))
    return Section(anchor, f"Run {name}", "", False, demo, facts, tuple(blocks), tuple(shown))
