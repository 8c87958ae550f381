"""Ceilings of the demo shop: scores of an oracle and of an ideal reader on the test pairs and lists.

Every row of the test split (`samples` of the pair groups, `candidates` of the rank groups) gets six or nine scores:

- `oracle_*` uses the user's true taste on the day of the context: P(rating >= 4 | taste, item);
- `reader_*` uses the exact posterior over tastes given the interactions that the context may show, which are those of
  the user in the train and val splits with a key (timestamp, order) before the context's, likes and dislikes with their
  ratings. The posterior is carried forward to the day of the context; the score is the posterior mean of
  P(rating >= 4). `max_history` does not shorten it, since it is a ceiling. It draws no conclusion from an interaction
  that is *absent* (never reported, or held out);
- `hindsight_*` reads the same splits, but also what the user rated *after* the context. A model with a vector per user
  learns it from all train ratings, so this is its ceiling, and not `reader_*`. Only a random split has such ratings;
  the columns are left out where there are none;

each with `both` modalities, or with `text` or `image` alone, where the attributes the modality lacks are averaged out
exactly. A rank list is scored at its context's key, that is, at the earliest held-out like.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import polars as pl

from mllm_srec.data.demo.shop import DAY_MS, item_truth, user_truth
from mllm_srec.data.demo.truth import MODALITIES, Floats, Ints, TasteModel
from mllm_srec.data.demo.words import ATTRIBUTES, VALUES
from mllm_srec.data.settings import DemoSettings, PrepareSettings
from mllm_srec.files.atomic import write_table
from mllm_srec.types import VISIBLE, ConfigError, DataError

SCORES = tuple(f"{who}_{modality}" for who in ("oracle", "reader") for modality in MODALITIES)
"""Names of the score columns that every shop has."""

HINDSIGHT = tuple(f"hindsight_{modality}" for modality in MODALITIES)
"""Names of the score columns of the reader who also sees later ratings."""

_USERS_AT_ONCE = 128
_DECIMALS = 9  # equal probabilities must tie, whatever order sums ran in


def write_ceilings(folder: Path, settings: PrepareSettings) -> None:
    """Score the test split of the prepared demo shop with its ground truth; write `ceilings.parquet`.

    If pictures were corrupted, only the ceilings of texts are written.

    Args:
        folder: Folder of the data set; reads `interactions`, `groups`, `samples` and `candidates` (`.parquet`).
        settings: Settings that the data set was prepared with; `settings.demo` recreates the ground truth.

    Raises:
        ConfigError: `settings.source` is not `demo`.
        DataError: The tables hold users, items or ratings that these settings do not generate.
    """
    if settings.source != "demo":
        raise ConfigError(
            f"prepare.source={settings.source!r}: ceilings need the ground truth of the demo shop; write none"
        )
    tables = {name: pl.read_parquet(folder / f"{name}.parquet", glob=False) for name in ("interactions", "groups")}
    targets = pl.concat(
        pl.read_parquet(folder / f"{name}.parquet", glob=False)
        .filter(pl.col("split") == "test")
        .select(
            pl.lit(name).alias("table"),
            *("group_id", "user_id", "item_id", "label", "kind"),
            pl.col("position").cast(pl.Int64) if name == "candidates" else pl.lit(0, pl.Int64).alias("position"),
        )
        for name in ("samples", "candidates")
    )
    scored = score_targets(targets, tables["groups"], tables["interactions"], settings.demo)
    # the scores assume clean pictures: a model that sees corrupted ones cannot reach them
    names = [name for name in (*SCORES, *HINDSIGHT) if name in scored.columns]
    valid = [name for name in names if settings.corruption.kind == "none" or name.endswith("_text")]
    write_table(scored.select("table", "group_id", "item_id", *valid), folder / "ceilings.parquet")


def score_targets(
    targets: pl.DataFrame, groups: pl.DataFrame, interactions: pl.DataFrame, settings: DemoSettings
) -> pl.DataFrame:
    """Add the columns of `SCORES` (float64, probabilities) to test targets, and those of `HINDSIGHT` if it differs.

    Args:
        targets: Columns `group_id` and `item_id`; others are kept, and so is the order of rows.
        groups: Table as in `groups.parquet`, with every group of `targets`, all of split `test`.
        interactions: Table as in `interactions.parquet`.
        settings: Settings that the shop was generated with.

    Raises:
        DataError: A group, user, item or rating is not of this shop.
    """
    model = TasteModel.from_settings(settings)
    catalogue = item_truth(settings)
    codes = np.stack([_codes(catalogue[name], VALUES[name]) for name in ATTRIBUTES], axis=1)  # (I, A)
    item_index = pl.DataFrame({"item_id": catalogue["item_id"]}).with_row_index("item")
    contexts = _contexts(targets, groups)
    rows = interactions.filter(pl.col("split").is_in(VISIBLE["test"]))
    events = _events(rows, contexts, item_index)
    context_of = contexts.select("group_id").with_row_index("context")
    joined = targets.join(context_of, on="group_id", how="left", maintain_order="left")
    joined = joined.join(item_index, on="item_id", how="left", maintain_order="left")
    _check_joined(joined["item"], targets["item_id"], "item")
    pairs = joined.select("context", "item").to_numpy().astype(np.int64)
    tastes = _tastes_of(contexts, settings)
    scores = {}
    for modality, visible in MODALITIES.items():
        columns = [ATTRIBUTES.index(name) for name in visible]
        liked = model.rating_table(visible)[:, 3:].sum(axis=1)
        patterns = model.pattern(tastes[pairs[:, 0]][:, columns], codes[pairs[:, 1]][:, columns], visible)
        scores[f"oracle_{modality}"] = liked[patterns]
        scores[f"reader_{modality}"] = _read(model, visible, events, pairs, codes[:, columns], reads_later=False)
        if _has_later(events):
            scores[f"hindsight_{modality}"] = _read(model, visible, events, pairs, codes[:, columns], reads_later=True)
    names = [name for name in (*SCORES, *HINDSIGHT) if name in scores]
    return targets.with_columns(pl.Series(name, scores[name].round(_DECIMALS)) for name in names)


class TasteFilter:
    """Forward filter of the hidden Markov chain of `TasteModel`, vectorised over U users.

    Args:
        model: The taste model.
        visible: The V attributes that the reader perceives; the others are averaged out exactly.
        n_users: Number of users, U.

    Attributes:
        belief: (U, S) float64, P(joint taste state | ratings so far); S is the product of the visible attributes'
            numbers of states, first attribute slowest. It starts uniform, the chain's stationary distribution.
    """

    def __init__(self, model: TasteModel, visible: tuple[str, ...], n_users: int) -> None:
        self.model = model
        self.visible = visible
        self.shape = tuple(model.n_values[name] for name in visible)
        self._ratings = model.rating_table(visible)  # (2^V, 5)
        self._likes = [model.likes(name).T for name in visible]  # (value, state)
        n_states = int(np.prod(self.shape))
        self.belief = np.full((n_users, n_states), 1 / n_states)
        self._transition = lru_cache(maxsize=None)(model.transition)

    def predict(self, users: Ints, days: Ints) -> None:
        """Let `days` (N,) pass for `users` (N,), distinct indices: tastes may drift."""
        moving = days > 0
        if self.model.drift == 0 or not moving.any():
            return
        users, days = users[moving], days[moving]
        belief, left, right = self.belief[users], 1, self.belief.shape[1]
        for name, n in zip(self.visible, self.shape, strict=True):
            right //= n
            steps = np.stack([self._transition(name, int(d)) for d in days])  # (N, n, n), symmetric
            if right == 1:
                belief = belief.reshape(len(users), left, n) @ steps
            else:
                belief = steps[:, None] @ belief.reshape(len(users), left, n, right)
            left *= n
        self.belief[users] = belief.reshape(len(users), -1)

    def update(self, users: Ints, values: Ints, ratings: Ints) -> None:
        """Condition on one rating 1..5 (N,) of an item with attribute `values` (N, V), for each of `users` (N,).

        Raises:
            ValueError: A rating has probability 0 under every taste that is still possible.
        """
        likelihood = np.take_along_axis(self._ratings.T[ratings - 1], self._patterns(values), axis=1)  # (N, S)
        joint = self.belief[users] * likelihood
        mass = joint.sum(axis=1, keepdims=True)
        if not (mass > 0).all():
            raise ValueError(
                "ratings: one of them is impossible after the others in this taste model; "
                "pass the settings that these interactions were generated with"
            )
        self.belief[users] = joint / mass

    def likes(self, values: Ints) -> Floats:
        """Return (K, S) P(rating >= 4) of the K items with attribute `values` (K, V) under each joint state.

        `belief[users] @ likes(values).T` (N, K) are the reader's probabilities of a like.
        """
        return np.asarray(self._ratings[:, 3:].sum(axis=1)[self._patterns(values)])

    def _patterns(self, values: Ints) -> Ints:
        """Return (K, S) the pattern of liked attributes of each item under each joint state."""
        pattern = np.zeros((len(values), 1), dtype=np.int64)
        for column, (likes, n) in enumerate(zip(self._likes, self.shape, strict=True)):
            bit = likes[values[:, column]].astype(np.int64) << (len(self.shape) - 1 - column)  # (K, n)
            pattern = (pattern[:, :, None] + bit[:, None, :]).reshape(len(values), pattern.shape[1] * n)
        return pattern


def _read(
    model: TasteModel, visible: tuple[str, ...], events: pl.DataFrame, pairs: Ints, codes: Ints, reads_later: bool
) -> Floats:
    """Return (N,) a reader's scores of the (context, item) `pairs` (N, 2); `codes` (I, V) are items' attributes."""
    kinds, kind_of = np.unique(codes, axis=0, return_inverse=True)  # items that look alike are scored once
    likes = TasteFilter(model, visible, 1).likes(kinds)  # (kinds, S)
    by_context = np.argsort(pairs[:, 0], kind="stable")
    bounds = np.searchsorted(pairs[by_context, 0], np.arange(pairs[:, 0].max(initial=-1) + 2))
    scores = np.full(len(pairs), np.nan)
    for _, some_users in events.group_by(pl.col("user") // _USERS_AT_ONCE, maintain_order=True):
        later: dict[int, Floats] = {}
        for contexts, beliefs in _beliefs(model, visible, _reversed(some_users), codes) if reads_later else ():
            later |= zip(contexts, beliefs, strict=True)
        for contexts, beliefs in _beliefs(model, visible, some_users, codes):
            if later:  # the belief from later ratings is their likelihood, up to scale: tastes are uniform at first
                beliefs = beliefs * np.stack([later[context] for context in contexts])
                beliefs /= beliefs.sum(axis=1, keepdims=True)
            for context, liked in zip(contexts, beliefs @ likes.T, strict=True):  # (kinds,)
                rows = by_context[bounds[context] : bounds[context + 1]]
                scores[rows] = liked[kind_of[pairs[rows, 1]]]
    return scores


def _beliefs(
    model: TasteModel, visible: tuple[str, ...], events: pl.DataFrame, codes: Ints
) -> Iterator[tuple[list[int], Floats]]:
    """Yield contexts of at most `_USERS_AT_ONCE` users, n on each turn, with beliefs (n, S) from earlier turns."""
    tastes = TasteFilter(model, visible, _USERS_AT_ONCE)
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


def _has_later(events: pl.DataFrame) -> bool:
    """Return True if any user rated something after one of their contexts."""
    first = pl.col("turn").filter(pl.col("context").is_not_null()).min().over("user")
    return bool(events.select((pl.col("context").is_null() & (pl.col("turn") > first)).any()).item())


def _update(tastes: TasteFilter, users: Ints, values: Ints, ratings: Ints) -> None:
    """Update the beliefs; refuse ratings of another shop."""
    try:
        tastes.update(users, values, ratings)
    except ValueError as error:
        raise DataError(f"interactions: not those of this demo shop; {error}") from error


def _events(rows: pl.DataFrame, contexts: pl.DataFrame, item_index: pl.DataFrame) -> pl.DataFrame:
    """List the events of each user in order, ratings and contexts; `turn` numbers them within the user.

    A context sees only keys before its own, so at an equal key it comes first. `gap` is the number of days since the
    previous turn.
    """
    ratings = rows.join(item_index, on="item_id", how="left", maintain_order="left")
    _check_joined(ratings["item"], rows["item_id"], "item")
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


def _contexts(targets: pl.DataFrame, groups: pl.DataFrame) -> pl.DataFrame:
    """Return the groups of the targets, one row each."""
    contexts = groups.select("group_id", "user_id", "split", "timestamp", "order").join(
        targets.select("group_id").unique(), on="group_id", how="semi", maintain_order="left"
    )
    missing = targets.join(contexts, on="group_id", how="anti")
    if len(missing) or not (contexts["split"] == "test").all():
        raise DataError(
            f"groups.parquet: {len(missing)} targets name no group of it, or its groups are not all of split test; "
            "prepare the data set again"
        )
    return contexts


def _tastes_of(contexts: pl.DataFrame, settings: DemoSettings) -> Ints:
    """Return (contexts, A) the true taste states of each context's user on its day."""
    days = contexts.select("user_id", (pl.col("timestamp") // DAY_MS).alias("day"))
    tastes = days.join(user_truth(settings), on=["user_id", "day"], how="left", maintain_order="left")
    _check_joined(tastes[ATTRIBUTES[0]], contexts["user_id"], "user on that day")
    return tastes.select(ATTRIBUTES).to_numpy().astype(np.int64)


def _codes(words: pl.Series, values: tuple[str, ...]) -> Ints:
    """Return the positions of `words` in `values`."""
    return np.array([values.index(word) for word in words], dtype=np.int64)


def _check_joined(joined: pl.Series, ids: pl.Series, kind: str) -> None:
    """Refuse ids without a match in a left join, which left nulls in `joined`."""
    if joined.null_count():
        raise DataError(
            f"{joined.null_count()} rows name an unknown {kind}, such as {ids.filter(joined.is_null())[0]!r}, which "
            "the demo shop of these settings does not have; prepare the data set again with these settings"
        )
