"""Which reader makes the raw tables of which source."""

from __future__ import annotations

from pathlib import Path

from mllm_srec.data.raw import RawData
from mllm_srec.data.report import PrepareReport
from mllm_srec.data.settings import PrepareSettings
from mllm_srec.types import ConfigError

SOURCES = ("amazon2014", "amazon2018", "amazon2023", "tables", "demo")


def read_raw(settings: PrepareSettings, report: PrepareReport, staging: Path) -> RawData:
    """Read or generate the raw tables.

    Args:
        settings: `source` chooses the reader.
        report: Receives what the reader skips.
        staging: An existing folder for files that a source makes itself; the demo shop draws its pictures into it.

    Returns:
        The raw tables.

    Raises:
        ConfigError: The source is unknown.
    """
    # readers are imported when asked for: the demo needs no Amazon reader and the other way round
    if settings.source in ("amazon2014", "amazon2018", "amazon2023"):
        from mllm_srec.data.raw_amazon import read_amazon

        return read_amazon(settings, report)
    if settings.source == "tables":
        from mllm_srec.data.raw_tables import read_tables

        return read_tables(settings, report)
    if settings.source == "demo":
        from mllm_srec.data.demo_shop import generate_demo

        return generate_demo(settings.demo, pictures=staging)
    raise ConfigError(f"prepare.source: got {settings.source!r}; choose one of {', '.join(SOURCES)}.")


def picture_folder(settings: PrepareSettings, staging: Path) -> Path | None:
    """Where the source's pictures lie; None where it has none."""
    if settings.source == "demo":
        return staging
    return None if settings.images is None else Path(settings.images)
