from __future__ import annotations

import polars as pl
import pytest

from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.data.raw.ids import explain_missing, looks_like_sequence, parse_ids


def parsed(values) -> tuple[list, dict[str, int]]:
    report = PrepareReport()
    return parse_ids(pl.Series(values), report, "reviews").to_list(), report.counts.get("reviews", {})


@pytest.mark.parametrize(
    ("values", "ids", "reason"),
    [
        (["7.0", "8.0", ""], ["7", "8", None], "id written as 7.0, read as 7"),
        (["7", "8.0", "-1.00"], ["7", "8", "-1"], "id written as 7.0, read as 7"),
        (["7.0", "b"], ["7.0", "b"], None),
        (["7.0", "7.5"], ["7.0", "7.5"], None),
        (["007", "7.0"], ["007", "7.0"], None),
        (["0108700000"], ["0108700000"], None),
        ([7.0, None, 8.0], ["7", None, "8"], None),
        ([7.0, 7.5], ["7.0", "7.5"], None),
        ([7, 8], ["7", "8"], None),
        ([" a ", "\ufeffb", "c\u200b", "\u00a0d"], ["a", "b", "c", "d"], None),
        (["nan", "NaN", "None", "NULL", "<NA>", "\\N"], [None] * 6, None),
        (["Nan", "none of these"], ["Nan", "none of these"], None),
        (["1.087E+09", "x"], ["1.087E+09", "x"], "id in scientific notation, its last digits may be lost"),
        ([2.0**60, 1.0], [str(2**60), "1"], "id stored as a float that cannot hold all its digits"),
    ],
)
def test_ids(values, ids, reason):
    found, counts = parsed(values)
    assert found == ids
    assert list(counts) == ([reason] if reason else [])


@pytest.mark.parametrize(
    ("wanted", "available", "words"),
    [
        (["0108", "0109"], ["108", "109"], "leading zeros"),
        (["7.0", "b.0"], ["7", "b"], "'.0'"),
        (["b00a", "b00b"], ["B00A", "B00B"], "upper and lower case"),
        (["a-1", "a 2"], ["a1", "a2"], "blanks or signs"),
        (["i1", "i2"], ["1", "2"], "a prefix"),
    ],
)
def test_ids_that_do_not_meet_are_explained(wanted, available, words):
    for here, there in ((wanted, available), (available, wanted)):
        found = explain_missing(pl.Series(here), pl.Series(there))
        assert found is not None
        assert words in found[0]
        assert found[1] == f"{here[0]!r} and {there[0]!r}"


def test_ids_of_other_things_are_not_explained():
    assert explain_missing(pl.Series(["B00005N7P0", "B000063EZ1"]), pl.Series(["0000013714", "0000000001"])) is None
    assert explain_missing(pl.Series(["0", "00"]), pl.Series(["x"])) is None


@pytest.mark.parametrize(
    ("items", "users", "is_one"),
    [
        ([["a", "b"], ["c"]], ["u", "v"], True),
        (["[1, 2, 3]", "[4, 5]"], ["u", "u"], True),
        (["1 2 3", "4 5 6"], ["u", "v"], True),
        (["1,2,3", "4,5,6"], ["u", "v"], True),
        (["The Third Man", "Soap and more"], ["u", "u"], False),
        (["a", "b"], ["u", "v"], False),
        ([1, 2], ["u", "v"], False),
    ],
)
def test_a_row_for_each_sequence(items, users, is_one):
    assert (looks_like_sequence(pl.Series(items), pl.Series(users)) is not None) == is_one
