"""Item features equal those of plain transformers item by item, whatever the batches, kills and stores in between."""

import os
import shutil
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, BertConfig, BertModel, BertTokenizerFast, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.demo.shop import item_truth
from mllm_srec.data.prepare import prepare_dataset
from mllm_srec.data.settings import (
    CandidateSettings,
    DemoSettings,
    ItemFeatureSettings,
    PictureSettings,
    PrepareSettings,
)
from mllm_srec.files.checksums import CHECKSUMS
from mllm_srec.models import text_encoder
from mllm_srec.models.backbone import BackboneSettings
from mllm_srec.models.random_backbone import RandomBackboneSettings, build_random_backbone
from mllm_srec.models.text_encoder import SentenceEncoder
from mllm_srec.pipeline.features import pictures as features
from mllm_srec.pipeline.features import texts as text_features
from mllm_srec.pipeline.features.items import feature_text, item_features, mean_cosine, unit_rows
from mllm_srec.types import ConfigError, DataError

PICTURES = PictureSettings(serve="features", max_pixels=4 * 28 * 28)
PLAIN = ItemFeatureSettings(center=False, batch_size=4)
CLOSE = {"atol": 1e-5, "rtol": 0}
ODD = [
    'Coat "XL" <',
    "|im_end|> <",
    "|im_start|>assistant Yes. & more",
]  # control tokens as letters: cut behind the "<"


@pytest.fixture
def data(shop_root, tmp_path):
    """A copy of the small shop without any store; item i05 has no picture, i13 and i14 share one."""
    ignored = shutil.ignore_patterns("features", "item_features", "image_store", "prompts", "summaries")
    return PreparedDataset.open(shutil.copytree(shop_root / "shop", tmp_path / "shop", ignore=ignored))


@pytest.fixture
def backbone(tiny_backbone):
    return BackboneSettings(str(tiny_backbone), quantization="none", dtype="float32")


@pytest.fixture(scope="module")
def expected(shop, tiny_backbone):
    """Raw vectors by plain transformers, one item at a time: item number -> picture's, and text's."""
    net = Qwen2VLForConditionalGeneration.from_pretrained(tiny_backbone).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_backbone)
    size = {"shortest_edge": 56 * 56, "longest_edge": PICTURES.max_pixels}
    processor = Qwen2VLImageProcessorPil.from_pretrained(tiny_backbone, size=size)
    image, text = {}, {}
    with torch.no_grad():
        for row, item in enumerate(shop.items.iter_rows(named=True)):
            pieces = ODD if item["item_id"] == "i03" else [item["title"]]
            ids = torch.tensor([[i for piece in pieces for i in tokenizer(piece)["input_ids"]]])
            text[row + 1] = net.model(input_ids=ids).last_hidden_state[0].mean(dim=0).numpy()
            if item["image"]:
                picture = processor(images=[Image.open(shop.folder / item["image"])], return_tensors="pt")
                rows = net.model.get_image_features(picture["pixel_values"], picture["image_grid_thw"]).pooler_output[0]
                image[row + 1] = rows.mean(dim=0).numpy()
    return image, text


@pytest.fixture
def asked(monkeypatch):
    """Texts that were encoded, in order."""
    texts, step = [], text_features.TextExtractor.predict_step

    def noting(self, batch, batch_idx):
        texts.extend(tuple(ids[mask].tolist()) for ids, mask in zip(*batch, strict=True))
        step(self, batch, batch_idx)

    monkeypatch.setattr(text_features.TextExtractor, "predict_step", noting)
    return texts


def stores(data):
    return sorted(path.parent.name for path in data.folder.glob("item_features/*/rows.bin"))


def with_items(data, items):
    """The same data set with another items table."""
    changed = PreparedDataset(data.folder, data.manifest)
    changed.__dict__["items"] = items
    return changed


def assert_same(found, wanted):
    np.testing.assert_allclose(found.image, wanted.image, **CLOSE)
    np.testing.assert_allclose(found.text, wanted.text, **CLOSE)


