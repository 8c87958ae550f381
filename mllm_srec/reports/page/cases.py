"""Case studies (article, Figure 7) as plain data: a user's history, the model's input and answer, and the truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["right", "wrong", "undecided"]


@dataclass(frozen=True)
class CaseItem:
    """An item as a case shows it, with untrusted texts of the data set.

    Attributes:
        item_id: Id of the item.
        title: Title of the item.
        picture: Bytes of a JPEG or PNG that was encoded again from the data set's file; None without a picture.
        image_summary: Stored summary of the picture; None if there is none.
        item_summary: Stored summary of picture and text; None if there is none.
    """

    item_id: str
    title: str
    picture: bytes | None = None
    image_summary: str | None = None
    item_summary: str | None = None


@dataclass(frozen=True)
class CaseTarget:
    """A candidate of the user's list.

    Attributes:
        item: Item.
        liked: True if the user liked it later.
        place: Place from 1; equal scores share the best of their places.
        tied: Number of candidates with that score, itself included.
        score: Score of the model; None if a retriever missed the item.
        probability: Stated probability of a like, in [0, 1]; None if the model states none.
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
        user_id: Id of the user.
        profile: Profile in the prompt; None if there is none.
        group_id: Id of the list.
        history: Latest liked items that the context may show, oldest first.
        n_history: Number of all such items.
        n_since: Number of items at the end of the history that are newer than the stored preference.
        preference: Stored preference in the prompt; None if there is none.
        targets: Liked candidates and the best of the others, by place.
        n_candidates: Length of the list.
        verdict: `right`: only liked items have the highest score; `wrong`: no liked item has it; `undecided`: tied.
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
        rule: Description of how they were chosen.
        cases: Cases, the right ones first.
    """

    run: str
    rule: str
    cases: tuple[Case, ...]
