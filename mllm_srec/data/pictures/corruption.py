"""Deliberate corruption of pictures, to measure how robust a model is to it (the article's Fig. 6).

The article names three kinds: complex background, noise or distortion, and mismatched text and picture. It states no
strengths; those here are ours. Strength 0 changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image, ImageDraw, ImageFilter

from mllm_srec.data.pictures.files import as_shown
from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.data.settings import CorruptionSettings

STAGE = "corruption"
"""Name of this stage in the report."""

JPEG_QUALITY = 95
"""Quality of corrupted pictures that were JPEG."""

NOISE_DEVIATION = 128.0
"""Standard deviation of `noise` at strength 1, on the scale 0..255."""

NOISE_SIDE = 224
"""Squares of noise along the longer side of a larger picture; about the resolution at which models see it."""

BLUR_SHARE = 1 / 8
"""Radius of `blur` at strength 1, as a share of the shorter side."""

GREY = 128
"""Brightness of a blank picture."""

_BRIGHT = 180
"""Least brightness of a background in all channels."""

_LEAST_BACKGROUND = 0.05
"""Least share of the picture that counts as a background; with less, a frame along the border is used instead."""

_FRAME = 0.12
"""Width of that frame, as a share of the shorter side."""

_SEARCH_SIDE = 96
"""Longer side, in pixels, of the reduced picture in which the background is searched."""

_N_SHAPES = 40
"""Number of shapes of a complex background: enough to cover it."""

Corruption = Callable[[Image.Image, float, np.random.Generator], Image.Image]


def corrupt_pictures(folder: Path, items: pl.DataFrame, settings: CorruptionSettings, report: PrepareReport) -> None:
    """Corrupt picture files in place; names and formats stay the same, so that no table changes.

    The choice of items and their changes depend only on the seed and the item ids: a larger share adds items to those
    of a smaller one.

    Args:
        folder: Folder of the data set, with `images/`.
        items: Columns `item_id` and `image` (a path relative to the folder, or null).
        settings: Kind, strength, share and seed.
        report: Receives counts of changed pictures and of items without a picture.
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


