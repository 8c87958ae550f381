"""Settings of the preparation, as plain dataclasses: what YAML and command line may say, and the defaults.

This file imports no library, so that `--help` is quick.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mllm_srec.types import ConfigError


@dataclass(frozen=True)
class ColumnMapping:
    """Which columns of one's own tables hold what; used with `source: tables` only.

    Args:
        user_id: Column of the interactions table with the user's id.
        item_id: Column of both tables with the item's id.
        rating: Column with the rating; null: every interaction is liked (rating 5).
        timestamp: Column with the Unix time, or an ISO 8601 date.
        timestamp_unit: Unit of a numeric timestamp.
        review: Column of the interactions table with the review's text, if any.
        title: Column of the items table with the title.
        brand: Column of the items table with the brand, if any.
        categories: Column of the items table with categories (a list, or text split at `categories_separator`).
        categories_separator: What separates several categories within one text.
        description: Column of the items table with the description, if any.
        price: Column of the items table with the price, if any.
        image: Column of the items table with the picture's file name inside `prepare.images`; null: `<item_id>.<ext>`.
        image_urls: Column of the items table with picture addresses (a list or one text), if any.
        profile: Column of the users table with the profile phrase ("a 34-year-old teacher").
    """

    user_id: str = "user_id"
    item_id: str = "item_id"
    rating: str | None = "rating"
    timestamp: str = "timestamp"
    timestamp_unit: Literal["s", "ms"] = "s"
    review: str | None = None
    title: str = "title"
    brand: str | None = None
    categories: str | None = None
    categories_separator: str = "|"
    description: str | None = None
    price: str | None = None
    image: str | None = None
    image_urls: str | None = None
    profile: str = "profile"


@dataclass(frozen=True)
class DemoSettings:
    """The generated demo shop (`source: demo`).

    Args:
        n_users: Number of users.
        n_items: Number of items.
        n_interactions: Interactions of each user (a few less where the catalogue is nearly exhausted).
        seed: Seed of items, users, ratings, texts and pictures.
        drift: Probability per day and attribute that a user's taste moves on to a neighbouring one; in [0, 1].
        noise: Scale of the noise on a rating's utility, which lies in [-1, 1]; 0 is a deterministic rating.
        like_share: Share of the catalogue that a user would like, noise aside; in (0, 1).
        disliked_share: About this share of what users *rate* they dislike: they seldom report it; in [0, 1).
        image_share: Share of the taste's weight, the category's apart, on attributes that only the picture shows;
            in [0, 1].
        image_size: Side of the drawn square picture in pixels.
        clutter: Strength of background clutter in pictures and of marketing words in texts; in [0, 1].
    """

    n_users: int = 300
    n_items: int = 300
    n_interactions: int = 32
    seed: int = 0
    drift: float = 0.003
    noise: float = 0.01
    like_share: float = 0.125
    disliked_share: float = 0.2
    image_share: float = 0.5
    image_size: int = 56
    clutter: float = 0.5


CorruptionKind = Literal["none", "background", "noise", "blur", "blank", "mismatch"]


@dataclass(frozen=True)
class CorruptionSettings:
    """Pictures made worse on purpose, to test how much a model suffers from it (the article's Fig. 6).

    Args:
        kind: `background`: coloured shapes behind the product; `noise`; `blur`; `blank`: faded into grey; `mismatch`:
            an item gets another's picture.
        strength: From 0, no change, to 1; of `mismatch`, the share of the chosen items that exchange pictures.
        share: Share of the items with a picture that are chosen; in [0, 1].
        seed: Seed of the choice and of the changes.
    """

    kind: CorruptionKind = "none"
    strength: float = 1.0
    share: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class PrepareSettings:
    """Raw files -> prepared data set.

    Args:
        source: Layout of the raw files: Amazon's of 2014, 2018 or 2023, one's own `tables`, or the generated `demo`.
        reviews: File of reviews (Amazon: JSON lines, plain or gzip) or of interactions (tables: CSV, Parquet, JSONL).
        metadata: File of item metadata; Amazon or tables.
        users: File of user profiles; tables only.
        images: Folder of pictures named `<item id>.<extension>`, or as `columns.image` says.
        columns: Column names of one's own tables.
        demo: Parameters of the demo shop.
        k_core: Users and items keep at least this many interactions, iterated to a fixed point; 1 keeps all.
        split: `random` is the article's 80/10/10 per user; `leave_one_out` and `global_time` do not look ahead.
        max_history: A context keeps this many of the latest items of each list.
        corruption: Pictures made worse on purpose; tables, splits and candidates stay the same.
        max_image_pixels: A picture of more pixels than this is refused unread (decompression bomb) and counted.
        strict: A malformed raw line is an error with file and line number, instead of skipped and counted.
        seed: Seed of the random split.
    """

    source: Literal["amazon2014", "amazon2018", "amazon2023", "tables", "demo"] = "amazon2014"
    reviews: str | None = None
    metadata: str | None = None
    users: str | None = None
    images: str | None = None
    columns: ColumnMapping = field(default_factory=ColumnMapping)
    demo: DemoSettings = field(default_factory=DemoSettings)
    corruption: CorruptionSettings = field(default_factory=CorruptionSettings)
    k_core: int = 5
    split: Literal["random", "leave_one_out", "global_time"] = "random"
    max_history: int = 50
    max_image_pixels: int = 50_000_000
    strict: bool = False
    seed: int = 0


@dataclass(frozen=True)
class CandidateSettings:
    """The frozen lists of candidates that every model ranks.

    Args:
        n_negatives: Sampled negatives stored per list; evaluation takes the first m of them by `position`.
        unit: `user`: one list per user and split with all held-out likes; `instance`: one list per held-out like.
        max_users: Draw this many users per split; null takes all.
        seed: Seed of negatives (rank lists and pairs) and of the drawn users.
    """

    n_negatives: int = 100
    unit: Literal["user", "instance"] = "user"
    max_users: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class PictureSettings:
    """How pictures reach the model.

    Args:
        serve: `pixels`: through the vision tower at every step; `features`: the frozen tower's output, computed once;
            `none`: prompts without pictures.
        min_pixels: Smaller pictures are enlarged to this area (pixels, not an edge).
        max_pixels: Larger pictures are reduced to this area; one picture token stands for 28 x 28 pixels.
    """

    serve: Literal["pixels", "features", "none"] = "pixels"
    min_pixels: int = 56 * 56
    max_pixels: int = 256 * 28 * 28  # borrowed: 256-512 tokens a picture; the article states none

    def __post_init__(self) -> None:
        """Refuse an unknown way and a budget upside down."""
        if self.serve not in ("pixels", "features", "none"):
            raise ValueError(f"pictures.serve={self.serve!r} is not known; choose pixels, features or none")
        if not 0 < self.min_pixels <= self.max_pixels:
            raise ValueError(
                f"pictures.min_pixels={self.min_pixels} and max_pixels={self.max_pixels}: "
                "both are areas in pixels, the first not above the second"
            )


@dataclass(frozen=True)
class ItemFeatureSettings:
    """What baselines know of an item beside its number: one vector of its picture, one of its text.

    Args:
        text: `backbone`: the last hidden states of the backbone's language model; otherwise the hub name or folder of a
            sentence encoder (any transformers encoder whose sentence vector is the mean over its tokens).
        text_revision: Revision of a hub encoder; the backbone has its own.
        max_text_tokens: Tokens of an item's text; longer ones are cut and counted.
        batch_size: Texts per step of the extraction.
        center: Subtract the catalogue's mean before vectors are brought to length 1.
    """

    text: str = "backbone"
    text_revision: str | None = None
    max_text_tokens: int = 96
    batch_size: int = 64
    center: bool = True

    def __post_init__(self) -> None:
        """Refuse no encoder and numbers below 1.

        Raises:
            ConfigError: Naming the argument.
        """
        if not self.text.strip():
            raise ConfigError("text='' names no encoder; give backbone, or the name or folder of a sentence encoder")
        for name in ("max_text_tokens", "batch_size"):
            if (value := getattr(self, name)) < 1:
                raise ConfigError(f"{name}={value}; give at least 1")
