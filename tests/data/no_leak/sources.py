"""The sources that leak proofs run on: slices in every clone, whole sets where they are."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mllm_srec.data.settings import CandidateSettings, ColumnMapping, PrepareSettings
from tests.conftest import REAL_DATA, SLICES


def gift_cards(root: Path) -> PrepareSettings:
    folder = root / "amazon2018_gift_cards"
    return PrepareSettings(
        source="amazon2018",
        reviews=str(folder / "Gift_Cards_5.json.gz"),
        metadata=str(folder / "meta_Gift_Cards.json.gz"),
    )


def digital_music(root: Path) -> PrepareSettings:
    folder = root / "amazon2014_digital_music"
    return PrepareSettings(source="amazon2014", reviews=str(folder / "reviews_Digital_Music_5.json.gz"))


def movielens(root: Path) -> PrepareSettings:
    folder = root / "movielens_posters_small"
    return PrepareSettings(
        source="tables",
        reviews=str(folder / "ratings.csv"),
        metadata=str(folder / "movies.csv"),
        columns=ColumnMapping(user_id="userId", item_id="movieId", categories="genres"),
    )


SOURCES = {
    "gift_cards": gift_cards(SLICES),
    "movielens": movielens(SLICES),
    "gift_cards_whole": gift_cards(REAL_DATA),
    "digital_music_whole": digital_music(REAL_DATA),
    "movielens_whole": movielens(REAL_DATA),
}
WHOLE_MARKS = [pytest.mark.slow, pytest.mark.real_data]
SLICE_NEGATIVES = 20
"""The catalogues of the slices are small; so few are still drawn and not all there are."""


def drawing(name: str, **changes: Any) -> CandidateSettings:
    """Settings of candidates for a source."""
    default = CandidateSettings() if name.endswith("_whole") else CandidateSettings(n_negatives=SLICE_NEGATIVES)
    return replace(default, **changes)


def marks(name: str) -> list[pytest.MarkDecorator]:
    return WHOLE_MARKS if name.endswith("_whole") else []


def sets(*modes: str) -> list[Any]:
    """Parameters of the fixture `data`: every source in the given modes of splitting."""
    return [pytest.param(pair, id="-".join(pair), marks=marks(pair[0])) for pair in itertools.product(SOURCES, modes)]


def only(*modes: str) -> pytest.MarkDecorator:
    """The test runs with these modes of splitting."""
    return pytest.mark.parametrize("data", sets(*modes), indirect=True, scope="module")


CARDS = [pytest.param(name, id=name, marks=marks(name)) for name in ("gift_cards", "gift_cards_whole")]
"""Parameters of what one source has to show: the gift cards, cut and whole."""
