"""Settings of preparation, pictures and item features: plain dataclasses that hold the defaults.

This file imports no library, so that `--help` is quick.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Literal

from mllm_srec.types import LIKED_RATING, ConfigError, check_literals

Source = Literal["amazon2014", "amazon2018", "amazon2023", "tables", "demo"]
"""Layouts of raw files; `data.prepare.read_raw` has a reader for each."""

SplitRule = Literal["random", "leave_one_out", "global_time"]
"""Rules that assign interactions to train, val and test; see `data.tables.splits`."""

CorruptionKind = Literal["none", "background", "noise", "blur", "blank", "mismatch"]
"""Ways to corrupt pictures; see `data.pictures.corruption`."""


Column = str | int | None
"""A column by its name or, in a table without a line of names, by its number from 1; null: there is none."""


@dataclass(frozen=True)
class ColumnMapping:
    """Columns and notation of your own tables; used with `source: tables` only.

    `separator`, `quote`, `header` and `encoding` are of text tables: each is one value for all, or one per table,
    such as `{reviews: ";", metadata: "|"}`, where the default holds for a table that is not named.

    Args:
        user_id: Column of the interactions table with the user's id.
        item_id: Column of the interactions table, and unless `item_key` is set of the items table, with the item's id.
        rating: Column with the rating; null: every interaction counts as liked (rating 5).
        timestamp: Column with the time: a number, an ISO 8601 date, or a date written YYYYMMDD; null: the order of the
            file is the time.
        timestamp_unit: Unit of a numeric timestamp.
        review: Column of the interactions table with the review's text, if any.
        item_key: Column of the items table with the item's id; null: it is called as in the interactions table.
        title: Column of the items table with the title; null: there are no titles.
        brand: Column of the items table with the brand, if any.
        categories: Column of the items table with categories (a list, or text split at `categories_separator`).
        categories_separator: Separator between the categories of one text.
        description: Column of the items table with the description, if any.
        price: Column of the items table with the price, if any.
        image: Column of the items table with the picture's file name inside `prepare.images`; null: `<item_id>.<ext>`.
        image_urls: Column of the items table with picture addresses (a list or one text), if any.
        user_key: Column of the users table with the user's id; null: it is called as in the interactions table.
        profile: Column of the users table with the profile, a phrase such as "a 34-year-old teacher".
        separator: Separator of fields, such as ";", "::" or tab; null: a comma in .csv, a tab in .tsv.
        quote: Mark around fields that hold separators or line breaks; null: marks are ordinary text.
        header: False if no line names the columns; they are then given by number from 1.
        encoding: Encoding, such as latin-1, cp1252 or utf-16.
    """

    user_id: Column = "user_id"
    item_id: Column = "item_id"
    rating: Column = "rating"
    timestamp: Column = "timestamp"
    timestamp_unit: Literal["s", "ms", "us", "ns"] = "s"
    review: Column = None
    title: Column = "title"
    brand: Column = None
    categories: Column = None
    categories_separator: str = "|"
    description: Column = None
    price: Column = None
    image: Column = None
    image_urls: Column = None
    profile: Column = "profile"
    item_key: Column = None
    user_key: Column = None
    separator: str | dict[str, str] | None = None
    quote: str | dict[str, str | None] | None = '"'
    header: bool | dict[str, bool] = True
    encoding: str | dict[str, str] = "utf-8"


@dataclass(frozen=True)
class DemoSettings:
    """The generated demo shop (`source: demo`).

    Args:
        n_users: Number of users.
        n_items: Number of items.
        n_interactions: Interactions per user (slightly fewer where the catalogue is nearly exhausted).
        seed: Random seed of items, users, ratings, texts and pictures.
        drift: Probability per day and attribute that a user's taste moves to a neighbouring one; in [0, 1].
        noise: Scale of the noise on a rating's utility, which lies in [-1, 1]; 0 gives deterministic ratings.
        like_share: Share of the catalogue that a user would like without noise; in (0, 1).
        disliked_share: Approximate share of dislikes among a user's *reported* ratings, since dislikes are seldom
            reported; in [0, 1).
        image_share: Share of the taste's weight (the category's left aside) on attributes that only the picture
            shows; in [0, 1].
        image_size: Side of the square picture in pixels.
        clutter: Strength of the clutter behind products and of marketing words in texts; in [0, 1].
        order: Share of what a user is shown that is of the categories that complement their last two likes, by a map
            drawn for the shop; in [0, 1], 0 shows items in an order without any rule.
        house: What the house adds to the utility of some brands and materials, and takes from as many others; at least
            0, which is a shop without a taste of its own.
        last_likes: Likes that the ceiling `recent_both` reads, the latest; 0 leaves this ceiling out.
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
    order: float = 0.0
    house: float = 0.0
    last_likes: int = 0


