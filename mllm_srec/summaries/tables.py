"""Tables of summaries: one Parquet file a part, read by other programs and by the prompts that use the summaries.

A table is called a view, because the store (`store.py`) holds the texts: it names those of one set of settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from mllm_srec.data.stored_prompts.summary_texts import PreferenceState, Visible
from mllm_srec.files.atomic import write_table
from mllm_srec.files.folders import locked
from mllm_srec.files.reading import read_table
from mllm_srec.prompts.summaries import Summary
from mllm_srec.summaries.preference_chains import Chain, ChainStep
from mllm_srec.summaries.store import SummaryStore
from mllm_srec.types import DataError

LATEST = "summaries.parquet"
"""Copy of the view that was written last, whatever its name."""

SUMMARY_SCHEMA: dict[str, pl.DataType] = {
    "text": pl.String(),
    "finish_reason": pl.String(),  # stop|length
    "n_tokens": pl.Int64(),
    "key": pl.String(),  # content address in the store
}
ITEM_VIEW_SCHEMA: dict[str, pl.DataType] = {"item_id": pl.String(), **SUMMARY_SCHEMA}
"""Columns of views with one text an item."""

PREFERENCE_VIEW_SCHEMA: dict[str, pl.DataType] = {
    "user_id": pl.String(),
    "visible": pl.String(),  # train|train_val
    "step": pl.Int64(),  # from 0
    "timestamp": pl.Int64(),  # with order: key of the last item shown
    "order": pl.Int64(),
    **SUMMARY_SCHEMA,
}
"""Columns of views with a chain of texts a user."""


def item_view(item_ids: Sequence[str], keys: Sequence[str], store: SummaryStore) -> pl.DataFrame:
    """Make the view of texts about items, one row an item, in the given order.

    Args:
        item_ids: Ids of the items.
        keys: Content address of each item's summary; items with equal content may share one.
        store: Store that holds the summaries.

    Returns:
        Columns of `ITEM_VIEW_SCHEMA`.

    Raises:
        DataError: A summary is missing.
    """
    columns = {"item_id": list(item_ids), **_summary_columns(keys, store)}
    return pl.DataFrame(columns, schema=ITEM_VIEW_SCHEMA)


def preference_view(steps: Sequence[tuple[Chain, ChainStep]], keys: Sequence[str], store: SummaryStore) -> pl.DataFrame:
    """Make the view of preferences, one row a step of a preference chain, in the given order.

    Args:
        steps: Steps, each with its chain.
        keys: Content address of each step's text; chains with a common beginning share some.
        store: Store that holds the summaries.

    Returns:
        Columns of `PREFERENCE_VIEW_SCHEMA`.

    Raises:
        DataError: A summary is missing.
    """
    columns = {
        "user_id": [chain.user_id for chain, _ in steps],
        "visible": [chain.visible for chain, _ in steps],
        "step": [step.index for _, step in steps],
        "timestamp": [step.key[0] for _, step in steps],
        "order": [step.key[1] for _, step in steps],
        **_summary_columns(keys, store),
    }
    return pl.DataFrame(columns, schema=PREFERENCE_VIEW_SCHEMA)


def write_view(folder: Path, name: str, table: pl.DataFrame) -> None:
    """Write a view atomically as `<folder>/views/<name>.parquet`, and a copy as `<folder>/summaries.parquet`.

    Args:
        folder: Folder of the stage.
        name: Name of the view, a hash of the settings that it belongs to.
        table: The view.
    """
    path = folder / "views" / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder / "views.lock"):
        for target in (path, folder / LATEST):
            write_table(table, target)


def read_view(folder: Path, name: str) -> pl.DataFrame | None:
    """Read a view; None where there is none of this name.

    Raises:
        DataError: The file is damaged.
    """
    path = folder / "views" / f"{name}.parquet"
    if not path.exists():
        return None
    remedy = "delete it and run `python -m mllm_srec summarize` again: the texts themselves are kept in the store"
    return read_table(path, "a table of summaries", remedy, schema=SUMMARY_SCHEMA)


def preference_states(view: pl.DataFrame) -> dict[tuple[str, Visible], list[PreferenceState]]:
    """Return (user_id, visible) -> states in time order, of a view of preferences."""
    rows = view.sort("timestamp", "order").select("user_id", "visible", "timestamp", "order", "text")
    states: dict[tuple[str, Visible], list[PreferenceState]] = {}
    for user_id, visible, *state in rows.iter_rows():
        states.setdefault((user_id, visible), []).append(PreferenceState(*state))
    return states


def valid_unicode(text: str) -> str:
    """Replace lone surrogates in a stored text, which JSON holds and Parquet does not."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _summary_columns(keys: Sequence[str], store: SummaryStore) -> dict[str, list[str] | list[int]]:
    """Return the columns of `SUMMARY_SCHEMA`, in the order of `keys`."""
    missing = [key for key in keys if key not in store]
    if missing:
        raise DataError(
            f"{store.folder}: {len(missing)} of {len(keys)} summaries are missing, the first has the key {missing[0]}; "
            "run the command `summarize` with the same settings to write them"
        )
    summaries: list[Summary] = [store[key] for key in keys]
    return {
        "text": [valid_unicode(summary.text) for summary in summaries],
        "finish_reason": [summary.finish_reason for summary in summaries],
        "n_tokens": [summary.n_tokens for summary in summaries],
        "key": list(keys),
    }
