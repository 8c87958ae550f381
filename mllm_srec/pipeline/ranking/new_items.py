"""Items that come after a data set was prepared: what is told of one, checked, and in the form of the items table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from mllm_srec.data.pictures.files import SUFFIXES, UnusablePictureError, check_picture
from mllm_srec.data.raw.values import clean_text, clean_texts
from mllm_srec.types import DataError, did_you_mean


@dataclass(frozen=True)
class NewItem:
    """An item that the data set does not hold.

    Args:
        title: Its title; may be empty where there is a picture.
        brand: Its brand, used where `data.prompt.brand` is on.
        categories: From the widest to the narrowest; used where `data.prompt.categories` is on.
        description: Used where `data.prompt.description` is on.
        image: A picture file: JPEG, PNG, WebP, GIF or BMP.
        item_id: Its name in the lists; None makes one.

    Raises:
        DataError: A value has another type, or neither title nor picture is given.
    """

    title: str = ""
    brand: str = ""
    categories: Sequence[str] = ()
    description: str = ""
    image: str | Path | None = None
    item_id: str | None = None

    def __post_init__(self) -> None:
        """Refuse what would end as nonsense in a prompt."""
        for name in ("title", "brand", "description"):
            if not isinstance(value := getattr(self, name), str):
                raise DataError(f"{name}={value!r} of a new item is no text; give one, or leave it out")
        is_list = isinstance(self.categories, list | tuple)
        if not is_list or not all(isinstance(part, str) for part in self.categories):
            raise DataError(f"categories={self.categories!r} of a new item; give a list of texts, such as ['Kitchen']")
        object.__setattr__(self, "categories", tuple(self.categories))  # a list of a caller could change later
        if not isinstance(self.image, str | Path | None) or not isinstance(self.item_id, str | None):
            raise DataError(f"image={self.image!r}, item_id={self.item_id!r} of a new item; both are texts or missing")
        if self.item_id == "":
            raise DataError("item_id='' of a new item names nothing; give a name, or leave it out")
        if not clean_text(self.title) and self.image is None:
            raise DataError("a new item has neither title nor picture, so that nothing could be said of it; give one")

    def row(self, item_id: str, max_pixels: int) -> dict[str, Any]:
        """Fields of the items table, with texts cleaned as those of raw files are.

        Args:
            item_id: Its name.
            max_pixels: A picture of more pixels is refused unread: `prepare.max_image_pixels` of the data set.

        Raises:
            DataError: The picture cannot be used.
        """
        if self.image is not None:
            _check_image(Path(self.image), max_pixels)
        return {
            "item_id": item_id,
            "title": clean_text(self.title),
            "brand": clean_text(self.brand) or None,
            "categories": clean_texts(self.categories),
            "description": clean_text(self.description),
            "price": None,
            "image": None if self.image is None else str(self.image),
            "image_urls": [],
        }


def read_new_items(values: Sequence[str]) -> list[NewItem]:
    """Items as they are typed on a command line.

    Args:
        values: Each one item as a JSON object, or a file with one JSON object a line, whose `image` paths are relative
            to the file.

    Raises:
        DataError: A value is neither, a line is no JSON object, or a field is unknown.
    """
    found: list[NewItem] = []
    for value in values:
        if value.lstrip().startswith("{"):
            found.append(_parsed(value, "--new_item"))
        else:
            found += _read_file(Path(value))
    return found


def _read_file(path: Path) -> list[NewItem]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"--new_item {str(path)!r} is no JSON object and no readable file ({error}); give an object such as "
            '\'{"title": "red mug", "image": "mug.png"}\', or a file with one a line'
        ) from error
    items = [_parsed(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1) if line.strip()]
    return [item if item.image is None else replace(item, image=path.parent / item.image) for item in items]


def _parsed(text: str, place: str) -> NewItem:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise DataError(f"{place}: {text[:80]!r} is not valid JSON ({error})") from error
    known = [field.name for field in fields(NewItem)]
    if not isinstance(content, dict):
        raise DataError(f"{place}: {text[:80]!r} is no JSON object; its fields may be {', '.join(known)}")
    for name in content:
        if name not in known:
            hint = did_you_mean(name, known) or f"; known are {', '.join(known)}"
            raise DataError(f"{place}: the field {name!r} is not known{hint}")
    try:
        return NewItem(**{name: value for name, value in content.items() if value is not None})
    except DataError as error:
        raise DataError(f"{place}: {error}") from error


def _check_image(path: Path, max_pixels: int) -> None:
    try:
        check_picture(path, max_pixels)
    except UnusablePictureError as error:
        reason = "there is no such file" if not path.is_file() else str(error)
        raise DataError(
            f"image={str(path)!r} of a new item cannot be used: {reason}; give a file in one of the formats "
            f"{', '.join(suffix.lstrip('.') for suffix in SUFFIXES)}, or leave the picture out"
        ) from error
