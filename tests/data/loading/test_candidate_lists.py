"""Catalogue lists and lists of a retriever, against plain Python over the tables."""

from collections import defaultdict

import numpy as np
import polars as pl
import pytest

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.loading import candidate_lists as rank_lists
from mllm_srec.data.loading.candidate_lists import RankLists, lists_hash
from mllm_srec.data.prepare import prepare_dataset
from mllm_srec.data.settings import CandidateSettings, DemoSettings, PrepareSettings
from mllm_srec.types import LIST_KINDS, ConfigError

VISIBLE = {"val": {"train"}, "test": {"train", "val"}}


@pytest.fixture(scope="module", params=["user", "instance"])
def data(request, tmp_path_factory):
    """A demo shop with dislikes and users of several held-out likes."""
    demo = DemoSettings(n_users=15, n_items=50, n_interactions=25, image_size=28)
    settings = PrepareSettings(source="demo", k_core=1, demo=demo)
    folder = tmp_path_factory.mktemp("data") / "demo"
    prepare_dataset(folder, settings, CandidateSettings(n_negatives=5, unit=request.param))
    return PreparedDataset.open(folder)


def group_ids(data, split):
    rows = data.groups.filter((pl.col("purpose") == "rank") & (pl.col("split") == split))
    return rows["group_id"].to_numpy()


def as_lists(examples, data):
    """{group_id: [(item_id, label, kind), ...]}"""
    items = data.items["item_id"].to_list()
    return {
        int(group): [
            (items[examples.item_index[row]], int(examples.relevance[row]), LIST_KINDS[examples.kind[row]])
            for row in range(examples.offsets[i], examples.offsets[i + 1])
        ]
        for i, group in enumerate(examples.group_id)
    }


def by_hand(data, split):
    """Expected candidates of every list, from the definitions alone."""
    ratings = defaultdict(dict)
    for row in data.interactions.iter_rows(named=True):
        ratings[row["user_id"]][row["item_id"]] = (row["split"], row["rating"])
    instance = data.manifest["candidates"]["unit"] == "instance"
    lists = {}
    for group in data.groups.iter_rows(named=True):
        if group["purpose"] != "rank" or group["split"] != split:
            continue
        rows = {}
        for item in data.items["item_id"]:
            where, rating = ratings[group["user_id"]].get(item, (None, 0))
            if where in VISIBLE[split]:
                continue
            held_out = where == split and rating >= 4
            kind = "liked" if held_out else "disliked" if where == split else "unrated"
            rows[item] = (int(held_out), kind)
        if instance:  # the one like at the list's own key stays, the user's others are no candidates
            key = (group["timestamp"], group["order"])
            own = data.interactions.filter(
                (pl.col("user_id") == group["user_id"]) & (pl.col("timestamp") == key[0]) & (pl.col("order") == key[1])
            )["item_id"][0]
            rows = {item: value for item, value in rows.items() if not value[0] or item == own}
        lists[group["group_id"]] = rows
    return lists


@pytest.mark.parametrize("split", ["val", "test"])
def test_full_lists(data, split):
    found = as_lists(RankLists(data, split, group_ids(data, split)).full(), data)
    expected = by_hand(data, split)
    assert {group: {item: (label, kind) for item, label, kind in rows} for group, rows in found.items()} == expected
    assert all(len(rows) == len(expected[group]) for group, rows in found.items())
    kinds = {kind for rows in found.values() for _, _, kind in rows}
    assert kinds == {"liked", "disliked", "unrated"}
    for rows in found.values():
        labels = [label for _, label, _ in rows]
        assert labels == sorted(labels, reverse=True)


FIELDS = ("group_id", "context", "offsets", "item_index", "relevance", "kind", "n_missed")


@pytest.mark.parametrize("split", ["val", "test"])
def test_catalogue_lists_written_out_later_are_the_same(data, split):
    lists = RankLists(data, split, group_ids(data, split))
    full, catalogue = lists.full(), lists.catalogue()
    later = catalogue.written_out()
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(later, name), getattr(full, name), err_msg=name)
    np.testing.assert_array_equal(catalogue.sizes, full.sizes)
    np.testing.assert_array_equal(catalogue.n_positives, full.n_positives)
    parts = [part.written_out() for part in catalogue.chunks(4)]
    n_full, n_rest = divmod(len(catalogue), 4)
    assert [len(part) for part in parts] == [4] * n_full + [n_rest] * (n_rest > 0)
    np.testing.assert_array_equal(np.concatenate([part.item_index for part in parts]), full.item_index)


def test_some_of_the_catalogue_lists(data):
    catalogue = RankLists(data, "test", group_ids(data, "test")).catalogue()
    chosen = catalogue.group_id[[4, 1]].tolist()
    for some in (catalogue.only(chosen), catalogue.without(set(catalogue.group_id.tolist()) - set(chosen))):
        assert some.group_id.tolist() == sorted(chosen)
        full = RankLists(data, "test", np.array(sorted(chosen))).full()
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(some.written_out(), name), getattr(full, name), err_msg=name)
    assert catalogue.without(set()) is catalogue


def test_some_lists_only(data):
    chosen = group_ids(data, "test")[2:5]
    whole = as_lists(RankLists(data, "test", group_ids(data, "test")).full(), data)
    some = as_lists(RankLists(data, "test", chosen).full(), data)
    assert some == {int(group): whole[int(group)] for group in chosen}


def test_reranked_lists_and_what_was_missed(data):
    lists = RankLists(data, "test", group_ids(data, "test"))
    expected = by_hand(data, "test")
    random = np.random.default_rng(0)
    retrieved = [
        {"group_id": group, "item_id": item, "rank": rank}
        for group, rows in expected.items()
        for rank, item in enumerate(random.permutation(list(rows))[:12], start=1)
    ]
    examples = lists.rerank(pl.DataFrame(retrieved), 8)
    found = as_lists(examples, data)
    for group, rows in expected.items():
        shown = [row["item_id"] for row in retrieved if row["group_id"] == group and row["rank"] <= 8]
        assert found[group] == [(item, *rows[item]) for item in shown]
        n_missed = sum(label for item, (label, _) in rows.items() if item not in shown)
        assert examples.n_missed[examples.group_id.tolist().index(group)] == n_missed
    assert examples.n_missed.sum() > 0


def test_too_many_pairs_are_refused(data, monkeypatch):
    monkeypatch.setattr(rank_lists, "MAX_FULL_PAIRS", 120)
    with pytest.raises(ConfigError, match=r"more than the 120 that are written out; set data.max_test_groups to 2"):
        RankLists(data, "test", group_ids(data, "test")).full()


def test_the_hash_feels_every_change(data):
    groups = group_ids(data, "test")
    lists = RankLists(data, "test", groups)
    whole = lists.full()
    assert lists_hash(whole) == lists_hash(RankLists(data, "test", groups).full())
    others = [whole.take(np.arange(len(whole) - 1)), whole.take(np.arange(len(whole))[::-1])]
    rows = by_hand(data, "test")
    ranked = pl.DataFrame(
        [{"group_id": g, "item_id": i, "rank": r} for g, items in rows.items() for r, i in enumerate(items, 1)]
    )
    others += [lists.rerank(ranked, n) for n in (3, 4)]
    assert len({lists_hash(examples) for examples in (whole, *others)}) == 5
