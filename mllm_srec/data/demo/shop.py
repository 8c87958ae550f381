"""The demo shop: items, users and ratings generated from a ground truth.

On each day of membership a user sees one item and rates it by the taste of that day. Every item is seen at most once,
in an order drawn independently of taste; in a shop with an order (`rules`), what is seen depends on what the user has
reported so far, and what was not reported may be seen again. Likes are always reported, dislikes only sometimes, so
that few of the *interactions* are dislikes (`disliked_share`) although a user dislikes most of the catalogue. Since the
item seen on a day does not depend on taste, given the reports before, P(these interactions | tastes) is the product of
their rating probabilities, whatever other interactions were never reported, or (in a shop without an order) held out
by a split: that is why `taste_filter.TasteFilter` is exact.
"""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from mllm_srec.data.demo import words as demo_words
from mllm_srec.data.demo.drawing import draw_item
from mllm_srec.data.demo.rules import (
    REMEMBERED_LIKES,
    Bools,
    Floats,
    Ints,
    draw_complements,
    draw_shown,
    random_stream,
    stream_seed,
)
from mllm_srec.data.demo.truth import TasteModel
from mllm_srec.data.raw.schema import INTERACTION_SCHEMA, ITEM_SCHEMA, USER_SCHEMA, RawData
from mllm_srec.data.settings import DemoSettings
from mllm_srec.types import ConfigError

DAY_MS = 86_400_000
_FIRST_DAY = (datetime.date(2023, 1, 1) - datetime.date(1970, 1, 1)).days
_JOINING_DAYS = 180
CATEGORY = demo_words.ATTRIBUTES.index("category")


@dataclass(frozen=True)
class Simulation:
    """The simulated events, before texts and pictures are made. U users, T days, I items, A attributes.

    Attributes:
        values: (I, A) value of each attribute, an index into `words.VALUES`.
        first_day: (U,) day on which each user joined, counted from the Unix epoch.
        tastes: (U, T, A) taste states, day by day from joining.
        views: (U, T) item seen on each day.
        ratings: (U, T) rating 1..5 of that item.
        reported: (U, T) bool, True where the rating became an interaction.
    """

    values: Ints
    first_day: Ints
    tastes: Ints
    views: Ints
    ratings: Ints
    reported: Bools


def item_id(index: int) -> str:
    """Return the id of the item at `index` of `Simulation.values`."""
    return f"I{index:05d}"


def user_id(index: int) -> str:
    """Return the id of the user at `index` of `Simulation.tastes`."""
    return f"U{index:05d}"


def simulate(settings: DemoSettings) -> Simulation:
    """Draw items, tastes, views and ratings; the same settings give the same shop on any machine.

    Texts and pictures have random streams of their own: `image_size` and `clutter` change nothing here.

    Raises:
        ConfigError: A setting is out of range.
    """
    _check(settings)
    model = TasteModel.from_settings(settings)
    values = _draw_values(model, settings.n_items, random_stream(settings, "items"))
    report_share = _report_share(model, settings)
    like_share = model.expected_like_share
    pace = like_share + (1 - like_share) * report_share  # interactions per day
    n_days = 3 * math.ceil(settings.n_interactions / pace)
    if settings.order == 0:
        n_days = min(settings.n_items, n_days)
    tastes = _draw_tastes(model, settings.n_users, n_days, random_stream(settings, "tastes"))
    rng = random_stream(settings, "ratings")
    draws = rng.random((settings.n_users, n_days, 1))
    reports = rng.random((settings.n_users, n_days)) < report_share
    if settings.order == 0:
        rng = random_stream(settings, "views")
        views = np.stack([rng.choice(settings.n_items, n_days, replace=False) for _ in range(settings.n_users)])
        ratings = _draw_ratings(model, tastes, values[views], draws)
        reported = (ratings >= 4) | reports
        reported &= reported.cumsum(axis=1) <= settings.n_interactions
    else:
        views, ratings, reported = _follow_order(model, settings, values, tastes, draws, reports)
    first_day = _FIRST_DAY + random_stream(settings, "times").integers(_JOINING_DAYS, size=settings.n_users)
    return Simulation(values, first_day, tastes, views, ratings, reported)


