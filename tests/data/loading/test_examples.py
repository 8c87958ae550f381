"""Rows of training and evaluation, against plain Python over the tables."""

from collections import defaultdict

import numpy as np
import pytest

from mllm_srec.data.loading.examples import pair_examples, rank_examples, select_train_rows
from mllm_srec.types import KINDS


def as_lists(examples, items):
    """{group_id: [(item_id, label, kind), ...]}"""
    names = items["item_id"].to_list()
    return {
        int(group): [
            (names[examples.item_index[row]], int(examples.relevance[row]), KINDS[examples.kind[row]])
            for row in range(examples.offsets[i], examples.offsets[i + 1])
        ]
        for i, group in enumerate(examples.group_id)
    }


def test_pairs_are_the_samples_of_each_group(shop):
    rows = shop.samples.filter(shop.samples["split"] == "train")
    expected = defaultdict(list)
    for row in rows.sort("sample_id").iter_rows(named=True):
        expected[row["group_id"]].append((row["item_id"], row["label"], row["kind"]))
    assert as_lists(pair_examples(shop.groups, shop.items, rows), shop.items) == dict(expected)


@pytest.mark.parametrize("m", [1, 3, None])
def test_lists_are_all_positives_and_the_first_m_negatives(shop, m):
    expected = defaultdict(list)
    for row in shop.candidates.sort("group_id", "position", "item_id").iter_rows(named=True):
        if row["split"] == "test" and (m is None or row["position"] <= m):
            expected[row["group_id"]].append((row["item_id"], row["label"], row["kind"]))
    examples = rank_examples(shop.groups, shop.items, shop.candidates, "test", m)
    assert as_lists(examples, shop.items) == dict(expected)
    assert all(sum(label for _, label, _ in rows) >= 1 for rows in expected.values())


def test_context_is_the_row_of_the_group(shop):
    examples = pair_examples(shop.groups, shop.items, shop.samples)
    assert shop.groups["group_id"][examples.context].to_list() == examples.group_id.tolist()


@pytest.mark.parametrize(
    ("negatives", "kinds"),
    [
        ("sampled", {"liked", "sampled"}),
        ("explicit", {"liked", "disliked"}),
        ("both", {"liked", "sampled", "disliked"}),
    ],
)
def test_negatives_choose_kinds(shop, negatives, kinds):
    train = shop.samples.filter(shop.samples["split"] == "train")
    rows = select_train_rows(train, negatives, "all", 0)
    assert set(rows["kind"]) == kinds
    assert rows.height == sum(kind in kinds for kind in train["kind"])


def test_cap_leaves_no_more_negatives_than_positives(shop):
    train = shop.samples.filter(shop.samples["split"] == "train")
    rows = select_train_rows(train, "both", "cap", 0)
    labels = rows["label"].to_list()
    assert labels.count(0) == labels.count(1) == train["label"].to_list().count(1)
    assert rows.equals(select_train_rows(train, "both", "cap", 0))
    assert not rows.equals(select_train_rows(train, "both", "cap", 1))


def test_draw_takes_whole_groups_in_order(shop):
    examples = pair_examples(shop.groups, shop.items, shop.samples)
    drawn = examples.draw(7, seed=3)
    assert len(drawn) == 7
    assert (np.diff(drawn.context) > 0).all()
    whole = as_lists(examples, shop.items)
    assert as_lists(drawn, shop.items) == {group: whole[group] for group in drawn.group_id.tolist()}
    assert examples.draw(None, 0) is examples
