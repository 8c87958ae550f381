"""The settings of a grid file: rows, data sets and seeds, and how their table is made."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mllm_srec.reports.tables.grid_about import AboutDataSet, AboutGrid, GridReport, Significance
from mllm_srec.reports.tables.metric_words import at_every_cut_off, check_metrics
from mllm_srec.types import ConfigError, did_you_mean

QUICK_SUFFIX = "-quick"
"""End of the names of quick grids."""

SET_BY_GRID = ("name", "seed_everything", "config", "ckpt_path")
"""Settings of a run that the grid sets itself."""


@dataclass(frozen=True)
class GridRow:
    """A row of the table: a model, or a variant of it.

    Args:
        label: Name in the table, different for every row.
        configs: Configuration files on top of those of the data set.
        set: Dotted settings on top of all files, such as `model.lr: 1.0e-3`.
    """

    label: str
    configs: list[str] = field(default_factory=list)
    set: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class GridDataSet:
    """A data set that all rows are run on.

    Args:
        name: Name in the table, different for every data set.
        configs: Configuration files on top of `base`.
        row_configs: Folder of configuration files of single rows for this data set: `<label>.yaml`, on top of the
            row's own files; a row may have none.
        set: Dotted settings, between those of the grid and those of a row.
        trained_on: Name of another data set of the grid: nothing is trained on this one, but the model of the same row
            and seed, trained there, is tested on it. Not for baselines that use item features, since their
            checkpoints belong to the features that they were trained on.
        panel: Panel of a figure of curves that this data set belongs to.
        x: Position on the horizontal axis of that panel.
    """

    name: str
    configs: list[str] = field(default_factory=list)
    row_configs: str | None = None
    set: dict[str, Any] = field(default_factory=dict)
    trained_on: str | None = None
    panel: str | None = None
    x: float | None = None


@dataclass(frozen=True)
class QuickGrid:
    """Changes that `--quick` makes to a grid.

    Args:
        seeds: Seeds in place of the grid's; none: those of the grid.
        data_sets: Names of the data sets that are kept; none: all.
        set: Dotted settings on top of all others.
    """

    seeds: list[int] = field(default_factory=list)
    data_sets: list[str] = field(default_factory=list)
    set: dict[str, Any] = field(default_factory=dict)


def _shown() -> list[str]:
    return ["auc", "user_auc", *at_every_cut_off("hr", "recall", "ndcg")]


@dataclass(frozen=True)
class GridSettings:
    """A grid: every row on every data set with every seed.

    Args:
        rows: Rows of the table, in their order.
        base: Configuration files of every cell.
        data_sets: Data sets; none: the one that `base` names.
        seeds: Values of `seed_everything`.
        set: Dotted settings of every cell, such as a common `data.retriever`.
        quick_grid: What `--quick` changes.
        metrics: Columns of the summary, in their order.
        significance: Which row the others are compared with, and how.
        report: How `report` shows the results.
    """

    rows: list[GridRow]
    base: list[str] = field(default_factory=list)
    data_sets: list[GridDataSet] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4])
    set: dict[str, Any] = field(default_factory=dict)
    quick_grid: QuickGrid = field(default_factory=QuickGrid)
    metrics: list[str] = field(default_factory=_shown)
    significance: Significance = field(default_factory=Significance)
    report: GridReport = field(default_factory=GridReport)


def quickened(grid: GridSettings) -> GridSettings:
    """Return the grid that `--quick` runs; `quick_grid.set` is for `plan_cells`, on top of all other settings.

    Raises:
        ConfigError: The grid has no `quick_grid`.
    """
    if grid.quick_grid == QuickGrid():
        raise ConfigError(
            "quick_grid: this grid has no such section, or an empty one; add one, such as "
            "quick_grid: {seeds: [0], set: {trainer.max_epochs: 1}}"
        )
    kept, names = grid.quick_grid.data_sets, [data_set.name for data_set in grid.data_sets]
    if unknown := [name for name in kept if name not in names]:
        accepted = ", ".join(names) or "none"
        raise ConfigError(f"quick_grid.data_sets={unknown[0]!r}: no such data set; accepted are {accepted}")
    data_sets = [data_set for data_set in grid.data_sets if not kept or data_set.name in kept]
    return replace(grid, data_sets=data_sets, seeds=grid.quick_grid.seeds or grid.seeds)


def only_rows(grid: GridSettings, labels: Sequence[str]) -> GridSettings:
    """Return the grid with some of its rows; without the row that the others are compared with, none are compared.

    Args:
        grid: The grid.
        labels: Labels of the rows that are kept; none: all.

    Raises:
        ConfigError: There is no such row; the error names the nearest ones.
    """
    known = [row.label for row in grid.rows]
    for label in labels:
        if label not in known:
            hint = did_you_mean(label, known) or f"; accepted are {', '.join(known)}"
            raise ConfigError(f"only={label!r}: no such row{hint}")
    if not labels:
        return grid
    base = grid.significance.base
    compared = grid.significance if base in ("best", "first", *labels) else Significance("best", [])
    shown = replace(grid.report, baseline_rows=[row for row in grid.report.baseline_rows if row in labels])
    kept = [row for row in grid.rows if row.label in labels]
    return replace(grid, rows=kept, significance=compared, report=shown)


def flat_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings as dotted ones: each is a flag of its own, since a mapping would replace a section.

    >>> flat_settings({"model": {"lr": 0.1, "lora": {"r": 4}}})
    {'model.lr': 0.1, 'model.lora.r': 4}
    """
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= {f"{key}.{inner}": one for inner, one in flat_settings(value).items()}
        else:
            flat[key] = value
    return flat


