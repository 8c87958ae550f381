"""The demo shop's small language: what attributes are called, and every phrase that texts, reviews and profiles use.

All words of the shop are in this file, so that a small tokenizer can know them all. No phrase but `COLOURS` and
`PATTERNS` names a colour or a pattern: those two are to be seen, not read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

CATEGORIES = ("mug", "shirt", "lamp", "bag", "boot", "kite")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple")
PATTERNS = ("plain", "striped", "dotted", "checked")
BRANDS = ("Arven", "Bolto", "Calido", "Demra", "Elkin", "Fjora")
MATERIALS = ("bamboo", "cork", "hemp", "wool")

VALUES: dict[str, tuple[str, ...]] = {
    "category": CATEGORIES,
    "colour": COLOURS,
    "pattern": PATTERNS,
    "brand": BRANDS,
    "material": MATERIALS,
}
"""The five attributes of an item and what their values are called, in the order of the circle that tastes move on."""

ATTRIBUTES = tuple(VALUES)
IMAGE_ATTRIBUTES = ("category", "colour", "pattern")
TEXT_ATTRIBUTES = ("category", "brand", "material")

PLURALS = {"mug": "Mugs", "shirt": "Shirts", "lamp": "Lamps", "bag": "Bags", "boot": "Boots", "kite": "Kites"}

_TITLE_NOISE = (
    "New", "Bestseller", "Limited edition", "Gift idea", "Top quality", "Free shipping", "Top rated", "Only today",
    "Premium", "Must have", "Great value", "Just arrived",
)  # fmt: skip
_DESCRIPTION_NOISE = (
    "Order now while it lasts.", "A perfect gift for friends and family.", "Thousands of happy customers.",
    "Money back within 30 days.", "Designed with love.", "You will not want to be without it.",
    "As seen on television.", "The choice of experts.", "Now even better.", "Fast delivery to your door.",
)  # fmt: skip
_DESCRIPTIONS = (
    "A {category} made of {material} by {brand}.",
    "This {category} by {brand} is made of {material}.",
    "{brand} makes this {category} of {material}.",
    "Made of {material}, this {category} comes from {brand}.",
)
_OPENINGS = {
    1: ("Terrible.", "I sent it back.", "A waste of money.", "Very disappointed."),
    2: ("Not for me.", "I expected more.", "I would not buy it again.", "Rather poor."),
    3: ("It is okay.", "Nothing special.", "Neither good nor bad.", "It does the job."),
    4: ("I like it.", "Good buy.", "Very nice.", "I am happy with it."),
    5: ("I love it!", "Perfect!", "Exactly my taste!", "I use it every day!"),
}
_CLOSINGS = ("It came quickly.", "It was well packed.", "It was a present.", "I bought it last month.", "", "", "")
_JOBS = (
    "teacher", "nurse", "student", "farmer", "designer", "driver", "cook", "engineer", "writer", "gardener",
    "musician", "baker",
)  # fmt: skip
_VAGUE_REVIEWS = 0.15


def title(values: dict[str, str], clutter: float, rng: np.random.Generator) -> str:
    """A product title that carries brand, material and category, between marketing words.

    Args:
        values: Attribute name -> value, as in `VALUES`; only the `TEXT_ATTRIBUTES` are read.
        clutter: How much marketing surrounds the name; in [0, 1], 0 is the bare name.
        rng: Source of randomness.
    """
    name = f"{values['brand']} {values['material']} {values['category']}"
    noise = [_TITLE_NOISE[i] for i in rng.permutation(len(_TITLE_NOISE))[: rng.binomial(4, clutter)]]
    before = int(rng.integers(len(noise) + 1))
    return ", ".join([*noise[:before], name, *noise[before:]])


def description(values: dict[str, str], clutter: float, rng: np.random.Generator) -> str:
    """One sentence about the item, followed by up to four of advertising (arguments as in `title`)."""
    sentence = _DESCRIPTIONS[rng.integers(len(_DESCRIPTIONS))].format(**values)
    noise = [_DESCRIPTION_NOISE[i] for i in rng.permutation(len(_DESCRIPTION_NOISE))[: rng.binomial(4, clutter)]]
    return " ".join([sentence, *noise])


def review(rating: int, rng: np.random.Generator) -> str:
    """A review whose tone follows the rating (1-5); about one in seven sounds one star better or worse."""
    tone = rating
    if rng.random() < _VAGUE_REVIEWS:
        tone = min(5, max(1, rating + int(rng.choice((-1, 1)))))
    opening = _OPENINGS[tone][rng.integers(4)]
    return f"{opening} {_CLOSINGS[rng.integers(len(_CLOSINGS))]}".strip()


def profile(rng: np.random.Generator) -> str:
    """A phrase such as "a 34-year-old teacher"; it says nothing about the user's taste."""
    age = int(rng.integers(20, 80))
    return f"a {age}-year-old {_JOBS[rng.integers(len(_JOBS))]}"


def vocabulary() -> list[str]:
    """Every value and phrase of the language, for a tokenizer that is to know them all."""
    phrases = [*_TITLE_NOISE, *_DESCRIPTION_NOISE, *_DESCRIPTIONS, *_CLOSINGS, *_JOBS, *PLURALS.values()]
    phrases += [phrase for tones in _OPENINGS.values() for phrase in tones]
    phrases += [value for values in VALUES.values() for value in values]
    return sorted({phrase for phrase in phrases if phrase})


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
