"""What nothing refers to: found when a table or a picture changes, and only then; nobody's work is removed."""

import json
import os
import shutil

import polars as pl
import pytest

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.pictures.image_store import build_image_store, load_image_processor
from mllm_srec.data.settings import ItemFeatureSettings, PictureSettings
from mllm_srec.data.stored_prompts.store import build_prompt_store
from mllm_srec.files.folders import build_lock
from mllm_srec.models.backbone import BackboneSettings
from mllm_srec.pipeline.features.items import item_features
from mllm_srec.pipeline.leftovers import STORES, find_leftovers, folders_in, remove, size_of
from mllm_srec.prompts.templates import PromptSettings
from mllm_srec.types import DataError
from tests.prepared_again import replace_table

PICTURES = PictureSettings(serve="features", max_pixels=4 * 28 * 28)


@pytest.fixture
def folder(shop_root, tmp_path):
    """A copy of the small shop without any store."""
    ignored = shutil.ignore_patterns(*STORES, "summaries", ".*")
    return shutil.copytree(shop_root / "shop", tmp_path / "shop", ignore=ignored)


@pytest.fixture
def use(folder, tiny_backbone, encoder):
    """Function that makes, or finds, every kind of store as a run would."""

    def make():
        data = PreparedDataset.open(folder)
        backbone = BackboneSettings(str(tiny_backbone), quantization="none", dtype="float32")
        item_features(data, ItemFeatureSettings(), backbone, PICTURES)
        images = build_image_store(folder, load_image_processor(str(tiny_backbone), None, PICTURES), data.items)
        build_prompt_store(data, encoder, images, PromptSettings(), 1024)
        build_prompt_store(data, encoder, None, PromptSettings(), 1024)

    return make


def stores(folder):
    return {f"{kind}/{store.name}" for kind in STORES for store in folders_in(folder / kind)}


def left(folder, **options):
    found = find_leftovers(PreparedDataset.open(folder), **options)
    return {str(one.path.relative_to(folder)): one.reason for one in found}


def touch(folder):
    picture = next(iter(sorted((folder / "images").iterdir())))
    os.utime(picture, ns=(1, 1))


def test_stores_in_use_are_no_leftovers(folder, use):
    use()
    assert len(stores(folder)) == 5
    assert left(folder) == {}
    assert left(folder, everything=True) == dict.fromkeys(stores(folder), "in use; made again when it is needed")


def test_a_touched_picture_leaves_the_old_stores_of_pictures(folder, use):
    use()
    before = stores(folder)
    touch(folder)
    use()
    new = stores(folder) - before
    assert {name.partition("/")[0] for name in new} == {"image_store", "features", "prompts"}
    found = left(folder)
    assert len(found) == 3
    assert set(found.values()) == {"its pictures were changed since"}
    assert not set(found) & new
    for one in find_leftovers(PreparedDataset.open(folder)):
        assert one.n_bytes == size_of(one.path) > 0
        assert remove(one)
    kept = stores(folder)
    use()
    assert stores(folder) == kept  # nothing that was needed had gone
    assert left(folder) == {}


def test_changed_items_leave_prompts_and_texts(folder, use):
    use()
    before = stores(folder)
    items = pl.read_parquet(folder / "items.parquet").with_columns(pl.lit("a title").alias("title"))
    replace_table(folder, "items", items)
    found = left(folder)
    assert {name.partition("/")[0] for name in found} == {"prompts", "item_features"}
    use()
    assert set(left(folder)) == set(found) <= before


def test_features_whose_pictures_are_stored_no_more_are_in_use(folder, use):
    use()
    shutil.rmtree(folder / "image_store")
    assert {name.partition("/")[0] for name in left(folder)} == {"prompts"}  # quickly made again
    use()
    assert left(folder) == {}


def test_a_store_that_does_not_say_what_it_is_made_of_is_kept(folder, use):
    use()
    touch(folder)
    for key in folder.rglob("key.json"):
        if key.parent.parent.name != "prompts":
            key.unlink()
    assert left(folder) == {}
    assert (
        list(left(folder, everything=True).values()).count("of an earlier version; made again when it is needed") == 3
    )


def test_what_a_killed_process_left_is_found_and_what_a_living_one_makes_is_kept(folder, use):
    use()
    image_store = folders_in(folder / "image_store")[0]
    dead = folder / "prompts/.0123456789ab.partial"
    dead.mkdir()
    (image_store / ".index.parquet.partial").write_bytes(b"half")
    (folder.parent / ".shop.partial").mkdir()
    (folder.parent / ".shoplift.partial").mkdir()  # of another data set
    found = find_leftovers(PreparedDataset.open(folder))
    assert {one.path for one in found} == {
        dead,
        image_store / ".index.parquet.partial",
        folder.parent / ".shop.partial",
    }
    with build_lock(folder / "prompts/0123456789ab"), build_lock(image_store):
        assert [remove(one) for one in found] == [one.path.name == ".shop.partial" for one in found]
    assert dead.exists()
    assert all(map(remove, find_leftovers(PreparedDataset.open(folder))))
    assert left(folder) == {}
    assert (folder.parent / ".shoplift.partial").exists()


def test_a_damaged_key_is_named(folder, use):
    use()
    key = next((folder / "features").glob("*/key.json"))
    content = json.loads(key.read_text())
    key.write_text(json.dumps({**content, "pictures": "0" * 12}))
    with pytest.raises(DataError, match=r"key\.json.*delete"):
        left(folder)