# --- what they are ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("center", [False, True])
def test_rows_are_those_of_plain_transformers(data, backbone, expected, center):
    found = item_features(data, ItemFeatureSettings(batch_size=4, center=center), backbone, PICTURES)
    for rows, raw in zip((found.image, found.text), expected, strict=True):
        assert rows.shape == (16, 64)
        assert rows.dtype == np.float32
        mean = np.mean(list(raw.values()), axis=0) if center else 0
        for number in range(16):
            vector = raw[number] - mean if number in raw else np.zeros(64)
            np.testing.assert_allclose(rows[number], vector / max(np.linalg.norm(vector), 1e-9), **CLOSE)
    assert [len(raw) for raw in expected] == [14, 15]
    assert "random weights" in found.source
    assert ("centred" in found.source) == center


def test_missing_modalities_are_zero_and_counted(data, backbone, capsys):
    title = pl.when(pl.col("item_id") == "i02").then(pl.lit(" ")).otherwise("title")
    found = item_features(with_items(data, data.items.with_columns(title=title)), PLAIN, backbone, PICTURES)
    assert np.flatnonzero(~found.has_image).tolist() == [0, 6]
    assert np.flatnonzero(~found.has_text).tolist() == [0, 3]
    said = capsys.readouterr().out
    assert "1 items without a picture" in said
    assert "1 items without a text" in said


def test_rows_follow_the_order_of_the_items(data, backbone):
    forward = item_features(data, PLAIN, backbone, PICTURES)
    backward = item_features(with_items(data, data.items.reverse()), PLAIN, backbone, PICTURES)
    for there, back in ((forward.image, backward.image), (forward.text, backward.text)):
        assert np.array_equal(there[1:], back[:0:-1])
    assert len(stores(data)) == 1  # the same texts


def test_equal_pictures_have_equal_rows_and_others_do_not(data, backbone):
    rows = item_features(data, PLAIN, backbone, PICTURES).image
    assert np.array_equal(rows[14], rows[15])
    assert np.abs(rows[13] - rows[14]).max() > 1e-3


@pytest.mark.parametrize("serve", ["none", "no pictures at all"])
def test_without_pictures_no_tower_runs(data, backbone, serve, monkeypatch):
    monkeypatch.setattr(features, "_predict", lambda *_: pytest.fail("the tower ran"))
    if serve != "none":
        data = with_items(data, data.items.with_columns(image=pl.lit(None, pl.String)))
    pictures = PictureSettings(serve="none" if serve == "none" else "pixels", max_pixels=PICTURES.max_pixels)
    found = item_features(data, PLAIN, backbone, pictures)
    assert found.image.shape == (16, 64)
    assert not found.has_image.any()
    assert found.has_text[1:].all()


def test_batch_size_is_irrelevant(data, backbone):
    one, ids = item_features(data, PLAIN, backbone, PICTURES), stores(data)
    shutil.rmtree(data.folder / "item_features")
    all_at_once = item_features(data, ItemFeatureSettings(center=False, batch_size=64), backbone, PICTURES)
    assert_same(all_at_once, one)
    assert stores(data) == ids


def test_texts_are_cut_and_counted(data, backbone, expected, capsys):
    item_features(data, ItemFeatureSettings(max_text_tokens=5), backbone, PICTURES)
    said = capsys.readouterr().out
    cut = with_items(data, data.items.with_columns(title=pl.col("title").str.slice(0, 200)))
    found = item_features(cut, ItemFeatureSettings(max_text_tokens=10_000, center=False), backbone, PICTURES)
    assert "item texts cut at 5 tokens" in said
    assert "cut at" not in capsys.readouterr().out
    raw = expected[1][4]
    np.testing.assert_allclose(found.text[4], raw / np.linalg.norm(raw), **CLOSE)


# --- stores -------------------------------------------------------------------------------------------------------


def test_the_second_time_nothing_is_loaded(data, backbone, monkeypatch):
    first = item_features(data, PLAIN, backbone, PICTURES)
    for module in (features, text_encoder):
        monkeypatch.setattr(module, "load_backbone", lambda *_: pytest.fail("loaded again"))
    second = item_features(data, PLAIN, backbone, PICTURES)
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.text, second.text)


