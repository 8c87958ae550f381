"""Pair groups with their samples, rank groups with their candidates."""

from __future__ import annotations

from typing import Any

from tests.data.no_leak.oracle import Prepared, assert_negatives, grouped, liked_by_user


def test_one_pair_group_per_interaction_at_its_own_key(data):
    pairs = data.groups[data.groups["purpose"] == "pair"]
    columns = ["user_id", "timestamp", "order", "split"]
    assert sorted(pairs[columns].itertuples(index=False, name=None)) == sorted(
        data.interactions[columns].itertuples(index=False, name=None)
    )


def test_samples_of_pair_groups(data):
    at_key = {(row.user_id, row.timestamp, row.order): row for row in data.interactions.itertuples()}
    pairs = data.groups[data.groups["purpose"] == "pair"]
    samples = grouped(data.samples)
    assert set(samples) == set(pairs["group_id"])
    for group in pairs.itertuples():
        target, rows = at_key[group.user_id, group.timestamp, group.order], samples[group.group_id]
        is_liked = target.rating >= 4
        assert {(row.user_id, row.split) for row in rows} == {(group.user_id, group.split)}
        real = [(row.item_id, row.label, row.kind) for row in rows if row.kind != "sampled"]
        assert real == [(target.item_id, int(is_liked), "liked" if is_liked else "disliked")]
        assert [row.label for row in rows if row.kind == "sampled"] == [0] * (1 if is_liked else 0)


def test_one_rank_group_per_user_and_split_with_all_held_out_likes(data):
    expected = {}
    for user, likes in liked_by_user(data).items():
        for split in ("val", "test"):
            held = [(key, item) for key, item, where in likes if where == split]
            if held:
                expected[user, split] = (*min(held)[0], sorted(item for _, item in held))
    assert expected == found_lists(data)[0]


def test_one_rank_group_per_held_out_like(variant):
    held = variant.interactions[(variant.interactions["rating"] >= 4) & (variant.interactions["split"] != "train")]
    expected = sorted((r.user_id, r.split, r.timestamp, r.order, (r.item_id,)) for r in held.itertuples())
    assert expected == sorted((*user, t, o, tuple(items)) for user, t, o, items in found_lists(variant)[1])


def found_lists(data: Prepared) -> tuple[dict[tuple[str, str], tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Key and positives of each rank group: by (user, split), and as a list."""
    ranks = data.groups[data.groups["purpose"] == "rank"]
    rows = data.candidates.merge(ranks, on="group_id", suffixes=("", "_group"), validate="many_to_one")
    assert len(rows) == len(data.candidates)
    assert (rows["user_id"] == rows["user_id_group"]).all()
    assert (rows["split"] == rows["split_group"]).all()
    assert set(rows["group_id"]) == set(ranks["group_id"])
    positives = rows[rows["kind"] == "liked"].groupby("group_id")["item_id"].agg(sorted).to_dict()
    lists = [((g.user_id, g.split), g.timestamp, g.order, positives[g.group_id]) for g in ranks.itertuples()]
    return {user: (time, order, items) for user, time, order, items in lists}, lists


def test_negatives_of_rank_groups(data):
    assert_negatives(data)


def test_where_fewer_are_left_all_are_taken(variant):
    assert_negatives(variant)
    sizes = variant.candidates.query("kind == 'sampled'").groupby("group_id").size()
    assert sizes.max() < variant.drawing.n_negatives
    counted = [n for fact, n in variant.report.facts.items() if "fewer" in fact]
    assert sum(counted) == len(sizes)
