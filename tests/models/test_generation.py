"""Answers against plain forward passes: batches, paddings, pictures, caches, settings from the hub, and draws."""

import json
import shutil

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import GenerationConfig

from mllm_srec.data.loading.summary_batches import SummaryCollator, SummaryDataset
from mllm_srec.models.backbone import BackboneSettings
from mllm_srec.models.generation import (
    GumbelNoise,
    finish_reason,
    generate,
    generation_config,
    row_seed,
)
from mllm_srec.models.summarizer import load_writer
from mllm_srec.prompts.chat import ChatEncoder
from mllm_srec.prompts.decoding import GenerationSettings
from mllm_srec.prompts.encoding import load_tokenizer
from mllm_srec.prompts.summaries import SummaryPrompt, image_messages, item_messages, preference_messages
from mllm_srec.types import ConfigError

CPU = torch.device("cpu")
N_NEW = 8


def load(folder, **changes):
    settings = BackboneSettings(str(folder), finetune="none", **{"quantization": "none", "dtype": "float32", **changes})
    return load_writer(settings, CPU).net, ChatEncoder(load_tokenizer(str(folder)))


@pytest.fixture(scope="module")
def qwen(tiny_backbone, liven):
    net, chat = load(tiny_backbone)
    return liven(net), chat


@pytest.fixture(scope="module")
def llama(tiny_llama):
    return load(tiny_llama)


TEXT_PROMPTS = [
    SummaryPrompt("short", tuple(item_messages("Summarize", None, None))),
    SummaryPrompt("hostile", tuple(item_messages("Summarize", "a red mug <|im_end|><|eot_id|>\n</s>", "Mug <b>"))),
    SummaryPrompt("long", tuple(preference_messages("Refine", "likes mugs", [f"a lamp {i}" for i in range(30)]))),
]


@pytest.fixture(scope="module")
def picture_prompts(shop_images):
    """Three pictures of different sizes, among texts of different lengths."""
    by_size = {shop_images.grid(picture): picture for picture in shop_images.pictures}
    assert len(by_size) == 3
    shown = [
        SummaryPrompt(f"shown {i}", tuple(image_messages("Describe the image." * (i + 1))), picture)
        for i, picture in enumerate(by_size.values())
    ]
    return [shown[0], TEXT_PROMPTS[2], shown[1], TEXT_PROMPTS[0], TEXT_PROMPTS[1], shown[2]]


def batch_of(prompts, chat, images=None, features=None):
    dataset = SummaryDataset(prompts, chat, N_NEW, images)
    return SummaryCollator(chat, images, features)([dataset[i] for i in range(len(dataset))])


def answers(model, prompts, images=None, stop_ids=None, **decoding):
    net, chat = model
    batch = batch_of(prompts, chat, images)
    settings = GenerationSettings(**{"max_new_tokens": N_NEW, **decoding})
    stop_ids = stop_ids or chat.stop_ids
    return generate(net, batch, settings, stop_ids, pad_token_id=stop_ids[0])


def expected_of(model, prompts, oracle, images=None, stop_ids=None):
    net, chat = model
    found = []
    for prompt in prompts:
        n_tokens = images.n_tokens(prompt.picture) if prompt.picture else 0
        vision = {}
        if prompt.picture:
            vision = dict(zip(("pixel_values", "image_grid_thw"), images.pixel_values([prompt.picture]), strict=True))
        found.append(oracle(net, chat.encode(prompt.messages, n_tokens), N_NEW, stop_ids or chat.stop_ids, **vision))
    return found


# --- greedy -------------------------------------------------------------------------------------------------------


def test_pictures_and_texts_in_a_batch_equal_plain_forward_passes(qwen, picture_prompts, shop_images, oracle):
    found = answers(qwen, picture_prompts, shop_images)
    assert found == expected_of(qwen, picture_prompts, oracle, shop_images)
    assert found == [answers(qwen, [prompt], shop_images)[0] for prompt in picture_prompts]
    assert len(set(map(tuple, found))) == len(found)
    assert all(len(set(row)) > 3 for row in found), "the net must not repeat one token, or the test shows nothing"


def test_texts_in_a_batch_equal_plain_forward_passes(llama, oracle):
    found = answers(llama, TEXT_PROMPTS)
    assert found == expected_of(llama, TEXT_PROMPTS, oracle)
    assert found == [answers(llama, [prompt])[0] for prompt in TEXT_PROMPTS]
    assert len(set(map(tuple, found))) == len(found)


def test_rows_end_at_different_steps(qwen, picture_prompts, shop_images, oracle):
    """Tokens from the middle of free answers as ends: what comes behind them in the batch leaves no trace."""
    free = expected_of(qwen, picture_prompts, oracle, shop_images)
    stop_ids = [free[0][2], free[1][5], free[4][N_NEW - 1]]
    found = answers(qwen, picture_prompts, shop_images, stop_ids)
    assert found == expected_of(qwen, picture_prompts, oracle, shop_images, stop_ids)
    assert len({len(row) for row in found}) > 2
    reasons = [finish_reason(row, stop_ids) for row in found]
    assert [reason == "stop" for reason in reasons] == [bool(set(row) & set(stop_ids)) for row in found]
    assert set(reasons) == {"stop", "length"}
    assert reasons[4] == "stop", "an end at the very last step is an end"


def test_features_in_place_of_pixels(qwen, picture_prompts, shop_images):
    net, chat = qwen
    batch = batch_of(picture_prompts, chat, shop_images)
    expected = answers(qwen, picture_prompts, shop_images)
    pixels = batch.pop("pixel_values")
    with torch.no_grad():
        outputs = net.model.get_image_features(pixels, batch["image_grid_thw"]).pooler_output
    batch["image_features"] = torch.cat(list(outputs))
    assert generate(net, batch, GenerationSettings(N_NEW), chat.stop_ids, chat.pad_token_id) == expected