def test_the_tower_features_of_fit_are_used(data, backbone, monkeypatch, shop_root, tiny_backbone, expected):
    from mllm_srec.data.loading.prompt_datamodule import PromptDataModule
    from mllm_srec.models.recommender import MLLMRecommender

    model = MLLMRecommender(str(tiny_backbone), quantization="none", dtype="float32")  # as `fit` does it, with LoRA
    served = PromptDataModule(str(data.folder.parent), "shop", str(tiny_backbone), pictures=PICTURES)
    features.extract_features(served.stores.images, features.frozen(model.settings))
    monkeypatch.setattr(features, "_predict", lambda *_: pytest.fail("the tower ran again"))
    found = item_features(data, PLAIN, model.settings, PICTURES)
    np.testing.assert_allclose(found.image[1], expected[0][1] / np.linalg.norm(expected[0][1]), **CLOSE)


def test_other_weights_texts_and_precision_have_their_own_store(data, backbone, tmp_path):
    build_random_backbone(
        tmp_path / "other", ["a red mug with dots"] * 9, RandomBackboneSettings(64, 2, 2, 4, 32, 2, seed=1)
    )
    first = item_features(data, PLAIN, backbone, PICTURES)
    other = item_features(data, PLAIN, BackboneSettings(str(tmp_path / "other"), quantization="none"), PICTURES)
    assert np.abs(first.text - other.text).max() > 0.1
    assert np.abs(first.image - other.image).max() > 0.1
    changed = data.items.with_columns(title=pl.col("title").str.replace("red mug", "blue mug"))
    renamed = item_features(with_items(data, changed), PLAIN, backbone, PICTURES)
    assert np.array_equal(np.flatnonzero(np.abs(renamed.text - first.text).max(axis=1) > 1e-5), [1])
    half = BackboneSettings(backbone.name, quantization="none", dtype="bfloat16")
    item_features(data, PLAIN, half, PictureSettings(serve="none"))
    assert len(stores(data)) == 4


def test_a_kill_between_two_batches_loses_one_batch(data, backbone, asked, monkeypatch):
    class Killed(BaseException):
        pass

    whole = item_features(data, PLAIN, backbone, PICTURES)
    everything = list(asked)
    shutil.rmtree(data.folder / "item_features")
    step = text_features.TextExtractor.predict_step

    def dying(self, batch, batch_idx):
        if batch_idx == 2:
            raise Killed
        step(self, batch, batch_idx)

    with monkeypatch.context() as patched:
        patched.setattr(text_features.TextExtractor, "predict_step", dying)
        with pytest.raises(Killed):
            item_features(data, PLAIN, backbone, PICTURES)
    asked.clear()
    assert np.array_equal(item_features(data, PLAIN, backbone, PICTURES).text, whole.text)
    assert asked == everything[8:]


