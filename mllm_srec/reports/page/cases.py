"""Case studies (article, Figure 7) as plain data: what a person did, what a model was told and said, and the truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["right", "wrong", "undecided"]


@dataclass(frozen=True)
class CaseItem:
    """An item as a case shows it; texts are those of the data set, and nobody has read them.

    Attributes:
        item_id: Its id.
        title: Its title.
        picture: Bytes of a JPEG or PNG that was drawn anew from the data set's file; None where the item has none.
        image_summary: What the model wrote about its picture; None where nothing is stored.
        item_summary: What the model wrote about picture and text together.
    """

    item_id: str
    title: str
    picture: bytes | None = None
    image_summary: str | None = None
    item_summary: str | None = None


@dataclass(frozen=True)
class CaseTarget:
    """A candidate of the person's list.

    Attributes:
        item: The item.
        liked: The truth: whether the person liked it later.
        place: From 1; equal scores share the best of their places.
        tied: Candidates with that score, itself among them.
        score: The model's; None where a retriever missed the item.
        probability: Of a like, as the model states it, in [0, 1]; None where it states none.
    """

    item: CaseItem
    liked: bool
    place: int | None
    tied: int
    score: float | None
    probability: float | None


@dataclass(frozen=True)
class Case:
    """One list of the test split, with all that led to its order.

    Attributes:
        user_id: Who.
        profile: As in the prompt; None where there is none.
        group_id: Of the list.
        history: Liked items that the context may show, the latest ones, oldest first.
        n_history: How many there are in all.
        n_since: The last so many came after the stored preference.
        preference: The stored preference that the prompt holds; None where there is none.
        targets: The liked candidates and the best of the others, by place.
        n_candidates: Length of the list.
        verdict: `right`: a liked item has the highest score alone; `wrong`: none has it; `undecided`: tied.
    """

    user_id: str
    profile: str | None
    group_id: int
    history: tuple[CaseItem, ...]
    n_history: int
    n_since: int
    preference: str | None
    targets: tuple[CaseTarget, ...]
    n_candidates: int
    verdict: Verdict


@dataclass(frozen=True)
class CaseStudies:
    """Cases of one run, and how they were chosen.

    Attributes:
        run: Name of the run.
        rule: How they were chosen, in words.
        cases: Right ones first.
    """

    run: str
    rule: str
    cases: tuple[Case, ...]
