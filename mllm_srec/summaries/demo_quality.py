"""Accuracy of summaries of the demo shop, whose truth is known.

Texts are read word by word (`data/demo/words.named_values`), so that those of any model can be judged: "not red" names
red. No model reads anything from here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.demo.shop import DAY_MS, item_truth, user_truth
from mllm_srec.data.demo.truth import MODALITIES, TasteModel
from mllm_srec.data.demo.words import ATTRIBUTES, LEVELS, TEXT_ATTRIBUTES, VALUES, named_values
from mllm_srec.data.settings import DemoSettings
from mllm_srec.summaries.settings import PARTS, Modality, Stage
from mllm_srec.summaries.text_quality import Number
from mllm_srec.types import ConfigError, DataError

TASTE_CHANCE = 0.5
"""Accuracy of naming none, all or random values: half of an attribute's values are liked on any day."""

_JUDGED_SCHEMA = {
    "is_last": pl.Boolean, "attribute": pl.String, "n_right": pl.Int64, "n_named": pl.Int64, "n_values": pl.Int64,
    "strongest": pl.Boolean,
}  # fmt: skip
_LEVELLED = re.compile(rf"\b({'|'.join(LEVELS)})\s+([^\W\d_]+)")


def demo_settings(manifest: Mapping[str, Any]) -> DemoSettings | None:
    """Return the settings that recreate the truth of a prepared data set; None where it is not the demo shop.

    Args:
        manifest: `PreparedDataset.manifest`.

    Raises:
        ConfigError: The settings are those of another version of the shop.
    """
    prepare = manifest["prepare"]
    if prepare["source"] != "demo":
        return None
    try:
        return DemoSettings(**prepare["demo"])
    except TypeError as error:
        raise ConfigError(
            f"manifest.json: prepare.demo={prepare['demo']}: is of another version of the demo shop ({error}); "
            "delete the data set and prepare it again with `python -m mllm_srec prepare`"
        ) from error


def demo_quality(stage: Stage, table: pl.DataFrame, data: PreparedDataset, modality: Modality) -> dict[str, Number]:
    """Measure a stage by the attributes that its texts can show; empty where the data set's truth is not known.

    Args:
        stage: Stage that is judged: `image` by what a picture shows, the others by what `modality` shows.
        table: View of the stage.
        data: Data set that it was written from.
        modality: `summaries.modality`.

    Raises:
        ConfigError: See `demo_settings`.
        DataError: The table names an item, or a user on a day, that the shop does not have.
    """
    settings = demo_settings(data.manifest)
    if settings is None:
        return {}
    if PARTS[stage].subject == "user":
        return taste_accuracy(table, settings, MODALITIES[modality])
    return attribute_accuracy(table, data.items, settings, "image" if PARTS[stage].reads == "picture" else modality)


def attribute_accuracy(
    table: pl.DataFrame, items: pl.DataFrame, settings: DemoSettings, modality: Modality
) -> dict[str, Number]:
    """Measure whether item texts name each attribute's true value, and no other value of it.

    `attribute_accuracy` is the share of right answers over all (summary, attribute), `attribute_accuracy/<attribute>`
    over the summaries; `chance` is the accuracy of naming one value at random. An empty summary is wrong everywhere.
    Attributes that only a picture shows are not judged for an item without one.

    Args:
        table: View of the stage image or item.
        items: Items of the data set: `item_id` and `image`.
        settings: Settings that the shop was generated with.
        modality: Modality whose attributes are judged.

    Returns:
        The shares (None: nothing to judge), the number `n_judged` of (summary, attribute), and of the data set's items
        `n_items_without_picture` and `n_items_without_summary` (where only pictures tell, of the items with a picture).

    Raises:
        DataError: The table names an item that the shop does not have.
    """
    pictured = items.select("item_id", has_picture=pl.col("image").is_not_null())
    rows = table.join(item_truth(settings), on="item_id", how="left").join(pictured, on="item_id", how="left")
    _demand(rows, "item_id", ATTRIBUTES[0])
    right = _answers(rows, modality)
    expected = pictured.filter("has_picture") if modality == "image" else pictured
    return {
        "attribute_accuracy": _share([answer for answers in right.values() for answer in answers]),
        **{f"attribute_accuracy/{name}": _share(answers) for name, answers in right.items()},
        "chance": _share([1 / len(VALUES[name]) for name, answers in right.items() for _ in answers]),
        "n_judged": sum(len(answers) for answers in right.values()),
        "n_items_without_picture": items["image"].null_count(),
        "n_items_without_summary": expected.join(table, on="item_id", how="anti").height,
    }


