"""Every file of a data set and of a run, damaged in several ways: it is named, or all that is read stays the same."""

import hashlib
import shutil

import numpy as np
import pytest
import yaml

from mllm_srec.__main__ import main
from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.pictures.feature_store import FeatureStore
from mllm_srec.data.pictures.image_store import ImageStore, build_image_store, load_image_processor
from mllm_srec.data.settings import PictureSettings
from mllm_srec.data.stored_prompts.store import PromptStore, build_prompt_store
from mllm_srec.models.backbone import BackboneSettings
from mllm_srec.pipeline.analysis.list_metrics import read_results
from mllm_srec.pipeline.analysis.scored_tables import read_scored
from mllm_srec.pipeline.features.items import picture_means
from mllm_srec.pipeline.features.pictures import extract_features, frozen
from mllm_srec.pipeline.runs.folder import RunFolder
from mllm_srec.pipeline.runs.settings import read_settings
from mllm_srec.pipeline.runs.stages import read_stages, timed_stage
from mllm_srec.pipeline.runs.training_log import training_log
from mllm_srec.prompts.encoding import load_encoder
from mllm_srec.prompts.summaries import Summary
from mllm_srec.prompts.templates import PromptSettings
from mllm_srec.summaries.store import SummaryStore
from mllm_srec.summaries.tables import item_view, read_view, write_view
from mllm_srec.types import MllmSrecError

POPULARITY = {"class_path": "mllm_srec.baselines.popularity.Popularity"}
PICTURES = PictureSettings(max_pixels=4 * 28 * 28)
NOT_READ = ("images/", "logs/", ".lock", "index.jsonl", "key.json", "summaries.parquet", "prepare_report.json")
"""Files that no later command reads: sources of what is stored, logs, records of how something was made."""


@pytest.fixture(scope="module")
def made(shop_root, tiny_backbone, tmp_path_factory):
    """Folder with a data set, one store of every kind, and a measured run."""
    root = tmp_path_factory.mktemp("damage")
    shutil.copytree(shop_root / "shop", root / "data/shop", ignore=shutil.ignore_patterns("*store*", "prompts", "f*"))
    data = PreparedDataset.open(root / "data/shop")
    images = build_image_store(data.folder, load_image_processor(str(tiny_backbone), None, PICTURES), data.items)
    picture_means(images, extract_features(images, frozen(BackboneSettings(str(tiny_backbone), quantization="none"))))
    build_prompt_store(data, load_encoder(str(tiny_backbone)), images, PromptSettings(), 1024)
    folder = data.folder / "summaries/image"
    items = data.items["item_id"].to_list()
    with SummaryStore(folder) as store:
        store.append([Summary(f"key-{n}", f"a text about {item}", "stop", 5) for n, item in enumerate(items)])
        write_view(folder, "v", item_view(items, [f"key-{n}" for n in range(len(items))], store))
    settings = {
        "data": {"root": "data", "name": "shop", "batch_size": 3, "eval_batch_size": 4, "n_negatives": 4},
        "prepare": data.manifest["prepare"],
        "candidates": data.manifest["candidates"],
        "baseline": POPULARITY,
        "trainer": {"accelerator": "cpu", "enable_progress_bar": False},
    }
    raw = shop_root / "raw"
    settings["prepare"] |= {"reviews": str(raw / "interactions.csv"), "metadata": str(raw / "items.csv")}
    settings["prepare"] |= {"images": str(raw / "pictures")}
    (root / "popularity.yaml").write_text(yaml.safe_dump(settings))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert main(["test", "--config", "popularity.yaml", "--name", "popularity"]) == 0
    with timed_stage(RunFolder(root / "runs/shop/popularity"), "test"):
        pass
    return root


