"""Rules of one demo shop, drawn for it: what it shows after which like, and whose goods please more people here.

*Order*: to every category belongs another that complements it, by a map drawn per shop (one cycle over all). Of what a
user is shown, the share `order` is of the categories that complement their last two likes, half for each; the rest is
any item. An item may be shown until the user has reported on it. So what is shown depends on reported ratings alone,
and given these not on taste.

*House taste*: a third of the brands and of the materials please everybody more, by `house` in utility, and as many
please everybody less.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mllm_srec.data.demo.words import CATEGORIES, VALUES
from mllm_srec.data.settings import DemoSettings

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

HOUSE_ATTRIBUTES = ("brand", "material")
"""Attributes on whose values the house has a taste of its own."""

REMEMBERED_LIKES = 2
"""Latest likes that decide what a shop with an order shows."""

_STREAMS = (  # the position of a purpose is part of the seed: append only
    "items",
    "tastes",
    "views",
    "ratings",
    "times",
    "texts",
    "reviews",
    "profiles",
    "pictures",
    "order",
    "house",
    "shuffles",
)


def random_stream(settings: DemoSettings, purpose: str) -> np.random.Generator:
    """Make the random generator of one purpose, so that a change in one leaves the others unchanged."""
    return np.random.default_rng(stream_seed(settings, purpose))


def stream_seed(settings: DemoSettings, purpose: str) -> np.random.SeedSequence:
    """Return the seed of one purpose."""
    return np.random.SeedSequence([settings.seed, _STREAMS.index(purpose)])


def draw_complements(settings: DemoSettings) -> Ints:
    """Draw (K,) the category that complements each category: one cycle over all of them, so none complements itself."""
    cycle = random_stream(settings, "order").permutation(len(CATEGORIES))
    complements = np.empty(len(cycle), dtype=np.int64)
    complements[cycle] = np.roll(cycle, -1)
    return complements


def draw_house(settings: DemoSettings) -> dict[str, tuple[float, ...]]:
    """Draw attribute -> what the house adds to the utility of each of its values; nothing where `house` is 0."""
    if settings.house == 0:
        return {}
    rng = random_stream(settings, "house")
    offsets = {}
    for name in HOUSE_ATTRIBUTES:
        n = len(VALUES[name])
        third = n // 3
        signs = np.array([1.0] * third + [-1.0] * third + [0.0] * (n - 2 * third))
        offsets[name] = tuple((settings.house * rng.permutation(signs)).tolist())
    return offsets


@dataclass(frozen=True)
class Exposure:
    """How likely an item is shown next, given the categories of the latest likes.

    Args:
        order: Share of what is shown that follows the latest likes; in [0, 1].
        follows: (K, K) P(category shown | category of a like) within that share.
    """

    order: float
    follows: Floats

    @classmethod
    def of_shop(cls, settings: DemoSettings) -> Exposure:
        """Return the rule of this shop."""
        return cls(settings.order, np.eye(len(CATEGORIES))[draw_complements(settings)])

    @classmethod
    def of_any_shop(cls, settings: DemoSettings) -> Exposure:
        """Return the mean of the rules of all shops: whatever is liked, each other category is as likely to follow."""
        n = len(CATEGORIES)
        return cls(settings.order, (1 - np.eye(n)) / (n - 1))

    def of_categories(self, liked: list[int], n_free: Ints) -> Floats:
        """Compute how much likelier an item is shown than if every item that may be shown were equally likely.

        Args:
            liked: Categories of all likes so far, oldest first; the latest `REMEMBERED_LIKES` are read.
            n_free: (K,) items of each category that may be shown.

        Returns:
            (K,) ratio for an item of each category; multiplied with `n_free` it sums to the sum of `n_free`.
        """
        remembered = liked[-REMEMBERED_LIKES:]
        if self.order == 0 or not remembered:
            return np.ones(len(n_free))
        share = self.order * self.follows[remembered].mean(axis=0) * (n_free > 0)  # (K,)
        ratio = 1 - share.sum() + share * n_free.sum() / np.maximum(n_free, 1)
        return np.asarray(ratio)


def draw_shown(complements: Ints, order: float, kinds: Ints, free: Bools, last: Ints, draws: Floats) -> Ints:
    """Draw the item that each user is shown on one day, by the rule that `Exposure.of_shop` states.

    Args:
        complements: (K,) category that complements each category.
        order: Share of what is shown that follows the latest likes.
        kinds: (I,) category of each item.
        free: (U, I) True where the user may be shown the item; where a user may be shown none, the first is returned.
        last: (U, L) categories of the latest likes, -1 where there were fewer; the newest first.
        draws: (U, 3) uniform draws in [0, 1).

    Returns:
        (U,) items.
    """
    users = np.arange(len(free))
    n_liked = (last >= 0).sum(axis=1)
    which = np.minimum((draws[:, 1] * n_liked).astype(np.int64), np.maximum(n_liked - 1, 0))
    wanted = free & (kinds == complements[last[users, which]][:, None])  # (U, I)
    follows = (draws[:, 0] < order) & (n_liked > 0) & wanted.any(axis=1)
    pool = np.where(follows[:, None], wanted, free)
    place = (draws[:, 2] * pool.sum(axis=1)).astype(np.int64)
    return np.asarray((pool.cumsum(axis=1) > place[:, None]).argmax(axis=1))
