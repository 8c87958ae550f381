"""The demo shop's language of summaries: what is said of an item and of a taste, written and read.

The demo backbone is pretrained to speak it, and the quality checks read it. Reading goes by words alone, so that the
sentences of any model can be read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from mllm_srec.data.demo_words import ATTRIBUTES, VALUES

LEVELS = ("maybe", "probably", "mostly", "surely")
"""How sure a preference is that a value is liked: probability above 1/2, `LEVEL_EDGES[0]`, ..."""
LEVEL_EDGES = (0.6, 0.75, 0.9)
NOT_LIKED = "not"
"""In a comparison: the value is none of those named."""

_VALUE_OF = {value.lower(): (name, value) for name, values in VALUES.items() for value in values}


def caption(values: Mapping[str, str]) -> str:
    """What a plain caption says of a picture: the kind of thing only (coarser than p1's answer by design)."""
    return f"A picture of a {values['category']}."


def image_summary(values: Mapping[str, str]) -> str:
    """The answer to p1: everything that the picture shows."""
    return _thing(f"{values['colour']} {values['pattern']} {values['category']}.")


def item_summary(values: Mapping[str, str]) -> str:
    """The answer to p2: everything that is known; attributes missing in `values` are left out."""
    seen = " ".join(values[name] for name in ("colour", "pattern", "category") if name in values)
    material = f" of {values['material']}" if "material" in values else ""
    brand = f" by {values['brand']}" if "brand" in values else ""
    return _thing(f"{seen}{material}{brand}.")


def preference(tastes: Mapping[str, Mapping[str, str]]) -> str:
    """The answer to p3.

    Args:
        tastes: Attribute -> liked value -> one of `LEVELS`, attributes in the order of `VALUES`; attributes that
            nothing is known of are left out.
    """
    parts = [", ".join(f"{level} {value}" for value, level in liked.items()) for liked in tastes.values() if liked]
    return f"The user likes {'; '.join(parts)}." if parts else "The user's taste is unknown."


def _thing(words: str) -> str:
    """The words behind an indefinite article."""
    return f"{'An' if words[0] in 'aeiou' else 'A'} {words}"


def named_values(text: str) -> dict[str, set[str]]:
    """Attribute -> the values of it that a text names, as whole words in either case; plurals count."""
    found: dict[str, set[str]] = {name: set() for name in ATTRIBUTES}
    for word in re.findall(r"[^\W\d_]+", text.lower()):
        known = _VALUE_OF.get(word) or _VALUE_OF.get(word.removesuffix("s"))
        if known:
            found[known[0]].add(known[1])
    return found
