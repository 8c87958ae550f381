"""Multimodal sequential recommendation with multimodal large language models (MLLM-SRec).

The names below are the public Python interface; modules may move, these names do not. Each is imported when it is first
used, so that `import mllm_srec` takes milliseconds.
"""

from __future__ import annotations

import importlib
from typing import Any

from mllm_srec.files.quiet import quiet_libraries
from mllm_srec.types import VERSION, ConfigError, DataError, MllmSrecError

__version__ = VERSION

_HOMES = {
    "PrepareSettings": "data.settings",
    "CandidateSettings": "data.settings",
    "DemoSettings": "data.settings",
    "prepare_dataset": "data.prepare",
    "read_raw": "data.prepare",
    "PrepareReport": "data.prepare_report",
    "PreparedDataset": "data.dataset",
    "dataset_statistics": "data.tables.statistics",
    "Ranker": "pipeline.ranking.ranker",
    "History": "pipeline.ranking.people",
    "history_table": "pipeline.ranking.ranker",
    "NewItem": "pipeline.ranking.new_items",
    "analyse_runs": "pipeline.analysis.analyse",
    "StrataSettings": "pipeline.analysis.strata",
    "grid_run_groups": "pipeline.grid.results",
    "case_studies": "pipeline.report.case_studies",
    "png": "reports.figures.notebook_figures",
    "seeds_figure": "reports.figures.notebook_figures",
    "strata_figure": "reports.figures.notebook_figures",
    "picture_figure": "reports.figures.notebook_figures",
}
"""Public name -> module below `mllm_srec` that defines it."""

__all__ = ["ConfigError", "DataError", "MllmSrecError", "__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used.

    Raises:
        AttributeError: The name is not public.
    """
    if name not in _HOMES:
        raise AttributeError(f"module 'mllm_srec' has no attribute {name!r}; public names are {', '.join(__all__)}")
    with quiet_libraries():  # some print when they are imported
        value = getattr(importlib.import_module(f"mllm_srec.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Public names, for completion in a shell."""
    return sorted({*globals(), *__all__})
