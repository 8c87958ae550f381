"""A tiny untrained CLIP, against transformers' own tokenizer, processor and forward pass, one pair at a time."""

from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import pre_tokenizers
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from mllm_srec.models import clip as clip_module
from mllm_srec.models.clip import clip_similarity, cosine_rows
from mllm_srec.types import ConfigError, DataError

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
PLACES = 77


def build_clip(folder, eos_token_id=None):
    """Write a CLIP with letters for tokens; its end token has the highest id, as in the real ones."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("r", "e"), ("re", "d</w>"), ("m", "u"), ("mu", "g</w>")]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges), BEGIN, END]
    vocab = {token: index for index, token in enumerate(tokens)}
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges)
    tokenizer.save_pretrained(str(folder))
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": vocab[BEGIN], "eos_token_id": vocab[END] if eos_token_id is None else eos_token_id}
    text = {**size, **ends, "vocab_size": len(vocab), "max_position_embeddings": PLACES}
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text, vision_config={**size, "image_size": 32, "patch_size": 8}, projection_dim=16)
    model = CLIPModel(config)
    for parameter in model.parameters():  # larger weights than at the start of a training, so that inputs matter
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(str(folder))
    sides = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=sides).save_pretrained(str(folder))
    return str(folder)


@pytest.fixture(scope="module", params=[None, 2], ids=["end", "end-as-openai"])
def clip(request, tmp_path_factory):
    """Folder of a tiny CLIP; OpenAI's own configs name a wrong end token, which transformers works around."""
    return build_clip(tmp_path_factory.mktemp("clip"), request.param)


@pytest.fixture(scope="module")
def small_clip(tmp_path_factory):
    return build_clip(tmp_path_factory.mktemp("clip"))


def picture(height, width, seed):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


TEXTS = [
    "a red mug",
    "A striped BAG of hemp, by Arven.",
    "x",
    "the cat's 12 kites, naïve " * 9,
    "red red",
    "blue lamp",
]
OTHERS = ["Arven cork mug", "bag", "Limited edition! " * 20, "kite", "red red", "a red mug"]
PICTURES = [picture(40, 60, 0), picture(32, 32, 1), picture(90, 50, 2), picture(3, 5, 3), picture(33, 32, 4),
            picture(64, 64, 5)]  # fmt: skip


@cache
def parts(folder):
    classes = (CLIPModel, CLIPTokenizer, CLIPImageProcessorPil)
    return [part.from_pretrained(folder) for part in classes]


def plainly(folder, text, other=None, image=None):
    """Cosine by transformers alone, through the model's whole forward pass, without a batch."""
    model, tokenizer, processor = parts(folder)
    pixels = processor(images=Image.fromarray(image if image is not None else PICTURES[0]), return_tensors="pt")
    embeds = []
    for words in (text, other or text):
        inputs = tokenizer(words, truncation=True, max_length=PLACES, return_tensors="pt")
        with torch.no_grad():
            output = model(**inputs, **pixels)
        embeds.append(output.text_embeds[0])
    against = output.image_embeds[0] if image is not None else embeds[1]
    return float(embeds[0] @ against)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_similarities_are_those_of_plain_transformers(clip, batch_size):
    found = clip_similarity(clip, None, TEXTS, OTHERS, PICTURES, batch_size=batch_size)
    assert found.text.dtype == found.picture.dtype == np.float32
    texts = [plainly(clip, *pair) for pair in zip(TEXTS, OTHERS, strict=True)]
    pictures = [plainly(clip, text, image=image) for text, image in zip(TEXTS, PICTURES, strict=True)]
    assert found.text == pytest.approx(texts, abs=1e-5)
    assert found.picture == pytest.approx(pictures, abs=1e-5)
    assert found.text[4] == pytest.approx(1, abs=1e-6)
    assert np.ptp(found.text) > 0.05  # the tiny model tells texts and pictures apart
    assert np.ptp(found.picture) > 0.01


def test_long_texts_are_cut_at_77_places_and_counted(small_clip):
    def cut(n_letters):
        found = clip_similarity(small_clip, None, ["b " * n_letters, "x"], ["x", "x"], [None, None])
        return found.n_cut, found.n_cut_other

    assert cut(75) == (0, 0)
    assert cut(76) == (1, 0)
    found = clip_similarity(small_clip, None, ["x"] * 3, ["b " * 75, "b " * 76, "b " * 75 + "and more"], [None] * 3)
    assert (found.n_cut, found.n_cut_other) == (0, 2)
    assert found.text[1] == pytest.approx(found.text[0], abs=1e-6)  # the 75 that were read are the same
    assert found.text[2] == pytest.approx(found.text[0], abs=1e-6)


