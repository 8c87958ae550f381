"""The demo shop: items, users and ratings generated from a ground truth.

On each day of membership a user sees one item, every item at most once, in an order drawn independently of taste, and
rates it by the taste of that day. Likes are always reported, dislikes only sometimes, so that few of the
*interactions* are dislikes (`disliked_share`) although a user dislikes most of the catalogue. Since the item seen on a
day does not depend on taste, P(these interactions | tastes) is the product of their rating probabilities, whatever
other interactions were held out by a split or never reported: that is why `ceilings.TasteFilter` is exact.
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
from mllm_srec.data.demo.truth import Ints, TasteModel
from mllm_srec.data.raw.schema import INTERACTION_SCHEMA, ITEM_SCHEMA, USER_SCHEMA, RawData
from mllm_srec.data.settings import DemoSettings
from mllm_srec.types import ConfigError

DAY_MS = 86_400_000
_FIRST_DAY = (datetime.date(2023, 1, 1) - datetime.date(1970, 1, 1)).days
_JOINING_DAYS = 180
_STREAMS = (  # the position of a purpose is part of the seed: append only
    "items",
    "tastes",
    "views",
    "ratings",
    "times",
    "texts",
    "reviews",
    "profiles",
    "pictures",
)


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
    reported: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


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
    values = _draw_values(model, settings.n_items, _stream(settings, "items"))
    report_share = _report_share(model, settings)
    like_share = model.expected_like_share
    pace = like_share + (1 - like_share) * report_share  # interactions per day
    n_days = min(settings.n_items, 3 * math.ceil(settings.n_interactions / pace))
    tastes = _draw_tastes(model, settings.n_users, n_days, _stream(settings, "tastes"))
    rng = _stream(settings, "views")
    views = np.stack([rng.choice(settings.n_items, n_days, replace=False) for _ in range(settings.n_users)])
    rng = _stream(settings, "ratings")
    table = model.rating_table()[model.pattern(tastes, values[views])]  # (U, T, 5)
    ratings = 1 + (rng.random((*views.shape, 1)) > table.cumsum(axis=-1)[..., :4]).sum(axis=-1)
    reported = (ratings >= 4) | (rng.random(views.shape) < report_share)
    reported &= reported.cumsum(axis=1) <= settings.n_interactions
    first_day = _FIRST_DAY + _stream(settings, "times").integers(_JOINING_DAYS, size=settings.n_users)
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
    seeds = np.random.SeedSequence([settings.seed, _STREAMS.index("pictures")]).spawn(settings.n_items)
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
    rng = _stream(settings, "profiles")
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
    values = _draw_values(TasteModel.from_settings(settings), settings.n_items, _stream(settings, "items"))
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


def _check(settings: DemoSettings) -> None:
    """Check the range of every setting."""
    for name in ("n_users", "n_items", "n_interactions", "image_size"):
        if (value := getattr(settings, name)) < 1:
            raise ConfigError(f"prepare.demo.{name}={value}: too small; give a whole number of at least 1")
    for name in ("drift", "image_share", "clutter", "like_share"):
        if not 0 <= (share := getattr(settings, name)) <= 1:
            raise ConfigError(f"prepare.demo.{name}={share}: out of range; give a number from 0 to 1")
    if not 0 <= settings.disliked_share < 1:
        raise ConfigError(
            f"prepare.demo.disliked_share={settings.disliked_share}: out of range; give a number from 0 to below 1"
        )
    if settings.noise < 0:
        raise ConfigError(f"prepare.demo.noise={settings.noise}: too small; give 0 (deterministic ratings) or more")
    if settings.n_interactions > settings.n_items:
        raise ConfigError(
            f"prepare.demo.n_interactions={settings.n_interactions}: more than the {settings.n_items} items, each of "
            "which a user rates once; lower it or raise prepare.demo.n_items"
        )


def _stream(settings: DemoSettings, purpose: str) -> np.random.Generator:
    """Make the random generator of one purpose, so that a change in one leaves the others unchanged."""
    return np.random.default_rng(np.random.SeedSequence([settings.seed, _STREAMS.index(purpose)]))


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


def _item_table(simulation: Simulation, settings: DemoSettings) -> pl.DataFrame:
    rng = _stream(settings, "texts")
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
    rng = _stream(settings, "reviews")
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
