import torch

from mllm_srec.data.pictures.image_store import build_image_store, load_image_processor
from mllm_srec.data.settings import PictureSettings
from mllm_srec.models.backbone import BackboneSettings
from mllm_srec.pipeline.features.pictures import extract_features, feature_folder
from mllm_srec.pipeline.ranking.scorer import TowerFeatures
from tests.conftest import write_picture


class Counting:
    """A backbone that counts the pictures seen by its tower."""

    def __init__(self, backbone):
        self.backbone, self.lm_head, self.n = backbone, backbone.lm_head, 0

    def image_features(self, pixel_values, grids):
        self.n += len(grids)
        return self.backbone.image_features(pixel_values, grids)


def test_stored_remembered_and_computed(shop, tiny_backbone, load_tiny, tmp_path):
    from mllm_srec.data.pictures.feature_store import FeatureStore

    processor = load_image_processor(str(tiny_backbone), None, PictureSettings(max_pixels=4 * 784))
    images = build_image_store(shop.folder, processor, shop.items)
    backbone = Counting(load_tiny(finetune="none", quantization="none"))
    expected = {key: backbone.image_features(*images.pixel_values([key]))[0] for key in images.pictures}
    first, second, third = images.pictures[:3]
    backbone.n = 0
    tower = TowerFeatures(backbone, images)
    asked = [first, second, first]
    torch.testing.assert_close(tower.features(asked), torch.cat([expected[key] for key in asked]), atol=1e-5, rtol=0)
    tower.features([second, third])
    assert backbone.n == 3

    small = TowerFeatures(backbone, images, max_bytes=expected[first].nbytes + expected[second].nbytes)
    small.features([first])
    small.features([second])
    small.features([first])
    backbone.n = 0
    small.features([third])  # forgets the second, which was used the longest time ago
    small.features([first]) if expected[third].nbytes <= expected[second].nbytes else None
    small.features([second])
    assert backbone.n == 2

    settings = BackboneSettings(str(tiny_backbone), finetune="none", quantization="none")
    folder = feature_folder(images, settings)
    assert extract_features(images, settings) == folder
    new = images.add("new", write_picture(tmp_path / "new.png", 56, 56, seed=77))
    backbone.n = 0
    stored = TowerFeatures(backbone, images, FeatureStore(folder))
    whole = stored.features([first, new, second])
    assert backbone.n == 1
    fresh = backbone.image_features(*images.pixel_values([new]))[0]
    torch.testing.assert_close(whole, torch.cat([expected[first], fresh, expected[second]]), atol=1e-5, rtol=0)


def test_a_pictures_features_do_not_depend_on_the_others(shop, tiny_backbone, load_tiny):
    """Sums of several pictures in one pass have another order, which two cores show in the last digits."""
    processor = load_image_processor(str(tiny_backbone), None, PictureSettings(max_pixels=16 * 784))
    images = build_image_store(shop.folder, processor, shop.items)
    backbone = load_tiny(finetune="none", quantization="none")
    passes = []
    tower = TowerFeatures(backbone, images)
    backbone.vision_tower.register_forward_hook(lambda module, args, output: passes.append(args))
    together = tower.features(images.pictures)
    assert len(passes) == len(images.pictures) > 3
    alone = [TowerFeatures(backbone, images).features([key]) for key in images.pictures]
    assert torch.equal(together, torch.cat(alone))
