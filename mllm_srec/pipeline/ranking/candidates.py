"""Candidate items of a person: the whole catalogue if it is small, else the items of a retriever."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import islice
from pathlib import Path

import polars as pl

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.tables.popularity import POPULARITY, by_popularity
from mllm_srec.pipeline.evaluation.retrieval import lists_of_run
from mllm_srec.pipeline.evaluation.scored_rows import KEPT_TOP
from mllm_srec.pipeline.runs.folder import RunFolder
from mllm_srec.types import ConfigError, DataError

Retriever = Callable[[str], Sequence[str] | None]
"""user_id -> item ids, best first; None if the retriever has no list for the user."""


class CandidateChooser:
    """Chooses the items that are ranked for a person.

    Args:
        data: Prepared data set.
        max_items: Largest catalogue that is ranked completely, and most items of a longer list.
        retriever: Retriever of a larger catalogue: `popularity`, the folder of a run whose test split was evaluated
            with `full`, or a Parquet file with columns `user_id`, `item_id`, `rank` (from 1).

    Raises:
        ConfigError: `max_items` is below 1, or the retriever is none of these.
        DataError: The retriever's lists do not fit the data set.
    """

    def __init__(self, data: PreparedDataset, max_items: int = 1000, retriever: str = POPULARITY) -> None:
        if max_items < 1:
            raise ConfigError(f"max_items={max_items}: must be at least 1; give the length of the longest list to rank")
        self.data, self.max_items, self.retriever = data, max_items, retriever
        self._retrieve = every_item(data) if self.ranks_catalogue else load_retriever(retriever, data, max_items)

    @property
    def ranks_catalogue(self) -> bool:
        """True if all items are ranked."""
        return self.data.items.height <= self.max_items

    @property
    def source(self) -> str:
        """Origin of the items in words."""
        if self.ranks_catalogue:
            return f"the whole catalogue of {self.data.items.height:,} items"
        chosen = (
            "the most popular items" if self.retriever == POPULARITY else f"the items that {self.retriever} retrieved"
        )
        return f"{chosen}, at most {self.max_items:,} of {self.data.items.height:,}"

    def covers(self, user_id: str) -> bool:
        """Return True if the retriever has a list for the user."""
        return self._retrieve(user_id) is not None

    def choose(self, user_id: str, seen: Collection[str]) -> list[str]:
        """Return the ids of the items to rank for a person.

        Args:
            user_id: Id of the person.
            seen: Items that the person interacted with, which are left out.

        Raises:
            DataError: The retriever has no list for the person.
        """
        retrieved = self._retrieve(user_id)
        if retrieved is None:
            raise DataError(
                f"retriever={self.retriever!r}: has no list for user {user_id!r}; use retriever={POPULARITY!r}, or "
                "name the items to rank"
            )
        return list(islice((item_id for item_id in retrieved if item_id not in seen), self.max_items))


def every_item(data: PreparedDataset) -> Retriever:
    """Make a retriever that gives all items to every user."""
    item_ids = data.items["item_id"].to_list()
    return lambda user_id: item_ids


def load_retriever(name: str, data: PreparedDataset, n: int) -> Retriever:
    """Load a retriever: `popularity`, a run that ranked the whole catalogue, or a Parquet file of ranked items.

    Args:
        name: `retriever` of `CandidateChooser`.
        data: Prepared data set.
        n: Items of a list; a run keeps at most `KEPT_TOP`.

    Raises:
        ConfigError: The name is none of these, or the run has no ranking of the catalogue of this data set.
        DataError: The file names an item that is not in the data set.
    """
    if name == POPULARITY:
        ordered = by_popularity(data.interactions, data.items).to_list()
        return lambda user_id: ordered
    if Path(name).is_dir():
        lists = lists_of_run(RunFolder(Path(name)), data, "test", min(n, KEPT_TOP))
        return _by_user(lists.join(data.groups.select("group_id", "user_id"), on="group_id")).get
    return _by_user(_read_lists(Path(name), data)).get


def _by_user(table: pl.DataFrame) -> dict[str, list[str]]:
    """Return user_id -> item ids, best first."""
    lists = table.sort("user_id", "rank", "item_id").group_by("user_id", maintain_order=True).agg("item_id")
    return {user_id: list(dict.fromkeys(items)) for user_id, items in lists.iter_rows()}


def _read_lists(path: Path, data: PreparedDataset) -> pl.DataFrame:
    columns = ("user_id", "item_id", "rank")
    try:
        table = pl.read_parquet(path, columns=list(columns), glob=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ConfigError(
            f"retriever={str(path)!r}: is neither {POPULARITY!r} nor a run's folder nor a Parquet file with columns "
            f"{', '.join(columns)} ({str(error).splitlines()[0]})"
        ) from error
    unknown = table.join(data.items, on="item_id", how="anti")
    if unknown.height:
        raise DataError(
            f"retriever={str(path)!r}: {unknown.height} of {table.height} rows name items that the data set "
            f"{data.folder} does not have, for example {unknown.item(0, 'item_id')!r}; retrieve from the same data set"
        )
    return table