def everything(root, processor):
    """Hash of all that commands read from the folder."""
    digest = hashlib.sha256()

    def add(*values):
        digest.update(repr(values).encode())

    data = PreparedDataset.open(root / "data/shop")
    add(data.candidates_hash, data.profiles, data.manifest)
    for table in (data.items, data.interactions, data.groups, data.samples, data.candidates):
        add(table.rows())
    (folder,) = (data.folder / "image_store").glob("[!.]*")
    images = ImageStore(folder, processor)
    add([(key, images.pixels(key).tobytes()) for key in images.pictures])
    add([images.picture_of(item) for item in data.items["item_id"]])
    (folder,) = (data.folder / "features").glob("[!.]*")
    features = FeatureStore(folder)
    add(
        [features.features([key]).numpy().tobytes() for key in images.pictures], picture_means(images, folder).tobytes()
    )
    (folder,) = (data.folder / "prompts").glob("[!.]*")
    prompts = PromptStore(folder)
    add([(prompts.prefix(n), prompts.middle(n)) for n in range(data.groups.height)], prompts.report)
    add([prompts.target(n, [], 1, 0) for n in range(data.items.height)])
    store = SummaryStore(data.folder / "summaries/image")
    if store.notices or len(store) < data.items.height:  # printed, and counted: these summaries are written again
        raise MllmSrecError((store.notices or [f"{store.folder}: summaries are missing"])[0])
    add([store[f"key-{n}"].text for n in range(data.items.height)])
    view = read_view(data.folder / "summaries/image", "v")
    add(None if view is None else view.rows())
    run = root / "runs/shop/popularity"
    settings, results = read_settings(run), read_results(run, "test")
    scored = read_scored(run, "test", ["hr@10"], results, data)
    add(settings, results, read_stages(RunFolder(run)), training_log(run, "a", 0))
    add(scored.lists.rows(), scored.candidates.rows(), scored.pairs.rows())
    return digest.hexdigest()


def flipped(content, place, bit):
    changed = bytearray(content)
    changed[place] ^= 1 << bit
    return bytes(changed)


def damages(content, others):
    """What may become of a file: name of the damage -> its content afterwards."""
    random = np.random.default_rng(len(content))
    yield "emptied", b""
    yield "cut", content[: len(content) // 2]
    yield "cut by a byte", content[:-1]
    yield "zeros in the middle", content[: len(content) // 3] + bytes(64) + content[len(content) // 3 + 64 :]
    yield "text", b"<html>404 Not Found</html>\n"
    for n, place in enumerate(random.integers(0, len(content), 6)):
        yield f"bit {n}", flipped(content, int(place), int(random.integers(8)))
    for other in others:
        yield f"content of {other.name}", other.read_bytes()


def test_damage_is_named_or_changes_nothing(made, tiny_backbone, tmp_path, monkeypatch):
    root = shutil.copytree(made, tmp_path / "here")
    processor = load_image_processor(str(tiny_backbone), None, PICTURES)
    monkeypatch.chdir(root)
    whole = everything(root, processor)
    assert everything(root, processor) == whole
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.stat().st_size and path.parent != root)
    files = [path for path in files if not any(part in str(path.relative_to(root)) for part in NOT_READ)]
    assert len(files) > 20
    silent, unnamed, n_named = [], [], 0
    for path in files:
        content = path.read_bytes()
        others = [other for other in files if other.suffix == path.suffix and other != path][:2]
        for damage, damaged in damages(content, others):
            if damaged == content:
                continue
            path.write_bytes(damaged)
            place = f"{path.relative_to(root)}, {damage}"
            try:
                if everything(root, processor) != whole:
                    silent.append(place)
            except MllmSrecError as error:
                n_named += 1
                known = (path.name, str(path.parent))  # a store, a run or a data set may be named by its folder
                if not any(word in str(error) for word in known):
                    unnamed.append(f"{place}: {error}")
            except Exception as error:
                unnamed.append(f"{place}: {type(error).__name__}: {error}")
        path.write_bytes(content)
    assert silent == []
    assert unnamed == []
    print(f"{n_named} damages of {len(files)} files were named")
    assert n_named > 200
