"""What a run knows of the items that a person liked: titles, pictures and stored summaries, item by item."""

from __future__ import annotations

import polars as pl

from mllm_srec.pipeline.ranking.people import Person
from mllm_srec.pipeline.ranking.ranker import Ranker

HISTORY_SCHEMA: dict[str, type[pl.DataType]] = {
    "item_id": pl.String,
    "title": pl.String,
    "picture": pl.String,
    "image_summary": pl.String,
    "item_summary": pl.String,
    "since": pl.Boolean,
}
"""Columns of `history_table`."""


def history_table(ranker: Ranker, person: Person) -> pl.DataFrame:
    """The history of a person, oldest first.

    Args:
        ranker: Of the run.
        person: From `ranker.person`.

    Returns:
        Columns of `HISTORY_SCHEMA`: `picture` is a file, null where an item has none; summaries are null where the run
        has none of that stage; `since` marks items that came after the preference, and stand in the prompt themselves.
    """
    texts, folder = ranker.run.datamodule.summaries, ranker.data.folder
    pictures = dict(ranker.data.items.select("item_id", "image").iter_rows())
    rows = []
    for item_id in person.history:
        picture = pictures.get(item_id)
        rows.append(
            {
                "item_id": item_id,
                "title": ranker.prompts.row(item_id)["title"],
                "picture": None if picture is None else str(folder / picture),
                "image_summary": None if texts is None else texts.image.get(item_id),
                "item_summary": None if texts is None else texts.item.get(item_id),
                "since": item_id in person.body.items,
            }
        )
    return pl.DataFrame(rows, schema=HISTORY_SCHEMA, orient="row")
