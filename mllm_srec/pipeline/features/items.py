"""Item features of multimodal baselines: one vector of an item's picture and one of its text.

A picture's vector is the mean of the vision tower's output over its tokens, from the store that `fit` of the
recommender fills; a text's vector is the mean last hidden state of its language model, or of a sentence encoder.

Vectors are centred because mean-pooled hidden states of pretrained transformers share a few large directions: cosines
of unrelated texts are far above 0 (Ethayarajh, EMNLP 2019), and differences between items are a small part of a unit
vector. Subtracting the mean removes the shared part (the first step of Mu and Viswanath, "All-but-the-Top", ICLR 2018;
the second, which also removes leading components, is left out). The mean is over all items that have the modality,
whatever their split; it uses no interaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mllm_srec.baselines.parts.train_data import ItemFeatures
from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.pictures.feature_store import FeatureStore
from mllm_srec.data.pictures.image_store import ImageStore, build_image_store, load_image_processor
from mllm_srec.data.settings import ItemFeatureSettings, PictureSettings
from mllm_srec.files.atomic import atomic_file
from mllm_srec.files.checksums import check_checksums, note_checksum
from mllm_srec.files.folders import build_lock
from mllm_srec.files.reading import read_whole
from mllm_srec.models.backbone import BackboneSettings
from mllm_srec.models.backbone_files import BackboneInfo, describe_backbone, hidden_size
from mllm_srec.models.text_encoder import BackboneText, SentenceEncoder, TextEncoder
from mllm_srec.pipeline.build import resolve_backbone
from mllm_srec.pipeline.features.pictures import extract_features, frozen
from mllm_srec.pipeline.features.texts import text_features
from mllm_srec.pipeline.runs.names import is_first_process
from mllm_srec.prompts.builder import ItemText, item_text
from mllm_srec.prompts.templates import PromptSettings

SHOWN = PromptSettings(brand=True, categories=True)
"""Fields of an item's text beside its title."""

_ROUNDING = 1e-6  # a centred row shorter than this share of the mean's length is a rounding error


def item_features(
    data: PreparedDataset, settings: ItemFeatureSettings, backbone: BackboneSettings, pictures: PictureSettings
) -> ItemFeatures:
    """Compute the features of all items by number; raw features are stored below the data set's folder.

    After a kill, the same call resumes.

    Args:
        data: Data set, whose item row i is number i + 1.
        settings: Encoder of the texts, and centring of the vectors.
        backbone: Backbone whose tower and language model are run, untrained whatever `finetune` says; the name may be
            `demo` or `random`. All else must be as in `fit`, so that its picture features are found.
        pictures: Pixel budget; `serve: none` leaves out all pictures.

    Returns:
        L2-normalised rows; zero for an item without picture or text, or one that equals the mean.
    """
    resolved = frozen(replace(backbone, name=resolve_backbone(backbone.name, data)))
    encoder = _text_encoder(settings, resolved)
    text, has_text = _text_rows(data, settings, encoder)  # first: an error here should not come after hours of pictures
    image, has_image = _image_rows(data, resolved, pictures)
    tower = describe_backbone(resolved.name, resolved.revision)
    source = f"image: vision tower of {_named(tower)}, text: {_named(encoder.info)}" + ", centred" * settings.center
    _say(f"item features of {data.items.height} items; {source}")
    return ItemFeatures(
        _by_number("picture", image, has_image, settings.center),
        _by_number("text", text, has_text, settings.center),
        source,
    )


def unit_rows(rows: np.ndarray, center: bool) -> np.ndarray:
    """Scale rows to length 1 in float32, optionally after subtracting their mean.

    Args:
        rows: Vectors `(n, D)`.
        center: True to subtract the mean row.

    Returns:
        Rows `(n, D)`; a row is zero if it was zero, or equals the mean up to rounding.
    """
    exact = rows.astype(np.float64)
    mean = exact.mean(axis=0) if center and len(rows) else np.zeros(rows.shape[1])
    exact -= mean
    lengths = np.linalg.norm(exact, axis=1, keepdims=True)  # (n, 1)
    nonzero = lengths > _ROUNDING * np.linalg.norm(mean)
    np.divide(exact, lengths, out=exact, where=nonzero)
    return np.where(nonzero, exact, 0).astype(np.float32)


def mean_cosine(rows: np.ndarray) -> float:
    """Return the mean cosine of two different rows, in [-1, 1]; near 1 means that they hardly differ.

    Args:
        rows: Vectors `(n, D)` of length 1; fewer than two give NaN.
    """
    n = len(rows)
    total = rows.astype(np.float64).sum(axis=0)
    return float((total @ total - n) / (n * (n - 1))) if n > 1 else float("nan")


