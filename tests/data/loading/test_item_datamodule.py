"""Batches by number, against plain Python over the tables; training examples of the train split only."""

from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.loading.catalogue_lists import Ragged
from mllm_srec.data.loading.item_batches import Numbering, TrainExamples
from mllm_srec.data.loading.item_datamodule import ItemDataModule
from mllm_srec.data.prepare import prepare_dataset
from mllm_srec.data.settings import CandidateSettings, DemoSettings, PrepareSettings
from mllm_srec.types import LIST_KINDS, ConfigError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A demo shop whose users have several held-out likes, and some no history."""
    demo = DemoSettings(n_users=17, n_items=40, n_interactions=14, image_size=28)
    folder = tmp_path_factory.mktemp("data")
    prepare_dataset(folder / "demo", PrepareSettings(source="demo", k_core=1, demo=demo), CandidateSettings(6))
    return folder


@pytest.fixture
def module(root):
    return ItemDataModule(str(root), "demo", batch_size=4, eval_batch_size=5, n_negatives=6, max_history=4)


def numbers(data):
    """user id -> number, item id -> number, as the batch types say."""
    users = sorted(set(data.interactions["user_id"]))
    return {user: i + 1 for i, user in enumerate(users)}, {item: i + 1 for i, item in enumerate(data.items["item_id"])}


def unpadded(row):
    values = row.tolist()
    kept = [value for value in values if value]
    assert values == [0] * (len(values) - len(kept)) + kept, "padding is on the left"
    return kept


@pytest.mark.parametrize("evaluator", ["sampled", "full"])
@pytest.mark.parametrize("which", [0, 1])
def test_batches_of_contexts(module, evaluator, which):
    module.evaluator = evaluator
    data = module.data
    user_number, item_number = numbers(data)
    groups = {row["group_id"]: row for row in data.groups.iter_rows(named=True)}
    pairs, lists = module.eval_examples("test")
    expected = pairs if which == 0 else lists.written_out() if evaluator == "full" else lists
    wanted = {
        int(group): [
            (int(expected.item_index[i]), int(expected.relevance[i]), int(expected.kind[i]))
            for i in range(expected.offsets[g], expected.offsets[g + 1])
        ]
        for g, group in enumerate(expected.group_id)
    }
    found = {}
    for batch in module.test_dataloader()[which]:
        assert batch.get("catalogue", False) is (evaluator == "full" and which == 1)
        assert batch["history"].shape[1] <= module.max_history
        for row, group_id in enumerate(batch["group_id"].tolist()):
            group = groups[group_id]
            assert batch["user"][row] == user_number[group["user_id"]]
            assert batch["timestamp"][row] == group["timestamp"]
            assert unpadded(batch["history"][row]) == [item_number[item] for item in group["history"]][-4:]
            mask = batch["candidate_mask"][row]
            columns = [batch[name][row] for name in ("item_index", "relevance", "kind")]
            assert (columns[0][~mask] == -1).all()
            found[group_id] = list(zip(*(column[mask].tolist() for column in columns), strict=True))
            if batch.get("catalogue"):
                assert columns[0][mask].tolist() == mask.nonzero().flatten().tolist(), "column j is item row j"
    assert {group: sorted(rows) for group, rows in found.items()} == {g: sorted(rows) for g, rows in wanted.items()}
    assert {LIST_KINDS[kind] for rows in found.values() for _, _, kind in rows} >= {"liked"}


def likes_of_train(data):
    """user number -> item numbers liked in train, in time order."""
    user_number, item_number = numbers(data)
    found = defaultdict(list)
    for row in sorted(data.interactions.iter_rows(named=True), key=lambda row: (row["timestamp"], row["order"])):
        if row["split"] == "train" and row["rating"] >= 4:
            found[user_number[row["user_id"]]].append(item_number[row["item_id"]])
    return found


@pytest.mark.parametrize("unit", ["sequences", "targets"])
@pytest.mark.parametrize("max_history", [2, 50])
def test_training_examples(root, unit, max_history):
    module = ItemDataModule(str(root), "demo", unit=unit, max_history=max_history, batch_size=4, n_negatives=6)
    found = []
    for batch in module.train_dataloader():
        targets = batch["target"].tolist() if unit == "targets" else [None] * len(batch["user"])
        rows = zip(batch["user"].tolist(), batch["history"], targets, strict=True)
        found += [(user, tuple(unpadded(history)), target) for user, history, target in rows]
    expected = []
    for user, items in likes_of_train(module.data).items():
        if unit == "sequences" and len(items) > 1:
            expected.append((user, tuple(items[-(max_history + 1) :]), None))
        elif unit == "targets":
            expected += [(user, tuple(items[:i][-max_history:]), item) for i, item in enumerate(items)]
    assert sorted(found) == sorted(expected)
    assert module.n_train_examples == len(expected)


def test_training_never_sees_another_split(root):
    data = PreparedDataset.open(root / "demo")
    numbering = Numbering(data)
    rng = np.random.default_rng(0)
    items = data.items["item_id"].to_numpy()
    held_out = pl.Series(rng.choice(items, data.interactions.height))
    exchanged = data.interactions.with_columns(
        item_id=pl.when(pl.col("split") == "train").then(pl.col("item_id")).otherwise(held_out)
    )
    for unit in ("sequences", "targets"):
        one, other = (TrainExamples.of(rows, numbering, unit, 5) for rows in (data.interactions, exchanged))
        for name in ("user", "begin", "end", "items"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_a_resumed_epoch_goes_on_where_it_was(root):
    def batches(done):
        module = ItemDataModule(str(root), "demo", batch_size=2, n_negatives=6, seed=5)
        progress = SimpleNamespace(current=SimpleNamespace(ready=3, processed=done))
        loop = SimpleNamespace(epoch_progress=progress, epoch_loop=SimpleNamespace(batch_progress=progress))
        module.trainer = SimpleNamespace(fit_loop=loop, global_rank=0, world_size=1)
        return [batch["user"].tolist() for batch in module.train_dataloader()]

    whole = batches(0)
    assert len(whole) > 2
    assert batches(2) == whole[2:]
    likes = likes_of_train(PreparedDataset.open(root / "demo"))
    assert sorted(user for batch in whole for user in batch) == sorted(user for user in likes if len(likes[user]) > 1)


def test_batches_are_fair_samples_whatever_the_length(root):
    """Batches of equal length would be biased ones: a small data set then trained far worse."""
    module = ItemDataModule(str(root), "demo", unit="targets", batch_size=4, n_negatives=6)
    lengths = [(batch["history"] > 0).sum(dim=1).double() for batch in module.train_dataloader()]
    within = torch.stack([batch.var() for batch in lengths if len(batch) == 4]).mean()
    assert len(lengths) > 5
    assert within > 0.6 * torch.cat(lengths).var(), "expected of a random split: all of it"


def test_limits_and_bad_settings(root):
    module = ItemDataModule(str(root), "demo", n_negatives=6, max_train_groups=3, max_test_groups=2)
    assert module.n_train_examples == 3
    assert [len(examples) for examples in module.eval_examples("test")] == [2, 2]
    with pytest.raises(ConfigError, match=r"data\.n_negatives=7"):
        ItemDataModule(str(root), "demo", n_negatives=7).eval_examples("test")
    with pytest.raises(ConfigError, match="holds no prepared data set"):
        ItemDataModule(str(root), "nothing").setup("fit")


def test_fit_validates_on_the_whole_catalogue_with_evaluator_full(module):
    assert module.evaluator_of(fitting=True) == "sampled"
    module.evaluator = "full"
    assert module.evaluator_of(fitting=True) == "full"
    module.evaluator = "rerank"
    assert module.evaluator_of(fitting=True) == "sampled"


def test_ragged_lists():
    random = np.random.default_rng(0)
    lists = [random.integers(1, 9, size).tolist() for size in (0, 3, 1, 0, 5)]
    keys = [i for i, values in enumerate(lists) for _ in values]
    order = random.permutation(len(keys))
    flat = np.array([value for values in lists for value in values])
    shuffled = Ragged.grouped(np.array(keys)[order], flat[order], 5)
    assert [sorted(row) for row in np.split(shuffled.values, shuffled.offsets[1:-1])] == [sorted(row) for row in lists]
    ragged = Ragged.grouped(np.array(keys), flat, 5)
    taken = ragged.take(np.array([4, 0, 1, 1]))
    assert [row.tolist() for row in np.split(taken.values, taken.offsets[1:-1])] == [lists[i] for i in (4, 0, 1, 1)]
    padded = ragged.left_padded(3)
    assert padded.tolist() == [[0] * (3 - len(row[-3:])) + row[-3:] for row in lists]
    assert torch.from_numpy(padded).shape == (5, 3)


def test_cut_offs(root):
    assert ItemDataModule(str(root)).cut_offs == (1, 5, 10, 20)
    assert ItemDataModule(str(root), cut_offs=[50, 3]).cut_offs == (3, 5, 10, 20, 50)
    for wrong in (0, -1, 2.5):
        with pytest.raises(ConfigError, match=rf"data.cut_offs=\[1, {wrong}\]: {wrong} is no cut-off; give whole"):
            ItemDataModule(str(root), cut_offs=[1, wrong])


@pytest.mark.parametrize("setting", ["batch_size", "eval_batch_size"])
def test_batches_hold_something(root, setting):
    with pytest.raises(ConfigError, match=f"data.{setting}=0; give at least 1"):
        ItemDataModule(str(root), **{setting: 0})
