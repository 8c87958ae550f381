"""Batches as the data module serves them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mllm_srec.data.loading.prompt_batches import PromptCollator, PromptDataset
from mllm_srec.data.loading.ranking_datamodule import ServedInputs
from mllm_srec.data.settings import PictureSettings
from mllm_srec.data.stored_prompts.summary_texts import SummaryTexts
from mllm_srec.types import ConfigError


def test_training_covers_every_train_pair_once(make_datamodule, shop):
    module = make_datamodule()
    module.setup("fit")
    batches = list(module.train_dataloader())
    seen = [
        (int(group), int(item), int(label))
        for batch in batches
        for group, items, labels, mask in zip(
            batch["group_id"], batch["item_index"], batch["relevance"], batch["candidate_mask"], strict=True
        )
        for item, label in zip(items[mask], labels[mask], strict=True)
    ]
    index = {item: i for i, item in enumerate(shop.items["item_id"])}
    train = shop.samples.filter((shop.samples["split"] == "train") & shop.samples["kind"].is_in(["liked", "sampled"]))
    expected = [(g, index[i], label) for g, i, label in train.select("group_id", "item_id", "label").iter_rows()]
    assert sorted(seen) == sorted(expected)


def test_answers_follow_labels_in_training_and_are_absent_in_evaluation(make_datamodule):
    module = make_datamodule()
    module.setup("fit")
    encoder = module.stores.encoder
    batch = next(iter(module.train_dataloader()))
    for b, c in torch.nonzero(batch["candidate_mask"]).tolist():
        row, token = batch["answer_index"][b, c].tolist()
        expected = encoder.answer_ids[int(batch["relevance"][b, c])]
        assert batch["labels"][row, token + 1 : token + 4].tolist() == expected
        assert batch["labels"][row, token].item() == -100
    for loader in module.test_dataloader():
        assert all((batch["labels"] == -100).all() for batch in loader)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_tokens_are_those_of_all_batches(make_datamodule, split):
    module = make_datamodule()
    module.setup("fit")
    loaders = {
        "train": lambda: [module.train_dataloader()],
        "val": module.val_dataloader,
        "test": module.test_dataloader,
    }
    shown = sum(int((batch["segment_ids"] >= 0).sum()) for loader in loaders[split]() for batch in loader)
    n_answers = (
        sum(int(batch["candidate_mask"].sum()) for batch in module.train_dataloader()) if split == "train" else 0
    )
    assert module.n_tokens(split) == shown - 3 * n_answers  # which nobody has to read
    assert module.n_tokens(split) > 0


def test_lengths_equal_packed_rows(make_datamodule):
    module = make_datamodule()
    module.setup("test")
    dataset = PromptDataset(module.eval_examples("test")[1], module.stores, train=False)
    collate = PromptCollator(module.stores)
    found = [int((collate([dataset[i]])["segment_ids"] >= 0).sum()) for i in range(len(dataset))]
    assert found == dataset.lengths.tolist()


def test_each_distinct_picture_is_served_once(make_datamodule):
    module = make_datamodule()
    module.setup("test")
    batch = next(iter(module.test_dataloader()[1]))
    n_placeholders = len(batch["image_index"])
    assert len(batch["image_grid_thw"]) < n_placeholders
    assert batch["image_grid_thw"].prod(dim=1).sum() == len(batch["pixel_values"])
    pads = (batch["input_ids"] == module.stores.encoder.image_token_id).sum()
    assert pads == (batch["image_grid_thw"].prod(dim=1) // 4)[batch["image_index"]].sum()


def test_limits_draw_groups(make_datamodule):
    module = make_datamodule(max_train_groups=5, max_test_groups=3)
    module.setup("fit")
    assert len(module.train_examples()) == 5
    assert [len(examples) for examples in module.eval_examples("test")] == [3, 3]


def test_workers_serve_the_same_batches(make_datamodule):
    alone, helped = make_datamodule(), make_datamodule(num_workers=2)
    for module in (alone, helped):
        module.setup("fit")
    for a, b in zip(alone.train_dataloader(), helped.train_dataloader(), strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_features_need_their_extraction(make_datamodule):
    module = make_datamodule(pictures=PictureSettings(serve="features"))
    with pytest.raises(ConfigError, match="the extracted features are missing"):
        module.setup("fit")


def test_a_data_set_that_is_not_prepared_names_the_command(make_datamodule):
    module = make_datamodule()
    module.name = "absent"
    with pytest.raises(ConfigError, match="python -m mllm_srec prepare"):
        module.setup("fit")


def test_order_changes_with_the_seed(make_datamodule):
    def order(seed):
        module = make_datamodule(seed=seed)
        module.setup("fit")
        return np.concatenate([batch["group_id"].numpy() for batch in module.train_dataloader()]).tolist()

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert sorted(order(1)) == sorted(order(2))


def test_no_more_candidates_than_are_stored(make_datamodule):
    with pytest.raises(ConfigError, match="n_negatives=5, but the data set stores 4"):
        make_datamodule(n_negatives=5).eval_examples("test")


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_process_without_groups_gets_a_batch_of_none(make_datamodule, rank):
    module = make_datamodule(max_test_groups=2)
    module.trainer = SimpleNamespace(world_size=3, global_rank=rank, state=SimpleNamespace(fn="test"))
    for loader in module.test_dataloader():
        (batch,) = list(loader)
        n_groups = 1 if rank < 2 else 0
        assert {len(batch[key]) for key in ("group_id", "candidate_mask", "relevance", "n_missed")} == {n_groups}


def test_what_was_scored_before_is_left_out(make_datamodule):
    module = make_datamodule()
    module.setup("test")
    pairs, lists = module.eval_examples("test")
    module.use(ServedInputs(scored=(frozenset([int(pairs.group_id[0])]), frozenset(lists.group_id.tolist()))))
    served = [[int(group) for batch in loader for group in batch["group_id"]] for loader in module.test_dataloader()]
    assert sorted(served[0]) == sorted(pairs.group_id.tolist()[1:])
    assert served[1] == []
    assert len(module.eval_examples("test")[1]) == len(lists)


def summaries(shop, identity):
    return SummaryTexts(identity, "both", {}, {item: f"about {item}" for item in shop.items["item_id"]}, {})


def test_summaries_are_served_in_place_of_titles(make_datamodule, shop):
    module = make_datamodule()
    module.use(ServedInputs(summaries=summaries(shop, "a1")))
    module.setup("fit")
    decode = module.stores.encoder.tokenizer.decode
    texts = [decode(row[row >= 0]) for batch in module.train_dataloader() for row in batch["input_ids"]]
    assert all("about i" in text and "mug" not in text for text in texts)


def test_summaries_come_before_the_prompts_are_opened(make_datamodule, shop):
    module = make_datamodule()
    module.setup("fit")
    with pytest.raises(ConfigError, match="summaries='a1': the prompts were opened before"):
        module.use(ServedInputs(summaries=summaries(shop, "a1")))


def test_a_checkpoint_names_its_summaries(make_datamodule, shop):
    def module(identity):
        made = make_datamodule()
        if identity:
            made.use(ServedInputs(summaries=summaries(shop, identity)))
        return made

    state = module("a1").state_dict()
    assert state["prompt"]["summaries"] == "a1"
    module("a1").load_state_dict(state)
    for other in ("b2", None):
        with pytest.warns(UserWarning, match=f"trained on other prompts: .*'summaries': 'a1'.*'summaries': {other!r}"):
            module(other).load_state_dict(state)
