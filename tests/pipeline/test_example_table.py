"""Examples for the tracker: rows in words by plain Python, of the last validation, of the first process only."""

import math
from types import SimpleNamespace

import polars as pl
import pytest
import torch

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.pipeline.example_table import N_TITLES, ExampleTable, example_rows
from mllm_srec.pipeline.scored_rows import SCHEMA


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
    return samples, pl.DataFrame(columns, schema=SCHEMA).with_columns(relevance=samples["label"].cast(pl.Int64))


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
def test_kept_are_the_first_pairs_of_the_last_validation(first):
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
    assert table._rows["group_id"].to_list() == ([10, 11, 12] if first else [])
