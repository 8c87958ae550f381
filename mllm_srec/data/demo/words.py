"""The language of the demo shop: names of attributes, and the phrases of titles, reviews, profiles and summaries.

All words of the shop are in this file, so that the vocabulary of a small tokenizer can hold them all. Only `COLOURS`
and `PATTERNS` name a colour or a pattern: titles, descriptions, reviews and profiles leave both to the picture.
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
"""Attribute -> names of its values, in the order of the circle on which tastes move."""

ATTRIBUTES = tuple(VALUES)
IMAGE_ATTRIBUTES = ("category", "colour", "pattern")
TEXT_ATTRIBUTES = ("category", "brand", "material")

PLURALS = {"mug": "Mugs", "shirt": "Shirts", "lamp": "Lamps", "bag": "Bags", "boot": "Boots", "kite": "Kites"}

LEVELS = ("maybe", "probably", "mostly", "surely")
"""Degrees of certainty that a value is liked: probability above 1/2, above `LEVEL_EDGES[0]`, and so on."""

LEVEL_EDGES = (0.6, 0.75, 0.9)
NOT_LIKED = "not"
"""Used in place of a level for a value that is not liked."""

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
_VAGUE_REVIEWS = 0.15  # share of reviews that sound one star better or worse
_VALUE_OF = {value.lower(): (name, value) for name, values in VALUES.items() for value in values}


def title(values: dict[str, str], clutter: float, rng: np.random.Generator) -> str:
    """Write a product title: brand, material and category between marketing words.

    Args:
        values: Attribute name -> value, as in `VALUES`; only the `TEXT_ATTRIBUTES` are read.
        clutter: Strength of the marketing around the name; in [0, 1], 0 gives the bare name.
        rng: Source of randomness.
    """
    name = f"{values['brand']} {values['material']} {values['category']}"
    noise = [_TITLE_NOISE[i] for i in rng.permutation(len(_TITLE_NOISE))[: rng.binomial(4, clutter)]]
    before = int(rng.integers(len(noise) + 1))
    return ", ".join([*noise[:before], name, *noise[before:]])


def description(values: dict[str, str], clutter: float, rng: np.random.Generator) -> str:
    """Write one sentence about the item and up to four of advertising (arguments as in `title`)."""
    sentence = _DESCRIPTIONS[rng.integers(len(_DESCRIPTIONS))].format(**values)
    noise = [_DESCRIPTION_NOISE[i] for i in rng.permutation(len(_DESCRIPTION_NOISE))[: rng.binomial(4, clutter)]]
    return " ".join([sentence, *noise])


def review(rating: int, rng: np.random.Generator) -> str:
    """Write a review whose tone follows the rating (1-5); about one in seven sounds one star better or worse."""
    tone = rating
    if rng.random() < _VAGUE_REVIEWS:
        tone = min(5, max(1, rating + int(rng.choice((-1, 1)))))
    opening = _OPENINGS[tone][rng.integers(4)]
    return f"{opening} {_CLOSINGS[rng.integers(len(_CLOSINGS))]}".strip()


def profile(rng: np.random.Generator) -> str:
    """Write a phrase such as "a 34-year-old teacher", which tells nothing about the user's taste."""
    age = int(rng.integers(20, 80))
    return f"a {age}-year-old {_JOBS[rng.integers(len(_JOBS))]}"


def caption(values: Mapping[str, str]) -> str:
    """Write a plain caption of a picture: the category alone, by design less than the answer to p1."""
    return f"A picture of a {values['category']}."


def image_summary(values: Mapping[str, str]) -> str:
    """Write the answer to p1: every attribute that the picture shows."""
    return _thing(f"{values['colour']} {values['pattern']} {values['category']}.")


def item_summary(values: Mapping[str, str]) -> str:
    """Write the answer to p2: every attribute of the item; those missing in `values` are left out."""
    seen = " ".join(values[name] for name in ("colour", "pattern", "category") if name in values)
    material = f" of {values['material']}" if "material" in values else ""
    brand = f" by {values['brand']}" if "brand" in values else ""
    return _thing(f"{seen}{material}{brand}.")


def preference(tastes: Mapping[str, Mapping[str, str]]) -> str:
    """Write the answer to p3: the values that the user likes, with their degrees of certainty.

    Args:
        tastes: Attribute -> liked value -> one of `LEVELS`, attributes in the order of `VALUES`; an attribute without
            liked values is left out.
    """
    parts = [", ".join(f"{level} {value}" for value, level in liked.items()) for liked in tastes.values() if liked]
    return f"The user likes {'; '.join(parts)}." if parts else "The user's taste is unknown."


def named_values(text: str) -> dict[str, set[str]]:
    """Return attribute -> the values of it that a text names, as whole words in any case; plurals count."""
    named: dict[str, set[str]] = {name: set() for name in ATTRIBUTES}
    for word in re.findall(r"[^\W\d_]+", text.lower()):
        if match := _VALUE_OF.get(word) or _VALUE_OF.get(word.removesuffix("s")):
            attribute, value = match
            named[attribute].add(value)
    return named


def vocabulary() -> list[str]:
    """List every value and phrase of the language, for a tokenizer whose vocabulary holds them all."""
    phrases = [*_TITLE_NOISE, *_DESCRIPTION_NOISE, *_DESCRIPTIONS, *_CLOSINGS, *_JOBS, *PLURALS.values()]
    phrases += [phrase for tones in _OPENINGS.values() for phrase in tones]
    phrases += [value for values in VALUES.values() for value in values]
    return sorted({phrase for phrase in phrases if phrase})


def _thing(words: str) -> str:
    """Put an indefinite article before the words."""
    return f"{'An' if words[0] in 'aeiou' else 'A'} {words}"