def described(grid: GridSettings, name: str, quick: bool) -> AboutGrid:
    """Return what `grid.json` says about a grid.

    Args:
        grid: The grid that is run.
        name: Name of its table.
        quick: True if `--quick` runs it.
    """
    return AboutGrid(
        name=name,
        quick=quick,
        seeds=grid.seeds,
        rows=[row.label for row in grid.rows],
        data_sets=[AboutDataSet(data_set.name, data_set.panel, data_set.x) for data_set in grid.data_sets],
        metrics=grid.metrics,
        significance=grid.significance,
        report=grid.report,
    )


def check_grid(grid: GridSettings) -> None:
    """Check a grid for errors that would otherwise show only after hours.

    Raises:
        ConfigError: A name is a duplicate, a list is empty, a file is missing, or a setting is unknown or not allowed.
    """
    _check_names("rows", [row.label for row in grid.rows])
    _check_names("data_sets", [data_set.name for data_set in grid.data_sets], optional=True)
    _check_names("seeds", [str(seed) for seed in grid.seeds])
    _check_names("metrics", grid.metrics)
    _check_names("report.metrics", grid.report.metrics, optional=True)
    _check_names("significance.metrics", grid.significance.metrics, optional=True)
    check_metrics("metrics", grid.metrics)
    check_metrics("report.metrics", grid.report.metrics)
    check_metrics("significance.metrics", grid.significance.metrics, per_user=True)
    if any(seed < 0 for seed in grid.seeds):
        raise ConfigError(f"seeds={min(grid.seeds)}: negative; give whole numbers from 0")
    base, labels = grid.significance.base, [row.label for row in grid.rows]
    if base not in ("best", "first", *labels):
        raise ConfigError(f"significance.base={base!r}: no such row; accepted are best, first, {', '.join(labels)}")
    _check_training_sets(grid.data_sets)
    for row in grid.report.baseline_rows:
        if row not in labels:
            raise ConfigError(f"report.baseline_rows={row!r}: no such row; accepted are {', '.join(labels)}")
    settings = [("set", grid.set), *((f"set of row {row.label!r}", row.set) for row in grid.rows)]
    settings += [(f"set of data set {data_set.name!r}", data_set.set) for data_set in grid.data_sets]
    settings += [("quick_grid.set", grid.quick_grid.set)]
    for section, given in settings:
        _check_set(section, given)
    files = [*grid.base, *(name for data_set in grid.data_sets for name in data_set.configs)]
    files += [name for row in grid.rows for name in row.configs]
    missing = [name for name in dict.fromkeys(files) if not Path(name).is_file()]
    folders = [data_set.row_configs for data_set in grid.data_sets if data_set.row_configs is not None]
    missing += [name for name in folders if not Path(name).is_dir()]
    if missing:
        raise ConfigError(f"{', '.join(missing)}: no such file; paths in a grid are relative to the current folder")


def _check_training_sets(data_sets: Sequence[GridDataSet]) -> None:
    """Check that `trained_on` names a data set on which the grid trains."""
    trained = [data_set.name for data_set in data_sets if data_set.trained_on is None]
    for data_set in data_sets:
        if data_set.trained_on is not None and data_set.trained_on not in trained:
            raise ConfigError(
                f"trained_on={data_set.trained_on!r} of data set {data_set.name!r}: nothing is trained there; accepted "
                f"are data sets without trained_on: {', '.join(trained) or 'there is none'}"
            )


def _check_names(setting: str, names: Sequence[str], optional: bool = False) -> None:
    """Check that names differ as parts of file names, too."""
    if not names and not optional:
        raise ConfigError(f"{setting}: got none; give at least one")
    for part, n in Counter(file_name(name) for name in names).items():
        if not part:
            raise ConfigError(f"{setting}={list(names)}: a name has no letter or digit; give it one")
        if n > 1:
            same = [name for name in names if file_name(name) == part]
            raise ConfigError(f"{setting}: {' and '.join(map(repr, same))} are the same name; give each its own")


def _check_set(section: str, settings: Mapping[str, Any]) -> None:
    """Check that a section `set` holds dotted settings, and none that the grid sets itself."""
    for key in settings:
        if key in SET_BY_GRID:
            raise ConfigError(f"{section}: {key!r} is set by the grid itself (seeds, names of cells); leave it out")
        if not re.fullmatch(r"\w+(\.\w+)*", key):
            raise ConfigError(f"{section}: {key!r} is not a dotted setting; give one such as model.lr")


def file_name(label: str) -> str:
    """Return a label as part of a file's name: letters, digits, `_`, `.`, `@` and `-`; may be empty.

    >>> file_name("a b/c@5")
    'a-b-c@5'
    """
    return re.sub(r"[^\w.@]+", "-", label).strip("-.")
