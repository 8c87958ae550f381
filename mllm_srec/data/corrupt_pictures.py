"""The pictures of a prepared data set made worse, as `prepare.corruption` asks; all tables stay as they are."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

from mllm_srec.data.corruptions import CORRUPTIONS
from mllm_srec.data.pictures import as_shown
from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.data.settings import CorruptionSettings

STAGE = "corruption"
"""Name of this stage in the report."""

JPEG_QUALITY = 95


def corrupt_pictures(folder: Path, items: pl.DataFrame, settings: CorruptionSettings, report: PrepareReport) -> None:
    """Change picture files in place; names and formats stay, so that no table changes.

    Which items are changed, and how, depends on the seed and the item ids alone: a larger share adds items to those of
    a smaller one.

    Args:
        folder: Folder of the data set, with `images/`.
        items: `item_id` and `image`, a path relative to the folder or null.
        settings: Kind, strength and share.
        report: Counts what was changed, and items without a picture.
    """
    pictured = items.filter(pl.col("image").is_not_null())
    chosen = _first_by_hash(pictured, settings.seed, settings.share)
    report.count(STAGE, "item without a picture, nothing to corrupt", items.height - pictured.height)
    if settings.kind == "mismatch":
        n_changed = _exchange(folder, _first_by_hash(chosen, settings.seed, settings.strength), settings.seed)
    else:
        n_changed = _change(folder, chosen, settings)
    report.count(STAGE, f"picture changed: {settings.kind}, strength {settings.strength:g}", n_changed)
    report.fact("share of pictures corrupted", round(n_changed / max(1, pictured.height), 4))


def _change(folder: Path, chosen: pl.DataFrame, settings: CorruptionSettings) -> int:
    """Every picture by itself."""
    if settings.strength == 0:
        return 0
    change = CORRUPTIONS[settings.kind]
    for item_id, image in chosen.select("item_id", "image").iter_rows():
        with Image.open(folder / image) as opened:
            kind, picture = opened.format, as_shown(opened)
        rng = np.random.default_rng([settings.seed, _number(item_id, settings.seed)])
        _save(change(picture, settings.strength, rng), folder / image, kind)
    return chosen.height


def _exchange(folder: Path, chosen: pl.DataFrame, seed: int) -> int:
    """Every item gets the picture of another, all of them in one random circle."""
    images: list[str] = chosen["image"].to_list()
    if len(images) < 2:
        return 0  # nobody to exchange with
    order = np.random.default_rng(seed).permutation(len(images))
    pictures = [(folder / image).read_bytes() for image in images]
    kinds = [_format(folder / image) for image in images]
    for place, following in zip(order, np.roll(order, 1), strict=True):
        target = folder / images[place]
        if kinds[place] == kinds[following]:
            target.write_bytes(pictures[following])
        else:
            _save(_opened(pictures[following]), target, kinds[place])
    return len(images)


def _opened(content: bytes) -> Image.Image:
    with Image.open(BytesIO(content)) as opened:
        return as_shown(opened)


def _format(path: Path) -> str | None:
    with Image.open(path) as opened:
        return opened.format


def _save(picture: Image.Image, path: Path, kind: str | None) -> None:
    """Written in the format that the file had, since its name says so."""
    kind = "JPEG" if kind == "MPO" else kind
    options = {"quality": JPEG_QUALITY} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    picture.save(path, format=kind, **options)


def _first_by_hash(items: pl.DataFrame, seed: int, share: float) -> pl.DataFrame:
    """A share of the items, rounded, in an order that only the seed and their ids decide."""
    numbers = [_number(item_id, seed) for item_id in items["item_id"]]
    order: Sequence[int] = sorted(range(items.height), key=numbers.__getitem__)
    return items[order[: round(share * items.height)]]


def _number(item_id: str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {item_id}".encode()).digest()[:8], "big")