def feature_text(row: Mapping[str, Any]) -> str:
    """Return title, brand and categories of a row of the items table in one line; empty if it has none of them."""
    item = ItemText(row["title"].strip(), row["brand"] or "", row["categories"] or ())
    return item_text(item, SHOWN) if item.title or item.brand or item.categories else ""


def _image_rows(
    data: PreparedDataset, backbone: BackboneSettings, pictures: PictureSettings
) -> tuple[np.ndarray, np.ndarray]:
    """Return raw rows `(n, D)` of the items with a picture, and bool `(N,)`, True for these items."""
    n_items, width = data.items.height, hidden_size(backbone.name, backbone.revision)
    if pictures.serve == "none" or data.items["image"].null_count() == n_items:
        return np.zeros((0, width), np.float32), np.zeros(n_items, bool)
    processor = load_image_processor(backbone.name, backbone.revision, pictures)
    images = build_image_store(data.folder, processor, data.items)
    means = picture_means(images, extract_features(images, backbone))
    keys = [images.picture_of(item) for item in data.items["item_id"]]
    row_of = {key: row for row, key in enumerate(images.pictures)}
    return means[[row_of[key] for key in keys if key is not None]], np.array([key is not None for key in keys])


def picture_means(images: ImageStore, folder: Path) -> np.ndarray:
    """Return the mean over each picture's tokens `(n pictures, D)` float32, in the order of the image store.

    The means are stored beside the tower's full output, which is hundreds of times larger to read.

    Args:
        images: Pictures of the data set.
        folder: Folder of their finished feature store.
    """
    path = folder / "means.npy"
    if not path.exists():
        with build_lock(path):
            if not path.exists():
                _write_means(images, path)
    remedy = "delete it: it is made again when it is needed"
    check_checksums(folder, path.name, what="the mean features of pictures", remedy=remedy)
    return read_whole(path, lambda file: np.asarray(np.load(file)), "the mean features of pictures", remedy)


def _write_means(images: ImageStore, path: Path) -> None:
    """Write the means of a feature store beside it; their checksum first, so that none is ever without."""
    store = FeatureStore(path.parent)
    means = np.stack([store.features([key]).float().mean(dim=0).numpy() for key in images.pictures])
    with atomic_file(path) as file:
        np.save(file, means)
        file.flush()
        note_checksum(path, Path(file.name))


def _text_encoder(settings: ItemFeatureSettings, backbone: BackboneSettings) -> TextEncoder:
    if settings.text == "backbone":
        return BackboneText(backbone)
    return SentenceEncoder(settings.text, settings.text_revision)


def _text_rows(
    data: PreparedDataset, settings: ItemFeatureSettings, encoder: TextEncoder
) -> tuple[np.ndarray, np.ndarray]:
    """Return raw rows `(n, D)` of the items with a text, and bool `(N,)`, True for these items."""
    texts = [feature_text(row) for row in data.items.iter_rows(named=True)]
    encoded = [encoder.encode(text, settings.max_text_tokens) if text else ([], False) for text in texts]
    if n_cut := sum(was_cut for _, was_cut in encoded):
        _say(f"{n_cut} of {len(texts)} item texts cut at {settings.max_text_tokens} tokens (max_text_tokens)")
    tokens = [tuple(ids) for ids, _ in encoded if ids]
    root = data.folder / "item_features"
    items_hash = data.manifest["tables"]["items"]["sha256"]
    rows = text_features(encoder, tokens, root, settings.batch_size, items_hash)
    return rows, np.array([bool(ids) for ids, _ in encoded])


def _by_number(name: str, raw: np.ndarray, present: np.ndarray, center: bool) -> np.ndarray:
    """Place unit rows at their items' numbers `(N + 1, D)`, and print their number and mean cosines."""
    rows = unit_rows(raw, center)
    features = np.zeros((len(present) + 1, raw.shape[1]), np.float32)
    features[1:][present] = rows
    before, after = mean_cosine(unit_rows(raw, center=False)), mean_cosine(rows)
    cosines = f"mean cosine {before:.3f}" + f", centred {after:.3f}" * center
    n_equal = int((~rows.any(axis=1)).sum())
    equal = f", {n_equal} equal to the mean up to rounding" * (n_equal > 0)
    _say(f"  {name}: {raw.shape[1]} dimensions, {cosines}; zero: {int((~present).sum())} items without a {name}{equal}")
    return features


def _named(info: BackboneInfo) -> str:
    weights = "random weights" if info.random_weights else "pretrained"
    return f"{info.label} ({weights}, {info.fingerprint})"


def _say(message: str) -> None:
    if is_first_process():
        print(message, flush=True)