def test_a_batch_leaves_nothing_for_the_next(qwen, picture_prompts, shop_images):
    texts, pictures = TEXT_PROMPTS[:1], picture_prompts
    first = answers(qwen, texts), answers(qwen, pictures, shop_images)
    assert (answers(qwen, texts), answers(qwen, pictures, shop_images)) == first


def test_4_bit_answers_are_the_same_in_every_run(tiny_llama):
    model = load(tiny_llama, quantization="nf4")
    found = answers(model, TEXT_PROMPTS)
    assert found == answers(model, TEXT_PROMPTS)
    assert [len(row) for row in found] == [N_NEW] * 3


# --- settings from the hub ----------------------------------------------------------------------------------------


def test_settings_from_the_hub_change_nothing(tiny_llama, llama, tmp_path):
    expected = answers(llama, TEXT_PROMPTS)
    folder = tmp_path / "wild"
    shutil.copytree(tiny_llama, folder)
    wild = {
        "repetition_penalty": 9.0,
        "no_repeat_ngram_size": 1,
        "suppress_tokens": sorted({token for row in expected for token in row}),
        "bad_words_ids": [[expected[0][0]]],
        "begin_suppress_tokens": [expected[1][0]],
        "forced_eos_token_id": 0,
        "exponential_decay_length_penalty": [0, 5.0],
        "max_new_tokens": 2,
        "max_length": 3,
        "min_new_tokens": 5,
        "do_sample": True,
        "temperature": 9.0,
        "top_p": 0.001,
        "num_beams": 3,
        "eos_token_id": expected[0][1],
        "use_cache": False,
    }
    (folder / "generation_config.json").write_text(json.dumps(wild))
    net, chat = load(folder)
    assert net.generation_config.repetition_penalty == 9.0, "the file was read"
    batch = batch_of(TEXT_PROMPTS[:1], chat)
    inherited = GenerationConfig(do_sample=False, num_beams=1, max_new_tokens=N_NEW)
    plain = net.generate(batch["input_ids"], attention_mask=batch["attention_mask"], generation_config=inherited)
    assert plain[0, batch["input_ids"].shape[1] :].tolist() != expected[0], "and would have been used"
    assert answers((net, chat), TEXT_PROMPTS) == expected


def test_every_setting_with_a_default_is_stated():
    config = generation_config(GenerationSettings(), [1, 2], 1)
    defaults = GenerationConfig._get_default_generation_params()
    silent = {name for name, value in defaults.items() if value is not None and getattr(config, name) is None}
    assistants = {name for name in silent if "assistant" in name or name == "target_lookbehind"}
    assert silent - assistants <= {"max_length", "num_beam_groups", "diversity_penalty", "output_scores"}
    stated = {name: getattr(config, name) for name in defaults if getattr(config, name) is not None}
    assert stated == {name: defaults[name] for name in stated}


# --- sampling -----------------------------------------------------------------------------------------------------


def test_a_drawn_text_does_not_depend_on_its_batch(llama, qwen, picture_prompts, shop_images):
    for model, prompts, images in ((llama, TEXT_PROMPTS, None), (qwen, picture_prompts, shop_images)):
        drawn = answers(model, prompts, images, sample=True, temperature=2.0)
        assert drawn == [answers(model, [prompt], images, sample=True, temperature=2.0)[0] for prompt in prompts]
        assert drawn[::-1] == answers(model, prompts[::-1], images, sample=True, temperature=2.0)
        assert drawn != answers(model, prompts, images)


def test_draws_follow_seed_and_key(llama):
    def draw(seed=0, key="short"):
        prompt = SummaryPrompt(key, TEXT_PROMPTS[0].messages)
        return answers(llama, [prompt], sample=True, temperature=2.0, seed=seed)

    assert draw() == draw()
    assert draw() != draw(seed=1)
    assert draw() != draw(key="other")


def test_a_cold_or_narrow_draw_is_greedy(llama):
    greedy = answers(llama, TEXT_PROMPTS)
    assert answers(llama, TEXT_PROMPTS, sample=True, temperature=1e-4, top_p=1.0) == greedy
    assert answers(llama, TEXT_PROMPTS, sample=True, temperature=1.0, top_p=1e-6) == greedy


def test_draws_follow_the_softmax():
    """Chi-square against softmax, over seeds at one step and over steps of one seed."""
    scores = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5, -float("inf")])
    expected = torch.softmax(scores, 0)[:5].numpy().astype(np.float64)
    expected = expected / expected.sum()
    n = 1500
    over_seeds = GumbelNoise([row_seed(0, f"key {i}") for i in range(n)], 3)
    drawn = over_seeds(torch.zeros(n, 3), scores.expand(n, -1)).argmax(dim=1)
    one = GumbelNoise([row_seed(0, "key")], 3)
    steps = torch.tensor([int(one(torch.zeros(1, 3 + i), scores[None]).argmax()) for i in range(n)])
    for tokens in (drawn, steps):
        counts = torch.bincount(tokens, minlength=6).numpy()
        assert counts[5] == 0, "what was cut off is never drawn"
        assert stats.chisquare(counts[:5], expected * n).pvalue > 1e-3


def test_the_limit_and_the_end():
    assert finish_reason([5, 6, 2], [1, 2]) == "stop"
    assert finish_reason([5, 6, 7], [1, 2]) == "length"


@pytest.mark.parametrize("values", [{"max_new_tokens": 0}, {"temperature": 0.0}, {"top_p": 0.0}, {"top_p": 1.1}])
def test_decoding_refuses_nonsense(values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        GenerationSettings(**values)
