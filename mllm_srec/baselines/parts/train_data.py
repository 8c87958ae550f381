"""The train split by numbers: all that a model which knows users and items by number may learn from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mllm_srec.types import DataError


@dataclass(frozen=True)
class ItemFeatures:
    """What is known of each item beside its number; row 0 belongs to padding, and is zero.

    Attributes:
        image: `(N + 1, D_image)` float32, L2-normalised rows; zero where there is no picture.
        text: `(N + 1, D_text)` float32, L2-normalised rows; zero where there is no text.
        source: What they were computed with, for results and errors.
    """

    image: np.ndarray
    text: np.ndarray
    source: str

    @cached_property
    def has_image(self) -> np.ndarray:
        """Bool `(N + 1,)`: whether there is a picture."""
        return np.asarray(self.image.any(axis=1))

    @cached_property
    def has_text(self) -> np.ndarray:
        """Bool `(N + 1,)`: whether there is a text."""
        return np.asarray(self.text.any(axis=1))


@dataclass(frozen=True)
class TrainData:
    """Interactions of the train split, sorted by user and, within a user, by key; see `types.ItemBatch` for numbers.

    Attributes:
        user: `(E,)` int64, 1..U.
        item: `(E,)` int64, 1..N.
        liked: `(E,)` bool; the others are dislikes.
        timestamp: `(E,)` int64 milliseconds.
        n_users: U, users of all splits, so that each has a number.
        n_items: N, the whole catalogue.
        features: Of the items; None where no model asks for them.
    """

    user: np.ndarray
    item: np.ndarray
    liked: np.ndarray
    timestamp: np.ndarray
    n_users: int
    n_items: int
    features: ItemFeatures | None = None

    def __post_init__(self) -> None:
        """Refuse what is not sorted by user, or numbers out of range."""
        if len(self.user) and (np.diff(self.user) < 0).any():
            raise DataError("TrainData.user is not sorted; sort interactions by user and key")
        for name, numbers, largest in (("user", self.user, self.n_users), ("item", self.item, self.n_items)):
            if len(numbers) and not (numbers.min() >= 1 and numbers.max() <= largest):
                raise DataError(
                    f"TrainData.{name} holds numbers from {numbers.min()} to {numbers.max()}; 1 to {largest} are valid"
                )

    @property
    def likes(self) -> tuple[np.ndarray, np.ndarray]:
        """User and item numbers `(L,)` each of what was liked, in order."""
        return self.user[self.liked], self.item[self.liked]

    @cached_property
    def item_likes(self) -> np.ndarray:
        """Likes per item `(N + 1,)` int64; row 0 is padding's."""
        return np.bincount(self.likes[1], minlength=self.n_items + 1)

    @cached_property
    def sequences(self) -> dict[int, np.ndarray]:
        """User -> items liked, oldest first; users without any are missing."""
        users, items = self.likes
        found, starts = np.unique(users, return_index=True)
        return dict(zip(found.tolist(), np.split(items, starts[1:]), strict=True)) if len(users) else {}

    @cached_property
    def fingerprint(self) -> str:
        """Short hash of everything here, so that a checkpoint knows what it was trained on."""
        digest = hashlib.sha256(f"{self.n_users} {self.n_items}".encode())
        arrays = [self.user, self.item, self.liked, self.timestamp]
        arrays += [] if self.features is None else [self.features.image, self.features.text]
        for array in arrays:
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]