def test_what_is_missing_is_not_compared_and_changes_nothing(small_clip):
    whole = clip_similarity(small_clip, None, TEXTS, OTHERS, PICTURES)
    texts, others, pictures = [list(values) for values in (TEXTS, OTHERS, PICTURES)]
    texts[0], texts[1], others[2], others[3], pictures[4] = None, " \n", None, "", None
    found = clip_similarity(small_clip, None, texts, others, pictures, batch_size=2)
    assert np.isnan(found.text).tolist() == [True, True, True, True, False, False]
    assert np.isnan(found.picture).tolist() == [True, True, False, False, True, False]
    for name in ("text", "picture"):
        known = ~np.isnan(getattr(found, name))
        assert getattr(found, name)[known] == pytest.approx(getattr(whole, name)[known], abs=1e-5)
    assert found.numbers() == {
        "clip_text": pytest.approx(whole.text[4:].mean(), abs=1e-5),
        "clip_picture": pytest.approx(whole.picture[[2, 3, 5]].mean(), abs=1e-5),
        "n_clip_text": 2,
        "n_clip_picture": 3,
        "n_clip_cut_summaries": 1,
        "n_clip_cut_texts": 0,
    }


def test_nothing_to_compare(small_clip):
    for arguments in (([], [], []), ([None], [None], [None]), (["a mug"], [None], [None])):
        found = clip_similarity(small_clip, None, *arguments)
        assert len(found.text) == len(found.picture) == len(arguments[0])
        assert found.numbers()["clip_text"] is None
        assert found.numbers()["n_clip_picture"] == 0


def test_an_end_token_in_a_title_is_text(small_clip):
    title = f"red {END} mug"
    assert plainly(small_clip, title, "red") == pytest.approx(1, abs=1e-6)  # the tokenizer itself would end there
    assert clip_similarity(small_clip, None, [title], ["red"], [None]).text[0] < 0.999


def test_pictures_are_prepared_a_batch_at_a_time(small_clip, monkeypatch):
    sizes, real = [], CLIPImageProcessorPil.__call__
    monkeypatch.setattr(
        clip_module.CLIPImageProcessorPil,
        "__call__",
        lambda self, images, **options: sizes.append(len(images)) or real(self, images, **options),
    )
    clip_similarity(small_clip, None, TEXTS, OTHERS, [*PICTURES[:3], None, *PICTURES[4:]], batch_size=2)
    assert sizes == [2, 2, 1]


# --- errors -------------------------------------------------------------------------------------------------------


def test_sequences_of_different_lengths_are_refused():
    with pytest.raises(DataError, match="2 texts, 1 other_texts and 2 pictures"):
        clip_similarity("unread", None, ["a", "b"], ["a"], [None, None])


@pytest.mark.parametrize("bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((3, 4, 4), np.uint8)])
def test_arrays_that_are_no_pictures_are_refused(small_clip, bad):
    with pytest.raises(DataError, match=r"pictures\[1\] is .*give RGB as uint8 \(height, width, 3\)"):
        clip_similarity(small_clip, None, ["a", "b"], [None, None], [PICTURES[0], bad])


def test_what_is_no_clip_is_refused(tiny_backbone, tmp_path):
    with pytest.raises(ConfigError, match="cannot be used"):
        clip_similarity(str(tmp_path / "absent"), None, [], [], [])
    with pytest.raises(ConfigError, match="of type 'qwen2_vl', not 'clip'"):
        clip_similarity(str(tiny_backbone), None, [], [], [])


def test_weights_that_are_not_there_are_an_error_and_not_random_numbers(tmp_path):
    folder = build_clip(tmp_path)
    model = CLIPModel.from_pretrained(folder)
    kept = {name: weight for name, weight in model.state_dict().items() if name != "text_projection.weight"}
    model.save_pretrained(folder, state_dict=kept)
    with pytest.raises(ConfigError, match=r"weights are missing, such as text_projection\.weight"):
        clip_similarity(folder, None, [], [], [])


# --- cosine -------------------------------------------------------------------------------------------------------


def test_cosine_of_rows_is_that_of_numpy():
    a, b = np.random.default_rng(0).normal(size=(2, 7, 5))
    expected = [x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(a, b, strict=True)]
    found = cosine_rows(torch.tensor(a), torch.tensor(b))
    assert found.tolist() == pytest.approx(expected)
    assert cosine_rows(torch.tensor(a), torch.tensor(3 * a)).tolist() == pytest.approx([1] * 7)
    assert cosine_rows(torch.tensor(a), torch.tensor(-a)).min() >= -1


def test_cosine_with_nothing():
    zero, nan = torch.zeros(1, 3), torch.full((1, 3), torch.nan)
    assert cosine_rows(zero, torch.ones(1, 3)).tolist() == [0]
    assert cosine_rows(nan, torch.ones(1, 3)).isnan().all()
    assert cosine_rows(torch.zeros(0, 3), torch.zeros(0, 3)).shape == (0,)


def test_rows_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match=r"a has shape \(1, 3\), b \(4, 3\)"):
        cosine_rows(torch.ones(1, 3), torch.ones(4, 3))
