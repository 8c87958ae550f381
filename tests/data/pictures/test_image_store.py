"""Stored pictures against the image processor on the original files."""

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from mllm_srec.data.pictures.image_store import ImageStore, build_image_store, load_image_processor
from mllm_srec.data.settings import PictureSettings
from mllm_srec.types import DataError
from tests.conftest import write_picture

MODES = {
    "rgb.png": "RGB",
    "grey.jpg": "L",
    "palette.gif": "P",
    "alpha.png": "RGBA",
    "print.jpg": "CMYK",
    "bits.png": "1",
}
SIZES = [(100, 500), (394, 500), (20, 31), (5, 700), (56, 56), (57, 83)]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    random = np.random.default_rng(0)
    for (name, mode), (height, width) in zip(MODES.items(), SIZES, strict=True):
        pixels = random.integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(tmp_path / "images" / name)
    return tmp_path


def items_of(names):
    return pl.DataFrame(
        {"item_id": list(names), "image": [f"images/{name}" if name else None for name in names.values()]},
        schema={"item_id": pl.String, "image": pl.String},
    )


@pytest.mark.parametrize("max_pixels", [64 * 784, 4 * 784])
def test_patches_equal_the_processor_on_the_original(folder, tiny_backbone, max_pixels):
    processor = load_image_processor(str(tiny_backbone), None, PictureSettings(max_pixels=max_pixels))
    store = build_image_store(folder, processor, items_of({name: name for name in MODES}))
    for name in MODES:
        with Image.open(folder / "images" / name) as image:
            expected = processor.processor(images=[image.convert("RGB")], return_tensors="pt")
        key = store.picture_of(name)
        values, grids = store.pixel_values([key])
        assert torch.equal(values, expected["pixel_values"])
        assert grids.tolist() == expected["image_grid_thw"].tolist() == [list(store.grid(key))]
        assert store.n_tokens(key) == len(values) // 4
        assert store.pixels(key).shape[0] * store.pixels(key).shape[1] <= max(max_pixels, 28 * 28 * 26)


def test_batches_keep_the_order_of_their_keys(folder, tiny_backbone):
    processor = load_image_processor(str(tiny_backbone), None, PictureSettings(max_pixels=8 * 784))
    store = build_image_store(folder, processor, items_of({name: name for name in MODES}))
    a, b = store.picture_of("rgb.png"), store.picture_of("alpha.png")
    values, _ = store.pixel_values([b, a])
    assert torch.equal(values, torch.cat([store.pixel_values([b])[0], store.pixel_values([a])[0]]))


def test_equal_files_are_stored_once_and_missing_pictures_are_none(folder, tiny_backbone):
    (folder / "images/copy.png").write_bytes((folder / "images/rgb.png").read_bytes())
    processor = load_image_processor(str(tiny_backbone), None, PictureSettings())
    store = build_image_store(folder, processor, items_of({"a": "rgb.png", "b": "copy.png", "c": None}))
    assert store.picture_of("a") == store.picture_of("b")
    assert store.picture_of("c") is None
    assert len(store.pictures) == 1


def test_no_pictures_at_all(folder, tiny_backbone):
    processor = load_image_processor(str(tiny_backbone), None, PictureSettings())
    store = build_image_store(folder, processor, items_of({"a": None}))
    assert store.pictures == []
    assert store.picture_of("a") is None


def test_a_vanished_picture_is_named(folder, tiny_backbone):
    (folder / "images/rgb.png").unlink()
    processor = load_image_processor(str(tiny_backbone), None, PictureSettings())
    with pytest.raises(DataError, match=r"rgb\.png: a picture cannot be read \(it is missing\); prepare"):
        build_image_store(folder, processor, items_of({"a": "rgb.png"}))


def test_budget_and_class_name_the_store(folder, tiny_backbone):
    names = items_of({"a": "rgb.png"})
    small = build_image_store(folder, load_image_processor(str(tiny_backbone), None, PictureSettings()), names)
    settings = PictureSettings(max_pixels=784 * 4)
    large = build_image_store(folder, load_image_processor(str(tiny_backbone), None, settings), names)
    assert small.folder != large.folder
    assert type(small.processor.processor) is Qwen2VLImageProcessorPil


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"min_pixels": 5000, "max_pixels": 4000}, "min_pixels=5000: must be .* at most max_pixels=4000"),
        ({"serve": "jpeg"}, "pictures.serve='jpeg': not one of"),
    ],
)
def test_settings_refuse_nonsense(settings, match):
    with pytest.raises(ValueError, match=match):
        PictureSettings(**settings)


