"""Negatives drawn anew each epoch: from where they may come, what decides them, and that nothing else does."""

from collections import Counter

import numpy as np
import polars as pl
import pytest
import torch

from mllm_srec.data.loading.prompt_batches import DrawnPromptDataset, PromptDataset
from mllm_srec.data.loading.ranking_datamodule import ServedInputs
from mllm_srec.data.loading.sampler import EpochBatchSampler, GroupBatchSampler
from mllm_srec.data.settings import PictureSettings
from mllm_srec.data.tables.popularity import by_popularity
from mllm_srec.prompts.templates import PromptSettings
from mllm_srec.types import LIST_KINDS, ConfigError

KEYS = ("group_id", "item_index", "relevance", "kind")


def served(module, epoch=0):
    """{group_id: [(item row, relevance, kind), ...]} of the batches of an epoch."""
    module._train_position = lambda: lambda: (epoch, 0)
    found = {}
    for batch in module.train_dataloader():
        for group, *columns, mask in zip(*(batch[key] for key in KEYS), batch["candidate_mask"], strict=True):
            found[int(group)] = list(zip(*(column[mask].tolist() for column in columns), strict=True))
    return found


@pytest.fixture
def serve(make_datamodule):
    def make(epoch=0, hard=None, **changes):
        module = make_datamodule(**changes)
        module.use(ServedInputs(hard=hard))
        module.setup("fit")
        return served(module, epoch)

    return make


def facts(shop):
    """Group -> user, and user -> rows of the items of the train split, and of the disliked ones among them."""
    row = {item: index for index, item in enumerate(shop.items["item_id"])}
    user_of = dict(shop.groups.select("group_id", "user_id").iter_rows())
    known, disliked = {}, {}
    for user, item, rating in (
        shop.interactions.filter(pl.col("split") == "train").select("user_id", "item_id", "rating").iter_rows()
    ):
        known.setdefault(user, set()).add(row[item])
        if rating < 4:
            disliked.setdefault(user, set()).add(row[item])
    return user_of, known, disliked


def test_one_is_the_stored_negative_in_every_epoch(serve):
    stored = serve()
    assert serve(n_train_negatives=1) == serve(epoch=3) == stored
    assert {len(rows) for rows in stored.values()} == {2}


@pytest.mark.parametrize("n", [2, 4])
def test_more_are_new_items_of_the_catalogue(serve, shop, n):
    user_of, known, _ = facts(shop)
    stored, more = serve(), serve(n_train_negatives=n)
    assert more.keys() == stored.keys()
    for group, rows in more.items():
        assert rows[:2] == stored[group]  # the stored ones first
        items = [item for item, *_ in rows]
        assert len(set(items)) == len(items)
        drawn = rows[2:]
        n_left = len(shop.items) - len(known[user_of[group]] | {stored[group][1][0]})
        assert len(drawn) == min(n - 1, n_left)
        assert not {item for item, *_ in drawn} & known[user_of[group]]
        assert {(label, LIST_KINDS[kind]) for _, label, kind in drawn} == {(0, "sampled")}


def test_draws_change_with_epoch_and_seed_and_with_nothing_else(make_datamodule, serve):
    first = serve(n_train_negatives=3)
    assert serve(n_train_negatives=3) == first
    assert serve(n_train_negatives=3, num_workers=2) == first
    assert serve(n_train_negatives=3, batch_size=1) == first
    few = serve(n_train_negatives=3, max_train_groups=5)
    assert few == {group: first[group] for group in few}
    for other in (serve(n_train_negatives=3, epoch=1), serve(n_train_negatives=3, seed=1)):
        changed = [group for group in first if other[group] != first[group]]
        assert len(changed) > len(first) / 2
        assert all(other[group][:2] == first[group][:2] for group in first)


