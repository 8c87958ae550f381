"""The taste model of the demo shop: exact probabilities of tastes and ratings, in pure numpy.

A user has one *taste state* per attribute. With n values on a circle, state k likes the values k, k + 1, ...,
k + n // 2 - 1, so about half of them. An item's utility is the weighted sum of +1 (liked value) and -1 over its
attributes; logistic noise is added and four cut-offs turn it into a rating of 1 to 5. Every day each attribute's state
stays, or with probability `drift` moves to a neighbour on the circle. So the ratings of a user are a hidden Markov
chain over the product of the attributes' states, small enough for exact filtering (`taste_filter.TasteFilter`).

A rating depends only on the *pattern* of liked attributes, a bit string with the first attribute in the highest bit,
and in a shop with a taste of its own (`rules.draw_house`) on what the house adds to the item's utility.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product

import numpy as np
import numpy.typing as npt

from mllm_srec.data.demo.rules import Floats, Ints, draw_house
from mllm_srec.data.demo.words import ATTRIBUTES, IMAGE_ATTRIBUTES, TEXT_ATTRIBUTES, VALUES
from mllm_srec.data.settings import DemoSettings

MODALITIES: dict[str, tuple[str, ...]] = {"both": ATTRIBUTES, "text": TEXT_ATTRIBUTES, "image": IMAGE_ATTRIBUTES}
"""Modality -> attributes that it shows."""

CATEGORY_WEIGHT = 0.2
"""Share of the category in the taste's weight; it is in picture and text, so `image_share` does not concern it."""

_LARGER_WEIGHT = 0.6  # of the first attribute of a modality; unequal weights give fewer ties in utility
_OFFSETS = (-0.77, -0.33, 0.0, 0.11)  # utilities at which ratings 2 to 5 begin, relative to that of a like (4)


