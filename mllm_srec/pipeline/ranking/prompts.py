"""Prompts for ranking: stored targets of the data set's items, and contexts and new items tokenised on demand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any

from mllm_srec.data.loading.prompt_datamodule import PromptDataModule
from mllm_srec.data.stored_prompts.item_texts import ShownItem
from mllm_srec.data.stored_prompts.parts import PromptParts
from mllm_srec.data.stored_prompts.store import prompt_target
from mllm_srec.pipeline.ranking.new_items import NewItem
from mllm_srec.pipeline.ranking.people import Person
from mllm_srec.prompts.packing import PromptTarget
from mllm_srec.summaries.on_arrival import SummaryArrivals
from mllm_srec.types import DataError

Row = Mapping[str, Any]


@dataclass(frozen=True)
class RankContext:
    """Tokens of a prompt that come from the person.

    Attributes:
        prefix_ids: Tokens before every target.
        middle_ids: Tokens within every target, for a chain of thought.
        n_dropped: Number of oldest history lines for which there was no room.
    """

    prefix_ids: Sequence[int]
    middle_ids: Sequence[int]
    n_dropped: int


@dataclass(frozen=True)
class _Added:
    """A new item with its tokens."""

    row: Row
    shown: ShownItem
    target: Row

    @property
    def n_tokens(self) -> int:
        return len(self.target["before_ids"]) + len(self.target["input_ids"])


class RankPrompts:
    """Makes the same tokens as the prompt store; threads take turns at adding items.

    Args:
        datamodule: Data module of the run, with its summaries and open stores.
        arrivals: Writer of summaries for new items; None if prompts are made of titles.
    """

    def __init__(self, datamodule: PromptDataModule, arrivals: SummaryArrivals | None) -> None:
        self.data, self.stores, self.arrivals = datamodule.data, datamodule.stores, arrivals
        encoder, images, texts = self.stores.encoder, self.stores.images, datamodule.summaries
        self.parts = PromptParts(encoder, images, datamodule.prompt, datamodule.max_length, texts)
        self.index = {item_id: index for index, item_id in enumerate(self.data.items["item_id"])}
        self._longest = int(self.stores.prompts.target_lengths().max() or 0)  # type: ignore[arg-type]
        self._added: dict[str, _Added] = {}
        self._ids: dict[NewItem, str] = {}  # also of items that could not be added, which may come again
        self._used: set[str] = set(self.index)
        self._turn = RLock()

    def add(self, items: Sequence[NewItem]) -> list[str]:
        """Return the ids of new items, after making summaries and tokens of those not added before.

        Raises:
            DataError: A picture cannot be used, or an id names another item.
            ConfigError: The summaries of new items cannot be written.
        """
        if all(self._is_added(item) for item in items):
            return [self._ids[item] for item in items]
        with self._turn:
            rows = self._new_rows(items)
            for row in rows:
                self._add_picture(row)
            if rows and self.arrivals is not None:
                self.arrivals.add_items(rows)
            for row in rows:
                shown = self.parts.shown(row)
                self._added[row["item_id"]] = _Added(row, shown, self.parts.target(row["item_id"], shown))
            return [self._ids[item] for item in items]

    def _is_added(self, item: NewItem) -> bool:
        return self._ids.get(item) in self._added

    def _new_rows(self, items: Sequence[NewItem]) -> list[Row]:
        """Return the rows of the items that were not added before; either all of them get an id, or none does."""
        fresh: dict[NewItem, Row] = {}
        taken = set(self._used)
        for item in items:
            if not self._is_added(item) and item not in fresh:
                item_id = self._ids.get(item) or _free_id(item, taken)
                fresh[item] = item.row(item_id, self._max_image_pixels)
                taken.add(item_id)
        self._used = taken
        self._ids |= {item: row["item_id"] for item, row in fresh.items()}
        return list(fresh.values())

    def row(self, item_id: str) -> Row:
        """Return the row of an item, from the items table or among the new items.

        Raises:
            DataError: The item is unknown.
        """
        if item_id in self._added:
            return self._added[item_id].row
        if item_id not in self.index:
            raise DataError(
                f"item_id={item_id!r}: is not among the {len(self.index)} items of the data set and the "
                f"{len(self._added)} new ones; give an id of items.parquet, or describe a new item"
            )
        return self.data.items.row(self.index[item_id], named=True)

    def context(self, person: Person, profile: str | None, item_ids: Sequence[str]) -> RankContext:
        """Make the tokens of a person's context.

        The context is shortened to leave room for the longest target of the catalogue, or a longer new item, so that it
        does not depend on which items of the catalogue are ranked.

        Args:
            person: Person to rank for.
            profile: Phrase for the profile clause of the prompt; None: unknown.
            item_ids: Ids of the items to rank.
        """
        lines = {item_id: self.parts.line(self._shown(item_id)) for item_id in person.body.items}
        new = [self._added[item_id].n_tokens for item_id in item_ids if item_id in self._added]
        longest = max([self._longest, *new])
        return RankContext(**self.parts.context(person.group, profile, person.body, self.parts.fitter(lines), longest))

    def targets(self, item_ids: Sequence[str], middle_ids: Sequence[int]) -> list[PromptTarget]:
        """Make the prompts of items, in order."""
        return [self._target(item_id, middle_ids) for item_id in item_ids]

    def _target(self, item_id: str, middle_ids: Sequence[int]) -> PromptTarget:
        if item_id in self._added:
            return prompt_target(self._added[item_id].target, middle_ids)
        return self.stores.prompts.target(self.index[item_id], [], 0, -1, middle_ids)

    def _shown(self, item_id: str) -> ShownItem:
        return self._added[item_id].shown if item_id in self._added else self.parts.shown(self.row(item_id))

    @property
    def _max_image_pixels(self) -> int:
        return int(self.data.manifest["prepare"]["max_image_pixels"])

    def _add_picture(self, row: Row) -> None:
        """Add the picture to the stores of the recommender and of the summary writer, which may resize differently."""
        stores = [self.stores.images, self.arrivals.plan.images if self.arrivals is not None else None]
        for images in stores:
            if images is not None and row["image"] is not None:
                images.add(row["item_id"], Path(row["image"]))


def _free_id(item: NewItem, taken: set[str]) -> str:
    """Return the item's id, or make one."""
    if item.item_id is None:
        return next(name for n in range(1, len(taken) + 2) if (name := f"new-{n}") not in taken)
    if item.item_id in taken:
        raise DataError(
            f"item_id={item.item_id!r} of a new item: is the id of another item; choose a new one, or leave it out"
        )
    return item.item_id
