"""Cells of several grids in one table; refused if they were not set or measured alike."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mllm_srec.pipeline.grid.plan import Cell
from mllm_srec.pipeline.grid.results import CellRecord, place
from mllm_srec.pipeline.grid.settings import QUICK_SUFFIX
from mllm_srec.pipeline.runs.protocol import MUST_AGREE
from mllm_srec.types import ConfigError


def merge_records(own: Sequence[CellRecord], others: Sequence[CellRecord]) -> list[CellRecord]:
    """Return the cells of several grids; a run that several of them have counts once.

    Args:
        own: Cells of this grid.
        others: Cells of the grids that join it.

    Raises:
        ConfigError: Different runs would be the same cell or seeds of one row, or runs were not measured alike.
    """
    check_settings([*own, *others])
    check_measured_alike([*own, *others])
    merged = {place(record): record for record in reversed([*own, *others])}  # of equal ones, the first
    return list(merged.values())[::-1]


def check_merge(name: str, cells: Sequence[Cell], others: Sequence[CellRecord], compared: bool) -> None:
    """Check that results may join those of a grid, before its cells are run.

    Args:
        name: Name of the grid.
        cells: Cells that it will run.
        others: Results that join it, from `read_records`.
        compared: True if rows are compared user by user, which needs the predictions of every run.

    Raises:
        ConfigError: They may not, or their run folders are missing.
    """
    planned = [
        {
            "table": name, "data_set": cell.data_set, "row": cell.row, "seed": cell.seed, "run": str(cell.run.path),
            "config_hash": cell.settings_hash, "row_hash": cell.row_hash,
        }
        for cell in cells
    ]  # fmt: skip
    check_settings([*planned, *others])
    check_measured_alike(others)
    gone = [record["run"] for record in others if not (Path(record["run"]) / "predictions").is_dir()]
    if gone and compared:
        raise ConfigError(
            f"merge: the predictions of {len(gone)} of {len(others)} runs are missing, such as those of {gone[0]}, and "
            "rows are compared user by user; copy these run folders from the machine that ran them, or set "
            "significance.metrics to []"
        )


def check_settings(records: Sequence[CellRecord]) -> None:
    """Refuse different runs as one cell, differently set seeds as one row, and quick runs among full ones.

    Args:
        records: Cells of several grids: `table`, `data_set`, `row`, `seed`, `run`, `config_hash` and `row_hash`.

    Raises:
        ConfigError: Two cells contradict each other; the error names both.
    """
    first: dict[tuple[str, ...], CellRecord] = {}
    for record in records:
        cell, row = tuple(map(str, place(record))), (record["data_set"], record["row"])
        for key, hashed, words in (
            (cell, "config_hash", "are different runs"),
            (row, "row_hash", "are set differently"),
        ):
            there = first.setdefault(key, record)
            if there[hashed] != record[hashed]:
                raise ConfigError(
                    f"{_named(record)} of {record['table']} and {_named(there)} of {there['table']} {words} "
                    f"({record['run']}, {there['run']}); give one of the rows another label"
                )
        there = first.setdefault((), record)
        if there["table"].endswith(QUICK_SUFFIX) != record["table"].endswith(QUICK_SUFFIX):
            raise ConfigError(
                f"merge: {record['table']} and {there['table']}: quick results cannot join others; leave one out"
            )


def check_measured_alike(records: Sequence[CellRecord]) -> None:
    """Refuse cells of a data set that were measured under another protocol than the others.

    Raises:
        ConfigError: There are such cells; the error names them.
    """
    for data_set in dict.fromkeys(record["data_set"] for record in records):
        of_data_set = [record for record in records if record["data_set"] == data_set]
        for key in MUST_AGREE:
            values = [json.dumps(record["metrics"].get(f"test/{key}")) for record in of_data_set]
            usual = Counter(values).most_common(1)[0][0]
            odd = [f"{_named(r)} ({r['run']}): {v}" for r, v in zip(of_data_set, values, strict=True) if v != usual]
            if odd:
                raise ConfigError(
                    f"{key} of data set {data_set!r} is {usual} in {values.count(usual)} cells, but not in\n  "
                    + "\n  ".join(odd)
                    + "\nNumbers of different protocols cannot share a table; run these cells on the same "
                    "data, candidates and evaluator, or as a data set of their own"
                )


def _named(record: CellRecord) -> str:
    return f"row {record['row']!r}, data set {record['data_set']!r}, seed {record['seed']}"
