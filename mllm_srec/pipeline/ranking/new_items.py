"""Items that are new to a prepared data set: their fields, the checks on them, and rows of the items table."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from mllm_srec.data.pictures.files import check_picture
from mllm_srec.data.pictures.finder import SUFFIXES, UnusablePictureError
from mllm_srec.data.raw.values import clean_text, clean_texts
from mllm_srec.types import DataError, did_you_mean

LARGEST_FILE = 64 << 20
"""Bytes of a file of new items that are read: somebody gave another file if it holds more."""


@dataclass(frozen=True)
class NewItem:
    """An item that is not in the data set.

    Args:
        title: Title; may be empty if there is a picture.
        brand: Brand, used with `data.prompt.brand`.
        categories: Categories from the widest to the narrowest, used with `data.prompt.categories`.
        description: Description, used with `data.prompt.description`.
        image: Picture file in JPEG, PNG, WebP, GIF or BMP.
        item_id: Id in ranked lists; None makes one.

    Raises:
        DataError: A value has a wrong type, or neither title nor picture is given.
    """

    title: str = ""
    brand: str = ""
    categories: Sequence[str] = ()
    description: str = ""
    image: str | Path | None = None
    item_id: str | None = None

    def __post_init__(self) -> None:
        """Refuse values that would be nonsense in a prompt."""
        for name in ("title", "brand", "description"):
            if not isinstance(value := getattr(self, name), str):
                raise DataError(f"{name}={value!r} of a new item: is not a text; give one, or leave it out")
        is_list = isinstance(self.categories, list | tuple)
        if not is_list or not all(isinstance(part, str) for part in self.categories):
            raise DataError(
                f"categories={self.categories!r} of a new item: is not a list of texts; give one, such as ['Kitchen']"
            )
        object.__setattr__(self, "categories", tuple(self.categories))  # the caller could change a list later
        if not isinstance(self.image, str | Path | None) or not isinstance(self.item_id, str | None):
            raise DataError(f"image={self.image!r}, item_id={self.item_id!r} of a new item: must be texts or left out")
        if self.item_id == "":
            raise DataError("item_id='' of a new item: is empty; give an id, or leave it out")
        if not clean_text(self.title) and self.image is None:
            raise DataError("title='' of a new item: neither title nor picture describes it; give at least one")

    def row(self, item_id: str, max_pixels: int) -> dict[str, Any]:
        """Make a row of the items table, with texts cleaned like those of raw files.

        Args:
            item_id: Id of the item.
            max_pixels: Most pixels of a picture that is read, `prepare.max_image_pixels` of the data set.

        Raises:
            DataError: The picture cannot be used.
        """
        picture = self.picture
        if picture is not None:
            _check_image(picture, max_pixels)
        return {
            "item_id": item_id,
            "title": clean_text(self.title),
            "brand": clean_text(self.brand) or None,
            "categories": clean_texts(self.categories),
            "description": clean_text(self.description),
            "price": None,
            "image": None if picture is None else str(picture),
            "image_urls": [],
        }

    @property
    def picture(self) -> Path | None:
        """The picture file, with `~` as the home folder."""
        try:
            return None if self.image is None else Path(self.image).expanduser()
        except RuntimeError:  # ~ of nobody
            return Path(str(self.image))


def read_new_items(values: Sequence[str]) -> list[NewItem]:
    """Parse the values of `--new_item`.

    Args:
        values: JSON objects, one item each, or files with one JSON object per line, whose `image` paths are relative to
            the file.

    Raises:
        DataError: A value is neither, a line is not a JSON object, or a field is unknown.
    """
    items: list[NewItem] = []
    for value in values:
        if value.lstrip().startswith("{"):
            items.append(_parse(value, "--new_item"))
        else:
            items += _read_file(value)
    return items


def _read_file(value: str) -> list[NewItem]:
    try:
        path = Path(value).expanduser()
        lines = _read_text(path).splitlines()
    except (OSError, ValueError, RuntimeError) as error:  # of a wrong encoding, a path with a null byte, an unknown ~
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"new_item={value[:200]!r}: is neither a JSON object nor a readable file ({reason}); give an object such "
            'as \'{"title": "red mug", "image": "mug.png"}\', or a file with one per line'
        ) from error
    if not any(line.strip() for line in lines):
        raise DataError(f"new_item={value[:200]!r}: holds no item; write a JSON object per line into it")
    items = [_parse(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1) if line.strip()]
    return [item if item.picture is None else replace(item, image=path.parent / item.picture) for item in items]


def _read_text(path: Path) -> str:
    """Read a file or a pipe.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no text, or never ends.
    """
    if path.is_char_device() or path.is_block_device():
        raise ValueError("it is a device")
    with path.open("rb") as file:
        content = file.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise ValueError(f"it has more than {LARGEST_FILE >> 20} MB")
    return content.decode("utf-8-sig")


def _parse(text: str, source: str) -> NewItem:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{source}: {text[:80]!r} is not valid JSON ({error}); give a JSON object") from error
    known = [field.name for field in fields(NewItem)]
    if not isinstance(content, dict):
        raise DataError(f"{source}: {text[:80]!r} is not a JSON object; its fields may be {', '.join(known)}")
    for name in content:
        if name not in known:
            hint = did_you_mean(name, known) or f"; accepted are {', '.join(known)}"
            raise DataError(f"{source}: unknown field {name!r}{hint}")
    try:
        return NewItem(**{name: value for name, value in content.items() if value is not None})
    except DataError as error:
        raise DataError(f"{source}: {error}") from error


def _check_image(path: Path, max_pixels: int) -> None:
    try:
        check_picture(path, max_pixels)
    except UnusablePictureError as error:
        # Not the methods of Path, which raise where a name is too long.
        missing = "it is no file" if os.path.exists(path) else "there is no such file"
        reason = str(error) if os.path.isfile(path) else missing
        raise DataError(
            f"image={str(path)[:200]!r} of a new item: cannot be used ({reason}); give a file in one of the formats "
            f"{', '.join(suffix.lstrip('.') for suffix in SUFFIXES)}, or leave the picture out"
        ) from error
