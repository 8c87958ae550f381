"""Summaries of a stage as one Parquet table: what other programs read, and what prompts are made from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl
from filelock import FileLock

from mllm_srec.files.atomic import write_table
from mllm_srec.prompts.summaries import Summary
from mllm_srec.summaries.preference_chains import Chain, ChainStep
from mllm_srec.summaries.store import SummaryStore
from mllm_srec.types import DataError

LATEST = "summaries.parquet"
"""The view that was written last, whatever its name."""

SUMMARY_SCHEMA: dict[str, pl.DataType] = {
    "text": pl.String(),
    "finish_reason": pl.String(),  # stop|length
    "n_tokens": pl.Int64(),
    "key": pl.String(),  # content address in the store
}
ITEM_VIEW_SCHEMA: dict[str, pl.DataType] = {"item_id": pl.String(), **SUMMARY_SCHEMA}
"""Columns of the views of the stages image and item."""

PREFERENCE_VIEW_SCHEMA: dict[str, pl.DataType] = {
    "user_id": pl.String(),
    "visible": pl.String(),  # train|train_val
    "step": pl.Int64(),  # from 0
    "timestamp": pl.Int64(),  # with order: key of the last item shown
    "order": pl.Int64(),
    **SUMMARY_SCHEMA,
}
"""Columns of the views of the stage preference."""


def item_view(item_ids: Sequence[str], keys: Sequence[str], store: SummaryStore) -> pl.DataFrame:
    """Summaries of items, one row an item, in the given order.

    Args:
        item_ids: The items.
        keys: Content address of each item's summary; items with equal content may share one.
        store: Where the summaries are.

    Returns:
        Columns of `ITEM_VIEW_SCHEMA`.

    Raises:
        DataError: A summary is missing.
    """
    columns = {"item_id": list(item_ids), **_summary_columns(keys, store)}
    return pl.DataFrame(columns, schema=ITEM_VIEW_SCHEMA)


def preference_view(steps: Sequence[tuple[Chain, ChainStep]], keys: Sequence[str], store: SummaryStore) -> pl.DataFrame:
    """Preferences of users, one row a step of a chain, in the given order.

    Args:
        steps: The steps, each with its chain.
        keys: Content address of what each step wrote; chains with a common beginning share some.
        store: Where the summaries are.

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
    """Write `<folder>/views/<name>.parquet` and the same as `<folder>/summaries.parquet`, each whole or not at all.

    Args:
        folder: Folder of the stage.
        name: Names the settings that the view belongs to.
        table: The view.
    """
    path = folder / "views" / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "views.lock"):
        for target in (path, folder / LATEST):
            write_table(table, target)


def read_view(folder: Path, name: str) -> pl.DataFrame | None:
    """A view as it was written; None where there is none of this name."""
    path = folder / "views" / f"{name}.parquet"
    return pl.read_parquet(path, glob=False) if path.exists() else None


def whole_letters(text: str) -> str:
    """A stored text as views give it: half a character (a lone surrogate) is no Unicode, and Parquet holds no other."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _summary_columns(keys: Sequence[str], store: SummaryStore) -> dict[str, list[str] | list[int]]:
    """Values of `SUMMARY_SCHEMA`, in the order of `keys`."""
    missing = [key for key in keys if key not in store]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(keys)} summaries are not in {store.folder}, the first has the key {missing[0]}; "
            "run the command `summarize` with the same settings to write them"
        )
    summaries: list[Summary] = [store[key] for key in keys]
    return {
        "text": [whole_letters(summary.text) for summary in summaries],
        "finish_reason": [summary.finish_reason for summary in summaries],
        "n_tokens": [summary.n_tokens for summary in summaries],
        "key": list(keys),
    }
