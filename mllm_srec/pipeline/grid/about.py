"""What a grid was: as `grid.json` beside its results says, or for older results as far as these show it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import polars as pl

from mllm_srec.pipeline.grid.results import ABOUT
from mllm_srec.pipeline.grid.settings import QUICK_SUFFIX, GridSettings
from mllm_srec.reports.tables.article import article_key
from mllm_srec.reports.tables.grid_about import AboutDataSet, AboutGrid, GridKind
from mllm_srec.types import DataError

KINDS: tuple[GridKind, ...] = get_args(GridKind)


def about_grid(folder: Path, results: pl.DataFrame, written: pl.DataFrame | None) -> tuple[AboutGrid, bool]:
    """What the grid says of itself, or what its results show; and whether its plan is known.

    Args:
        folder: Of the results.
        results: Content of `results.parquet`.
        written: Content of `summary.csv`; None where there is none.

    Raises:
        DataError: `grid.json` cannot be understood.
    """
    shown = _shown_metrics(results, written)
    if (folder / ABOUT).is_file():
        stated = _read_about(folder / ABOUT)
        planned = all(stated.get(key) for key in ("rows", "data_sets", "seeds"))
        return _stated(stated, results, shown), planned
    name = str(results["table"][0])
    bases = [] if written is None or "base" not in written.columns else written["base"].drop_nulls().unique().to_list()
    return AboutGrid(
        name=name,
        stated=False,
        quick=name.endswith(QUICK_SUFFIX),
        title="",
        caption="",
        kind="table",
        metrics=shown,
        data_sets=[AboutDataSet(data_set) for data_set in _in_order(results, "data_set")],
        rows=_in_order(results, "row"),
        base=str(bases[0]) if len(bases) == 1 else None,
        article=article_key(None, name),
    ), False


def _stated(stated: Mapping[str, Any], results: pl.DataFrame, shown: Sequence[str]) -> AboutGrid:
    name, names, rows = str(results["table"][0]), _in_order(results, "data_set"), _in_order(results, "row")
    report: Mapping[str, Any] = stated.get("report") or {}
    listed = [AboutDataSet(d["name"], d.get("panel"), d.get("x")) for d in stated.get("data_sets") or []]
    listed += [AboutDataSet(data_set) for data_set in names if data_set not in {d.name for d in listed}]
    planned_rows = [str(row) for row in stated.get("rows") or []]
    return AboutGrid(
        name=name,
        stated=True,
        quick=bool(stated.get("quick")) or name.endswith(QUICK_SUFFIX),
        title=str(report.get("title") or ""),
        caption=str(report.get("caption") or ""),
        kind=report.get("kind") or "table",
        metrics=[str(metric) for metric in report.get("metrics") or stated.get("metrics") or shown],
        data_sets=[data_set for data_set in listed if data_set.name],
        rows=[*planned_rows, *(row for row in rows if row not in planned_rows)],
        seeds=[int(seed) for seed in stated.get("seeds") or []],
        base=(stated.get("significance") or {}).get("base"),
        article=article_key(report.get("article"), name),
        baseline_rows=[str(row) for row in report.get("baseline_rows") or []],
    )


def _in_order(results: pl.DataFrame, column: str) -> list[str]:
    return [str(value) for value in results[column].unique(maintain_order=True)]


def _shown_metrics(results: pl.DataFrame, written: pl.DataFrame | None) -> list[str]:
    """Metrics of the grid's own summary that its results have, in the usual order; without one, the usual metrics."""
    usual, known = GridSettings(rows=[]).metrics, set(results["metric"])
    wanted = usual if written is None else written["metric"].unique(maintain_order=True).to_list()
    ordered = [*(metric for metric in usual if metric in wanted), *(m for m in wanted if m not in usual)]
    return [metric for metric in ordered if f"test/{metric}" in known]


def _read_about(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        report, data_sets = content.get("report") or {}, content.get("data_sets") or []
        named = all(isinstance(data_set["name"], str) for data_set in data_sets)
        placed = all(isinstance(data_set.get("x"), int | float | None) for data_set in data_sets)
        usable = named and placed and (report.get("kind") or "table") in KINDS
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{str(path)!r} does not say what a grid was ({error!r}); run the grid again") from error
    if not usable:
        raise DataError(
            f"{str(path)!r} does not say what a grid was: data sets need a name and a number as x, and report.kind "
            f"must be one of {', '.join(KINDS)}; run the grid again"
        )
    checked: dict[str, Any] = content
    return checked
