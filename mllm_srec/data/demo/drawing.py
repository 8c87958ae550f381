"""Pictures of the demo shop: a coloured, patterned silhouette on a pale background (Pillow, no files).

Everything is drawn at four times its size and reduced, so that edges are smooth even at 56 pixels. Coordinates are
fractions of the picture's side.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

_OVERSAMPLING = 4
_OUTLINE = (52, 46, 64)
_PAPER = (246, 243, 236)
_RGB = {
    "red": (214, 40, 48),
    "orange": (248, 132, 14),
    "yellow": (252, 214, 36),
    "green": (40, 152, 64),
    "blue": (36, 98, 214),
    "purple": (136, 56, 168),
}
_PATTERN_RGB = {"yellow": (150, 96, 0)}  # white would not show on yellow
_CLUTTER_RGB = ((206, 212, 214), (222, 208, 196), (204, 214, 198), (216, 206, 220), (226, 216, 180))

Point = tuple[float, float]
Box = tuple[float, float, float, float]


def draw_item(
    category: str,
    colour: str,
    pattern: str,
    size: int = 56,
    clutter: float = 0.0,
    rng: np.random.Generator | None = None,
) -> Image.Image:
    """Draw one product.

    Args:
        category: One of `words.CATEGORIES`; gives the silhouette.
        colour: One of `words.COLOURS`; gives its fill.
        pattern: One of `words.PATTERNS`; printed on the fill.
        size: Side of the picture in pixels.
        clutter: Strength of background objects, and of shift, rotation and scale of the product; in [0, 1].
        rng: Source of randomness; unused at clutter 0, where equal attributes give equal pictures.

    Returns:
        An RGB picture of `size` x `size` pixels.
    """
    side = size * _OVERSAMPLING
    rng = rng or np.random.default_rng(0)
    picture = _background(side, clutter, rng)
    mask = Image.new("L", (side, side), 0)
    _SHAPES[category](_Pen(mask))
    fill = _printed(colour, pattern, side)
    mask, fill = _moved(mask, fill, clutter, rng)
    picture.paste(_OUTLINE, (0, 0), _grown(mask, side / 44))
    picture.paste(fill, (0, 0), mask)
    return picture.resize((size, size), Image.Resampling.LANCZOS)


class _Pen:
    """Draws on a mask; coordinates are fractions of its side."""

    def __init__(self, mask: Image.Image) -> None:
        self.side = mask.width
        self.draw = ImageDraw.Draw(mask)

    def polygon(self, *points: Point) -> None:
        self.draw.polygon([(x * self.side, y * self.side) for x, y in points], fill=255)

    def rounded(self, box: Box, radius: float) -> None:
        self.draw.rounded_rectangle([v * self.side for v in box], radius * self.side, fill=255)

    def ring(self, box: Box, width: float, start: float = 0, end: float = 360) -> None:
        self.draw.arc([v * self.side for v in box], start, end, fill=255, width=round(width * self.side))

    def line(self, *points: Point, width: float) -> None:
        self.draw.line([(x * self.side, y * self.side) for x, y in points], 255, round(width * self.side), "curve")


def _mug(pen: _Pen) -> None:
    pen.ring((0.56, 0.32, 0.90, 0.68), 0.075)
    pen.rounded((0.16, 0.20, 0.68, 0.82), 0.07)


def _shirt(pen: _Pen) -> None:
    pen.polygon(
        (0.36, 0.16), (0.44, 0.24), (0.56, 0.24), (0.64, 0.16), (0.93, 0.33), (0.82, 0.53), (0.70, 0.46),
        (0.70, 0.86), (0.30, 0.86), (0.30, 0.46), (0.18, 0.53), (0.07, 0.33),
    )  # fmt: skip


def _lamp(pen: _Pen) -> None:
    pen.polygon((0.36, 0.12), (0.64, 0.12), (0.86, 0.54), (0.14, 0.54))
    pen.polygon((0.46, 0.54), (0.54, 0.54), (0.54, 0.80), (0.46, 0.80))
    pen.rounded((0.30, 0.79, 0.70, 0.88), 0.03)


def _bag(pen: _Pen) -> None:
    pen.ring((0.31, 0.10, 0.69, 0.58), 0.065, 180, 360)
    pen.polygon((0.18, 0.36), (0.82, 0.36), (0.91, 0.88), (0.09, 0.88))


def _boot(pen: _Pen) -> None:
    pen.polygon((0.24, 0.12), (0.58, 0.12), (0.58, 0.52), (0.78, 0.58), (0.24, 0.80))
    pen.rounded((0.24, 0.56, 0.92, 0.80), 0.10)
    pen.rounded((0.22, 0.76, 0.92, 0.87), 0.02)
    pen.polygon((0.24, 0.30), (0.44, 0.30), (0.44, 0.82), (0.24, 0.82))


def _kite(pen: _Pen) -> None:
    pen.polygon((0.50, 0.06), (0.84, 0.36), (0.50, 0.75), (0.16, 0.36))
    pen.line((0.50, 0.73), (0.43, 0.80), (0.56, 0.86), (0.49, 0.92), width=0.045)


_SHAPES: dict[str, Callable[[_Pen], None]] = {
    "mug": _mug,
    "shirt": _shirt,
    "lamp": _lamp,
    "bag": _bag,
    "boot": _boot,
    "kite": _kite,
}


def _printed(colour: str, pattern: str, side: int) -> Image.Image:
    """Draw the fill, a square of the colour with its pattern; the silhouette is cut from it."""
    fill = Image.new("RGB", (side, side), _RGB[colour])
    draw = ImageDraw.Draw(fill)
    ink = _PATTERN_RGB.get(colour, (255, 255, 255))
    if pattern == "striped":
        period = side * 0.15
        for i in range(8):
            draw.rectangle((0, i * period, side, i * period + period * 0.42), fill=ink)
    elif pattern == "dotted":
        period, radius = side * 0.17, side * 0.048
        for row in range(8):
            for column in range(8):
                x, y = (column + (row % 2) / 2) * period, row * period * 0.87
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)
    elif pattern == "checked":
        edge = side * 0.115
        for row in range(10):
            for column in range(row % 2, 10, 2):
                draw.rectangle((column * edge, row * edge, (column + 1) * edge, (row + 1) * edge), fill=ink)
    return fill


def _background(side: int, clutter: float, rng: np.random.Generator) -> Image.Image:
    """Draw paper with a few pale, blurred shapes on it; none of them has a product's colour."""
    picture = Image.new("RGB", (side, side), _PAPER)
    if clutter == 0:
        return picture
    draw = ImageDraw.Draw(picture)
    for _ in range(round(clutter * 10)):
        x, y = rng.uniform(-0.1, 1.0, 2) * side
        width, height = rng.uniform(0.08, 0.35, 2) * side
        shade = _CLUTTER_RGB[rng.integers(len(_CLUTTER_RGB))]
        tint = tuple(round(p + (s - p) * min(1.0, 0.5 + clutter / 2)) for p, s in zip(_PAPER, shade, strict=True))
        shape = (draw.ellipse, draw.rectangle)[rng.integers(2)]
        shape((x, y, x + width, y + height), fill=tint)
    return picture.filter(ImageFilter.GaussianBlur(side / 112))


