"""The summarizer under a Trainer: one loading, any number of calls, every summary once."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import BasePredictionWriter

import mllm_srec.models.summarizer as module
from mllm_srec.data.loading.summary_batches import SummaryCollator, SummaryDataset, TokenBudgetSampler, summary_loader
from mllm_srec.models.generation import generate
from mllm_srec.models.summarizer import SummaryGenerator
from mllm_srec.prompts.chat import ChatEncoder
from mllm_srec.prompts.decoding import GenerationSettings
from mllm_srec.prompts.encoding import load_tokenizer
from mllm_srec.prompts.summaries import SummaryPrompt, image_messages, item_messages, preference_messages
from mllm_srec.types import ConfigError

ITEMS = [
    SummaryPrompt(f"item {i}", tuple(item_messages("Please summarize the item", "red mug", "dots " * i)))
    for i in range(7)
]


class Collected(BasePredictionWriter):
    """Keeps what the batches gave."""

    def __init__(self):
        super().__init__("batch")
        self.summaries = []

    def write_on_batch_end(self, trainer, pl_module, prediction, batch_indices, batch, batch_idx, dataloader_idx):
        self.summaries += prediction


def run(trainer, model, prompts, images=None, rank=0, world_size=1):
    """Summaries by key; they must come once each."""
    chat = ChatEncoder(load_tokenizer(model.settings.name))
    dataset = SummaryDataset(prompts, chat, model.decoding.max_new_tokens, images)
    sampler = TokenBudgetSampler(dataset, 400, rank, world_size)
    (collected,) = (callback for callback in trainer.callbacks if isinstance(callback, Collected))
    collected.summaries = []
    loader = summary_loader(dataset, sampler, SummaryCollator(chat, images))
    trainer.predict(model, loader, return_predictions=False)
    assert len({summary.key for summary in collected.summaries}) == len(collected.summaries)
    return {summary.key: summary for summary in collected.summaries}


@pytest.fixture
def trainer(tmp_path):
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=tmp_path,
        callbacks=[Collected()],
    )


def alone(model, prompt, images=None):
    """The summary's tokens, from a batch of its own."""
    dataset = SummaryDataset([prompt], model.chat, model.decoding.max_new_tokens, images)
    batch = SummaryCollator(model.chat, images)([dataset[0]])
    return generate(model.writer.net, batch, model.decoding, model.chat.stop_ids, model.chat.pad_token_id)[0]


def test_text_only_model_in_4_bits(tiny_llama, trainer):
    model = SummaryGenerator(str(tiny_llama), decoding=GenerationSettings(8))
    found = run(trainer, model, ITEMS)
    assert set(found) == {prompt.key for prompt in ITEMS}
    for summary in found.values():
        assert summary.finish_reason == "length"
        assert summary.n_tokens == 8
        assert summary.text == summary.text.strip()


def test_summaries_equal_those_written_one_by_one(tiny_llama, trainer):
    model = SummaryGenerator(str(tiny_llama), quantization="none", decoding=GenerationSettings(8))
    found = run(trainer, model, ITEMS)
    for prompt in ITEMS:
        ids = alone(model, prompt)
        assert found[prompt.key].text == model.chat.decode(ids)
        assert found[prompt.key].n_tokens == len(ids)


def test_pictures_of_the_shop(tiny_backbone, shop_images, trainer, liven):
    model = SummaryGenerator(str(tiny_backbone), quantization="none", decoding=GenerationSettings(8))
    model.configure_model()
    liven(model.writer.net)
    prompts = [
        SummaryPrompt(picture, tuple(image_messages("Describe the image.")), picture)
        for picture in shop_images.pictures[:4]
    ]
    found = run(trainer, model, prompts, shop_images)
    assert set(found) == set(shop_images.pictures[:4])
    texts = {prompt.key: model.chat.decode(alone(model, prompt, shop_images)) for prompt in prompts}
    assert {key: summary.text for key, summary in found.items()} == texts
    assert len(set(texts.values())) == len(texts), "answers must depend on the picture"


def test_steps_of_a_chain_load_the_model_once(tiny_llama, trainer, monkeypatch):
    loaded = []
    load = module.load_writer
    monkeypatch.setattr(module, "load_writer", lambda *args: loaded.append(load(*args)) or loaded[-1])
    model = SummaryGenerator(str(tiny_llama), decoding=GenerationSettings(4))
    previous = dict.fromkeys(("u1", "u2", "u3"))
    for step in range(3):
        prompts = [
            SummaryPrompt(f"{user} {step}", tuple(preference_messages("Refine", text, [f"a mug {step}"])))
            for user, text in previous.items()
        ]
        found = run(trainer, model, prompts)
        previous = {user: found[f"{user} {step}"].text for user in previous}
    assert len(loaded) == 1
    assert model.writer is loaded[0]


def test_weights_stay_where_they_were_loaded(tiny_llama):
    """Lightning moves a module's parameters to the CPU after each call; these are none of its business."""
    model = SummaryGenerator(str(tiny_llama), quantization="none")
    model.configure_model()
    assert list(model.parameters()) == []
    model.to(torch.float64)
    assert {parameter.dtype for parameter in model.writer.net.parameters()} == {torch.float32}


def test_processes_share_the_prompts(tiny_llama, trainer):
    model = SummaryGenerator(str(tiny_llama), quantization="none", decoding=GenerationSettings(4))
    whole = run(trainer, model, ITEMS)
    shards = [run(trainer, model, ITEMS, rank=rank, world_size=9) for rank in range(9)]
    assert [len(shard) for shard in shards] == [1] * 7 + [0] * 2
    assert {key: summary for shard in shards for key, summary in shard.items()} == whole


def test_nothing_to_write(tiny_llama, trainer):
    assert run(trainer, SummaryGenerator(str(tiny_llama), quantization="none"), []) == {}


def test_an_end_of_turn_ends_the_summary(tiny_llama, trainer):
    """The token that a free answer gives at its third step becomes the end of a turn."""
    model = SummaryGenerator(str(tiny_llama), quantization="none", decoding=GenerationSettings(8))
    model.configure_model()
    free = alone(model, ITEMS[0])
    model.chat.stop_ids.append(free[2])
    summary = run(trainer, model, ITEMS[:1])["item 0"]
    assert (summary.finish_reason, summary.n_tokens) == ("stop", 3)


def test_pictures_for_a_text_only_model_are_refused(tiny_llama, tiny_backbone, shop_images):
    """A text-only Qwen shares its vocabulary with Qwen-VL, so that only the model itself can tell."""
    model = SummaryGenerator(str(tiny_llama), quantization="none")
    model.configure_model()
    chat = ChatEncoder(load_tokenizer(str(tiny_backbone)))
    picture = shop_images.pictures[0]
    prompt = SummaryPrompt("seen", tuple(image_messages("Describe the image.")), picture)
    dataset = SummaryDataset([prompt], chat, 8, shop_images)
    with pytest.raises(ConfigError, match="is a text-only model"):
        model.predict_step(SummaryCollator(chat, shop_images)([dataset[0]]), 0)


def test_a_model_that_is_not_loaded(tiny_llama):
    model = SummaryGenerator(str(tiny_llama))
    with pytest.raises(ConfigError, match="not loaded yet"):
        model.predict_step({"keys": ["a"]}, 0)
