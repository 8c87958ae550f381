"""A context holds what its split may see before its own key, and nothing else."""

from __future__ import annotations

from tests.data.no_leak.oracle import VISIBLE, Prepared


def assert_contexts(data: Prepared) -> None:
    by_user, longest = data.by_user(), data.settings.max_history
    for group in data.groups.itertuples():
        visible, key = VISIBLE[group.split], (group.timestamp, group.order)
        seen = [row for row in by_user[group.user_id] if row[0] < key and row[3] in visible]
        liked = [item for _, item, is_liked, _ in seen if is_liked]
        disliked = [item for _, item, is_liked, _ in seen if not is_liked]
        assert list(group.history) == liked[-longest:], group
        assert list(group.disliked) == disliked[-longest:], group


def test_context_is_what_is_visible_before_the_key(data):
    assert_contexts(data)
    assert (data.groups["history"].map(len) == 0).any()  # no history is kept, not dropped


def test_context_of_the_variant_keeps_the_latest_three(variant):
    assert_contexts(variant)
    assert variant.groups["history"].map(len).max() == 3


def test_no_target_is_in_its_own_context(data):
    seen = {group.group_id: {*group.history, *group.disliked} for group in data.groups.itertuples()}
    for table in (data.samples, data.candidates):
        for row in table[table["kind"] != "sampled"].itertuples():
            assert row.item_id not in seen[row.group_id]