def test_a_replaced_picture_is_noticed(folder, tiny_backbone):
    processor = load_image_processor(str(tiny_backbone), None, PictureSettings(max_pixels=8 * 784))
    items = items_of({"a": "rgb.png"})
    before = build_image_store(folder, processor, items)
    old = before.pixels(before.picture_of("a")).copy()
    assert build_image_store(folder, processor, items).folder == before.folder
    Image.new("RGB", (60, 40), (1, 2, 3)).save(folder / "images/rgb.png")
    after = build_image_store(folder, processor, items)
    assert after.pixels(after.picture_of("a"))[0, 0].tolist() == [1, 2, 3] != old[0, 0].tolist()


def test_transparency_becomes_white_and_16_bits_are_scaled(folder, tiny_backbone):
    Image.new("RGBA", (56, 56), (0, 0, 0, 0)).save(folder / "images/clear.png")
    Image.fromarray(np.full((56, 56), 30000, np.uint16)).save(folder / "images/deep.png")
    processor = load_image_processor(str(tiny_backbone), None, PictureSettings())
    store = build_image_store(folder, processor, items_of({"clear": "clear.png", "deep": "deep.png"}))
    assert np.unique(store.pixels(store.picture_of("clear"))).tolist() == [255]
    assert np.unique(store.pixels(store.picture_of("deep"))).tolist() == [30000 // 257]


def test_a_picture_can_be_added_in_memory(shop, tiny_backbone, tmp_path):
    processor = load_image_processor(str(tiny_backbone), None, PictureSettings(max_pixels=4 * 784))
    store = build_image_store(shop.folder, processor, shop.items)
    files = {path: path.read_bytes() for path in store.folder.iterdir()}
    known = shop.folder / shop.items.row(by_predicate=pl.col("item_id") == "i00", named=True)["image"]
    assert store.add("again", known) == store.picture_of("again") == store.picture_of("i00")
    key = store.add("new", write_picture(tmp_path / "new.png", 120, 60, seed=71))
    alone = tmp_path / "alone"
    (alone / "images").mkdir(parents=True)
    (alone / "images/new.png").write_bytes((tmp_path / "new.png").read_bytes())
    other = build_image_store(alone, processor, pl.DataFrame({"item_id": ["new"], "image": ["images/new.png"]}))
    assert other.pictures == [key]
    assert store.grid(key) == other.grid(key)
    assert store.n_tokens(key) == other.n_tokens(key)
    assert np.array_equal(store.pixels(key), other.pixels(key))
    both, grids = store.pixel_values([key, store.picture_of("i00")])
    assert grids.tolist() == [list(store.grid(key)), list(store.grid(store.picture_of("i00")))]
    assert both[: len(other.pixel_values([key])[0])].equal(other.pixel_values([key])[0])
    assert {path: path.read_bytes() for path in store.folder.iterdir()} == files


@pytest.fixture
def stored(folder, tiny_backbone):
    """Two pictures, their items, and the processor."""
    processor = load_image_processor(str(tiny_backbone), None, PictureSettings(max_pixels=8 * 784))
    return build_image_store(folder, processor, items_of({"a": "rgb.png", "b": "grey.jpg"})), processor


def test_flipped_bits_are_found_when_their_picture_is_read(stored):
    store, processor = stored
    path = store.folder / "pixels.bin"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    again = ImageStore(store.folder, processor)
    assert np.array_equal(again.pixels(again.pictures[0]), store.pixels(store.pictures[0]))
    for _ in range(2):
        with pytest.raises(DataError, match=r"pixels\.bin: the pixels of the picture \w+ differ .*; delete "):
            again.pixel_values(again.pictures)


@pytest.mark.parametrize("name", ["pixels.bin", "index.parquet", "items.parquet"])
@pytest.mark.parametrize("damage", ["emptied", "cut", "gone"])
def test_a_damaged_file_is_named(stored, name, damage):
    store, processor = stored
    path = store.folder / name
    content = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(content[: len(content) // 2 if damage == "cut" else 0])
    with pytest.raises(DataError, match=rf"{name}: .*; delete "):
        ImageStore(store.folder, processor)


def test_a_store_without_checksums_is_read_as_before(stored):
    store, processor = stored
    index = pl.read_parquet(store.folder / "index.parquet")
    index.drop("crc32").write_parquet(store.folder / "index.parquet")
    again = ImageStore(store.folder, processor)
    assert torch.equal(again.pixel_values(again.pictures)[0], store.pixel_values(store.pictures)[0])
