"""Strata of whole numbers: every number in exactly one bin, by pandas."""

import numpy as np
import pandas as pd
import pytest

from mllm_srec.metrics.bins import bin_labels, bin_of, check_edges


@pytest.mark.parametrize("edges", [[0], [0, 1], [0, 1, 3, 6, 11, 21], [0, 5]])
def test_bins_by_pandas(edges):
    values = np.random.default_rng(0).integers(0, 30, 500)
    expected = pd.cut(values, [*edges, np.inf], right=False, labels=False)
    assert bin_of(values, edges).tolist() == expected.tolist()
    labels = bin_labels(edges)
    for value, place in zip(values, bin_of(values, edges), strict=True):
        low, _, high = labels[place].rstrip("+").partition("-")
        assert int(low) <= value <= (np.inf if labels[place].endswith("+") else int(high or low))


def test_labels():
    assert bin_labels([0]) == ["0+"]
    assert bin_labels([0, 1, 2, 4]) == ["0", "1", "2-3", "4+"]


@pytest.mark.parametrize("edges", [[], [1, 2], [0, 3, 3], [0, 4, 2]])
def test_bins_that_lose_a_number_are_refused(edges):
    with pytest.raises(ValueError, match=r"bins=\[.*\]: does not start at 0 and increase"):
        check_edges(edges, "bins")


def test_counts_below_zero_are_refused():
    with pytest.raises(ValueError, match="values=-1: negative; give counts of at least 0"):
        bin_of([3, -1], [0, 2])
    assert bin_of([], [0, 2]).tolist() == []
