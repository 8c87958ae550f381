"""Folders that a report is made of: results of `grid`, and those of scripts of `experiments/` (Table 2, Figure 7)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from mllm_srec.files.reading import read_object, read_whole
from mllm_srec.pipeline.grid.read import read_grid
from mllm_srec.pipeline.grid.results import RESULTS
from mllm_srec.pipeline.grid.settings import QUICK_SUFFIX
from mllm_srec.pipeline.report.sections import Cases, grid_section
from mllm_srec.reports.page import case_files
from mllm_srec.reports.page.page import CaseBlock, Section, TableBlock
from mllm_srec.reports.tables import data_statistics

SCRIPTED = {"table2": data_statistics.FILE, "figure7": case_files.FILE}
"""Name of a script's results -> the file by which their folder is recognised."""


def find_results(root: Path) -> list[Path]:
    """Return the folders of results below `root` without those of quick grids: tables, figures, then others."""
    names = (RESULTS, *SCRIPTED.values())
    folders = {path.parent for name in names for path in root.rglob(name)} if root.is_dir() else set()
    kept = [folder for folder in folders if not folder.name.endswith(QUICK_SUFFIX)]
    return sorted(kept, key=lambda path: (*(not path.name.startswith(part) for part in ("table", "figure")), path))


def open_results(folder: Path, cases: Cases) -> tuple[str, Callable[..., Section]]:
    """Read the results of a folder.

    Args:
        folder: One that `grid` or a script wrote.
        cases: As in `grid_section`.

    Returns:
        Their name, and a function that makes a section of them from its `anchor`.

    Raises:
        ConfigError: The folder holds no results.
        DataError: A file is damaged, or older than this version.
    """
    if (name := scripted_name(folder)) is not None:
        return name, partial(_statistics if name == "table2" else _cases, folder)
    grid = read_grid(folder)
    plain = grid.about.name.removesuffix(QUICK_SUFFIX)
    return plain + (QUICK_SUFFIX if grid.about.quick else ""), partial(grid_section, grid, cases=cases)


def scripted_name(folder: Path) -> str | None:
    """Return the name of the results of a script; None if no script wrote the folder."""
    return next((name for name, file in SCRIPTED.items() if (folder / file).is_file()), None)


def _statistics(folder: Path, anchor: str) -> Section:
    """Make a section of Table 2."""
    file = folder / data_statistics.FILE
    what, remedy = "the statistics of data sets", "make them again with experiments/table2.py"
    about = read_object(file, what, remedy, ("rows", "notes"))
    table = read_whole(file, lambda path: data_statistics.statistics_table(about["rows"]), what, remedy)
    notes = tuple(map(str, about["notes"]))
    block = TableBlock(f"{anchor}--statistics", "Data sets", table, notes)
    return Section(anchor, data_statistics.TITLE, "", False, False, (), (block,))


def _cases(folder: Path, anchor: str) -> Section:
    """Make a section of Figure 7."""
    studies, demo = case_files.read_cases(folder)
    blocks = (CaseBlock(f"Run {studies.run}", studies),)
    return Section(anchor, case_files.TITLE, "", False, demo, (), blocks)
