"""What stands beside p-values: what they account for, over what they are corrected, and on how few users they rest."""

import doctest
from dataclasses import replace

import polars as pl
import pytest

from mllm_srec.metrics.comparison import Compared
from mllm_srec.metrics.significance import PairedDifference
from mllm_srec.reports.page.grid_blocks import grid_blocks
from mllm_srec.reports.page.page import TableBlock
from mllm_srec.reports.tables import difference_words
from mllm_srec.reports.tables.grid_about import AboutDataSet, AboutGrid, GridReport, Significance
from mllm_srec.reports.tables.grid_summary import DataSetReport, Difference, summary_text

SUMMARY = pl.DataFrame(
    {"data_set": ["d", "d"], "row": ["a", "b"], "reference": [False] * 2, "metric": ["hr@10"] * 2,
     "mean": [0.5, 0.25], "sd": [0.1, 0.1], "n_seeds": [3, 3], "place": [1, 2]}
)  # fmt: skip
SEEDS = {"users": "nothing of other seeds", "users_and_seeds": "account for other users and other seeds"}


def about(resample="users", names=("d",)):
    sets, settings = [AboutDataSet(name) for name in names], Significance("a", ["hr@10"], resample=resample)
    return AboutGrid("t", False, [0, 1, 2], ["a", "b"], sets, ["hr@10"], settings, GridReport())


def page_notes(about, *differences):
    blocks = grid_blocks(about, "x", SUMMARY, differences, [])
    return "\n".join(note for b in blocks if isinstance(b, TableBlock) and b.folded for note in b.notes)


@pytest.mark.parametrize("resample", list(SEEDS))
def test_a_page_with_p_values_says_what_is_not_in_them(resample):
    d = Difference("d", "b", "hr@10", "a", -0.25, -0.3, -0.2, 0.001, 0.001, 40)
    text = page_notes(about(resample), d)
    assert SEEDS[resample] in text
    assert [words in text for words in SEEDS.values()].count(True) == 1
    assert "Holm p: corrected over one family, the 1 difference shown (1 row x 1 metric)." in text
    assert "users differ at all" not in text


def test_families_of_several_data_sets_are_named():
    d = Difference("d", "b", "hr@10", "a", -0.25, -0.3, -0.2, 0.001, 0.001, 40)
    figure = replace(about(names=("d", "e")), report=GridReport(kind="bars"))
    text = page_notes(figure, d, replace(d, data_set="e"), replace(d, data_set="e", row="c"))
    assert "Holm p: a family for each data set: 1 differences on d, 2 differences on e." in text


def test_few_users_are_named_by_whether_p_is_exact():
    d = Difference("d", "b", "hr@10", "a", -0.25, -0.3, -0.2, 0.001, 0.001, 20)
    assert "At most 20 users differ at all, so that p is exact" in page_notes(about(), d)
    resampled = page_notes(about("users_and_seeds"), d)
    assert "At most 20 users differ at all, so that p is not below the exact one, but the interval" in resampled
    assert "p is exact" not in resampled
    text = page_notes(about(), replace(d, n_changed=21))
    assert "Fewer than 30 users differ at all, so that interval and p are too optimistic: 'b, d'" not in text
    assert "interval and p are too optimistic: 'b' hr@10 (21)." in text
    assert "users differ at all" not in page_notes(about(), replace(d, n_changed=30)) + page_notes(
        about(), replace(d, n_changed=0)
    )


def test_a_summary_names_the_family_of_its_daggers():
    difference = PairedDifference(-0.25, -0.3, -0.2, 0.001, 50, 40)
    rows = [
        Compared("a", "hr@10", 0.5, 0.1, 3, 50, None, None),
        Compared("b", "hr@10", 0.25, 0.1, 3, 50, difference, 0.001),
    ]
    text = summary_text("t", SUMMARY, ["hr@10"], [DataSetReport("d", "", rows, ["a note"], [])], [])
    assert "(Holm p at most 0.05, corrected over one family, the 1 difference shown (1 row x 1 metric); " in text
    assert "what p does not account for is said below" in text


def test_examples():
    assert doctest.testmod(difference_words).failed == 0
