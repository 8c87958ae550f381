"""File names for item ids: readable, safe on any file system, never the same for two items."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b

MAX_LENGTH = 100
"""Longest id that may serve as a file name unchanged; file systems take 255 bytes, tools and archives often less."""

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_UNSAFE = re.compile(r"[^A-Za-z0-9_]+")
_HASHED = re.compile(r".*-[0-9a-f]{16}", re.IGNORECASE)
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}
"""Names that Windows keeps for devices, whatever the extension."""


def safe_names(item_ids: Sequence[str]) -> list[str]:
    """A file name without extension for each id; ids that are safe already stay as they are.

    Anything else becomes `<readable part>-<16 hex digits of the id's hash>`: ids with other characters than letters,
    digits, `_` and `-`, very long ones, names of Windows devices, ids that look hashed already, and ids that differ
    in case only (they would be one file on some file systems).

    >>> safe_names(["B00LW3RQNC", "a/b.c", "CON"])
    ['B00LW3RQNC', 'a-b-c-85d67f765eefe587', 'CON-1bc43d851d28ada0']
    """
    folded = Counter(item_id.lower() for item_id in set(item_ids))
    return [_name(item_id, is_alone=folded[item_id.lower()] == 1) for item_id in item_ids]


def _name(item_id: str, *, is_alone: bool) -> str:
    is_safe = _SAFE.fullmatch(item_id) is not None and _HASHED.fullmatch(item_id) is None
    if is_alone and is_safe and len(item_id) <= MAX_LENGTH and item_id.lower() not in _DEVICES:
        return item_id
    slug = _UNSAFE.sub("-", item_id[:MAX_LENGTH]).strip("-_")[:60]
    digest = blake2b(item_id.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return f"{slug or 'item'}-{digest}"