@dataclass(frozen=True)
class TasteModel:
    """Probabilities of tastes and ratings.

    Args:
        n_values: Attribute -> number of values (and of taste states), at least 2.
        weights: Attribute -> weight in the utility, >= 0, summing to 1; same keys as `n_values`.
        noise: Scale of the logistic noise on the utility (which lies in [-1, 1]); 0 makes ratings deterministic.
        drift: Probability per day and attribute that the state moves to a neighbour; in [0, 1].
        like_share: Share of all items that a user likes when there is no noise, as nearly as the weights allow.
        house: Attribute -> what the house adds to the utility of each of its values; attributes may be missing.
    """

    n_values: dict[str, int]
    weights: dict[str, float]
    noise: float
    drift: float
    like_share: float
    house: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @classmethod
    def from_settings(cls, settings: DemoSettings) -> TasteModel:
        """Make the demo shop's model: five attributes, weights by `image_share`."""
        rest = 1 - CATEGORY_WEIGHT
        image, text = rest * settings.image_share, rest * (1 - settings.image_share)
        weights = {
            "category": CATEGORY_WEIGHT,
            "colour": image * _LARGER_WEIGHT,
            "pattern": image * (1 - _LARGER_WEIGHT),
            "brand": text * _LARGER_WEIGHT,
            "material": text * (1 - _LARGER_WEIGHT),
        }
        n_values = {name: len(values) for name, values in VALUES.items()}
        return cls(n_values, weights, settings.noise, settings.drift, settings.like_share, draw_house(settings))

    @property
    def attributes(self) -> tuple[str, ...]:
        """Attribute names in the order of every taste and item array's last axis."""
        return tuple(self.n_values)

    def likes(self, attribute: str) -> npt.NDArray[np.bool_]:
        """Return (n, n) bool, True where the taste state (row) likes the value (column)."""
        n = self.n_values[attribute]
        state, value = np.indices((n, n))
        return np.asarray((value - state) % n < n // 2)

    def transition(self, attribute: str, days: int) -> Floats:
        """Return (n, n) the probability of moving from a state (row) to another (column) in `days` days."""
        n = self.n_values[attribute]
        stay = np.eye(n)
        day = (1 - self.drift) * stay + self.drift / 2 * (np.roll(stay, 1, axis=1) + np.roll(stay, -1, axis=1))
        return np.asarray(np.linalg.matrix_power(day, days))

    def pattern(self, tastes: Ints, values: Ints, visible: Sequence[str] | None = None) -> Ints:
        """Compute the pattern of liked attributes.

        Args:
            tastes: (..., V) states of the visible attributes.
            values: (..., V) an item's values of these attributes; broadcast against `tastes`.
            visible: Names of the V attributes; all by default.

        Returns:
            (...) bit string in [0, 2^V).
        """
        names = self.attributes if visible is None else tuple(visible)
        bits = [self.likes(name)[tastes[..., a], values[..., a]] for a, name in enumerate(names)]
        return np.asarray(sum(bit.astype(np.int64) << (len(names) - 1 - a) for a, bit in enumerate(bits)))

    def rating_table(self, visible: Sequence[str] | None = None) -> Floats:
        """Return (2^V, 5) P(rating = 1..5 | pattern of the visible attributes), all else averaged out.

        Averaging over hidden attributes is exact: items' values are independent and uniform, and each state likes the
        same number of values, so a hidden attribute is liked with the same probability for any taste and independently
        of other items. What the house adds is averaged over the catalogue: the law of a shop whose taste is unknown.
        """
        return np.asarray(np.tensordot(self._level_share, self.house_tables(visible), 1))

    def house_tables(self, visible: Sequence[str] | None = None) -> Floats:
        """Return (L, 2^V, 5) `rating_table` where the house adds each of `house_levels`."""
        names = self.attributes if visible is None else tuple(visible)
        columns = [self.attributes.index(name) for name in names]
        shown = np.zeros(len(self._bits), dtype=np.int64)
        for position, column in enumerate(columns):
            shown += self._bits[:, column] << (len(names) - 1 - position)
        mass = np.bincount(shown, weights=self._pattern_share, minlength=2 ** len(names))
        tables = np.zeros((len(self.house_levels), 2 ** len(names), 5))
        for table, ratings in zip(tables, self._ratings, strict=True):
            np.add.at(table, shown, ratings * self._pattern_share[:, None])
        return tables / mass[:, None]

    def house_level(self, values: Ints, names: Sequence[str] | None = None) -> Ints:
        """Return (...) indices in `house_levels` of what the house adds to items with `values` (..., V) of `names`."""
        names = self.attributes if names is None else names
        added = np.zeros(values.shape[:-1])
        for column, name in enumerate(names):
            if name in self.house:
                added = added + np.array(self.house[name])[values[..., column]]
        return np.asarray(np.searchsorted(self.house_levels, added - 1e-9))

    @property
    def expected_like_share(self) -> float:
        """P(rating >= 4) of a random item for a random taste, noise included."""
        return float(self._level_share @ (self._ratings[:, :, 3:].sum(axis=2) @ self._pattern_share))

    @property
    def house_levels(self) -> Floats:
        """All that the house may add to an item's utility, (L,), ascending; a single 0 without a taste of its own."""
        return self._levels[0]

    @property
    def _level_share(self) -> Floats:
        """Share of items at each level of the house, (L,)."""
        return self._levels[1]

    @cached_property
    def _levels(self) -> tuple[Floats, Floats]:
        """What the house may add, and the share of items of each, (L,) both."""
        sums = np.array([sum(added) for added in product(*self.house.values())])
        levels, counts = np.unique(sums.round(9), return_counts=True)
        return levels, counts / counts.sum()

    @cached_property
    def _bits(self) -> Ints:
        """Patterns in order, (2^A, A) of 0 and 1."""
        n = len(self.n_values)
        return (np.arange(2**n)[:, None] >> np.arange(n - 1, -1, -1)) & 1

    @cached_property
    def _pattern_share(self) -> Floats:
        """Probability of each pattern for a random item, (2^A,), the same for every taste."""
        liked = np.array([(n // 2) / n for n in self.n_values.values()])
        return np.asarray(np.where(self._bits == 1, liked, 1 - liked).prod(axis=1))

    @cached_property
    def _ratings(self) -> Floats:
        """P(rating | full pattern) at each level of the house, (L, 2^A, 5)."""
        utility = (2 * self._bits - 1) @ np.array(list(self.weights.values()))
        utility = utility + self.house_levels[:, None]  # (L, 2^A)
        above = np.stack([self._above(utility, cut) for cut in self._cut_offs(utility)], axis=2)  # P(rating > 1..4)
        padded = np.pad(above, ((0, 0), (0, 0), (1, 1)), constant_values=((0, 0), (0, 0), (1, 0)))
        return np.asarray(padded[..., :-1] - padded[..., 1:])

    def _above(self, utility: Floats, cut: float) -> Floats:
        if self.noise == 0:
            return (utility > cut).astype(np.float64)
        return np.asarray(0.5 * (1 + np.tanh((utility - cut) / (2 * self.noise))))  # logistic, without overflow

    def _cut_offs(self, utility: Floats) -> list[float]:
        """Compute the cut-offs of ratings 2 to 5.

        That of a like (4) lies between two attainable utilities, where the share above is closest to `like_share`.
        """
        levels = np.unique(utility.round(9))
        middles = (levels[1:] + levels[:-1]) / 2
        shares = self._level_share[:, None] * self._pattern_share  # (L, 2^A)
        share = np.array([shares[utility > middle].sum() for middle in middles])
        like = float(middles[np.abs(share - self.like_share).argmin()])
        return [like + offset for offset in _OFFSETS]
