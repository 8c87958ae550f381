"""What a reader of the demo shop concludes from ratings: the exact filter of the hidden Markov chain of tastes."""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numpy as np

from mllm_srec.data.demo.rules import Floats, Ints
from mllm_srec.data.demo.truth import TasteModel


class ReaderLaw:
    """What a rating says of a taste to a reader who perceives some attributes of an item.

    Attributes that the reader does not perceive are averaged out, which is exact where they tell nothing of a taste.
    They do where the house has a taste of its own: whoever likes what it favours gives better ratings, even to items
    whose brand is not seen. A reader who knows the house therefore filters the states of these attributes, too.

    Args:
        model: The taste model.
        visible: The V attributes that the reader perceives.
        knows_house: False for a reader who knows the law of ratings in the mean over all shops only.
        lapse: Share of ratings that the reader holds for accidents, so that none is impossible to a reader who is wrong
            about the shop, or who reads a history in a wrong order.

    Attributes:
        attributes: Attributes whose states are filtered: the visible ones, then the hidden ones that tell something.
        shape: Their numbers of states; S is the product, first attribute slowest.
    """

    def __init__(self, model: TasteModel, visible: tuple[str, ...], knows_house: bool = True, lapse: float = 0) -> None:
        self.model, self.visible = model, visible
        self.house = bool(model.house) and knows_house
        hidden = tuple(name for name in model.house if name not in visible) if self.house else ()
        self.attributes = (*visible, *hidden)
        self.shape = tuple(model.n_values[name] for name in self.attributes)
        self._unseen = np.array(list(product(*(range(model.n_values[name]) for name in hidden))), dtype=np.int64)
        tables = model.house_tables(self.attributes) if self.house else model.rating_table(self.attributes)[None]
        if lapse:
            tables = (1 - lapse) * tables + lapse / 5
        likes = tables[..., 3:].sum(axis=-1, keepdims=True)
        self._tables = np.concatenate([tables, likes], axis=-1)  # (L, 2^V, 6): ratings 1 to 5, and a like
        self._likes = [model.likes(name).T for name in self.attributes]  # (value, state)
        self._of_kind = lru_cache(maxsize=None)(self._compute)

    def likelihood(self, values: Ints, ratings: Ints) -> Floats:
        """Return (N, S) P(rating | joint state) of ratings 1..5 (N,) of items with visible `values` (N, V)."""
        if self.house:
            kinds = zip(map(tuple, values.tolist()), ratings.tolist(), strict=True)
            rows = [self._of_kind(kind, rating - 1) for kind, rating in kinds]
            return np.stack(rows) if rows else np.empty((0, int(np.prod(self.shape))))
        return np.take_along_axis(self._tables[0].T[ratings - 1], self._patterns(values), axis=1)

    def likes(self, values: Ints) -> Floats:
        """Return (K, S) P(rating >= 4) of the K items with visible `values` (K, V) under each joint state."""
        if self.house:
            return np.stack([self._compute(tuple(kind), 5) for kind in values.tolist()])
        return np.asarray(self._tables[0, :, 5][self._patterns(values)])

    def _compute(self, kind: tuple[int, ...], column: int) -> Floats:
        """Return (S,) a column of the tables under each state, averaged over what is not seen of an item."""
        values = np.tile(np.array(kind, dtype=np.int64), (len(self._unseen), 1))
        values = np.concatenate([values, self._unseen], axis=1)  # (H, attributes)
        level = self.model.house_level(values, self.attributes)
        return np.asarray(self._tables[level[:, None], self._patterns(values), column].mean(axis=0))

    def _patterns(self, values: Ints) -> Ints:
        """Return (K, S) the pattern of liked attributes of each item under each joint state."""
        pattern = np.zeros((len(values), 1), dtype=np.int64)
        for column, (likes, n) in enumerate(zip(self._likes, self.shape, strict=True)):
            bit = likes[values[:, column]].astype(np.int64) << (len(self.shape) - 1 - column)  # (K, n)
            pattern = (pattern[:, :, None] + bit[:, None, :]).reshape(len(values), pattern.shape[1] * n)
        return pattern


class TasteFilter:
    """Forward filter of the hidden Markov chain of `TasteModel`, vectorised over U users.

    Args:
        law: What the reader concludes from one rating.
        n_users: Number of users, U.

    Attributes:
        belief: (U, S) float64, P(joint taste state | ratings so far). It starts uniform, the chain's stationary
            distribution.
    """

    def __init__(self, law: ReaderLaw, n_users: int) -> None:
        self.law = law
        n_states = int(np.prod(law.shape))
        self.belief = np.full((n_users, n_states), 1 / n_states)
        self._transition = lru_cache(maxsize=None)(law.model.transition)

    def predict(self, users: Ints, days: Ints) -> None:
        """Let `days` (N,) pass for `users` (N,), distinct indices: tastes may drift."""
        moving = days > 0
        if self.law.model.drift == 0 or not moving.any():
            return
        users, days = users[moving], days[moving]
        belief, left, right = self.belief[users], 1, self.belief.shape[1]
        for name, n in zip(self.law.attributes, self.law.shape, strict=True):
            right //= n
            steps = np.stack([self._transition(name, int(d)) for d in days])  # (N, n, n), symmetric
            if right == 1:
                belief = belief.reshape(len(users), left, n) @ steps
            else:
                belief = steps[:, None] @ belief.reshape(len(users), left, n, right)
            left *= n
        self.belief[users] = belief.reshape(len(users), -1)

    def update(self, users: Ints, values: Ints, ratings: Ints) -> None:
        """Condition on one rating 1..5 (N,) of an item with visible `values` (N, V), for each of `users` (N,).

        Raises:
            ValueError: A rating has probability 0 under every taste that is still possible.
        """
        joint = self.belief[users] * self.law.likelihood(values, ratings)  # (N, S)
        mass = joint.sum(axis=1, keepdims=True)
        if not (mass > 0).all():
            raise ValueError(
                "ratings: one of them is impossible after the others in this taste model; "
                "pass the settings that these interactions were generated with"
            )
        self.belief[users] = joint / mass
