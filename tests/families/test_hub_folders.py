"""Image processors of folders as people publish them: whatever their files say, our pixel budget holds."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mllm_srec.data.loading.prompt_batches import PromptDataset
from mllm_srec.data.pictures.feature_store import FeatureStore
from mllm_srec.data.pictures.image_store import _check_budget, build_image_store, load_image_processor
from mllm_srec.data.settings import PictureSettings
from mllm_srec.families import qwen2_vl
from mllm_srec.models.backbone import BackboneSettings
from mllm_srec.pipeline.features.pictures import extract_features
from mllm_srec.prompts.templates import PromptSettings
from mllm_srec.summaries.plan import SummaryPlan
from mllm_srec.summaries.settings import SummarySettings
from mllm_srec.types import ConfigError
from tests.conftest import write_picture

SIZES = {"patch_size": 14, "temporal_patch_size": 2, "merge_size": 2}
SAVED = {
    **SIZES,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2VLProcessor",
    "resample": 3,
}
LAYOUTS = {
    "hub": {**SIZES, "min_pixels": 3136, "max_pixels": 12845056, "image_processor_type": "Qwen2_5_VLImageProcessor"},
    "saved": {**SAVED, "min_pixels": 3136, "max_pixels": 1048576, "size": {"max_pixels": 1048576, "min_pixels": 3136}},
    "older": {"do_pad": True, "do_resize": True, "resample": 3, "size": {"max_pixels": 1003520, "min_pixels": 3136}},
    "newer": {
        **SAVED,
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "crop_size": None,
        "device": None,
        "do_pad": None,
        "input_data_format": None,
        "return_tensors": None,
        "min_pixels": 4096,
        "max_pixels": 12845056,
        "size": {"longest_edge": 12845056, "shortest_edge": 4096},
    },
    "edges": {**SAVED, "size": {"longest_edge": 12845056, "shortest_edge": 3136}},
}
"""Spellings of the budget: at the top level, in `size` under two names, both; of several releases of transformers."""


@pytest.fixture
def hub_folder(tiny_backbone, tmp_path):
    """Function that makes a backbone's folder with this image processor, in a file of its own or a processor's."""

    def make(content, name="preprocessor_config.json"):
        folder = tmp_path / "hub"
        shutil.copytree(tiny_backbone, folder)
        (folder / "preprocessor_config.json").unlink()
        (folder / name).write_text(json.dumps(content))
        return str(folder)

    return make


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("n_tokens", [4, 256, 2000])
def test_the_budget_holds_in_every_layout(hub_folder, layout, n_tokens):
    settings = PictureSettings(max_pixels=n_tokens * 784)
    processor = load_image_processor(hub_folder(LAYOUTS[layout]), None, settings)
    assert processor.facts["size"] == [3136, n_tokens * 784]
    resized = processor.resize(np.zeros((1500, 1500, 3), np.uint8))
    found = processor.n_tokens(processor.grid(*resized.shape[:2]))
    assert 0.9 * n_tokens <= found <= n_tokens, "as large as the budget allows, and no larger"


def test_small_pictures_are_enlarged_to_our_least_area(hub_folder):
    processor = load_image_processor(hub_folder(LAYOUTS["hub"]), None, PictureSettings(min_pixels=16 * 784))
    assert processor.resize(np.zeros((20, 20, 3), np.uint8)).shape == (112, 112, 3)


def test_a_nested_processor_file_is_read(hub_folder):
    folder = hub_folder({"image_processor": LAYOUTS["hub"]}, "processor_config.json")
    assert load_image_processor(folder, None, PictureSettings()).facts["size"] == [3136, 256 * 784]


def test_stored_and_added_pictures_keep_the_budget(hub_folder, tmp_path):
    processor = load_image_processor(hub_folder(LAYOUTS["hub"]), None, PictureSettings(max_pixels=256 * 784))
    write_picture(tmp_path / "images/large.png", 1500, 1500)
    table = pl.DataFrame({"item_id": ["a"], "image": ["images/large.png"]})
    store = build_image_store(tmp_path, processor, table)
    added = store.add("b", write_picture(tmp_path / "new.png", 1500, 1600, seed=1))
    assert store.n_tokens(store.picture_of("a")) == 256
    assert 230 <= store.n_tokens(added) <= 256
    values, grids = store.pixel_values([store.picture_of("a"), added])
    assert len(values) == int(grids.prod(dim=1).sum()) <= 2 * 256 * 4


@pytest.mark.parametrize("layout", ["hub", "saved", "newer"])
def test_prompts_features_and_summaries_keep_the_budget(hub_folder, make_datamodule, layout):
    """The shop's pictures of 120 x 60 pixels would take 8 tokens in these folders' own sizes."""
    folder, settings = hub_folder(LAYOUTS[layout]), PictureSettings(max_pixels=4 * 784)
    data = make_datamodule(pictures=settings)
    data.backbone = folder
    images = data.stores.images
    assert max(images.n_tokens(picture) for picture in images.pictures) == 4
    image_token = data.stores.encoder.image_token_id
    data.setup("fit")
    dataset = PromptDataset(data.train_examples(), data.stores, train=True)
    shown = [target for place in range(len(dataset)) for target in dataset[place].targets if target.picture]
    assert 0 < max(target.input_ids.count(image_token) for target in shown) <= 4
    backbone = BackboneSettings(folder, finetune="none", quantization="none")
    store = FeatureStore(extract_features(images, backbone))
    assert max(len(store.features([picture])) for picture in images.pictures) == 4
    plan = SummaryPlan(data.data, SummarySettings(), PromptSettings(), settings, folder, None)
    assert max(plan.images.n_tokens(picture) for picture in plan.images.pictures) == 4


class Deaf(qwen2_vl.Qwen2VLPictures):
    """A processor that resizes to whole tokens and forgets the budget."""

    def resize(self, pixels):
        """Keep the size of the picture, cut to whole tokens."""
        height, width = (side // 28 * 28 for side in pixels.shape[:2])
        return pixels[:height, :width]


def test_a_processor_that_forgets_the_budget_is_refused(tiny_backbone):
    processor = Deaf(load_image_processor(str(tiny_backbone), None, PictureSettings()).processor)
    with pytest.raises(ConfigError, match=r"data.pictures.max_pixels=200704: .* 1500 x 1500 takes 2809 tokens .* 256"):
        _check_budget(processor, 784, 256 * 784)


@pytest.mark.parametrize("changes", [{"patch_size": 16}, {"merge_size": 4}, {"temporal_patch_size": 1}])
def test_patches_of_another_size_than_the_models_are_refused(hub_folder, changes):
    with pytest.raises(ConfigError, match=r"preprocessor_config.json states .*, but the model reads pictures in"):
        load_image_processor(hub_folder({**LAYOUTS["hub"], **changes}), None, PictureSettings())


def test_a_tower_with_other_patches_is_refused(hub_folder):
    folder = hub_folder({**LAYOUTS["hub"], "patch_size": 16})
    config = json.loads(Path(folder, "config.json").read_text())
    config["vision_config"]["patch_size"] = 16
    Path(folder, "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"reads patches of \(side, frames, merged\) \(16, 2, 2\), but Qwen2-VL of"):
        load_image_processor(folder, None, PictureSettings())


def test_a_budget_below_one_token_is_refused(tiny_backbone):
    with pytest.raises(ConfigError, match=r"data.pictures.max_pixels=783: a picture token covers 28 x 28 pixels; give"):
        load_image_processor(str(tiny_backbone), None, PictureSettings(min_pixels=1, max_pixels=783))


def test_a_folder_without_image_processor_is_refused_by_file(hub_folder):
    with pytest.raises(ConfigError, match=r"hub'.*preprocessor_config.json cannot be used"):
        load_image_processor(hub_folder({}, "other.json"), None, PictureSettings())
