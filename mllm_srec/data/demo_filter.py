"""Exact filtering of the demo shop's tastes: what a history of ratings tells, for many users at once.

The belief is the full joint distribution over the visible attributes' states, not a product of marginals: one rating
tells about their combination.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from mllm_srec.data.demo_truth import Floats, Ints, TasteModel


class TasteFilter:
    """Forward filter of the hidden Markov chain of `TasteModel`, vectorised over U users.

    Args:
        model: The taste model.
        visible: The V attributes that this reader can tell; the others are averaged out exactly.
        n_users: U.

    Attributes:
        belief: (U, S) float64, P(joint taste state | ratings so far); S is the product of the visible attributes'
            numbers of states, first attribute slowest. It begins uniform, the chain's stationary distribution.
    """

    def __init__(self, model: TasteModel, visible: tuple[str, ...], n_users: int) -> None:
        self.model = model
        self.visible = visible
        self.shape = tuple(model.n_values[name] for name in visible)
        self._ratings = model.rating_table(visible)  # (2^V, 5)
        self._likes = [model.likes(name).T for name in visible]  # (value, state)
        n_states = int(np.prod(self.shape))
        self.belief = np.full((n_users, n_states), 1 / n_states)
        self._transition = lru_cache(maxsize=None)(model.transition)

    def predict(self, users: Ints, days: Ints) -> None:
        """Let `days` (N,) pass for `users` (N,), distinct indices: tastes may have drifted."""
        moving = days > 0
        if self.model.drift == 0 or not moving.any():
            return
        users, days = users[moving], days[moving]
        belief, left, right = self.belief[users], 1, self.belief.shape[1]
        for name, n in zip(self.visible, self.shape, strict=True):
            right //= n
            steps = np.stack([self._transition(name, int(d)) for d in days])  # (N, n, n), symmetric
            if right == 1:
                belief = belief.reshape(len(users), left, n) @ steps
            else:
                belief = steps[:, None] @ belief.reshape(len(users), left, n, right)
            left *= n
        self.belief[users] = belief.reshape(len(users), -1)

    def update(self, users: Ints, values: Ints, ratings: Ints) -> None:
        """Take in one rating (N,) of 1..5 of an item with attribute `values` (N, V) for each of `users` (N,).

        Raises:
            ValueError: If a rating has probability 0 under every taste still believed in (not of this model).
        """
        likelihood = np.take_along_axis(self._ratings.T[ratings - 1], self._patterns(values), axis=1)  # (N, S)
        joint = self.belief[users] * likelihood
        mass = joint.sum(axis=1, keepdims=True)
        if not (mass > 0).all():
            raise ValueError(
                "ratings hold one that the taste model calls impossible after the others; "
                "pass the settings that these interactions were generated with"
            )
        self.belief[users] = joint / mass

    def likes(self, values: Ints) -> Floats:
        """(K, S): P(rating >= 4) of the K items with attribute `values` (K, V) under each joint state.

        `belief[users] @ likes(values).T` (N, K) is what the reader expects of the items.
        """
        return np.asarray(self._ratings[:, 3:].sum(axis=1)[self._patterns(values)])

    def _patterns(self, values: Ints) -> Ints:
        """(K, S): the pattern of liked attributes of each item under each joint state."""
        pattern = np.zeros((len(values), 1), dtype=np.int64)
        for place, (likes, n) in enumerate(zip(self._likes, self.shape, strict=True)):
            bit = likes[values[:, place]].astype(np.int64) << (len(self.shape) - 1 - place)  # (K, n)
            pattern = (pattern[:, :, None] + bit[:, None, :]).reshape(len(values), pattern.shape[1] * n)
        return pattern
