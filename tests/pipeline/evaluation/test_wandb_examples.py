"""Examples for the tracker: rows in words against plain Python, of the last validation and the first process only."""

import hashlib
import math
from types import SimpleNamespace

import polars as pl
import pytest
import torch
from PIL import Image

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.pipeline.evaluation.schema import SCORES
from mllm_srec.pipeline.evaluation.wandb_examples import N_TITLES, ExampleTable, _wandb_table, example_rows


@pytest.fixture(scope="module")
def data(shop_root):
    return PreparedDataset.open(shop_root / "shop")


def scored(data, logits):
    samples = data.samples.head(6)
    index = {item: i for i, item in enumerate(data.items["item_id"])}
    columns = {
        "group_id": samples["group_id"],
        "item_index": [index[item] for item in samples["item_id"]],
        "score": [0.5 * i for i in range(6)],
        "yes_logit": [float(i) for i in range(6)] if logits else [None] * 6,
        "no_logit": [1.0] * 6 if logits else [None] * 6,
        "yes_no_mass": [None] * 6,
    }
    return samples, pl.DataFrame(columns, schema=SCORES).with_columns(relevance=samples["label"].cast(pl.Int64))


@pytest.mark.parametrize("logits", [True, False])
def test_rows_in_words(data, logits):
    samples, rows = scored(data, logits)
    found = example_rows(rows, data)
    items = {row["item_id"]: row for row in data.items.iter_rows(named=True)}
    groups = {row["group_id"]: row for row in data.groups.iter_rows(named=True)}
    for place, (row, sample) in enumerate(zip(found.to_dicts(), samples.to_dicts(), strict=True)):
        history = groups[sample["group_id"]]["history"][-N_TITLES:]
        assert row == {
            "user_id": sample["user_id"],
            "history": "; ".join(items[item]["title"] for item in history),
            "title": items[sample["item_id"]]["title"],
            "image": items[sample["item_id"]]["image"],
            "label": sample["label"],
            "score": 0.5 * place,
            "probability": pytest.approx(1 / (1 + math.exp(1 - place))) if logits else None,
        }


def batch_of(group):
    ones = torch.ones(2, 1)
    return {
        "group_id": torch.tensor([group, group + 1]), "candidate_mask": ones.bool(), "relevance": ones.long(),
        "item_index": ones.long(),
    }  # fmt: skip


@pytest.mark.parametrize("first", [True, False])
def test_kept_are_drawn_pairs_of_the_last_validation(first):
    table, trainer = ExampleTable(3), SimpleNamespace(is_global_zero=first, sanity_checking=True)
    found = {"scores": torch.zeros(2, 1)}
    table.on_validation_batch_end(trainer, None, found, batch_of(90), 0, 0)  # tried before training
    trainer.sanity_checking = False
    for epoch in (0, 10):
        table.on_validation_start(trainer, None)
        table.on_validation_batch_end(trainer, None, None, batch_of(80), 0, 0)  # a process without any group
        table.on_validation_batch_end(trainer, None, found, batch_of(70), 0, 1)  # lists
        for group in (0, 2, 4):
            table.on_validation_batch_end(trainer, None, found, batch_of(epoch + group), 0, 0)
    drawn = sorted(range(10, 16), key=lambda group: hashlib.sha256(b"%d" % group).hexdigest())[:3]
    assert drawn != [10, 11, 12]
    assert table._rows["group_id"].to_list() == (drawn if first else [])


@pytest.mark.parametrize("size", [2, 4])
def test_the_same_contexts_whatever_comes_first(size):
    trainer, found = SimpleNamespace(is_global_zero=True, sanity_checking=False), {"scores": torch.zeros(2, 1)}
    tables = ExampleTable(size), ExampleTable(size)
    for table, order in zip(tables, ([0, 2, 4, 6], [6, 2, 0, 4]), strict=True):
        for group in order:
            table.on_test_batch_end(trainer, None, found, batch_of(group), 0, 0)
    assert tables[0]._rows.equals(tables[1]._rows)
    assert tables[0]._rows.height == size


def test_pictures_are_small_and_one_that_broke_costs_no_training(data, tmp_path, capsys):
    Image.new("LA", (900, 300)).save(tmp_path / "wide.webp")
    table = pl.DataFrame({
        **{name: ["x"] * 3 for name in ("user_id", "history", "title")}, "image": ["wide.webp", None, "gone.png"],
        **{name: [0.5] * 3 for name in ("label", "probability", "score")},
    })  # fmt: skip
    made = _wandb_table(table, SimpleNamespace(folder=tmp_path))
    picture, none, gone = (row[made.columns.index("picture")] for row in made.data)
    assert (picture.image.mode, picture.image.size, picture.format) == ("RGB", (256, 85), "png")
    assert none is gone is None
    assert "examples: 1 of 3 pictures can no longer be read" in capsys.readouterr().out
