"""How readers of the demo shop go through histories: whole, shuffled or cut, and what they conclude at each context."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl

from mllm_srec.data.demo.rules import Exposure, Floats, Ints
from mllm_srec.data.demo.shop import DAY_MS
from mllm_srec.data.demo.taste_filter import ReaderLaw, TasteFilter
from mllm_srec.types import LIKED_RATING, DataError

_USERS_AT_ONCE = 128


def read(law: ReaderLaw, events: pl.DataFrame, pairs: Ints, codes: Ints, reads_later: bool = False) -> Floats:
    """Compute a reader's probabilities of a like.

    Args:
        law: What the reader concludes from one rating.
        events: Table of `list_events`; ratings and contexts that the reader goes through.
        pairs: (N, 2) context and item of each target.
        codes: (I, V) visible values of the items.
        reads_later: Read the ratings after a context, too.

    Returns:
        (N,) posterior means of P(rating >= 4).
    """
    kinds, kind_of = np.unique(codes, axis=0, return_inverse=True)  # items that look alike are scored once
    likes = law.likes(kinds)  # (kinds, S)
    by_context = np.argsort(pairs[:, 0], kind="stable")
    bounds = np.searchsorted(pairs[by_context, 0], np.arange(pairs[:, 0].max(initial=-1) + 2))
    scores = np.full(len(pairs), np.nan)
    for _, some_users in events.group_by(pl.col("user") // _USERS_AT_ONCE, maintain_order=True):
        later: dict[int, Floats] = {}
        for contexts, beliefs in _beliefs(law, _reversed(some_users), codes) if reads_later else ():
            later |= zip(contexts, beliefs, strict=True)
        for contexts, beliefs in _beliefs(law, some_users, codes):
            if later:  # the belief from later ratings is their likelihood, up to scale: tastes are uniform at first
                beliefs = beliefs * np.stack([later[context] for context in contexts])
                beliefs /= beliefs.sum(axis=1, keepdims=True)
            for context, liked in zip(contexts, beliefs @ likes.T, strict=True):  # (kinds,)
                rows = by_context[bounds[context] : bounds[context + 1]]
                scores[rows] = liked[kind_of[pairs[rows, 1]]]
    return scores


def _beliefs(law: ReaderLaw, events: pl.DataFrame, codes: Ints) -> Iterator[tuple[list[int], Floats]]:
    """Yield contexts of at most `_USERS_AT_ONCE` users, n on each turn, with beliefs (n, S) from earlier turns."""
    tastes = TasteFilter(law, _USERS_AT_ONCE)
    for _, step in events.sort("turn").group_by("turn", maintain_order=True):
        users = step["user"].to_numpy() % _USERS_AT_ONCE
        tastes.predict(users, step["gap"].to_numpy())
        is_context = step["context"].is_not_null().to_numpy()
        if is_context.any():
            yield step["context"].drop_nulls().to_list(), tastes.belief[users[is_context]]
        rated = step.filter(~is_context).select("item", "rating").to_numpy().astype(np.int64)
        _update(tastes, users[~is_context], codes[rated[:, 0]], rated[:, 1])


def _reversed(events: pl.DataFrame) -> pl.DataFrame:
    """Return the events of each user from the last to the first; tastes drift alike in both directions of time."""
    return events.with_columns(
        pl.col("gap").shift(-1, fill_value=0).over("user", order_by="turn"),
        turn=pl.col("turn").max().over("user") - pl.col("turn"),
    )


def has_later(events: pl.DataFrame) -> bool:
    """Return True if any user rated something after one of their contexts."""
    first = pl.col("turn").filter(pl.col("context").is_not_null()).min().over("user")
    return bool(events.select((pl.col("context").is_null() & (pl.col("turn") > first)).any()).item())


def _update(tastes: TasteFilter, users: Ints, values: Ints, ratings: Ints) -> None:
    """Update the beliefs; refuse ratings of another shop."""
    try:
        tastes.update(users, values, ratings)
    except ValueError as error:
        raise DataError(f"interactions: not those of this demo shop; {error}") from error


def list_events(rows: pl.DataFrame, contexts: pl.DataFrame, item_index: pl.DataFrame) -> pl.DataFrame:
    """List the events of each user in order, ratings and contexts; `turn` numbers them within the user.

    A context sees only keys before its own, so at an equal key it comes first. `gap` is the number of days since the
    previous turn.
    """
    ratings = rows.join(item_index, on="item_id", how="left", maintain_order="left")
    check_joined(ratings["item"], rows["item_id"], "item")
    no_context = pl.lit(None, pl.UInt32).alias("context")
    ratings = ratings.select("user_id", "timestamp", "order", "item", "rating", no_context)
    questions = contexts.with_row_index("context").select(
        *("user_id", "timestamp", "order"),
        pl.lit(None, pl.UInt32).alias("item"),
        pl.lit(None, pl.Float64).alias("rating"),
        pl.col("context"),
    )
    events = pl.concat([questions, ratings]).sort("user_id", "timestamp", "order", pl.col("context").is_null())
    day = pl.col("timestamp") // DAY_MS
    return events.with_columns(
        pl.col("user_id").rank("dense").cast(pl.Int64).sub(1).alias("user"),
        pl.int_range(pl.len()).over("user_id").alias("turn"),
        (day - day.shift(1)).over("user_id").fill_null(0).alias("gap"),
    )


def one_context_each(events: pl.DataFrame) -> pl.DataFrame:
    """Return the events before each context as if each context were a user's only one; the context is the last turn."""
    asked = events.filter(pl.col("context").is_not_null()).select(
        "user", pl.col("context").alias("asked"), pl.col("turn").alias("until")
    )
    seen = events.join(asked, on="user", maintain_order="left_right").filter(
        (pl.col("turn") < pl.col("until")) & pl.col("context").is_null() | (pl.col("context") == pl.col("asked"))
    )
    elapsed = pl.col("timestamp") // DAY_MS
    return (
        seen.with_columns(pl.col("asked").cast(pl.Int64).alias("user"))
        .sort("user", "turn")
        .with_columns(
            pl.int_range(pl.len()).over("user").alias("turn"),
            (elapsed - elapsed.shift(1)).over("user").fill_null(0).alias("gap"),
        )
        .drop("asked", "until")
    )


