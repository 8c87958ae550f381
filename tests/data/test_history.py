"""Each cut of a history against a plain count of what must stay."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mllm_srec.data.history import (
    cut_line,
    cut_text,
    cut_tokens,
    first_that_fits,
    items_since,
    latest_items,
    latest_rows,
    lengths_read,
    newest_lines,
    room_for_history,
)
from mllm_srec.types import ConfigError

ITEMS = ["a", "b", "c"]
LINES = st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=6)


def test_a_context_keeps_its_latest_rows():
    begin, end = np.array([0, 3, 5, 9]), np.array([3, 5, 5, 8])  # the last history is empty
    for max_history, kept in ((0, [[], [], [], []]), (2, [[1, 2], [3, 4], [], []]), (9, [[0, 1, 2], [3, 4], [], []])):
        first = latest_rows(begin, end, max_history)
        assert [list(range(a, b)) for a, b in zip(first, end, strict=True)] == kept


@pytest.mark.parametrize(("n_since", "listed"), [(0, []), (1, ["c"]), (3, ITEMS), (7, ITEMS)])
def test_items_behind_a_preference_are_those_since_and_no_more_than_the_context_has(n_since, listed):
    assert items_since(ITEMS, n_since) == listed


@pytest.mark.parametrize(("min_recent", "listed"), [(0, ["c"]), (1, ["c"]), (2, ["b", "c"]), (7, ITEMS)])
def test_the_latest_likes_are_listed_even_where_the_preference_covers_them(min_recent, listed):
    assert items_since(ITEMS, 1, min_recent) == listed


@pytest.mark.parametrize(("max_history", "listed"), [(None, ITEMS), (1, ["c"]), (3, ITEMS), (7, ITEMS)])
def test_a_prompt_lists_the_latest_items(max_history, listed):
    assert latest_items(ITEMS, max_history) == listed


def test_a_baseline_reads_its_latest_items_and_one_more_where_the_first_is_only_context():
    sizes = np.array([0, 1, 4, 9])
    assert lengths_read(sizes, 4).tolist() == [0, 1, 4, 4]
    assert lengths_read(sizes, 4, n_predicted=1).tolist() == [0, 1, 4, 5]


def test_the_room_is_what_the_rest_of_the_prompt_leaves():
    assert room_for_history(100, 40, 30, 3, n_empty=27, about="group 0") == 27
    with pytest.raises(ConfigError, match=r"data\.max_length=100: too few tokens for group 0; .* it needs 101; raise"):
        room_for_history(100, 40, 30, 3, n_empty=28, about="group 0")


@given(LINES, st.integers(-3, 25))
def test_the_newest_lines_that_fit_are_the_longest_suffix(lines, room):
    suffixes = [lines[first:] for first in range(len(lines) + 1)]
    fitting = [suffix for suffix in suffixes if sum(map(len, suffix)) <= room]
    assert newest_lines(lines, room) == (fitting[0] if fitting else [])


@given(st.lists(st.integers(0, 9), max_size=6), st.integers(0, 9))
def test_the_first_that_fits_is_the_oldest_whatever_the_others_need(needed, room):
    """Sizes need not fall: a list that loses its last item says "none", which may be longer."""
    fitting = [first for first, n_tokens in enumerate(needed) if n_tokens <= room]
    assert first_that_fits(len(needed), needed.__getitem__, room) == (fitting[0] if fitting else None)


def test_a_line_that_does_not_fit_keeps_its_beginning():
    assert cut_line([[1], [2, 3, 4]], 2) == [2, 3]


def test_texts_are_cut_at_tokens_and_never_within_a_character(encoder):
    text = "Café, naïve 🙂 mug"
    ids = encoder.encode_text(text)
    assert cut_text(encoder, text, len(ids)) == text
    for n in range(1, len(ids)):
        cut = cut_text(encoder, text, n)
        assert text.startswith(cut)
        shown = encoder.tokenizer.decode(cut_tokens(encoder.tokenizer, ids, n))
        assert text.startswith(shown)
        assert shown.rstrip() == cut
