"""What a rating says: a like, a dislike, or nothing; the rule, the column that holds its answer, and facts about it.

The rule is a setting of `prepare` and is recorded in the manifest. It is applied once, when interactions are read from
raw files or from a prepared data set, and every later step reads the column `liked`, so that no step can have another
rule. The column is not written to disk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.data.settings import PrepareSettings
from mllm_srec.types import LIKED_RATING, ConfigError, DataError

LIKED = "liked"
"""Column of the answer: true for a like, false for a dislike, null where the rating means that there is none."""

STAGE = "ratings"
"""Stage of the report."""

USUAL_SCALE = (1.0, 5.0)
"""Least and highest rating of the scale on which the default of `prepare.liked_from` is a like."""


@dataclass(frozen=True)
class RatingRule:
    """What ratings mean.

    Args:
        liked_from: Least rating of a like.
        no_rating: Values that mean "not rated".
    """

    liked_from: float = LIKED_RATING
    no_rating: tuple[float, ...] = ()

    @classmethod
    def of(cls, prepare: PrepareSettings | Mapping[str, Any]) -> RatingRule:
        """Return the rule of settings, or of the section `prepare` of a manifest; older manifests have none: 4 and up.

        Args:
            prepare: Settings of the preparation, or what a manifest records of them.
        """
        if isinstance(prepare, PrepareSettings):
            return cls(prepare.liked_from, tuple(prepare.no_rating))
        return cls(prepare.get("liked_from", LIKED_RATING), tuple(prepare.get("no_rating", ())))

    def mark(self, interactions: pl.DataFrame) -> pl.DataFrame:
        """Add the column `liked`.

        Args:
            interactions: Rows with `rating`; a column `liked` is replaced.
        """
        rating, unrated = pl.col("rating"), pl.lit(False)
        for value in self.no_rating:
            unrated = unrated | (rating == value)
        return interactions.with_columns(pl.when(~unrated).then(rating >= self.liked_from).alias(LIKED))


def is_liked() -> pl.Expr:
    """Return a polars expression, true where the row is a like; never null."""
    return pl.col(LIKED).fill_null(False)


def is_disliked() -> pl.Expr:
    """Return a polars expression, true where the row is a dislike; never null."""
    return ~pl.col(LIKED).fill_null(True)


def is_rated() -> pl.Expr:
    """Return a polars expression, true where the row is a like or a dislike; never null."""
    return pl.col(LIKED).is_not_null()


def check_rating_settings(settings: PrepareSettings) -> None:
    """Check that the rule can be applied, and that it has an effect.

    Raises:
        ConfigError: A number is not finite, or the source has no ratings that the rule could be about.
    """
    rule = RatingRule.of(settings)
    for name, values in (("liked_from", [rule.liked_from]), ("no_rating", rule.no_rating)):
        if not all(map(math.isfinite, values)):
            value = getattr(settings, name)
            raise ConfigError(f"prepare.{name}={value}: is not a number on any scale of ratings; give finite numbers")
    if rule == RatingRule():
        return
    name, value = ("liked_from", rule.liked_from) if not rule.no_rating else ("no_rating", list(rule.no_rating))
    if settings.source == "demo":
        raise ConfigError(
            f"prepare.{name}={value}: the demo shop's ratings, and the ceilings computed with them, call 4 and 5 a "
            "like; leave liked_from and no_rating at their defaults"
        )
    if settings.source == "tables" and settings.columns.rating is None:
        raise ConfigError(
            f"prepare.{name}={value}: has no effect where prepare.columns.rating is null, since every row is a like; "
            "name the column of the ratings, or leave it at its default"
        )


def report_ratings(interactions: pl.DataFrame, settings: PrepareSettings, report: PrepareReport) -> None:
    """Report the range of the ratings, and point out those that the usual scale of 1 to 5 does not have.

    Args:
        interactions: Rows with `rating` and `liked`, at least one.
        settings: Settings of the preparation.
        report: Receives the facts and counts.

    Raises:
        DataError: Nothing is liked, so there would be nothing to learn and nothing to rank.
    """
    rated = interactions.filter(is_rated())
    report.fact("ratings", rating_range(rated))
    limit = float(settings.liked_from)
    report.fact("liked from", int(limit) if limit.is_integer() else limit)
    unrated = interactions.height - rated.height
    report.count(STAGE, "not rated (prepare.no_rating): neither like nor dislike", unrated)
    least, highest = USUAL_SCALE
    low = rated.filter(pl.col("rating") < least)
    words = "below 1: a dislike; if it means no rating, name it in prepare.no_rating"
    words = words if settings.liked_from > least else "below 1; if it means no rating, name it in prepare.no_rating"
    report.count(STAGE, words, low.height, rating_range(low))
    if settings.liked_from == LIKED_RATING:
        high = rated.filter(pl.col("rating") > highest)
        words = "above 5: where 4 is not yet a like, set prepare.liked_from"
        report.count(STAGE, words, high.height, rating_range(high))
    if not rated.filter(is_liked()).height:
        raise DataError(_nothing_liked(rated, settings))


def rating_range(interactions: pl.DataFrame) -> str:
    """Return least and highest rating in words, such as "1 to 5"; "none" without rows."""
    if not interactions.height:
        return "none"
    least, highest = interactions.select(least=pl.col("rating").min(), highest=pl.col("rating").max()).row(0)
    return f"{least:g} to {highest:g}"


def _nothing_liked(rated: pl.DataFrame, settings: PrepareSettings) -> str:
    """Return the message of an error about interactions of which none is a like."""
    if not rated.height:
        return (
            f"prepare.no_rating={list(settings.no_rating)}: names every rating that occurs, so nothing is liked; leave "
            "out those that are likes"
        )
    ways = "set prepare.liked_from to the least rating of a like"
    if settings.source == "tables":
        ways += ", or prepare.columns.rating to null if every row is a like"
    return (
        f"prepare.liked_from={settings.liked_from:g}: no rating reaches it, so nothing is liked (ratings found: "
        f"{rating_range(rated)}); {ways}"
    )
