"""Cleaning of single values of raw records: texts without HTML, prices as numbers, picture addresses of any layout.

Pure functions of one value; they return None for values they cannot parse, and callers count those.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

LATEST_TIME_MS = int(datetime(2200, 1, 1, tzinfo=UTC).timestamp()) * 1000
"""Latest time accepted; a later one comes from a broken line, or from milliseconds read as seconds."""

NO_ID = ("nan", "NaN", "None", "NULL", "null", "<NA>", "NaT", "\\N")
"""Words that programs write in place of a missing value; as an id they are none."""

NO_TEXT = frozenset({*NO_ID, "NAN", "none", "NONE", "Null", "NA", "N/A", "n/a", "#N/A"})
"""Words that as a whole text stand for none."""

# HTML's own tag names only: "<Live>" in a record's title is text
_TAG_NAMES = (
    "a|abbr|article|b|big|blockquote|body|br|button|center|cite|code|dd|div|dl|dt|em|font|footer|form|h[1-6]|head|header|"
    "hr|html|i|iframe|img|input|ins|label|li|link|meta|nav|noscript|ol|option|p|pre|s|section|select|small|span|strike|"
    "strong|sub|sup|svg|table|tbody|td|tfoot|th|thead|tr|tt|u|ul|video"
)
_TAG = re.compile(rf"<!--.*?-->|</?(?:{_TAG_NAMES})\b(?:[^<>]*>|\s[^<>]*=[^<>]*$)", re.IGNORECASE | re.DOTALL)
_BLOCK = re.compile(r"<(script|style)\b[^<>]*>.*?(?:</\1\s*>|$)", re.IGNORECASE | re.DOTALL)
_PAGE_CODE = re.compile(r"\bgetTime\(\)|\bfunction\s*\(|\bvar \w+\s*=|\{\s*[\w-]+\s*:[^{}]*;")
_PRICE = re.compile(r"(?:US|USD)?\s*[$£€¥]?\s*(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?:\s*USD)?")
_NO_PICTURE = re.compile(r"/no[-_]?(?:img|image)|(?:transparent|grey|blank)[-_]pixel", re.IGNORECASE)
_EMPTY_PRICES = {"", *map(str.lower, NO_TEXT)}
_ESCAPE_CODES = re.compile("\x1b(?:\\[[0-?]*[ -/]*[@-~]|\\][^\x07\x1b]*(?:\x07|\x1b\\\\)|[@-Z\\\\-_])")
_CONTROL = re.compile(
    # controls that are not blanks; marks that reorder text; the byte order mark inside a text
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u2069\ufeff]"
)
_PICTURE_SIZES = ("hi_res", "large", "thumb")


def clean_text(value: Any) -> str:
    r"""Return one line of plain text, without tags, scripts, HTML entities and line breaks; `""` if it is not text.

    >>> clean_text(" Don&#39;t <b>Stop</b>\n (Live &amp; Loud)")
    "Don't Stop (Live & Loud)"
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    text = str(value)
    if "&" in text:  # twice, since sellers' texts are often escaped twice ("&amp;quot;")
        text = html.unescape(html.unescape(text))
    if not text.isprintable():  # before tags, which controls could hide
        text = _CONTROL.sub("", _ESCAPE_CODES.sub("", text))
    if "<" in text:
        text = _TAG.sub(" ", _BLOCK.sub(" ", text))
    if not text.isascii():  # a lone surrogate is valid in JSON but cannot be stored
        text = text.encode("utf-8", "replace").decode("utf-8")
    return " ".join(text.split())


def clean_texts(value: Any) -> list[str]:
    """Return the clean texts of a text or of (nested) lists of texts, in order, without empty ones and duplicates.

    >>> clean_texts([["CDs & Vinyl", "Country"], ["Digital Music", "Country"]])
    ['CDs & Vinyl', 'Country', 'Digital Music']
    """
    if isinstance(value, list | tuple):
        texts: Iterable[str] = (text for part in value for text in clean_texts(part))
    else:
        texts = (clean_text(value),)
    return list(dict.fromkeys(text for text in texts if text))


def is_page_code(text: str) -> bool:
    """True if a title is in fact part of the page's script or style (a known fault of the 2018 crawl)."""
    return _PAGE_CODE.search(text) is not None


def parse_id(value: Any) -> str | None:
    """Return an id as text, with its leading zeros; None if the value is no id."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    text = value.strip() if isinstance(value, str) else ""
    return text.encode("utf-8", "replace").decode("utf-8") or None


def parse_number(value: Any) -> float | None:
    """Parse a finite number from a number or a text; None for anything else, booleans included."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def parse_time(value: Any, milliseconds_per_unit: int) -> int | None:
    """Convert a number in the given unit (1000: seconds, 1: milliseconds) to Unix milliseconds; None if it is none."""
    number = parse_number(value)
    if number is None or abs(number) * milliseconds_per_unit > LATEST_TIME_MS:
        return None
    return round(number * milliseconds_per_unit)  # exact: below 2**53


def parse_price(value: Any) -> tuple[float | None, bool]:
    """Return a price, or None, and whether the value is neither a price nor empty (a range, page code).

    >>> parse_price("$1,250.00"), parse_price("None"), parse_price("$5 - $10")
    ((1250.0, False), (None, False), (None, True))
    """
    if value is None or str(value).strip().lower() in _EMPTY_PRICES:
        return None, False
    if isinstance(value, str):
        match = _PRICE.fullmatch(value.strip())
        value = match.group(1).replace(",", "") if match else None
    price = parse_number(value)
    return (price, False) if price is not None and price >= 0 else (None, True)


def picture_urls(value: Any) -> list[str]:
    """Return the addresses of the pictures, each in its best size, the main picture first.

    Accepted are one address (2014, `imUrl`), a list of addresses (2018), a list of `{hi_res, large, thumb, variant}`
    (2023), and the same as a dict of lists (2023 from Hugging Face `datasets`). Placeholders for "no picture" are left
    out.

    >>> picture_urls({"hi_res": [None, "https://b"], "large": ["https://a", "https://c"], "variant": ["PT01", "MAIN"]})
    ['https://b', 'https://a']
    """
    if isinstance(value, Mapping):
        columns = {name: cells for name, cells in value.items() if isinstance(cells, list | tuple)}
        n_pictures = max((len(cells) for cells in columns.values()), default=0)
        value = [{n: cells[i] for n, cells in columns.items() if i < len(cells)} for i in range(n_pictures)]
    entries = list(value) if isinstance(value, list | tuple) else [value]
    entries.sort(key=lambda entry: not (isinstance(entry, Mapping) and entry.get("variant") == "MAIN"))
    urls = (_best_size(entry) if isinstance(entry, Mapping) else _url(entry) for entry in entries)
    return list(dict.fromkeys(url for url in urls if url))


def _best_size(picture: Mapping[str, Any]) -> str | None:
    return next((url for size in _PICTURE_SIZES if (url := _url(picture.get(size)))), None)


def _url(value: Any) -> str | None:
    text = html.unescape(value).strip() if isinstance(value, str) else ""
    if text.startswith("//"):
        text = "https:" + text
    is_web = text.lower().startswith(("http://", "https://")) and not _NO_PICTURE.search(text)
    return text.encode("utf-8", "replace").decode("utf-8") if is_web else None