def test_every_allowed_item_is_drawn_alike(make_datamodule, shop):
    user_of, known, _ = facts(shop)
    module = make_datamodule(n_train_negatives=3)
    examples, drawn = module.train_examples(), module.drawn_negatives()
    counts = Counter(int(item) for epoch in range(2000) for item in drawn.draw(examples, 0, epoch))
    stored = examples.item_index[examples.offsets[0] : examples.offsets[1]].tolist()
    allowed = set(range(len(shop.items))) - known[user_of[int(examples.group_id[0])]] - set(stored)
    assert set(counts) == allowed
    expected = 4000 / len(allowed)
    assert all(abs(count - expected) < 5 * np.sqrt(expected) for count in counts.values())


def test_held_out_items_may_be_negatives(serve, shop):
    """Leaving them out would tell the model which items are held out."""
    held_out = shop.interactions.filter(pl.col("split") != "train").select("user_id", "item_id").rows()
    row = {item: index for index, item in enumerate(shop.items["item_id"])}
    user_of, *_ = facts(shop)
    shown = {(user_of[group], item) for group, rows in serve(n_train_negatives=9).items() for item, *_ in rows[2:]}
    assert any((user, row[item]) in shown for user, item in held_out)


def test_dislikes_are_those_of_the_train_split(serve, shop):
    user_of, _, disliked = facts(shop)
    stored, more = serve(), serve(n_train_negatives=3, negatives_from="disliked")
    sizes = set()
    for group, rows in more.items():
        pool = disliked.get(user_of[group], set())
        drawn = rows[2:]
        assert rows[:2] == stored[group]
        assert len(drawn) == min(2, len(pool))
        assert {item for item, *_ in drawn} <= pool
        assert all(LIST_KINDS[kind] == "disliked" for *_, kind in drawn)
        sizes.add(len(drawn))
    assert len(sizes) > 1, "every user has as many dislikes: the test shows nothing"


def test_hard_ones_are_the_most_liked_items_that_the_user_does_not_know(serve, shop):
    user_of, known, _ = facts(shop)
    row = {item: index for index, item in enumerate(shop.items["item_id"])}
    order = [row[item] for item in by_popularity(shop.interactions, shop.items)]
    for group, rows in serve(n_train_negatives=3, negatives_from="hard", n_retrieved=3).items():
        apart = known[user_of[group]] | {item for item, *_ in rows[:2]}
        top = [item for item in order if item not in apart][:3]
        assert len(rows) == 2 + min(2, len(top))
        assert {item for item, *_ in rows[2:]} <= set(top)


def test_hard_ones_come_from_the_lists_of_a_retriever(serve, shop):
    user_of, known, _ = facts(shop)
    users = sorted(set(user_of.values()))[:-1]
    items = shop.items["item_id"].to_list()
    lists = pl.DataFrame(
        [{"user_id": user, "item_id": item, "rank": rank} for user in users for rank, item in enumerate(items, 1)]
    )
    found = serve(n_train_negatives=3, negatives_from="hard", n_retrieved=2, hard=lists)
    assert any(user_of[group] not in users for group in found)
    for group, rows in found.items():
        apart = known[user_of[group]] | {item for item, *_ in rows[:2]}
        top = [item for item in range(len(items)) if item not in apart][:2] if user_of[group] in users else []
        assert sorted(item for item, *_ in rows[2:]) == top


def test_a_disliked_item_alone_stays_alone(serve):
    found = serve(n_train_negatives=4, negatives="both")
    alone = [rows for rows in found.values() if not any(label for _, label, _ in rows)]
    assert alone
    assert all(len(rows) == 1 for rows in alone)


def test_likes_without_stored_negatives_are_filled_up(serve, make_datamodule):
    bare = serve(negatives="explicit")
    likes = [group for group, rows in bare.items() if rows[0][1]]
    assert all(len(bare[group]) == 1 for group in likes)
    filled = serve(negatives="explicit", n_train_negatives=2)
    assert all(len(filled[group]) == 3 for group in likes)
    assert make_datamodule(negatives="explicit").n_comparable == 0
    assert make_datamodule(negatives="explicit", n_train_negatives=2).n_comparable == len(likes)
    assert make_datamodule().n_comparable == len(likes)


