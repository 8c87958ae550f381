"""Preference chains against loops in plain Python: what is in them, and that no reader sees its own future."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mllm_srec.data.ratings import RatingRule
from mllm_srec.data.raw.schema import INTERACTION_SCHEMA
from mllm_srec.data.stored_prompts.summary_texts import PreferenceState, SummaryTexts
from mllm_srec.summaries.preference_chains import (
    Chain,
    ChainStep,
    build_chains,
    visible_likes,
    windows,
    windows_left_out,
)
from mllm_srec.summaries.settings import SummarySettings

SEEN_BY = {"train": {"train"}, "val": {"train"}, "test": {"train", "val"}}
SEEN_IN = {"train": {"train"}, "train_val": {"train", "val"}}
SCHEMA = {**INTERACTION_SCHEMA, "split": pl.String()}


def table(rows):
    return RatingRule().mark(pl.DataFrame(rows, schema=SCHEMA, orient="row"))


@st.composite
def shops(draw):
    """Rows of `interactions.parquet`: few times, so that many are equal, and some keys that are equal altogether."""
    row = st.tuples(
        st.sampled_from(["u1", "u2", "u10"]),
        st.sampled_from([1.0, 3.9, 4.0, 5.0, 5.0, 5.0]),
        st.integers(0, 5),
        st.integers(0, 12),
        st.sampled_from(["", "nice", None]),
        st.sampled_from(["train", "train", "train", "val", "test"]),
    )
    drawn = enumerate(draw(st.lists(row, max_size=40)))
    return [(user, f"i{n:02d}", *rest) for n, (user, *rest) in drawn]


@pytest.mark.parametrize(
    ("n_items", "window", "step", "expected"),
    [
        (0, 3, 3, []),
        (2, 3, 3, []),
        (3, 3, 3, [(0, 3)]),
        (8, 3, 3, [(0, 3), (3, 6)]),
        (6, 3, 2, [(0, 3), (2, 5)]),
        (3, 1, 1, [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_windows_are_full(n_items, window, step, expected):
    assert windows(n_items, window, step) == expected


def test_steps_of_a_refined_chain_show_a_window_and_others_all_so_far():
    chain = Chain("u", "train", tuple("abcde"), tuple((10, i) for i in range(5)), ("",) * 5)
    ends = [(0, 0, 3, (10, 2)), (1, 2, 5, (10, 4))]
    assert chain.steps(3, 2, refined=True) == [ChainStep(*end) for end in ends]
    assert chain.steps(3, 2, refined=False) == [ChainStep(i, 0, end, key) for i, _, end, key in ends]


@settings(deadline=None)  # a busy machine is no fault
@given(shops())
def test_chains_hold_the_visible_likes_in_order(rows):
    expected = []
    for user in sorted({row[0] for row in rows}):
        for visible, splits in SEEN_IN.items():
            likes = sorted((t, o, i, r or "") for u, i, g, t, o, r, s in rows if u == user and g >= 4 and s in splits)
            if likes:
                keys = tuple((t, o) for t, o, _, _ in likes)
                expected.append(Chain(user, visible, tuple(x[2] for x in likes), keys, tuple(x[3] for x in likes)))
    assert build_chains(table(rows)) == expected
    found = visible_likes(table(rows[::-1]))
    assert found == {(c.user_id, c.visible): list(likes_of(c)) for c in expected}


def likes_of(chain):
    return ((i, t, o, r) for i, (t, o), r in zip(chain.items, chain.keys, chain.reviews, strict=True))


@settings(deadline=None)  # a busy machine is no fault
@given(shops(), st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_no_context_reads_of_an_item_at_or_behind_its_key(rows, window, step, refined):
    chains = {(c.user_id, c.visible): c for c in build_chains(table(rows))}
    steps = {name: chain.steps(window, min(step, window), refined) for name, chain in chains.items()}
    states = {name: [PreferenceState(*s.key, str(s.index)) for s in some] for name, some in steps.items()}
    texts = SummaryTexts("", "both", {}, {}, states)
    row_of = {row[1]: row for row in rows}
    for user, item, _, time, order, _, split in rows:  # each as the target of a context of its own
        state = texts.state_before(user, split, time, order)
        name = (user, "train_val" if split == "test" else "train")
        before = [row for row in rows if row[0] == user and row[2] >= 4 and row[6] in SEEN_BY[split]]
        before = {row[1] for row in before if (row[3], row[4]) < (time, order)}
        shown = set()
        if state is not None:  # a preference holds what its step and all earlier ones showed
            for s in steps[name][: int(state.text) + 1]:
                shown |= set(chains[name].items[s.start : s.end])
        assert shown <= before
        assert item not in shown
        assert all((row_of[i][3], row_of[i][4]) < (time, order) for i in shown)


@settings(deadline=None)  # a busy machine is no fault
@given(shops())
def test_a_context_misses_less_than_one_step_of_its_past(rows):
    """With distinct keys the state that a context reads is the last that it may read."""
    rows = [(*row[:4], n, *row[5:]) for n, row in enumerate(rows)]
    for chain in build_chains(table(rows)):
        ends = [step.end for step in chain.steps(3, 2, refined=True)]
        for n_past in range(len(chain.items) + 1):
            read = [step for step in chain.steps(3, 2, refined=True) if step.key < (*chain.keys, (99, 0))[n_past]]
            assert len(read) == sum(end <= n_past for end in ends) == max(0, (n_past - 1) // 2)


@pytest.mark.parametrize(("window", "step"), [(3, 3), (3, 2), (1, 1)])
@pytest.mark.parametrize("max_windows", [1, 2, 5, 9])
def test_the_latest_windows_are_kept(window, step, max_windows):
    chain = Chain("u", "train", tuple("abcdefghijk"), tuple((n, 0) for n in range(11)), ("",) * 11)
    every = chain.steps(window, step, refined=True)
    kept = chain.steps(window, step, refined=True, max_windows=max_windows)
    assert [(s.start, s.end, s.key) for s in kept] == [(s.start, s.end, s.key) for s in every[-max_windows:]]
    assert [s.index for s in kept] == list(range(len(kept)))
    at_once = chain.steps(window, step, refined=False, max_windows=max_windows)
    assert [s.end for s in at_once] == [s.end for s in kept]
    for shown, last in zip(at_once, every[-max_windows:], strict=True):
        assert shown.start == every[max(0, last.index - max_windows + 1)].start, "as many windows, up to its own"
    assert chain.steps(window, step, True, len(every)) == every
    assert chain.steps(window, step, False, len(every)) == chain.steps(window, step, False)


@settings(deadline=None)  # a busy machine is no fault
@given(shops(), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_what_is_left_out_is_counted_without_chains(rows, window, step, max_windows):
    every = [len(windows(len(chain.items), window, step)) for chain in build_chains(table(rows))]
    extra = [n - max_windows for n in every if n > max_windows]
    assert windows_left_out(table(rows), window, step, max_windows) == (len(extra), sum(extra))


def test_a_very_long_chain_has_as_many_steps_as_are_set():
    n = 50_000
    chain = Chain("u", "train", ("i",) * n, tuple((k, 0) for k in range(n)), ("",) * n)
    assert len(chain.steps(3, 3, True, SummarySettings().max_windows)) == 200
    row = {"user_id": "u", "item_id": "i", "liked": True, "split": "train"}
    likes = pl.select(pl.lit(value).alias(name).repeat_by(n).explode() for name, value in row.items())
    assert windows_left_out(likes, 3, 3, 200) == (2, 2 * 16_466), "of both chains"
    assert all(step.end - step.start <= 600 for step in chain.steps(3, 3, False, 200))


def test_chains_without_likes():
    assert build_chains(table([])) == []
    assert build_chains(table([("u", "i", 3.0, 1, 1, "", "train"), ("u", "j", 5.0, 1, 2, "", "test")])) == []
