from __future__ import annotations

import time
from datetime import UTC, date, datetime

import polars as pl
import pytest

from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.data.raw.times import beyond_range, parse_times, report_times, show_time


def moment(*parts: int) -> float:
    return datetime(*parts, tzinfo=UTC).timestamp() * 1000


def parsed(values, unit: str = "s") -> tuple[list, dict[str, int]]:
    report = PrepareReport()
    return parse_times(pl.Series(values), unit, report, "reviews").to_list(), report.counts.get("reviews", {})


@pytest.mark.parametrize(
    ("text", "unit", "expected"),
    [
        ("20180901", "s", moment(2018, 9, 1)),
        ("20180901.0", "ms", moment(2018, 9, 1)),
        (" 20180901123005 ", "s", moment(2018, 9, 1, 12, 30, 5)),
        ("19991231", "us", moment(1999, 12, 31)),
    ],
)
def test_dates_written_as_one_number(text, unit, expected):
    assert parsed([text], unit) == ([expected], {"time read as a date written YYYYMMDD": 1})
    if text == "20180901":
        assert parsed([int(text)], unit) == ([expected], {"time read as a date written YYYYMMDD": 1})


@pytest.mark.parametrize("text", ["20181301", "20180932", "99999999", "10000000", "201809011", "20180901250000"])
def test_other_numbers_are_unix_time(text):
    assert parsed([text])[0] == [float(text) * 1000]


def test_numbers_like_dates_are_unix_time_in_a_column_of_unix_times():
    """Seconds since the beginning of a study, say: some of them have the digits of a date."""
    seconds = [20_180_000 + 100 * n + 7 for n in range(30)]
    for values in (seconds, [str(n) for n in seconds]):
        assert parsed(values) == ([1000.0 * n for n in seconds], {})


def test_a_number_that_is_no_date_in_a_column_of_dates():
    values = ["20180901", "20180902", "20181301", "20180931", "1600000000"]
    assert parsed(values)[0] == [moment(2018, 9, 1), moment(2018, 9, 2), None, None, 1.6e12]


def test_a_day_that_does_not_exist_is_no_time():
    assert parsed(["20180231"])[0] == [None]


@pytest.mark.parametrize(("unit", "ticks"), [("s", 1), ("ms", 1000), ("us", 10**6), ("ns", 10**9)])
def test_units(unit, ticks):
    assert parsed([1_600_000_000 * ticks], unit)[0] == [moment(2020, 9, 13, 12, 26, 40)]
    assert parsed([f" {1_600_000_000 * ticks} "], unit)[0] == [moment(2020, 9, 13, 12, 26, 40)]


def test_numbers_and_dates_in_one_column():
    values = ["1600000000", "2020-09-13T12:26:40Z", "", None, "soon", "20200913"]
    assert parsed(values)[0] == [1.6e12, 1.6e12, None, None, None, moment(2020, 9, 13)]
    assert parsed([date(2020, 9, 13)])[0] == [moment(2020, 9, 13)]


@pytest.mark.parametrize("given", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("true", ["s", "ms", "us", "ns"])
def test_a_wrong_unit_is_named(given, true):
    ticks = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[true]
    times = parse_times(pl.Series([(1_600_000_000 + n) * ticks for n in range(20)]), given, PrepareReport(), "reviews")
    report = PrepareReport()
    reason = beyond_range(times, given)
    if "set" not in reason:
        report_times(times, report, "reviews", given)
        reason = " ".join(report.counts.get("reviews", {}))
    assert f"set prepare.columns.timestamp_unit: {given}" not in reason
    assert (f"set prepare.columns.timestamp_unit: {true}" in reason) == (given != true)


def reported(times: list[float], unit: str | None = "s") -> tuple[dict[str, int], dict[str, str]]:
    report = PrepareReport()
    report_times(pl.Series(times), report, "reviews", unit)
    return report.counts.get("reviews", {}), report.facts


GOOD = moment(2020, 1, 2)


@pytest.mark.parametrize(
    ("times", "reason"),
    [
        ([GOOD, -GOOD], "time before 1995 (negative numbers)"),
        ([GOOD, 0.0], "time before 1995 (zero often stands for no time)"),
        ([GOOD, 2018e3], "time before 1995 (years? write dates as YYYY-MM-DD)"),
        ([GOOD, 43_344e3], "time before 1995 (days of a spreadsheet? write dates as YYYY-MM-DD)"),
        ([GOOD, moment(1985, 1, 1)], "time before 1995 (is the column one of times?)"),
        ([GOOD, 1e3 * time.time() + 3e8], "time in the future"),
    ],
)
def test_unlikely_times_are_pointed_out(times, reason):
    assert reported(times)[0] == {reason: 1}


def test_first_and_last_time_and_all_equal():
    assert reported([GOOD, GOOD + 60_000]) == ({}, {"first time": "2020-01-02", "last time": "2020-01-02 00:01"})
    assert reported([GOOD] * 20)[0] == {"all times are equal, the order of the file decides": 20}
    assert reported([1.6e9, 1.6e9 + 1], None)[0] == {"time before 1995 (in seconds?)": 2}
    assert show_time(-1e13) == "1653-02-10 06:13"
