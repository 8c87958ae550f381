"""The report: one page, and each of its tables and figures as files of their own."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mllm_srec.files.atomic import write_text
from mllm_srec.files.progress import track
from mllm_srec.pipeline.report.sections import Cases, run_section
from mllm_srec.pipeline.report.sources import open_results, scripted_name
from mllm_srec.reports.figures.drawing import write_drawing
from mllm_srec.reports.page.page import GENERATOR, FigureBlock, Section, TableBlock, render_page
from mllm_srec.reports.tables.latex import latex
from mllm_srec.reports.tables.paper_names import named
from mllm_srec.reports.tables.table_text import csv_text, markdown, markdown_escaped
from mllm_srec.types import VERSION, ConfigError, DataError

PAGE = "index.html"
TABLES = "tables"
FIGURES = "figures"
FILES = "report.json"
"""Marks the folder of a report, and lists the files of the last one, so that the next one may replace them."""


@dataclass(frozen=True)
class Report:
    """A written report.

    Attributes:
        page: File of the page.
        n_tables: Number of tables, each in three formats.
        n_figures: Number of figures, each in three formats.
        notes: Lines for the terminal.
    """

    page: Path
    n_tables: int
    n_figures: int
    notes: tuple[str, ...]


def check_report_folder(folder: Path) -> None:
    """Check that a report may be written into a folder, before anything is read.

    Raises:
        ConfigError: The folder holds other files.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"output={str(folder)!r}: is a file; give a folder")
    if folder.is_dir() and any(folder.iterdir()) and _listed(folder) is None:
        raise ConfigError(f"output={str(folder)!r}: holds other files than a report; give another folder")


def write_report(
    results: Sequence[Path], runs: Sequence[Path], folder: Path, title: str, cases: Cases = (2, 0)
) -> Report:
    """Read results and write the report.

    Args:
        results: Folders that `grid` or a script of `experiments/` wrote.
        runs: Folders of tested runs.
        folder: Folder that passed `check_report_folder`.
        title: Title of the page.
        cases: Number of right and of wrong cases of a run, and the seed that draws them.

    Raises:
        ConfigError: There is nothing to report, or a folder holds no results.
        DataError: A file is damaged or older than this version, or the report cannot be written.
    """
    if not results and not runs:
        raise ConfigError("RESULTS: got none; give folders that `grid` wrote, or tested runs with --runs")
    opened = [open_results(path, cases) for path in results]
    opened += [(path.resolve().name, partial(run_section, path, cases=cases)) for path in runs]
    anchors = _anchors([name for name, _ in opened])
    makers = track(zip(anchors, opened, strict=True), len(opened), "reading results", "sections")
    sections = [make(anchor=anchor) for anchor, (_, make) in makers]
    n_grids = sum(scripted_name(path) is None for path in results)
    made = f"Made by mllm_srec {VERSION} from {n_grids} grids and {len(runs)} single runs."
    page = render_page(title, sections, made)
    try:
        files = _write(folder, page, sections)
    except OSError as error:
        raise DataError(f"output={str(folder)!r}: cannot be written ({error.strerror}); give another folder") from error
    n_tables, n_figures = (sum(path.startswith(f"{part}/") for path in files) // 3 for part in (TABLES, FIGURES))
    quick = [section.title for section in sections if section.quick]
    notes = (f"quick runs, which only show that everything runs: {', '.join(quick)}",) if quick else ()
    return Report(folder / PAGE, n_tables, n_figures, notes)


def _anchors(names: Sequence[str]) -> list[str]:
    """Return safe names that differ, whatever the folders are called."""
    anchors: list[str] = []
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower() or "results"
        others = (f"{plain}-n{number}" for number in itertools.count(2))
        anchors.append(plain if plain not in anchors else next(name for name in others if name not in anchors))
    return anchors


def _write(folder: Path, page: str, sections: Sequence[Section]) -> list[str]:
    """Write all files and remove those of the last report that are not written again; return their names."""
    before = _listed(folder) or set()
    for part in (TABLES, FIGURES):
        (folder / part).mkdir(parents=True, exist_ok=True)
    _write_list(folder, sorted(before))  # marks the folder, even if writing is interrupted
    files = [PAGE]
    blocks = [block for section in sections for block in section.blocks if isinstance(block, TableBlock | FigureBlock)]
    for block in track(blocks, len(blocks), "writing tables and figures"):
        if isinstance(block, TableBlock):
            files += _write_table(folder, block)
        else:
            paths = write_drawing(block.drawing, folder / FIGURES)
            files += [f"{FIGURES}/{path.name}" for path in paths]
    write_text(page, folder / PAGE)
    for name in before - set(files):
        (folder / name).unlink(missing_ok=True)
    _write_list(folder, files)
    return files


def _write_list(folder: Path, files: Sequence[str]) -> None:
    """Write `FILES`."""
    about = {"generator": GENERATOR, "files": list(files)}
    write_text(json.dumps(about, indent=2) + "\n", folder / FILES)


def _listed(folder: Path) -> set[str] | None:
    """Return the tables and figures that the last report wrote, without names that no report gives.

    Returns:
        None if the folder is not that of a report.
    """
    try:
        about = json.loads((folder / FILES).read_text(encoding="utf-8"))
        if about["generator"] != GENERATOR:
            return None
        listed = list(map(str, about["files"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return {name for name in listed if re.fullmatch(rf"({TABLES}|{FIGURES})/[A-Za-z0-9-]+\.[a-z]+", name)}


def _write_table(folder: Path, block: TableBlock) -> list[str]:
    """Write a table in all formats and return the names of its files."""
    caption = named(block.table.caption)
    notes = "".join(f"- {markdown_escaped(named(note))}\n" for note in block.notes)
    text = f"{markdown_escaped(caption)}\n\n{markdown(block.table)}\n" + (f"\n{notes}" if notes else "")
    contents = {"md": text, "tex": latex(block.table, block.name), "csv": csv_text(block.table)}
    names = [f"{TABLES}/{block.name}.{ending}" for ending in contents]
    for name, content in zip(names, contents.values(), strict=True):
        write_text(content, folder / name)
    return names
