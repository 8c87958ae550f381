"""What scripts of `experiments/` wrote, Table 2 and Figure 7, as sections of a page."""

from __future__ import annotations

import json
from pathlib import Path

from mllm_srec.reports.page import case_files
from mllm_srec.reports.page.page import CaseBlock, Section, TableBlock
from mllm_srec.reports.tables import data_statistics
from mllm_srec.reports.tables.data_statistics import statistics_table
from mllm_srec.types import DataError

SCRIPTED = {"table2": data_statistics.FILE, "figure7": case_files.FILE}
"""Name of the results -> the file by which their folder is known."""


def scripted_name(folder: Path) -> str | None:
    """Which script wrote a folder; None where none did."""
    return next((name for name, file in SCRIPTED.items() if (folder / file).is_file()), None)


def script_section(folder: Path, anchor: str) -> Section:
    """Results of a script as a section.

    Args:
        folder: One that has a `scripted_name`.
        anchor: Name of the section and of its files, safe.

    Raises:
        DataError: A file is damaged.
    """
    return (_statistics if scripted_name(folder) == "table2" else _cases)(folder, anchor)


def _statistics(folder: Path, anchor: str) -> Section:
    file = folder / data_statistics.FILE
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        table, notes = statistics_table(about["rows"]), tuple(map(str, about["notes"]))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{str(file)!r} holds no statistics ({error!r}); make them again") from error
    block = TableBlock(f"{anchor}--statistics", "Data sets", table, notes)
    return Section(anchor, data_statistics.TITLE, "", False, False, (), (block,))


def _cases(folder: Path, anchor: str) -> Section:
    studies, demo = case_files.read_cases(folder)
    blocks = (CaseBlock(f"Run {studies.run}", studies),)
    return Section(anchor, case_files.TITLE, "", False, demo, (), blocks)