def latest_likes(events: pl.DataFrame, n: int) -> pl.DataFrame:
    """Return what comes from the n-th last like before each context on; `events` as `one_context_each` returns them."""
    liked = pl.col("rating").fill_null(0) >= LIKED_RATING
    left = liked.cast(pl.Int64).cum_sum(reverse=True).over("user", order_by="turn")
    return events.filter((left < n) | ((left == n) & liked))


def shuffled_likes(events: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    """Return the events with each user's likes exchanged at random, while their times stay."""
    liked = pl.col("rating").fill_null(0) >= LIKED_RATING
    likes = events.with_row_index("row").filter(liked).select("row", "user", "item", "rating")
    mixed = likes.with_columns(pl.Series("draw", rng.random(likes.height))).sort("user", "draw")
    likes = likes.sort("user", "row", maintain_order=True).select("row", "user")
    likes = likes.with_columns(mixed["item"], mixed["rating"])
    rest = events.with_row_index("row").join(likes.drop("user"), on="row", how="left", maintain_order="left")
    return rest.with_columns(
        pl.coalesce("item_right", "item").alias("item"), pl.coalesce("rating_right", "rating").alias("rating")
    ).select(events.columns)


def exposures(exposure: Exposure, events: pl.DataFrame, pairs: Ints, kinds: Ints) -> Floats:
    """Compute how much likelier each target is shown next than if all that may be shown were equally likely.

    Args:
        exposure: Rule that the reader knows.
        events: Table of `list_events`, with all that the reader knows to be reported.
        pairs: (N, 2) context and item of each target.
        kinds: (I,) category of each item.

    Returns:
        (N,) ratios; all 1 in a shop without an order.
    """
    if exposure.order == 0:
        return np.ones(len(pairs))
    ratios = np.full((pairs[:, 0].max(initial=-1) + 1, len(exposure.follows)), np.nan)
    n_all = np.bincount(kinds, minlength=len(exposure.follows))
    for _, turns in events.sort("user", "turn").group_by("user", maintain_order=True):
        n_free, liked = n_all.copy(), list[int]()
        for context, item, rating in turns.select("context", "item", "rating").iter_rows():
            if context is not None:
                ratios[context] = exposure.of_categories(liked, n_free)
                continue
            n_free[kinds[item]] -= 1
            if rating >= LIKED_RATING:
                liked.append(kinds[item])
    return np.asarray(ratios[pairs[:, 0], kinds[pairs[:, 1]]])


def check_joined(joined: pl.Series, ids: pl.Series, kind: str) -> None:
    """Refuse ids without a match in a left join, which left nulls in `joined`."""
    if joined.null_count():
        raise DataError(
            f"{joined.null_count()} rows name an unknown {kind}, such as {ids.filter(joined.is_null())[0]!r}, which "
            "the demo shop of these settings does not have; prepare the data set again with these settings"
        )
