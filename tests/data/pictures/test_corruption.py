"""Corrupted pictures: strength, randomness, what stays untouched; data sets whose tables do not change."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image
from scipy import ndimage

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.demo.drawing import draw_item
from mllm_srec.data.pictures.corruption import (
    CORRUPTIONS,
    NOISE_DEVIATION,
    _from_border,
    background_mask,
    corrupt_pictures,
)
from mllm_srec.data.prepare import prepare_dataset
from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.data.settings import CandidateSettings, CorruptionSettings, DemoSettings, PrepareSettings
from mllm_srec.types import ConfigError

TABLES = ("items", "interactions", "groups", "samples", "candidates", "users")


@pytest.fixture(scope="module")
def mug():
    return draw_item("mug", "red", "striped", 56, 0.5, np.random.default_rng(3))


def changed(picture, kind, strength, seed=0):
    return np.asarray(CORRUPTIONS[kind](picture, strength, np.random.default_rng(seed))).astype(int)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_strength(mug, kind):
    clean = np.asarray(mug).astype(int)
    assert (changed(mug, kind, 0.0) == clean).all()
    gaps = [np.abs(changed(mug, kind, strength) - clean).mean() for strength in (0.25, 0.5, 0.75, 1.0)]
    assert gaps == sorted(gaps)
    assert gaps[0] > 0.5
    assert changed(mug, kind, 0.5).shape == clean.shape


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_randomness_is_the_generators(mug, kind):
    assert (changed(mug, kind, 0.7, seed=1) == changed(mug, kind, 0.7, seed=1)).all()
    drawn = kind in ("noise", "background")
    assert (changed(mug, kind, 0.7, seed=1) != changed(mug, kind, 0.7, seed=2)).any() == drawn


def test_noise_has_the_deviation_that_it_says():
    grey = Image.new("RGB", (200, 200), (128, 128, 128))
    noisy = changed(grey, "noise", 0.1)
    assert noisy.std() == pytest.approx(0.1 * NOISE_DEVIATION, rel=0.02)
    assert noisy.mean() == pytest.approx(128, abs=0.2)
    assert abs(np.corrcoef(noisy[..., 0].ravel(), noisy[..., 1].ravel())[0, 1]) < 0.02, "channels are independent"


def test_large_pictures_are_as_noisy_as_small_ones_once_they_are_reduced():
    seen = []
    for side in (112, 224, 1120):
        noisy = CORRUPTIONS["noise"](Image.new("RGB", (side, side), (128,) * 3), 0.3, np.random.default_rng(0))
        seen.append(np.asarray(noisy.resize((112, 112), Image.Resampling.BOX)).astype(float).std())
    assert seen[0] == pytest.approx(38.4, rel=0.03)
    assert seen[1] == pytest.approx(seen[2], rel=0.1)
    assert seen[2] > 0.4 * seen[0]


def test_a_blank_picture_shows_nothing(mug):
    assert (changed(mug, "blank", 1.0) == 128).all()


def test_blur_keeps_the_mean_and_loses_detail(mug):
    clean, blurred = np.asarray(mug).astype(int), changed(mug, "blur", 1.0)
    assert blurred.mean() == pytest.approx(clean.mean(), abs=6)
    assert blurred.std() < 0.7 * clean.std()


# --- backgrounds --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_what_the_border_reaches_by_scipy(seed):
    rng = np.random.default_rng(seed)
    free = rng.random((rng.integers(1, 30), rng.integers(1, 30))) < 0.6
    labels, _ = ndimage.label(free)
    border = {*labels[0], *labels[-1], *labels[:, 0], *labels[:, -1]} - {0}
    np.testing.assert_array_equal(_from_border(free), np.isin(labels, list(border)))


def test_a_background_stays_behind_the_product(mug):
    clean, busy = np.asarray(mug).astype(int), changed(mug, "background", 1.0)
    mask = background_mask(np.asarray(mug))
    assert (busy[~mask] == clean[~mask]).all()
    assert 0.3 < mask.mean() < 0.9
    red = (np.abs(clean - (214, 40, 48)).sum(axis=2) < 30) & ~ndimage.binary_dilation(mask)
    assert red.sum() > 100, "the product is not background"
    assert (np.abs(busy - clean)[mask].sum(axis=1) > 0).mean() > 0.95, "no paper is left"


@pytest.mark.parametrize("size", [(40, 40), (31, 200), (1, 1), (3, 300)])
def test_a_picture_without_background_gets_a_frame(size):
    dark = Image.new("RGB", size, (30, 40, 50))
    mask = background_mask(np.asarray(dark))
    assert mask.shape == size[::-1]
    assert mask[[0, -1]].all()
    assert mask[:, [0, -1]].all()
    if min(size) > 10:
        assert not mask[size[1] // 2, size[0] // 2]


# --- data sets ----------------------------------------------------------------------------------------------------


def prepared(folder, **corruption):
    demo = DemoSettings(n_users=12, n_items=30, n_interactions=10, image_size=28)
    settings = PrepareSettings(source="demo", k_core=1, demo=demo, corruption=CorruptionSettings(**corruption))
    report = prepare_dataset(folder, settings, CandidateSettings(5))
    return folder, report


def pictures(folder):
    items = pl.read_parquet(folder / "items.parquet")
    return {row["item_id"]: (folder / row["image"]).read_bytes() for row in items.iter_rows(named=True)}


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("data") / "clean")[0]


@pytest.mark.parametrize("kind", [*CORRUPTIONS, "mismatch"])
def test_tables_stay_as_they_are(clean, tmp_path, kind):
    folder, report = prepared(tmp_path / "bad", kind=kind, strength=0.5)
    for name in TABLES:
        assert (folder / f"{name}.parquet").read_bytes() == (clean / f"{name}.parquet").read_bytes(), name
    hashes = [json.loads((f / "manifest.json").read_text())["candidates_hash"] for f in (folder, clean)]
    assert hashes[0] == hashes[1]
    before, after = pictures(clean), pictures(folder)
    different = sum(before[item] != after[item] for item in before)
    assert different == (round(0.5 * len(before)) if kind == "mismatch" else len(before))
    assert report.counts["corruption"] == {f"picture changed: {kind}, strength 0.5": different}
    with pytest.raises(ConfigError, match="corruption"):
        prepared(folder)


def test_a_clean_data_set_is_what_it_was_before_corruptions_were_known(clean):
    assert "corruption" not in json.loads((clean / "manifest.json").read_text())["prepare"]
    assert prepared(clean)[1].facts["already prepared"]
    with pytest.raises(ConfigError, match="prepared differently"):
        prepared(clean, kind="noise")


def test_a_mismatched_item_never_keeps_its_picture_and_none_is_lost(clean, tmp_path):
    before, after = pictures(clean), pictures(prepared(tmp_path / "bad", kind="mismatch")[0])
    assert sorted(before.values()) == sorted(after.values())
    n_same_drawing = sum(before[item] == after[item] for item in before)
    assert n_same_drawing < len(before) - len(set(before.values())) + 1


def test_larger_shares_and_stronger_mismatches_hold_the_smaller_ones(clean, tmp_path):
    before = pictures(clean)
    found = []
    settings = [{"kind": "noise", "share": share} for share in (0.1, 0.5, 1.0)]
    settings += [{"kind": "mismatch", "strength": strength} for strength in (0.2, 0.6)]
    for number, one in enumerate(settings):
        after = pictures(prepared(tmp_path / str(number), **one)[0])
        found.append({item for item in before if before[item] != after[item]})
    assert [len(items) for items in found] == [round(share * len(before)) for share in (0.1, 0.5, 1.0, 0.2, 0.6)]
    assert found[0] < found[1] < found[2]
    assert found[3] < found[4]
    other = pictures(prepared(tmp_path / "seed", kind="noise", share=0.5, seed=1)[0])
    assert {item for item in before if before[item] != other[item]} != found[1], "another seed chooses others"


def test_no_strength_leaves_every_byte(clean, tmp_path):
    for kind in ("noise", "mismatch"):
        assert pictures(prepared(tmp_path / kind, kind=kind, strength=0.0)[0]) == pictures(clean)


@pytest.mark.parametrize("kind", ["mismatch", "noise"])
def test_formats_and_items_without_a_picture_stay(tmp_path, kind):
    (tmp_path / "images").mkdir()
    rows, rng = [], np.random.default_rng(0)
    for number, suffix in enumerate(["jpg", "png", "webp", "gif", "bmp", "jpg"]):
        name = f"images/{number}.{suffix}"
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(tmp_path / name)
        rows.append({"item_id": str(number), "image": name})
    items = pl.DataFrame([*rows, {"item_id": "none", "image": None}])
    before = {path.name: path.read_bytes() for path in (tmp_path / "images").iterdir()}
    report = PrepareReport()
    corrupt_pictures(tmp_path, items, CorruptionSettings(kind=kind), report)
    assert report.counts["corruption"]["item without a picture, nothing to corrupt"] == 1
    after = {path.name: path for path in (tmp_path / "images").iterdir()}
    assert set(after) == set(before)
    for name, path in after.items():
        assert path.read_bytes() != before[name]
        with Image.open(path) as opened:
            expected = {"jpg": "JPEG"}.get(Path(name).suffix[1:], Path(name).suffix[1:].upper())
            assert (opened.format, opened.size) == (expected, (24, 20))


def test_pictures_are_changed_as_they_are_shown(tmp_path):
    """Transparent parts are white, and a photograph that says how it was held is upright."""
    (tmp_path / "images").mkdir()
    glass = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    glass.paste((200, 30, 30, 255), (5, 5, 15, 15))
    glass.save(tmp_path / "images/a.png")
    turned = Image.fromarray(np.linspace(0, 255, 40 * 20).reshape(20, 40).astype(np.uint8)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    turned.save(tmp_path / "images/b.jpg", exif=exif)
    items = pl.DataFrame({"item_id": ["a", "b"], "image": ["images/a.png", "images/b.jpg"]})
    corrupt_pictures(tmp_path, items, CorruptionSettings(kind="noise", strength=0.01), PrepareReport())
    with Image.open(tmp_path / "images/a.png") as picture:
        assert np.asarray(picture.convert("RGB"))[:4].mean() > 245
    with Image.open(tmp_path / "images/b.jpg") as picture:
        assert picture.size == (20, 40)
        assert picture.getexif().get(0x0112, 1) == 1, "not to be turned once more"


def test_bad_pictures_are_another_data_set_with_fewer_ceilings(clean, tmp_path):
    bad = PreparedDataset.open(prepared(tmp_path / "bad", kind="blank")[0])
    good = PreparedDataset.open(clean)
    assert bad.content_hash != good.content_hash
    assert bad.corruption == "kind=blank strength=1.0 share=1.0 seed=0"
    assert good.corruption is None
    names = {name for name in pl.read_parquet(bad.folder / "ceilings.parquet").columns if "_" in name}
    assert {name for name in names if name.startswith(("oracle", "reader"))} == {"oracle_text", "reader_text"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "fog"}, "prepare.corruption.kind='fog': not one of none, background"),
        (
            {"kind": "noise", "strength": 1.5},
            "prepare.corruption.strength=1.5: out of range; set it to a number from 0",
        ),
        ({"kind": "noise", "share": -0.1}, "prepare.corruption.share=-0.1: out of range"),
        ({"kind": "noise", "seed": -1}, "prepare.corruption.seed=-1: too small; set it to 0 or more"),
    ],
)
def test_bad_settings(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        prepared(tmp_path / "x", **settings)