def generate_demo(settings: DemoSettings, pictures: Path) -> RawData:
    """Generate the shop: tables as a raw reader returns them, and one PNG per item.

    Args:
        settings: Parameters of the shop.
        pictures: Folder for `<item_id>.png`; created if missing.

    Returns:
        The raw tables; `items.image` is the picture's file name, interactions are in order of time.

    Raises:
        ConfigError: A setting is out of range.
    """
    simulation = simulate(settings)
    items = _item_table(simulation, settings)
    pictures.mkdir(parents=True, exist_ok=True)
    seeds = stream_seed(settings, "pictures").spawn(settings.n_items)
    for seed, truth in zip(seeds, item_truth(settings).iter_rows(named=True), strict=True):
        picture = draw_item(
            truth["category"],
            truth["colour"],
            truth["pattern"],
            settings.image_size,
            settings.clutter,
            np.random.default_rng(seed),
        )
        picture.save(pictures / f"{truth['item_id']}.png")
    rng = random_stream(settings, "profiles")
    users = pl.DataFrame(
        {
            "user_id": [user_id(u) for u in range(settings.n_users)],
            "profile": [demo_words.profile(rng) for _ in range(settings.n_users)],
        },
        schema=USER_SCHEMA,
    )
    return RawData(interactions=_interaction_table(simulation, settings), items=items, users=users)


def item_truth(settings: DemoSettings) -> pl.DataFrame:
    """Return one row per item: `item_id` and the true value, in words, of each of the five attributes."""
    values = _draw_values(TasteModel.from_settings(settings), settings.n_items, random_stream(settings, "items"))
    words = {name: [demo_words.VALUES[name][v] for v in values[:, a]] for a, name in enumerate(demo_words.ATTRIBUTES)}
    return pl.DataFrame({"item_id": [item_id(i) for i in range(settings.n_items)], **words})


def user_truth(settings: DemoSettings) -> pl.DataFrame:
    """Return one row per user and day of membership: `user_id`, `day` (since the Unix epoch) and the taste states.

    A taste state is a number, one column per attribute; `TasteModel.likes` gives the values that it likes.
    """
    simulation = simulate(settings)
    n_users, n_days, _ = simulation.tastes.shape
    users, days = np.divmod(np.arange(n_users * n_days), n_days)
    states = simulation.tastes.reshape(n_users * n_days, -1)
    return pl.DataFrame(
        {
            "user_id": [user_id(u) for u in users.tolist()],
            "day": simulation.first_day[users] + days,
            **{name: states[:, a] for a, name in enumerate(demo_words.ATTRIBUTES)},
        }
    )


def draw_interactions(settings: DemoSettings) -> pl.DataFrame:
    """Return the interactions that `generate_demo` gives for these settings, without drawing pictures."""
    return _interaction_table(simulate(settings), settings)


def _check(settings: DemoSettings) -> None:
    """Check the range of every setting."""
    for name in ("n_users", "n_items", "n_interactions", "image_size"):
        if (value := getattr(settings, name)) < 1:
            raise ConfigError(f"prepare.demo.{name}={value}: too small; give a whole number of at least 1")
    for name in ("drift", "image_share", "clutter", "like_share", "order"):
        if not 0 <= (share := getattr(settings, name)) <= 1:
            raise ConfigError(f"prepare.demo.{name}={share}: out of range; give a number from 0 to 1")
    if not 0 <= settings.disliked_share < 1:
        raise ConfigError(
            f"prepare.demo.disliked_share={settings.disliked_share}: out of range; give a number from 0 to below 1"
        )
    if settings.noise < 0:
        raise ConfigError(f"prepare.demo.noise={settings.noise}: too small; give 0 (deterministic ratings) or more")
    if settings.house < 0:
        raise ConfigError(f"prepare.demo.house={settings.house}: too small; give 0 (no taste of its own) or more")
    if settings.last_likes < 0:
        raise ConfigError(f"prepare.demo.last_likes={settings.last_likes}: too small; give 0 (leaves it out) or more")
    if settings.n_interactions > settings.n_items:
        raise ConfigError(
            f"prepare.demo.n_interactions={settings.n_interactions}: more than the {settings.n_items} items, each of "
            "which a user rates once; lower it or raise prepare.demo.n_items"
        )


def _report_share(model: TasteModel, settings: DemoSettings) -> float:
    """Compute the share of dislikes that are reported: enough for `disliked_share` and to finish in time."""
    like_share = model.expected_like_share
    wanted = like_share * settings.disliked_share / (1 - settings.disliked_share)  # reported dislikes per day
    needed = settings.n_interactions / (0.8 * settings.n_items)  # interactions per day, before the catalogue runs out
    return min(1.0, max(wanted, needed - like_share) / (1 - like_share))


def _draw_values(model: TasteModel, n_items: int, rng: np.random.Generator) -> Ints:
    """Draw (I, A) independent, uniform values, so that no attribute and no item tells anything about another."""
    return np.stack([rng.integers(n, size=n_items) for n in model.n_values.values()], axis=1)