CHILD = """
import hashlib, sys
from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.settings import ItemFeatureSettings, PictureSettings
from mllm_srec.models.backbone import BackboneSettings
from mllm_srec.pipeline.features.items import item_features
data = PreparedDataset.open(sys.argv[1])
pictures = PictureSettings(serve="features", max_pixels=4 * 28 * 28)
found = item_features(data, ItemFeatureSettings(), BackboneSettings(sys.argv[2], quantization="none"), pictures)
print("hash", hashlib.sha256(found.image.tobytes() + found.text.tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_processes_side_by_side_compute_once_and_agree(data, tiny_backbone):
    command = [sys.executable, "-c", CHILD, str(data.folder), str(tiny_backbone)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    children = [subprocess.Popen(command, **options) for _ in range(2)]
    outs = [child.communicate(timeout=300) for child in children]
    assert [child.returncode for child in children] == [0, 0], outs
    said = "".join(out for out, _ in outs)
    assert said.count("encoding 15 of 15 texts") == 1
    assert said.count("encoding 13 of 13 pictures") == 1
    assert len({line for line in said.splitlines() if line.startswith("hash")}) == 1


ROW = 4 * 64


@pytest.mark.parametrize(("n_bytes", "n_left"), [(0, 15), (1, 15), (ROW - 1, 15), (6 * ROW + 7, 9), (15 * ROW - 1, 1)])
def test_a_store_cut_at_any_byte_is_completed(data, backbone, asked, n_bytes, n_left):
    whole = item_features(data, PLAIN, backbone, PICTURES)
    (path,) = data.folder.glob("item_features/*/rows.bin")
    os.truncate(path, n_bytes)
    asked.clear()
    assert_same(item_features(data, PLAIN, backbone, PICTURES), whole)
    assert len(asked) == n_left
    assert path.stat().st_size == 15 * ROW


def test_a_checksum_that_a_kill_left_out_is_noted_the_next_time(data, backbone, asked, monkeypatch):
    whole = item_features(data, PLAIN, backbone, PICTURES)
    (path,) = data.folder.glob("item_features/*/rows.bin")
    noted = path.with_name(CHECKSUMS).read_text()
    path.with_name(CHECKSUMS).unlink()
    asked.clear()
    with monkeypatch.context() as closed:
        closed.setattr(text_features, "why_not_writable", lambda folder: "a shared copy")
        assert_same(item_features(data, PLAIN, backbone, PICTURES), whole)
    assert not path.with_name(CHECKSUMS).exists()
    assert_same(item_features(data, PLAIN, backbone, PICTURES), whole)
    assert path.with_name(CHECKSUMS).read_text() == noted
    assert asked == []
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"rows\.bin: the features of texts cannot be read \(its content differs"):
        item_features(data, PLAIN, backbone, PICTURES)


def test_values_that_are_not_finite_are_refused(data, backbone, monkeypatch):
    endless = lambda self, ids, mask: torch.full((*ids.shape, 64), torch.inf)  # noqa: E731
    monkeypatch.setattr(text_encoder.BackboneText, "hidden", endless)
    with pytest.raises(ConfigError, match=r"not finite; set model\.dtype to float32"):
        item_features(data, PLAIN, backbone, PICTURES)


# --- a sentence encoder -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """Folder of an untrained BERT whose vocabulary is single characters."""
    folder = tmp_path_factory.mktemp("bert")
    letters = 'abcdefghijklmnopqrstuvwxyz[]<>|_&."'
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *[f"##{letter}" for letter in letters]]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=64).save_pretrained(folder)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(words), max_position_embeddings=64, **shape)
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    return folder


def test_a_sentence_encoder_reads_texts_as_transformers_does(data, backbone, bert):
    settings = ItemFeatureSettings(text=str(bert), max_text_tokens=64, batch_size=4, center=False)
    found = item_features(data, settings, backbone, PICTURES)
    net, tokenizer = BertModel.from_pretrained(bert).eval(), AutoTokenizer.from_pretrained(bert)
    for row, title in enumerate(data.items["title"]):
        with torch.no_grad():
            ids = tokenizer(" ".join(title.split()), return_tensors="pt")
            raw = net(**ids).last_hidden_state[0].mean(dim=0).numpy()
        np.testing.assert_allclose(found.text[row + 1], raw / np.linalg.norm(raw), **CLOSE)
    assert found.image.shape == (16, 64)
    assert f"text: {bert.name} (pretrained" in found.source


def test_control_tokens_in_a_title_are_letters_to_a_sentence_encoder(bert):
    ids, was_cut = SentenceEncoder(str(bert)).encode("a [SEP] b", 64)
    vocabulary = AutoTokenizer.from_pretrained(bert).get_vocab()
    names = [next(word for word, index in vocabulary.items() if index == i) for i in ids]
    assert names == ["[CLS]", "a", "[", "s", "##e", "##p", "]", "b", "[SEP]"]
    assert not was_cut
    shorter, was_cut = SentenceEncoder(str(bert)).encode("a [SEP] b", 5)
    assert shorter == [*ids[:4], ids[-1]]
    assert was_cut


def test_models_that_are_no_sentence_encoder_are_refused(data, backbone, bert, tiny_backbone):
    with pytest.raises(ConfigError, match="reads 64 at most"):
        item_features(data, ItemFeatureSettings(text=str(bert)), backbone, PICTURES)
    with pytest.raises(ConfigError, match="no plain text encoder; give one such as"):
        SentenceEncoder(str(tiny_backbone))
    with pytest.raises(ConfigError, match="cannot be read"):
        SentenceEncoder("nowhere/nothing")
    with pytest.raises(ConfigError, match=r"'lora'.*must be 'none'"):
        text_encoder.BackboneText(backbone)


# --- small parts --------------------------------------------------------------------------------------------------


def test_text_of_an_item():
    row = {"title": " A\n lamp ", "brand": "Ikea", "categories": ["Home", "Light"], "description": "Bright."}
    assert feature_text(row) == "A lamp, by Ikea, in Home > Light"
    assert feature_text({"title": "", "brand": None, "categories": None}) == ""
    assert feature_text({"title": "", "brand": "Ikea", "categories": []}) == "untitled item, by Ikea"


def test_unit_rows_by_hand():
    rows = np.array([[3.0, 4.0], [0.0, 0.0], [9.0, -4.0]], np.float32)
    np.testing.assert_allclose(unit_rows(rows[:2], center=False), [[0.6, 0.8], [0, 0]], **CLOSE)
    root = np.sqrt(41)  # the mean is (4, 0)
    np.testing.assert_allclose(
        unit_rows(rows, center=True), [[-1 / np.sqrt(17), 4 / np.sqrt(17)], [-1, 0], [5 / root, -4 / root]], **CLOSE
    )


def test_equal_rows_are_zero_when_centred_and_not_noise_of_length_one():
    rows = np.full((7, 3), 0.1, np.float32) * np.array([1, 3, 7], np.float32)
    assert not unit_rows(rows, center=True).any()
    assert unit_rows(rows, center=False).any()
    assert unit_rows(rows[:0], center=True).shape == (0, 3)


def test_mean_cosine_by_hand():
    rows = np.array([[1, 0], [0, 1], [-1, 0]], np.float32)  # cosines 0, -1, 0
    assert mean_cosine(rows) == pytest.approx(-1 / 3)
    assert np.isnan(mean_cosine(rows[:1]))


@pytest.mark.parametrize("bad", [{"text": " "}, {"max_text_tokens": 0}, {"batch_size": 0}])
def test_bad_settings_name_the_argument(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        ItemFeatureSettings(**bad)


# --- they say what is true ----------------------------------------------------------------------------------------


def test_neighbours_in_the_demo_shop_share_what_the_modality_shows(tmp_path):
    demo = DemoSettings(n_users=4, n_items=150, n_interactions=40)
    prepare = PrepareSettings(source="demo", k_core=1, demo=demo)
    prepare_dataset(tmp_path / "demo", prepare, CandidateSettings(n_negatives=2))
    data = PreparedDataset.open(tmp_path / "demo")
    settings = BackboneSettings("demo", quantization="none")
    found = item_features(data, ItemFeatureSettings(), settings, PictureSettings(max_pixels=56 * 56))
    truth = data.items.select("item_id").join(item_truth(demo), on="item_id", maintain_order="left")
    assert data.items.height > 80

    def agreement(rows, attribute):
        """Share of items whose nearest neighbour has the same value."""
        values, cosines = truth[attribute].to_numpy(), rows[1:] @ rows[1:].T
        np.fill_diagonal(cosines, -1)
        return float((values == values[cosines.argmax(axis=1)]).mean())

    assert agreement(found.image, "colour") > 0.9  # chance 1/6
    assert agreement(found.image, "pattern") > 0.75  # chance 1/4
    assert agreement(found.text, "brand") > 0.6  # chance 1/6
    assert agreement(found.text, "material") > 0.4  # chance 1/4
    assert agreement(found.image, "brand") < 0.3
    assert agreement(found.text, "colour") < 0.3
    assert "pretrained" in found.source
    assert "random" not in found.source