def noise(picture: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    """Add Gaussian noise, independent for every pixel and channel; in larger pictures for every square of pixels.

    The squares make a large photograph, which models see reduced, suffer as much as a small one.

    Args:
        picture: RGB picture.
        strength: In [0, 1]; at 1 the standard deviation is `NOISE_DEVIATION`.
        rng: Source of randomness.
    """
    pixels = np.asarray(picture, dtype=np.float32)  # (H, W, 3)
    height, width = pixels.shape[:2]
    scale = min(1.0, NOISE_SIDE / max(height, width))
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    drawn = rng.standard_normal((rows, columns, 3), dtype=np.float32)
    row, column = np.arange(height) * rows // height, np.arange(width) * columns // width
    return _picture(pixels + strength * NOISE_DEVIATION * drawn[row[:, None], column])


def blur(picture: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    """Blur with a Gaussian radius of up to an eighth of the shorter side; `rng` is not used."""
    return picture.filter(ImageFilter.GaussianBlur(strength * BLUR_SHARE * min(picture.size)))


def blank(picture: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    """Fade into plain grey, which is all that is left at strength 1; `rng` is not used."""
    return Image.blend(picture, Image.new("RGB", picture.size, (GREY,) * 3), strength)


def background(picture: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    """Cover the background with coloured shapes, behind the product.

    Bright regions connected to the border count as background, as in product photographs. If there is hardly any, as
    on a poster, the shapes cover a frame along the border.

    Args:
        picture: RGB picture.
        strength: Opacity of the shapes, in [0, 1].
        rng: Source of randomness.
    """
    blended = Image.blend(picture, _shapes(picture.size, rng), strength)
    mask = Image.fromarray(background_mask(np.asarray(picture)).astype(np.uint8) * 255)
    return Image.composite(blended, picture, mask)


def background_mask(pixels: np.ndarray) -> np.ndarray:
    """Find the background of a picture; if there is hardly any, a frame along the border.

    Args:
        pixels: RGB values, `(H, W, 3)` uint8.

    Returns:
        `(H, W)` bool, True in the background.
    """
    height, width = pixels.shape[:2]
    scale = min(1.0, _SEARCH_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
    bright = _from_border(small.min(axis=2) >= _BRIGHT)  # (h, w)
    if bright.mean() >= _LEAST_BACKGROUND:
        mask = Image.fromarray(bright.astype(np.uint8) * 255).resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(mask) >= 128
    frame = np.ones((height, width), dtype=bool)
    edge = max(1, round(_FRAME * min(height, width)))
    frame[edge : height - edge, edge : width - edge] = False
    return frame


CORRUPTIONS: dict[str, Corruption] = {"background": background, "noise": noise, "blur": blur, "blank": blank}
"""Kind -> corruption of a single picture; `mismatch` exchanges pictures instead."""


def _change(folder: Path, chosen: pl.DataFrame, settings: CorruptionSettings) -> int:
    """Corrupt every chosen picture by itself; return their number."""
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
    """Pass the pictures on along one random circle of the chosen items; return their number."""
    images: list[str] = chosen["image"].to_list()
    if len(images) < 2:
        return 0  # no other item to exchange with
    order = np.random.default_rng(seed).permutation(len(images))
    pictures = [(folder / image).read_bytes() for image in images]
    kinds = [_format(folder / image) for image in images]
    for receiver, giver in zip(order, np.roll(order, 1), strict=True):
        target = folder / images[receiver]
        if kinds[receiver] == kinds[giver]:
            target.write_bytes(pictures[giver])
        else:
            _save(_opened(pictures[giver]), target, kinds[receiver])
    return len(images)


def _opened(content: bytes) -> Image.Image:
    with Image.open(BytesIO(content)) as opened:
        return as_shown(opened)


def _format(path: Path) -> str | None:
    with Image.open(path) as opened:
        return opened.format


def _save(picture: Image.Image, path: Path, kind: str | None) -> None:
    """Write the picture in the file's previous format, which its suffix still names."""
    kind = "JPEG" if kind == "MPO" else kind
    options = {"quality": JPEG_QUALITY} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    picture.save(path, format=kind, **options)


def _first_by_hash(items: pl.DataFrame, seed: int, share: float) -> pl.DataFrame:
    """Take a share of the items, rounded, in an order given by the seed and their ids alone."""
    numbers = [_number(item_id, seed) for item_id in items["item_id"]]
    order: Sequence[int] = sorted(range(items.height), key=numbers.__getitem__)
    return items[order[: round(share * items.height)]]


def _number(item_id: str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {item_id}".encode()).digest()[:8], "big")


def _from_border(free: np.ndarray) -> np.ndarray:
    """Return the part of a region `(h, w)` that is connected to the border (four neighbours)."""
    reached = np.zeros_like(free)
    reached[[0, -1]], reached[:, [0, -1]] = free[[0, -1]], free[:, [0, -1]]
    while True:
        grown = reached.copy()
        grown[1:] |= reached[:-1]
        grown[:-1] |= reached[1:]
        grown[:, 1:] |= reached[:, :-1]
        grown[:, :-1] |= reached[:, 1:]
        grown &= free
        if (grown == reached).all():
            return reached
        reached = grown


def _shapes(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Draw ellipses and rectangles of random colours over the whole picture."""
    width, height = size
    picture = Image.new("RGB", size, _colour(rng))
    draw = ImageDraw.Draw(picture)
    for _ in range(_N_SHAPES):
        left, top = rng.uniform(-0.15, 1.0, 2) * (width, height)
        wide, high = rng.uniform(0.1, 0.4, 2) * min(width, height)
        shape = (draw.ellipse, draw.rectangle)[int(rng.integers(2))]
        shape((left, top, left + wide, top + high), fill=_colour(rng))
    return picture


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in rng.integers(0, 256, 3))
    return red, green, blue


def _picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
