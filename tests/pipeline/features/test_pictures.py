"""Features instead of pixels: the same scores, and an extraction that can be killed at any byte."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from mllm_srec.data.loading.prompt_datamodule import PromptDataModule
from mllm_srec.data.loading.ranking_datamodule import ServedInputs
from mllm_srec.data.pictures.feature_store import FeatureStore
from mllm_srec.data.settings import PictureSettings
from mllm_srec.models.backbone import BackboneSettings, load_backbone
from mllm_srec.models.recommender import MLLMRecommender
from mllm_srec.pipeline.features import pictures as features
from mllm_srec.pipeline.features.pictures import extract_features


@pytest.fixture(scope="module")
def settings(tiny_backbone):
    return BackboneSettings(str(tiny_backbone), finetune="none", quantization="none", dtype="float32")


PICTURES = PictureSettings(serve="features", max_pixels=4 * 28 * 28)


@pytest.fixture(scope="module")
def images(shop_root, tiny_backbone):
    return PromptDataModule(str(shop_root), "shop", str(tiny_backbone), pictures=PICTURES).stores.images


@pytest.fixture(scope="module")
def original(images, settings, tmp_path_factory):
    """A finished store and its folder."""
    folder = extract_features(images, settings, batch_size=4)
    return shutil.copytree(folder, tmp_path_factory.mktemp("features") / "copy"), folder


@pytest.fixture
def finished(original):
    """A finished store, whatever an earlier test did to it."""
    copy, folder = original
    shutil.rmtree(folder, ignore_errors=True)
    return shutil.copytree(copy, folder)


@pytest.fixture(scope="module")
def expected(images, settings):
    """Features of every picture, each computed alone."""
    backbone = load_backbone(settings, torch.device("cpu")).eval()
    with torch.no_grad():
        return {key: backbone.image_features(*images.pixel_values([key]))[0] for key in images.pictures}


@pytest.fixture
def asked(monkeypatch):
    """Pictures that were encoded, in order."""
    keys, predict = [], features._predict
    monkeypatch.setattr(features, "_predict", lambda some, *rest: (keys.extend(some), predict(some, *rest)))
    return keys


def assert_complete(folder, expected):
    store = FeatureStore(folder)
    for key, rows in expected.items():
        torch.testing.assert_close(store.features([key]), rows, atol=1e-5, rtol=0)
    n_bytes = sum(rows.numel() * rows.element_size() for rows in expected.values())
    assert (folder / "features.bin").stat().st_size == n_bytes
    entries = [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]
    assert sorted(entry["picture"] for entry in entries) == sorted(expected)


def test_every_picture_once_as_the_tower_gives_it(finished, images, expected):
    assert len(expected) == 13  # 15 items, one without a picture, two with the same
    assert_complete(finished, expected)


def test_rows_of_several_pictures_come_in_their_order(finished, expected):
    first, second = sorted(expected)[9], sorted(expected)[2]
    rows = FeatureStore(finished).features([first, second, first])
    torch.testing.assert_close(rows, torch.cat([expected[first], expected[second], expected[first]]), atol=1e-5, rtol=0)


def test_a_finished_store_is_used_as_it_is(finished, images, settings, monkeypatch):
    monkeypatch.setattr(features, "_predict", lambda *_: pytest.fail("extracted again"))
    assert extract_features(images, settings) == finished


def test_features_of_an_earlier_version_are_not_taken_for_those_of_this_revision(
    finished, images, settings, monkeypatch, capsys
):
    info = features.describe_backbone(settings.name)
    now = replace(info, fingerprint="of a commit", earlier_fingerprint=info.fingerprint)
    monkeypatch.setattr(features, "describe_backbone", lambda *_: now)
    assert extract_features(images, settings) != finished
    assert f"{finished} may be of another revision of the backbone" in capsys.readouterr().out


def test_other_settings_have_their_own_store(finished, images, settings, tiny_backbone, make_datamodule):
    half = BackboneSettings(str(tiny_backbone), finetune="none", quantization="none", dtype="bfloat16")
    large = make_datamodule(pictures=PictureSettings(max_pixels=112 * 112)).stores.images
    assert len({finished, extract_features(images, half), extract_features(large, settings)}) == 3


@pytest.mark.parametrize("quantization", ["nf4", pytest.param("none", marks=pytest.mark.slow)])
def test_scores_are_those_of_pixels(make_datamodule, settings, tiny_backbone, images, quantization):
    model = MLLMRecommender(str(tiny_backbone), finetune="none", quantization=quantization)
    model.configure_model()
    model.eval()

    def scores(datamodule):
        datamodule.setup("test")
        with torch.no_grad():
            return [model.score_candidates(batch) for batch in datamodule.predict_dataloader()]

    pixels = scores(make_datamodule(pictures=replace(PICTURES, serve="pixels")))
    served = make_datamodule(pictures=PICTURES)
    served.use(ServedInputs(features=extract_features(images, settings)))
    served.setup("test")
    batch = next(iter(served.predict_dataloader()))
    assert "image_features" in batch
    assert "pixel_values" not in batch
    for found, wanted in zip(scores(served), pixels, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert torch.cat([row.flatten() for row in pixels]).std() > 1e-4


def test_bfloat16_goes_to_disk_and_back_bit_by_bit(images, tiny_backbone):
    half = BackboneSettings(str(tiny_backbone), finetune="none", quantization="none", dtype="bfloat16")
    store = FeatureStore(extract_features(images, half, batch_size=1))
    backbone = load_backbone(half, torch.device("cpu")).eval()
    with torch.no_grad():
        for key in images.pictures[:3]:
            expected = backbone.image_features(*images.pixel_values([key]))[0]
            assert expected.dtype == torch.bfloat16
            found = store.features([key])
            assert found.dtype == torch.bfloat16
            assert torch.equal(found.view(torch.int16), expected.view(torch.int16))


# --- killed at any byte -------------------------------------------------------------------------------------------


def cut(path, n_bytes):
    """Keep the first bytes only; negative counts from the end."""
    path.write_bytes(path.read_bytes()[:n_bytes])


DAMAGES = {
    "a line cut": lambda folder: cut(folder / "index.jsonl", -7),
    "a line without its end": lambda folder: cut(folder / "index.jsonl", -1),
    "an index of one byte": lambda folder: cut(folder / "index.jsonl", 1),
    "no index": lambda folder: (folder / "index.jsonl").unlink(),
    "features cut within a number": lambda folder: cut(folder / "features.bin", -3),
    "half of the features": lambda folder: cut(folder / "features.bin", (folder / "features.bin").stat().st_size // 2),
    "no features": lambda folder: (folder / "features.bin").unlink(),
    "features behind the index": lambda folder: (folder / "features.bin").open("ab").write(b"12345"),
    "an index of zeros": lambda folder: (folder / "index.jsonl").write_bytes(b"\0" * 300 + b"\n"),
    "a line that is no entry": lambda folder: (folder / "index.jsonl").open("a").write('{"picture": "x"}\n3\n'),
    "both cut": lambda folder: (cut(folder / "index.jsonl", -90), cut(folder / "features.bin", -1030)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_killed_extraction_continues(finished, images, settings, expected, damage, asked):
    (finished / "meta.json").unlink()  # written last: not there after a kill
    damage(finished)
    assert extract_features(images, settings) == finished
    assert_complete(finished, expected)
    assert len(asked) <= len(expected)
    if "line" in next(name for name, value in DAMAGES.items() if value is damage):
        assert len(asked) <= 1, "what was whole was computed again"


def test_a_kill_between_two_batches_loses_one_batch(finished, images, settings, expected, asked, monkeypatch):
    shutil.rmtree(finished)

    class Killed(BaseException):
        pass

    step = features.FeatureExtractor.predict_step

    def dying(self, batch, batch_idx):
        if batch_idx == 2:
            raise Killed
        step(self, batch, batch_idx)

    monkeypatch.setattr(features.FeatureExtractor, "predict_step", dying)
    with pytest.raises(Killed):
        extract_features(images, settings, batch_size=4)
    monkeypatch.setattr(features.FeatureExtractor, "predict_step", step)
    asked.clear()
    assert_complete(extract_features(images, settings, batch_size=4), expected)
    assert asked == images.pictures[8:]
