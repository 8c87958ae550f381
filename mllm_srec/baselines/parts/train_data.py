"""The train split as arrays of user and item numbers: the only data that a baseline may learn from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mllm_srec.types import DataError


@dataclass(frozen=True)
class ItemFeatures:
    """Image and text features of the items; row 0 is padding, and zero.

    Attributes:
        image: `(N + 1, D_image)` float32, L2-normalised rows; zero where there is no picture.
        text: `(N + 1, D_text)` float32, L2-normalised rows; zero where there is no text.
        source: Name of the model that computed them, for results and errors.
    """

    image: np.ndarray
    text: np.ndarray
    source: str

    @cached_property
    def has_image(self) -> np.ndarray:
        """Bool `(N + 1,)`, True for items with a picture."""
        return np.asarray(self.image.any(axis=1))

    @cached_property
    def has_text(self) -> np.ndarray:
        """Bool `(N + 1,)`, True for items with a text."""
        return np.asarray(self.text.any(axis=1))


@dataclass(frozen=True)
class TrainData:
    """Interactions of the train split, sorted by user and, within a user, by key; see `types.ItemBatch` for numbers.

    Attributes:
        user: `(E,)` int64, 1..U.
        item: `(E,)` int64, 1..N.
        liked: `(E,)` bool, False for dislikes.
        timestamp: `(E,)` int64 milliseconds.
        n_users: U, number of users in all splits.
        n_items: N, size of the catalogue.
        features: Features of the items; None if the model needs none.
    """

    user: np.ndarray
    item: np.ndarray
    liked: np.ndarray
    timestamp: np.ndarray
    n_users: int
    n_items: int
    features: ItemFeatures | None = None

    def __post_init__(self) -> None:
        """Refuse interactions that are not sorted by user, and numbers out of range."""
        if len(self.user) and (np.diff(self.user) < 0).any():
            raise DataError("TrainData.user: not sorted; sort interactions by user and key")
        for name, numbers, largest in (("user", self.user, self.n_users), ("item", self.item, self.n_items)):
            if len(numbers) and not (numbers.min() >= 1 and numbers.max() <= largest):
                raise DataError(
                    f"TrainData.{name}: has numbers from {numbers.min()} to {numbers.max()}; give 1 to {largest}"
                )

    @property
    def likes(self) -> tuple[np.ndarray, np.ndarray]:
        """User numbers and item numbers of the likes, `(L,)` each, in order."""
        return self.user[self.liked], self.item[self.liked]

    @cached_property
    def item_likes(self) -> np.ndarray:
        """Number of likes of each item, int64 `(N + 1,)`; row 0 is padding."""
        return np.bincount(self.likes[1], minlength=self.n_items + 1)

    @cached_property
    def sequences(self) -> dict[int, np.ndarray]:
        """User number -> items liked, oldest first; users without likes are absent."""
        users, items = self.likes
        numbers, starts = np.unique(users, return_index=True)
        return dict(zip(numbers.tolist(), np.split(items, starts[1:]), strict=True)) if len(users) else {}

    @cached_property
    def fingerprint(self) -> str:
        """Short hash of all the data, by which a checkpoint identifies what it was trained on."""
        digest = hashlib.sha256(f"{self.n_users} {self.n_items}".encode())
        arrays = [self.user, self.item, self.liked, self.timestamp]
        arrays += [] if self.features is None else [self.features.image, self.features.text]
        for array in arrays:
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]
