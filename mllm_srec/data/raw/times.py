"""Times of raw tables as Unix milliseconds, and what a report says of those that are unlikely."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.data.raw.values import LATEST_TIME_MS

PER_MS = {"s": 1e-3, "ms": 1.0, "us": 1e3, "ns": 1e6}
"""Ticks of a unit of `columns.timestamp_unit` in a millisecond."""

UNIT_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
EARLIEST_LIKELY_MS = int(datetime(1995, 1, 1, tzinfo=UTC).timestamp()) * 1000
"""Shops on the web are younger; an earlier time is pointed out."""

FEW = 10
"""Rows that may well be of one moment; where more are, it is pointed out."""

NO_TIME = "time does not parse (Unix time or a date such as 2018-09-01 12:30:00 is read)"
"""Reason under which values that are no time are counted."""

_DAY_MS = 86_400_000
_ISO = (
    r"^(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2})(?::(\d{2})(\.\d+)?)?)?\s*(?:Z|UTC|GMT|([+-])(\d{2}):?(\d{2})?)?$"
    # day          hour:minute      second fraction          sign  hours    minutes of the offset from UTC
)
_COMPACT = r"^((?:19|20)\d{2})(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?:([01]\d|2[0-3])([0-5]\d)([0-5]\d))?(?:\.0)?$"

_DIGITS = r"^\d{8}(?:\d{6})?(?:\.0)?$"
"""Numbers with as many digits as such a date."""


def parse_times(values: pl.Series, unit: str, report: PrepareReport, stage: str) -> pl.Series:
    """Convert times to Unix milliseconds, as floats since they may exceed an int64; null where a value is no time.

    Where at least half of a column's numbers are dates written YYYYMMDD or YYYYMMDDhhmmss since 1900, they are read as
    dates, and numbers of as many digits that are no date are no time; as Unix time they would lie in 1970 or beyond the
    year 2200. The report counts the dates. In any other column a number is Unix time, whatever its digits.

    Args:
        values: Numbers, texts, dates or times.
        unit: Unit of numbers, a key of `PER_MS`.
        report: Receives the count.
        stage: Stage of the report.
    """
    if values.dtype in (pl.Date, pl.Datetime):
        return values.cast(pl.Datetime("ms")).dt.epoch("ms").cast(pl.Float64)
    text = values.cast(pl.String, strict=False).str.strip_chars()
    numeric = (text if values.dtype == pl.String else values).cast(pl.Float64, strict=False)
    times = pl.select(pl.when(numeric.is_finite()).then((numeric / PER_MS[unit]).round()).alias("time"))["time"]
    compact = text.str.contains(_COMPACT).fill_null(False)
    if compact.any() and compact.sum() * 2 >= times.count():
        report.count(stage, "time read as a date written YYYYMMDD", int(compact.sum()), str(text.filter(compact)[0]))
        times = times.zip_with(~text.str.contains(_DIGITS).fill_null(False), _compact_milliseconds(text))
    if times.null_count() > text.null_count() and values.dtype == pl.String:
        times = pl.select(pl.coalesce(times, _iso_milliseconds(text)))["time"]
    return times


def beyond_range(times: pl.Series, unit: str) -> str:
    """Return the reason under which times after the year 2200 are counted, with the unit that would fit them."""
    late = times.filter(times.abs() > LATEST_TIME_MS)
    fitting = _fitting_unit(late, unit)
    advice = f"(in {UNIT_NAMES[fitting]}? set prepare.columns.timestamp_unit: {fitting})" if fitting else ""
    return f"time is out of range in {UNIT_NAMES[unit]} {advice}".strip()


def report_times(times: pl.Series, report: PrepareReport, stage: str, unit: str | None = None) -> None:
    """Report the first and last time, and count those that are unlikely, with the probable cause.

    Args:
        times: Unix milliseconds, none null.
        report: Receives the facts `first time` and `last time`, and counts.
        stage: Stage of the report.
        unit: Unit of the raw numbers, a key of `PER_MS`; None where no setting gives it.
    """
    if times.is_empty():
        return
    first, last = times.min(), times.max()
    report.fact("first time", show_time(first))
    report.fact("last time", show_time(last))
    early = times.filter(times < EARLIEST_LIKELY_MS)
    report.count(stage, f"time before 1995 ({_cause(early, unit)})", early.len(), _example(early))
    late = times.filter(times > time.time() * 1000 + _DAY_MS)
    report.count(stage, "time in the future", late.len(), _example(late))
    if first == last and times.len() >= FEW:
        report.count(stage, "all times are equal, the order of the file decides", times.len(), show_time(first))


def show_time(milliseconds: Any) -> str:
    """Return a time as a date, with hours and minutes in UTC unless it is midnight.

    >>> show_time(0), show_time(1_600_000_000_000)
    ('1970-01-01', '2020-09-13 12:26')
    """
    text = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)).strftime("%Y-%m-%d %H:%M")
    return text.removesuffix(" 00:00")


def _cause(early: pl.Series, unit: str | None) -> str:
    """Guess from times before 1995 what went wrong."""
    if early.is_empty():
        return ""
    middle = float(early.median()) * PER_MS[unit or "ms"]  # type: ignore[arg-type]
    fitting = _fitting_unit(early, unit or "ms")
    if fitting and unit is None:
        return f"in {UNIT_NAMES[fitting]}?"
    if fitting:
        return f"in {UNIT_NAMES[fitting]}? set prepare.columns.timestamp_unit: {fitting}"
    if middle == 0:
        return "zero often stands for no time"
    if middle < 0:
        return "negative numbers"
    if 1900 <= middle <= 2100:
        return "years? write dates as YYYY-MM-DD"
    if 20_000 <= middle <= 60_000:
        return "days of a spreadsheet? write dates as YYYY-MM-DD"
    return "is the column one of times?"


def _fitting_unit(times: pl.Series, unit: str) -> str | None:
    """Return the unit, other than the given one, in which most of the times are likely; None if there is none."""
    ticks = times * PER_MS[unit]
    latest = time.time() * 1000 + _DAY_MS
    for other in PER_MS:
        moments = ticks / PER_MS[other]
        if other != unit and ((moments >= EARLIEST_LIKELY_MS) & (moments <= latest)).sum() * 2 > times.len():
            return other
    return None


def _compact_milliseconds(text: pl.Series) -> pl.Series:
    """Parse YYYYMMDD and YYYYMMDDhhmmss to Unix milliseconds; null where a text is neither."""
    names = ("year", "month", "day", "hour", "minute", "second")
    parts = [text.str.extract(_COMPACT, place).alias(name) for place, name in enumerate(names, 1)]
    clock = pl.DataFrame(parts).with_columns(pl.col(names[3:]).fill_null("00"))
    moment = pl.concat_str(names, separator=" ").str.to_datetime("%Y %m %d %H %M %S", strict=False)
    return clock.select(moment.dt.epoch("ms").cast(pl.Float64).alias("time"))["time"]


def _iso_milliseconds(text: pl.Series) -> pl.Series:
    """Parse dates, year first, perhaps with time, fraction and offset, to Unix milliseconds; null where malformed."""
    dashed = pl.col("text").str.replace(r"^(\d{4})/(\d{2})/(\d{2})", "$1-$2-$3")
    part = [dashed.str.extract(_ISO, index) for index in range(8)]
    clock = pl.concat_str(part[1], pl.lit(" "), part[2].fill_null("00:00"), pl.lit(":"), part[3].fill_null("00"))
    moment = clock.str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False).dt.epoch("ms").cast(pl.Float64)
    fraction = (part[4].cast(pl.Float64, strict=False).fill_null(0.0) * 1000).round()
    minutes = part[6].cast(pl.Float64).fill_null(0.0) * 60 + part[7].cast(pl.Float64).fill_null(0.0)
    sign = pl.when(part[5] == "-").then(-1.0).otherwise(1.0)
    return pl.DataFrame({"text": text}).select((moment + fraction - sign * minutes * 60_000).alias("time"))["time"]


def _example(times: pl.Series) -> str | None:
    return None if times.is_empty() else show_time(times[0])