def _draw_tastes(model: TasteModel, n_users: int, n_days: int, rng: np.random.Generator) -> Ints:
    """Draw (U, T, A) taste states: uniform on the first day, then a lazy random walk on each attribute's circle."""
    n_values = np.array(list(model.n_values.values()))
    first = rng.integers(n_values, size=(n_users, 1, len(n_values)))
    moves = rng.random((n_users, n_days - 1, len(n_values))) < model.drift
    steps = moves * rng.choice((-1, 1), size=moves.shape)
    return np.asarray(np.concatenate([first, first + steps.cumsum(axis=1)], axis=1) % n_values)


def _draw_ratings(model: TasteModel, tastes: Ints, values: Ints, draws: Floats) -> Ints:
    """Draw ratings 1..5 (...) of items with `values` (..., A) by users with `tastes` (..., A); `draws` is (..., 1)."""
    levels, patterns = model.house_level(values), model.pattern(tastes, values)
    table = model.house_tables()[levels, patterns]  # (..., 5)
    return np.asarray(1 + (draws > table.cumsum(axis=-1)[..., :4]).sum(axis=-1))


def _follow_order(
    model: TasteModel, settings: DemoSettings, values: Ints, tastes: Ints, draws: Floats, reports: Bools
) -> tuple[Ints, Ints, Bools]:
    """Draw views, ratings and what is reported, (U, T) each, in a shop that has an order.

    Args:
        model: The taste model.
        settings: Settings of the shop.
        values: (I, A) values of the items.
        tastes: (U, T, A) taste states.
        draws: (U, T, 1) uniform draws of the ratings.
        reports: (U, T) True where a dislike is reported.
    """
    n_users, n_days, _ = tastes.shape
    users, complements, kinds = np.arange(n_users), draw_complements(settings), values[:, CATEGORY]
    view_draws = random_stream(settings, "views").random((n_days, n_users, 3))
    free = np.ones((n_users, len(values)), dtype=np.bool_)
    last = np.full((n_users, REMEMBERED_LIKES), -1)
    n_reported = np.zeros(n_users, dtype=np.int64)
    days = []
    for day in range(n_days):
        view = draw_shown(complements, settings.order, kinds, free, last, view_draws[day])
        rating = _draw_ratings(model, tastes[:, day], values[view], draws[:, day])
        reported = ((rating >= 4) | reports[:, day]) & (n_reported < settings.n_interactions)
        n_reported += reported
        free[users[reported], view[reported]] = False
        liked = reported & (rating >= 4)
        last[liked] = np.column_stack([kinds[view[liked]], last[liked, :-1]])
        days.append((view, rating, reported))
    views, ratings, reported = (np.stack(of_days, axis=1) for of_days in zip(*days, strict=True))
    return views, ratings, reported


def _item_table(simulation: Simulation, settings: DemoSettings) -> pl.DataFrame:
    rng = random_stream(settings, "texts")
    rows = []
    for index, codes in enumerate(simulation.values):
        words = {name: demo_words.VALUES[name][v] for name, v in zip(demo_words.ATTRIBUTES, codes, strict=True)}
        rows.append(
            {
                "item_id": item_id(index),
                "title": demo_words.title(words, settings.clutter, rng),
                "brand": words["brand"],
                "categories": ["Demo Shop", demo_words.PLURALS[words["category"]]],
                "description": demo_words.description(words, settings.clutter, rng),
                "price": int(rng.integers(5, 100)) - 0.01,
                "image": f"{item_id(index)}.png",
                "image_urls": [],
            }
        )
    return pl.DataFrame(rows, schema=ITEM_SCHEMA)


def _interaction_table(simulation: Simulation, settings: DemoSettings) -> pl.DataFrame:
    """List the reported ratings in order of time: at most one per user and day, at a random second of the day."""
    users, days = np.nonzero(simulation.reported)
    rng = random_stream(settings, "reviews")
    ratings = simulation.ratings[users, days]
    day = simulation.first_day[users] + days
    timestamp = day * DAY_MS + rng.integers(DAY_MS // 1000, size=len(day)) * 1000
    table = pl.DataFrame(
        {
            "user_id": [user_id(u) for u in users.tolist()],
            "item_id": [item_id(i) for i in simulation.views[users, days]],
            "rating": ratings.astype(np.float64),
            "timestamp": timestamp,
            "review": [demo_words.review(int(r), rng) for r in ratings],
        }
    )
    table = table.sort("timestamp", "user_id").with_row_index("order")
    return table.select(pl.col(name).cast(dtype) for name, dtype in INTERACTION_SCHEMA.items())