def test_the_answer_to_a_drawn_target_is_no(make_datamodule):
    module = make_datamodule(n_train_negatives=4)
    module.setup("fit")
    batch = next(iter(module.train_dataloader()))
    no = module.stores.encoder.answer_ids[0]
    n_seen = 0
    for b, c in torch.nonzero(batch["candidate_mask"]).tolist():
        if c < 2:
            continue
        row, token = batch["answer_index"][b, c].tolist()
        assert batch["labels"][row, token + 1 : token + 1 + len(no)].tolist() == no
        n_seen += 1
    assert n_seen >= 3


def test_batches_hold_the_same_groups_in_the_same_order_whatever_the_number(make_datamodule):
    def order(**changes):
        module = make_datamodule(**changes)
        module.setup("fit")
        return [batch["group_id"].tolist() for batch in module.train_dataloader()]

    assert order(n_train_negatives=4) == order()


def test_two_processes_serve_what_one_does(make_datamodule):
    """Each group's targets, whichever process serves it and wherever in the epoch it begins."""
    module = make_datamodule(n_train_negatives=3)
    module.setup("fit")
    dataset = DrawnPromptDataset(PromptDataset(module.train_examples(), module.stores, True), module.drawn_negatives())

    def entries(rank, world_size, position=(2, 0)):
        groups = GroupBatchSampler(dataset.lengths, 1, True, 0, rank, world_size, lambda: position)
        return [place for batch in EpochBatchSampler(groups) for place in batch]

    one = entries(0, 1)
    assert {epoch for epoch, _ in one} == {2}
    two = entries(0, 2) + entries(1, 2)
    assert set(two) == set(one)
    assert entries(0, 1, (2, 5)) == one[5:]
    after = entries(0, 1, (2, len(dataset)))
    assert {epoch for epoch, _ in after} == {3}  # a checkpoint of an epoch's end goes on with the next one
    items = {place: [target.item_index for target in dataset[place].targets] for place in one}
    assert {place: [target.item_index for target in dataset[place].targets] for place in two} == items


def test_tokens_are_those_of_the_first_epoch(make_datamodule):
    module = make_datamodule(n_train_negatives=3)
    module.setup("fit")
    batches = list(module.train_dataloader())
    shown = sum(int((batch["segment_ids"] >= 0).sum()) for batch in batches)
    n_answers = sum(int(batch["candidate_mask"].sum()) for batch in batches)
    assert module.n_tokens("train") == shown - 3 * n_answers


def test_contexts_that_get_fewer_are_counted(make_datamodule, shop):
    assert make_datamodule().left_out == ""
    assert make_datamodule(n_train_negatives=2).left_out == ""
    _, _, disliked = facts(shop)
    module = make_datamodule(n_train_negatives=2, negatives_from="disliked")
    user_of, *_ = facts(shop)
    n_short = sum(user_of[int(group)] not in disliked for group in module.train_examples().group_id)
    assert n_short
    assert module.left_out == (
        f"{n_short} contexts have fewer than 2 negatives, since their users disliked fewer items"
    )


def test_dislikes_that_the_prompt_shows_are_no_negatives(make_datamodule):
    changes = {"prompt": PromptSettings(wording="tallrec"), "pictures": PictureSettings(serve="none")}
    make_datamodule(n_train_negatives=2, **changes)
    with pytest.raises(ConfigError, match=r"data\.negatives_from='disliked': .* shows disliked items"):
        make_datamodule(n_train_negatives=2, negatives_from="disliked", **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_train_negatives": 0}, r"data\.n_train_negatives=0: must be at least 1"),
        ({"n_train_negatives": 2, "balance": "cap"}, r"data\.n_train_negatives=2: data\.balance='cap'"),
        ({"negatives_from": "popular"}, r"data\.negatives_from='popular': not one of catalogue, disliked, hard"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(make_datamodule, changes, words):
    with pytest.raises(ConfigError, match=words):
        make_datamodule(**changes)
