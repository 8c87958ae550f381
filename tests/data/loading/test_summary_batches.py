"""Batches of chats: left padding, token budget, order, shards, and what is refused."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from mllm_srec.data.loading.summary_batches import SummaryCollator, SummaryDataset, TokenBudgetSampler, summary_loader
from mllm_srec.data.pictures.feature_store import FeatureStore
from mllm_srec.data.pictures.image_store import build_image_store, load_image_processor
from mllm_srec.data.settings import PictureSettings
from mllm_srec.prompts.chat import ChatEncoder
from mllm_srec.prompts.summaries import Message, SummaryPrompt, image_messages
from mllm_srec.types import ConfigError, DataError

N_NEW = 20


@pytest.fixture(scope="module")
def chat(encoder):
    return ChatEncoder(encoder.tokenizer)


@pytest.fixture(scope="module")
def images(shop, tiny_backbone):
    processor = load_image_processor(str(tiny_backbone), None, PictureSettings(max_pixels=9 * 28 * 28))
    return build_image_store(shop.folder, processor, shop.items)


def texts(lengths):
    return [SummaryPrompt(f"k{i:03d}", (Message("user", ("a" + " red" * n,)),)) for i, n in enumerate(lengths)]


def seen(picture, words=1):
    return SummaryPrompt(f"see {picture}", tuple(image_messages("Describe the image." * words)), picture)


LENGTHS = np.random.default_rng(0).integers(1, 60, 53).tolist()


@pytest.fixture(scope="module")
def dataset(chat):
    return SummaryDataset(texts(LENGTHS), chat, N_NEW)


# --- batches ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [100, 500, 10_000])
def test_batches_fill_the_budget_and_no_more(dataset, budget):
    batches = list(TokenBudgetSampler(dataset, budget))
    assert sorted(index for batch in batches for index in batch) == list(range(53))
    for batch, after in zip(batches, [*batches[1:], None], strict=True):
        size = len(batch) * (dataset.lengths[batch].max() + N_NEW)
        assert size <= budget
        if after:
            assert size + dataset.lengths[batch].max() + N_NEW > budget, "one more would have fitted"


def test_longest_first_and_ties_by_key(dataset, chat):
    order = [index for batch in TokenBudgetSampler(dataset, 300) for index in batch]
    assert order == sorted(order, key=lambda i: (-dataset.lengths[i], dataset[i].key))
    twins = [SummaryPrompt(key, (Message("user", ("a",)),)) for key in "cab"]
    assert list(TokenBudgetSampler(SummaryDataset(twins, chat, N_NEW), 10_000)) == [[1, 2, 0]]


def test_a_prompt_above_the_budget_goes_alone(dataset):
    batches = list(TokenBudgetSampler(dataset, 1))
    assert [len(batch) for batch in batches] == [1] * 53


@pytest.mark.parametrize("world_size", [2, 3, 60])
def test_every_prompt_goes_to_one_process(dataset, world_size):
    shards = [TokenBudgetSampler(dataset, 300, rank, world_size) for rank in range(world_size)]
    assert sorted(index for shard in shards for batch in shard for index in batch) == list(range(53))
    assert all(len(shard) == len(list(shard)) >= 1 for shard in shards)
    sizes = [sum(map(len, shard)) for shard in shards]
    assert max(sizes) - min(sizes) <= 1
    assert list(shards[-1]) == [[]] or world_size < 60


def test_the_empty_batch_can_be_served(chat):
    empty = SummaryDataset([], chat, N_NEW)
    (batch,) = summary_loader(empty, TokenBudgetSampler(empty, 100), SummaryCollator(chat))
    assert batch["keys"] == []
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (0, 0)


# --- tensors ------------------------------------------------------------------------------------------------------


def test_rows_are_padded_on_the_left(chat):
    rows = SummaryDataset(texts([1, 4]), chat, N_NEW)
    batch = SummaryCollator(chat)([rows[0], rows[1]])
    short, long = (chat.encode(prompt.messages) for prompt in texts([1, 4]))
    pad = len(long) - len(short)
    assert batch == {
        "keys": ["k000", "k001"],
        "input_ids": batch["input_ids"],
        "attention_mask": batch["attention_mask"],
    }
    assert batch["input_ids"].tolist() == [[chat.pad_token_id] * pad + short, long]
    assert batch["attention_mask"].tolist() == [[0] * pad + [1] * len(short), [1] * len(long)]
    assert batch["input_ids"].dtype == batch["attention_mask"].dtype == torch.int64


def test_pictures_stand_in_the_order_of_their_rows(chat, images):
    by_size = {images.grid(picture): picture for picture in images.pictures}
    first, second, third = by_size.values()
    prompts = [seen(second), texts([3])[0], seen(first, 5), seen(third, 2)]
    dataset = SummaryDataset(prompts, chat, N_NEW, images)
    batch = SummaryCollator(chat, images)([dataset[i] for i in range(4)])
    values, grids = images.pixel_values([second, first, third])
    assert torch.equal(batch["pixel_values"], values)
    assert torch.equal(batch["image_grid_thw"], grids)
    kinds = batch["mm_token_type_ids"]
    assert kinds.sum(dim=1).tolist() == [images.n_tokens(second), 0, images.n_tokens(first), images.n_tokens(third)]
    assert torch.equal(kinds == 1, batch["input_ids"] == chat.image_token_id)
    assert (kinds[batch["attention_mask"] == 0] == 0).all()


def test_features_in_place_of_pixels(chat, images, tmp_path):
    class Features(FeatureStore):
        def __init__(self):
            pass

        def features(self, pictures):
            return torch.cat([torch.full((images.n_tokens(p), 8), float(i)) for i, p in enumerate(pictures)])

    pictures = images.pictures[:2]
    dataset = SummaryDataset([seen(picture) for picture in pictures], chat, N_NEW, images)
    batch = SummaryCollator(chat, images, Features())([dataset[0], dataset[1]])
    assert "pixel_values" not in batch
    assert batch["image_grid_thw"].tolist() == [list(images.grid(picture)) for picture in pictures]
    assert batch["image_features"].shape == (sum(map(images.n_tokens, pictures)), 8)


def test_worker_processes_serve_the_same(dataset, chat):
    sampler = TokenBudgetSampler(dataset, 500)
    here, there = (summary_loader(dataset, sampler, SummaryCollator(chat), n) for n in (0, 2))
    assert isinstance(here, DataLoader)
    for one, other in zip(here, there, strict=True):
        assert one["keys"] == other["keys"]
        assert torch.equal(one["input_ids"], other["input_ids"])


# --- what is refused ----------------------------------------------------------------------------------------------


def test_a_prompt_longer_than_the_model_reads(chat):
    (prompt,) = texts([40])
    n_tokens = len(chat.encode(prompt.messages))
    assert len(SummaryDataset([prompt], chat, N_NEW, max_positions=n_tokens + N_NEW)) == 1
    with pytest.raises(DataError, match=f"max_new_tokens=20: the prompt about 'k000' has {n_tokens} tokens"):
        SummaryDataset([prompt], chat, N_NEW, max_positions=n_tokens + N_NEW - 1)


def test_a_picture_without_a_store(chat, images):
    with pytest.raises(ConfigError, match=r"images=None: .* give the image store"):
        SummaryDataset([seen(images.pictures[0])], chat, N_NEW)