@dataclass(frozen=True)
class CorruptionSettings:
    """Corruption of the pictures, to measure how robust a model is to it (the article's Fig. 6).

    Args:
        kind: `background`: coloured shapes behind the product; `noise`; `blur`; `blank`: faded into grey; `mismatch`:
            items exchange their pictures.
        strength: From 0 (no change) to 1; with `mismatch`, the share of the chosen items that exchange pictures.
        share: Share of the items with a picture that are chosen; in [0, 1].
        seed: Random seed of the choice and of the changes.
    """

    kind: CorruptionKind = "none"
    strength: float = 1.0
    share: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class PrepareSettings:
    """Settings of the step from raw files to a prepared data set.

    Args:
        source: Layout of the raw files: Amazon's of 2014, 2018 or 2023, your own `tables`, or the generated `demo`.
        reviews: File of reviews (Amazon: JSON lines, plain or gzip) or of interactions (tables: CSV, Parquet, JSONL).
        metadata: File of item metadata; Amazon or tables.
        users: File of user profiles; tables only.
        images: Folder of pictures, named `<item id>.<extension>` or as the column `columns.image` gives.
        columns: Column names of your own tables.
        demo: Parameters of the demo shop.
        k_core: Least number of interactions of every user and item, iterated to a fixed point; 1 keeps all.
        liked_from: Least rating of a like; a lower one is a dislike.
        no_rating: Ratings that mean "not rated", such as 0 or -1. Their interactions are neither likes nor dislikes:
            they are known items of their user, so never sampled as negatives, but in no history and no target.
        split: `random` is the article's 80/10/10 per user; `leave_one_out` and `global_time` do not look ahead.
        max_history: Number of latest items that a context keeps of each list.
        corruption: Corruption of the pictures; tables, splits and candidates stay the same.
        max_image_pixels: Largest picture in pixels; larger ones are refused before decoding (decompression bombs) and
            counted.
        strict: Stop at a malformed raw line, or one whose meaning is in doubt, and name its file and number, instead of
            counting it and skipping or interpreting it.
        seed: Random seed of the split.
    """

    source: Source = "amazon2014"
    reviews: str | None = None
    metadata: str | None = None
    users: str | None = None
    images: str | None = None
    columns: ColumnMapping = field(default_factory=ColumnMapping)
    demo: DemoSettings = field(default_factory=DemoSettings)
    corruption: CorruptionSettings = field(default_factory=CorruptionSettings)
    k_core: int = 5
    liked_from: float = LIKED_RATING
    no_rating: tuple[float, ...] = ()
    split: SplitRule = "random"
    max_history: int = 50
    max_image_pixels: int = 50_000_000
    strict: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Put the home folder in place of `~` in paths."""
        for name in ("reviews", "metadata", "users", "images"):
            if (path := getattr(self, name)) is not None:
                object.__setattr__(self, name, os.path.expanduser(path))


@dataclass(frozen=True)
class CandidateSettings:
    """The frozen candidate lists that every model ranks.

    Args:
        n_negatives: Sampled negatives stored per list; evaluation takes the first m of them by `position`.
        unit: `user`: one list per user and split with all held-out likes; `instance`: one list per held-out like.
        max_users: Number of users drawn per split; null takes all.
        seed: Random seed of the negatives (of rank lists and pairs) and of the drawn users.
    """

    n_negatives: int = 100
    unit: Literal["user", "instance"] = "user"
    max_users: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class PictureSettings:
    """The form in which pictures reach the model.

    Args:
        serve: `pixels`: through the vision tower at every step; `features`: the frozen tower's output, computed once;
            `none`: prompts without pictures.
        min_pixels: Area, in pixels, to which smaller pictures are enlarged.
        max_pixels: Area, in pixels, to which larger pictures are reduced; one picture token covers 28 x 28 pixels.
    """

    serve: Literal["pixels", "features", "none"] = "pixels"
    min_pixels: int = 56 * 56
    max_pixels: int = 256 * 28 * 28  # borrowed: 256-512 tokens a picture; the article states none

    def __post_init__(self) -> None:
        """Check `serve`, and that 0 < min_pixels <= max_pixels."""
        check_literals(self, "pictures", error=ValueError)
        if not 0 < self.min_pixels <= self.max_pixels:
            raise ValueError(
                f"pictures.min_pixels={self.min_pixels}: must be above 0 and at most max_pixels={self.max_pixels}; "
                "give both as areas in pixels"
            )


@dataclass(frozen=True)
class ItemFeatureSettings:
    """Features of an item for baselines: one vector of its picture and one of its text.

    Args:
        text: `backbone`: the last hidden states of the backbone's language model; otherwise the hub name or folder of a
            sentence encoder (any transformers encoder whose sentence vector is the mean over its tokens).
        text_revision: Revision of a hub encoder; the backbone's revision is set elsewhere.
        max_text_tokens: Longest text of an item in tokens; longer ones are cut and counted.
        batch_size: Texts per step of the extraction.
        center: Subtract the catalogue's mean before vectors are scaled to length 1.
    """

    text: str = "backbone"
    text_revision: str | None = None
    max_text_tokens: int = 96
    batch_size: int = 64
    center: bool = True

    def __post_init__(self) -> None:
        """Check that an encoder is named and that numbers are positive.

        Raises:
            ConfigError: A setting is out of range; the message names it.
        """
        if not self.text.strip():
            raise ConfigError(
                f"text={self.text!r}: names no encoder; give backbone, or the name or folder of a sentence encoder"
            )
        for name in ("max_text_tokens", "batch_size"):
            if (value := getattr(self, name)) < 1:
                raise ConfigError(f"{name}={value}: must be at least 1; give a positive number")