def _moved(
    mask: Image.Image, fill: Image.Image, clutter: float, rng: np.random.Generator
) -> tuple[Image.Image, Image.Image]:
    """Shift, rotate and scale the product slightly, together with its pattern."""
    if clutter == 0:
        return mask, fill
    side = mask.width
    shift_x, shift_y = rng.uniform(-0.10, 0.10, 2) * clutter * side
    angle = np.deg2rad(rng.uniform(-20, 20) * clutter)
    zoom = 1 / (1 - rng.uniform(0, 0.30) * clutter)
    cos, sin, middle = np.cos(angle) * zoom, np.sin(angle) * zoom, side / 2
    matrix = (
        *(cos, -sin, middle - cos * (middle + shift_x) + sin * (middle + shift_y)),
        *(sin, cos, middle - sin * (middle + shift_x) - cos * (middle + shift_y)),
    )
    affine, bilinear = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    return mask.transform(mask.size, affine, matrix, bilinear), fill.transform(fill.size, affine, matrix, bilinear)


def _grown(mask: Image.Image, border: float) -> Image.Image:
    """Widen the mask by a rim of about `border` pixels: blur it and keep every pixel that the blur reached."""
    return mask.filter(ImageFilter.GaussianBlur(border / 1.5)).point(lambda value: 255 if value > 17 else 0)
