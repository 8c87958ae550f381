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

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mllm_srec.data.demo import readers
from mllm_srec.data.demo.readers import check_joined
from mllm_srec.data.demo.rules import Exposure, Floats, Ints, random_stream
from mllm_srec.data.demo.shop import CATEGORY, DAY_MS, item_truth, user_truth
from mllm_srec.data.demo.taste_filter import ReaderLaw
from mllm_srec.data.demo.truth import MODALITIES, TasteModel
from mllm_srec.data.demo.words import ATTRIBUTES, VALUES
from mllm_srec.data.settings import DemoSettings, PrepareSettings
from mllm_srec.files.atomic import write_table
from mllm_srec.types import VISIBLE, ConfigError, DataError

SCORES = tuple(f"{who}_{modality}" for who in ("oracle", "reader") for modality in MODALITIES)
"""Names of the score columns that every shop has."""

HINDSIGHT = tuple(f"hindsight_{modality}" for modality in MODALITIES)
"""Names of the score columns of the reader who also sees later ratings."""

RULES = (*(f"averaging_{modality}" for modality in MODALITIES), "shuffled_both")
"""Names of the score columns that a shop with rules of its own has, too."""

ALL = (*SCORES, *HINDSIGHT, *RULES, "recent_both")
_EXACT = ("reader_", "hindsight_", "shuffled_", "recent_")
_LAPSE = 1e-3
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
    # in a shop with an order, what is shown tells of likes that are held out: then no reader is exact, nor a ceiling
    exact = settings.demo.order == 0 or settings.split == "leave_one_out"
    # the scores assume clean pictures: a model that sees corrupted ones cannot reach them
    names = [name for name in ALL if name in scored.columns and (exact or not name.startswith(_EXACT))]
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
    shop = _Shop.of(settings)
    item_index = pl.DataFrame({"item_id": shop.item_ids}).with_row_index("item")
    contexts = _contexts(targets, groups)
    events = readers.list_events(interactions.filter(pl.col("split").is_in(VISIBLE["test"])), contexts, item_index)
    context_of = contexts.select("group_id").with_row_index("context")
    joined = targets.join(context_of, on="group_id", how="left", maintain_order="left")
    joined = joined.join(item_index, on="item_id", how="left", maintain_order="left")
    check_joined(joined["item"], targets["item_id"], "item")
    pairs = joined.select("context", "item").to_numpy().astype(np.int64)
    everything = readers.list_events(interactions, contexts, item_index)
    scores = _oracle(shop, pairs, _tastes_of(contexts, settings), everything)
    scores |= _history_readers(shop, pairs, events)
    if settings.order or settings.house:
        scores |= _strangers(shop, pairs, events) | _shuffled(shop, pairs, events)
    if settings.last_likes:
        latest = readers.latest_likes(readers.one_context_each(events), settings.last_likes)
        scores["recent_both"] = shop.read(pairs, latest, shop.exposure)
    return targets.with_columns(pl.Series(name, scores[name].round(_DECIMALS)) for name in ALL if name in scores)


@dataclass(frozen=True)
class _Shop:
    """The truth of a shop, as its readers need it: (I, A) values of items, tastes' law, and what is shown."""

    settings: DemoSettings
    model: TasteModel
    item_ids: pl.Series
    codes: Ints
    exposure: Exposure

    @classmethod
    def of(cls, settings: DemoSettings) -> _Shop:
        items = item_truth(settings)
        codes = np.stack([_codes(items[name], VALUES[name]) for name in ATTRIBUTES], axis=1)
        model = TasteModel.from_settings(settings)
        return cls(settings, model, items["item_id"], codes, Exposure.of_shop(settings))

    def read(
        self,
        pairs: Ints,
        events: pl.DataFrame,
        exposure: Exposure,
        visible: tuple[str, ...] = ATTRIBUTES,
        reads_later: bool = False,
        **law: Any,
    ) -> Floats:
        """Return (N,) P(shown next), relative to even chances, times P(like), of one reader."""
        known = ReaderLaw(self.model, visible, **law)
        codes = self.codes[:, [ATTRIBUTES.index(name) for name in visible]]
        liked = readers.read(known, events, pairs, codes, reads_later)
        return np.asarray(liked * readers.exposures(exposure, events, pairs, self.codes[:, CATEGORY]))


def _oracle(shop: _Shop, pairs: Ints, tastes: Ints, events: pl.DataFrame) -> dict[str, Floats]:
    """Score with the true tastes (contexts, A), and with everything that was reported before."""
    shown = readers.exposures(shop.exposure, events, pairs, shop.codes[:, CATEGORY])
    scores = {}
    for modality, visible in MODALITIES.items():
        law = ReaderLaw(shop.model, visible)
        state = np.zeros(len(tastes), dtype=np.int64)
        for name, n in zip(law.attributes, law.shape, strict=True):
            state = state * n + tastes[:, ATTRIBUTES.index(name)]
        seen = shop.codes[:, [ATTRIBUTES.index(name) for name in visible]]
        kinds, kind_of = np.unique(seen, axis=0, return_inverse=True)
        scores[f"oracle_{modality}"] = law.likes(kinds)[kind_of[pairs[:, 1]], state[pairs[:, 0]]] * shown
    return scores


def _history_readers(shop: _Shop, pairs: Ints, events: pl.DataFrame) -> dict[str, Floats]:
    """Score with what was rated before, and where it differs with what was rated later, too."""
    scores = {}
    for modality, visible in MODALITIES.items():
        scores[f"reader_{modality}"] = shop.read(pairs, events, shop.exposure, visible)
        if readers.has_later(events):
            scores[f"hindsight_{modality}"] = shop.read(pairs, events, shop.exposure, visible, reads_later=True)
    return scores


def _strangers(shop: _Shop, pairs: Ints, events: pl.DataFrame) -> dict[str, Floats]:
    """Score as readers who know what is common to all shops, and nothing of the rules of this one."""
    rule = Exposure.of_any_shop(shop.settings)
    return {
        f"averaging_{modality}": shop.read(pairs, events, rule, visible, knows_house=False, lapse=_LAPSE)
        for modality, visible in MODALITIES.items()
    }


def _shuffled(shop: _Shop, pairs: Ints, events: pl.DataFrame) -> dict[str, Floats]:
    """Score as the reader who takes the likes before each context in a random order for the true one."""
    mixed = readers.shuffled_likes(readers.one_context_each(events), random_stream(shop.settings, "shuffles"))
    return {"shuffled_both": shop.read(pairs, mixed, shop.exposure, lapse=_LAPSE)}


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
    check_joined(tastes[ATTRIBUTES[0]], contexts["user_id"], "user on that day")
    return tastes.select(ATTRIBUTES).to_numpy().astype(np.int64)


def _codes(words: pl.Series, values: tuple[str, ...]) -> Ints:
    """Return the positions of `words` in `values`."""
    return np.array([values.index(word) for word in words], dtype=np.int64)
