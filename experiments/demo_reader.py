"""What a rational reader of the demo shop's language concludes: the targets that the demo backbone is pretrained on.

The reader knows the shop's taste model, one belief per attribute (independent of each other), and nothing but the text
in front of it: a preference, as its levels say, and items that were liked, each somewhat later than the one before.
So every target is a function of its prompt, and a model that has learnt it does what the text says, no more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, lru_cache

import numpy as np

from mllm_srec.data.demo import words as demo_language
from mllm_srec.data.demo.truth import Floats, TasteModel
from mllm_srec.data.demo.words import ATTRIBUTES, VALUES
from mllm_srec.data.settings import DemoSettings

DAYS_BETWEEN_LIKES = 9  # 1 / share of liked items, a few likes being held out
LEVEL_PROBABILITY = (0.53, 0.68, 0.83, 0.96)  # what a level word is taken to mean
BITS = (np.arange(32)[:, None] >> np.arange(4, -1, -1)) & 1  # (32, 5)
_TOLERANCE = 0.02
DRIFT = DemoSettings().drift
_MODEL = TasteModel.from_settings(DemoSettings())
LIKES = {name: _MODEL.likes(name) for name in ATTRIBUTES}  # (states, values)
_DRIFT = {name: _MODEL.transition(name, DAYS_BETWEEN_LIKES) for name in ATTRIBUTES}  # (states, states)

Belief = tuple[float, ...]
Item = Mapping[str, str]
Beliefs = dict[str, Belief]


class _Law:
    """How likes follow from tastes, at one strength of noise; the shop's own unless `use_noise` says otherwise."""

    def __init__(self, noise: float) -> None:
        table = TasteModel.from_settings(DemoSettings(noise=noise)).rating_table()
        self.liked_rating = table[:, 3:].sum(axis=1)  # (32,): P(like | pattern of liked attributes)
        self.liked_patterns = np.cumsum(self.liked_rating / self.liked_rating.sum())  # (32,)
        weighted = (BITS * self.liked_rating[:, None]).sum(axis=0)
        self.if_liked = weighted / self.liked_rating.sum()  # (5,): P(attribute liked | item liked)


law = _Law(DemoSettings().noise)


def use_noise(noise: float) -> None:
    """Read, and draw, users of this noise from now on; for pretraining, whose rounds differ in it."""
    global law
    law = _Law(noise)
    _updated.cache_clear()


def ignorance() -> Beliefs:
    """Every taste state equally likely."""
    return {name: (1 / len(VALUES[name]),) * len(VALUES[name]) for name in ATTRIBUTES}


def after_likes(beliefs: Beliefs, items: Sequence[Item]) -> Beliefs:
    """Beliefs after these items were liked one after another; an item may leave attributes unsaid."""
    seen = {name: tuple(item.get(name) for item in items) for name in ATTRIBUTES}
    return {name: _updated(name, beliefs[name], seen[name]) for name in ATTRIBUTES}


def written(beliefs: Beliefs) -> tuple[str, Beliefs]:
    """The preference text of these beliefs, and what is left of them for somebody who reads only the text."""
    tastes, left = {}, {}
    for name in ATTRIBUTES:
        tastes[name], left[name] = _written(name, beliefs[name])
    return demo_language.preference(tastes), left


def probability(beliefs: Beliefs, item: Item) -> float:
    """P(this item is liked); attributes it leaves unsaid are even."""
    liked = [
        _liked(name, beliefs[name])[VALUES[name].index(item[name])] if name in item else 0.5 for name in ATTRIBUTES
    ]
    pattern = np.where(BITS == 1, liked, 1 - np.array(liked)).prod(axis=1)  # (32,)
    return float(pattern @ law.liked_rating)


def levels(beliefs: Beliefs) -> dict[str, str]:
    """Value -> level word, of all values that the text of these beliefs names."""
    return {value: level for name in ATTRIBUTES for value, level in _written(name, beliefs[name])[0].items()}


def comparison(beliefs: Beliefs, item: Item) -> str:
    """How the item's attributes stand in the preference: "Levels: red surely, striped not, ..."."""
    named = levels(beliefs)
    told = [item[name] for name in ATTRIBUTES if name in item]
    return f"Levels: {', '.join(f'{value} {named.get(value, demo_language.NOT_LIKED)}' for value in told)}."


@lru_cache(maxsize=200_000)
def _updated(name: str, belief: Belief, values: tuple[str | None, ...]) -> Belief:
    """One attribute's belief after likes of these values (None: unsaid; time passes all the same)."""
    state = np.array(belief)
    liked = law.if_liked[ATTRIBUTES.index(name)]
    for value in values:
        state = state @ _DRIFT[name]
        if value is not None:
            hit = LIKES[name][:, VALUES[name].index(value)]  # (states,)
            state = state * np.where(hit, liked, 1 - liked)
            state /= state.sum()
    return tuple(state.round(6).tolist())


def _liked(name: str, belief: Belief) -> Floats:
    """(values,): P(value is liked)."""
    return np.asarray(np.array(belief) @ LIKES[name])


@lru_cache(maxsize=200_000)
def _written(name: str, belief: Belief) -> tuple[dict[str, str], Belief]:
    """Named values with their levels, and the flattest belief that agrees with them.

    Of two opposite values exactly one is liked, so naming one of each two says everything. An attribute that nothing
    is known of is not named.
    """
    liked = _liked(name, belief)
    half = len(liked) // 2
    if np.abs(liked - 0.5).max() < _TOLERANCE:
        return {}, (1 / len(liked),) * len(liked)
    named, meant = {}, np.empty(len(liked))
    chosen = [v if liked[v] >= 0.5 else v + half for v in range(half)]
    for v in sorted(chosen):
        level = int(np.searchsorted(demo_language.LEVEL_EDGES, liked[v], side="right"))
        named[VALUES[name][v]] = demo_language.LEVELS[level]
        meant[v], meant[(v + half) % len(liked)] = LEVEL_PROBABILITY[level], 1 - LEVEL_PROBABILITY[level]
    return named, _flattest(name, tuple(meant.tolist()))


@cache
def _flattest(name: str, liked: Belief) -> Belief:
    """The belief of largest entropy with these marginals, as nearly as there is one (iterative scaling)."""
    states = np.full(len(liked), 1 / len(liked))
    table = LIKES[name]
    for _ in range(30):
        for value, wanted in enumerate(liked):
            share = float(states @ table[:, value])
            states = states * np.where(table[:, value], wanted / share, (1 - wanted) / (1 - share))
    return tuple((states / states.sum()).round(6).tolist())