def taste_accuracy(table: pl.DataFrame, settings: DemoSettings, attributes: Sequence[str]) -> dict[str, Number]:
    """Measure whether preferences name what their users like on the day of the state's key.

    Measured over the last state of every chain (of both visible sets), and with the prefix `all_states/` over all:

    - `current_taste_accuracy`: share of (state, attribute, value) where "the text names the value" is equal to "the
      user's true taste of that day likes it"; `current_taste_accuracy/<attribute>`: over the last states;
    - `strongest_taste_accuracy`: share of (state, attribute) where a value named with the strongest level word used
      for that attribute is liked, one such value being enough. Attributes without a level word are left out;
      `n_strongest_judged` says how many are in;
    - `named_share`: mean over (state, attribute) of the share of the attribute's values that are named;
    - `chance` of the accuracy, 0.5. That of the strongest is 0.5 for one value at random, and more for several.

    An empty state names nothing: it is counted, with half of its values right. Shares are None where there is nothing
    to judge.

    Args:
        table: View of the stage preference.
        settings: Settings that the shop was generated with.
        attributes: Attributes that are judged.

    Raises:
        DataError: The table names a user on a day that the shop does not have.
    """
    judged = _judged_states(table, settings, attributes)
    last = judged.filter(pl.col("is_last"))
    return {
        **_taste_shares(last, ""),
        **{f"current_taste_accuracy/{name}": _accuracy(last.filter(attribute=name)) for name in attributes},
        "chance": TASTE_CHANCE,
        "n_chains": table.select("user_id", "visible").n_unique(),
        **_taste_shares(judged, "all_states/"),
    }


def strongest_values(text: str) -> dict[str, set[str]]:
    """Return attribute -> values directly behind the strongest level word that a text uses for it, if it uses any."""
    found: dict[str, dict[int, set[str]]] = {}
    for level, word in _LEVELLED.findall(text.lower()):
        for name, values in named_values(word).items():
            if values:
                found.setdefault(name, {}).setdefault(LEVELS.index(level), set()).update(values)
    return {name: levels[max(levels)] for name, levels in found.items()}


def _answers(rows: pl.DataFrame, modality: Modality) -> dict[str, list[bool]]:
    """Return attribute -> True for each summary that names only its true value, of those that can show it."""
    right: dict[str, list[bool]] = {name: [] for name in MODALITIES[modality]}
    for row in rows.iter_rows(named=True):
        named = named_values(row["text"])
        for name, answers in right.items():
            in_text = modality != "image" and name in TEXT_ATTRIBUTES
            if in_text or row["has_picture"]:
                answers.append(named[name] == {row[name]})
    return right


def _judged_states(table: pl.DataFrame, settings: DemoSettings, attributes: Sequence[str]) -> pl.DataFrame:
    """Return one row a (state, attribute): how many of its values the state gets right, and how many it names."""
    rows = table.with_columns(
        day=pl.col("timestamp") // DAY_MS, is_last=pl.col("step") == pl.col("step").max().over("user_id", "visible")
    ).join(user_truth(settings), on=["user_id", "day"], how="left")
    _demand(rows, "user_id", ATTRIBUTES[0])
    model = TasteModel.from_settings(settings)
    likes = {name: model.likes(name) for name in attributes}  # (states, values)
    judged = []
    for row in rows.iter_rows(named=True):
        named, strongest = named_values(row["text"]), strongest_values(row["text"])
        for name in attributes:
            liked = {value for value, like in zip(VALUES[name], likes[name][row[name]], strict=True) if like}
            n_right = len(VALUES[name]) - len(liked ^ named[name])
            strongest_liked = bool(strongest[name] & liked) if name in strongest else None
            judged.append((row["is_last"], name, n_right, len(named[name]), len(VALUES[name]), strongest_liked))
    return pl.DataFrame(judged, _JUDGED_SCHEMA, orient="row")


def _taste_shares(judged: pl.DataFrame, prefix: str) -> dict[str, Number]:
    return {
        f"{prefix}current_taste_accuracy": _accuracy(judged),
        f"{prefix}strongest_taste_accuracy": _share(judged["strongest"].drop_nulls().to_list()),
        f"{prefix}n_strongest_judged": judged["strongest"].count(),
        f"{prefix}named_share": _share((judged["n_named"] / judged["n_values"]).to_list()),
    }


def _accuracy(judged: pl.DataFrame) -> float | None:
    return int(judged["n_right"].sum()) / int(judged["n_values"].sum()) if judged.height else None


def _share(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _demand(rows: pl.DataFrame, name: str, truth: str) -> None:
    """Check that every row has a truth."""
    unknown = rows.filter(pl.col(truth).is_null())
    if unknown.height:
        raise DataError(
            f"{unknown.height} of {rows.height} summaries are of another data set: the demo shop of manifest.json "
            f"has no {name} such as {unknown[name][0]!r} (on that day); write them again with "
            "`python -m mllm_srec summarize`"
        )
