"""Prompts of people and items as they are asked for: stored targets, and contexts and new items tokenised now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
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
    """A person's part of the prompt.

    Attributes:
        prefix_ids: Before every target.
        middle_ids: Within every target, where there is a chain of thought.
        n_dropped: The oldest history lines, for which there was no room.
    """

    prefix_ids: Sequence[int]
    middle_ids: Sequence[int]
    n_dropped: int


@dataclass(frozen=True)
class _Added:
    """A new item, tokenised."""

    row: Row
    shown: ShownItem
    target: Row

    @property
    def n_tokens(self) -> int:
        return len(self.target["before_ids"]) + len(self.target["input_ids"])


class RankPrompts:
    """Makes the tokens that the prompt store would hold.

    Args:
        datamodule: Of the run, its summaries given and its stores open.
        arrivals: Writes summaries of new items; None where prompts are made of titles.
    """

    def __init__(self, datamodule: PromptDataModule, arrivals: SummaryArrivals | None) -> None:
        self.data, self.stores, self.arrivals = datamodule.data, datamodule.stores, arrivals
        encoder, images, texts = self.stores.encoder, self.stores.images, datamodule.summaries
        self.parts = PromptParts(encoder, images, datamodule.prompt, datamodule.max_length, texts)
        self.index = {item_id: index for index, item_id in enumerate(self.data.items["item_id"])}
        self._longest = int(self.stores.prompts.target_lengths().max() or 0)  # type: ignore[arg-type]
        self._added: dict[str, _Added] = {}
        self._ids: dict[NewItem, str] = {}
        self._used: set[str] = set(self.index)

    def add(self, items: Sequence[NewItem]) -> list[str]:
        """Ids of new items, whose summaries and tokens are made where they were not yet.

        Raises:
            DataError: A picture cannot be used, or an id names another item.
        """
        fresh: dict[NewItem, Row] = {}
        taken = set(self._used)
        for item in items:
            if item not in self._ids and item not in fresh:
                fresh[item] = item.row(_free_id(item, taken), self._max_image_pixels)
                taken.add(fresh[item]["item_id"])
        self._used = taken  # nothing is wrong with the items; if a disk is full, none is known, and no id is used again
        for row in fresh.values():
            self._add_picture(row)
        if fresh and self.arrivals is not None:
            self.arrivals.add_items(list(fresh.values()))
        for row in fresh.values():
            shown = self.parts.shown(row)
            self._added[row["item_id"]] = _Added(row, shown, self.parts.target(row["item_id"], shown))
        self._ids |= {item: row["item_id"] for item, row in fresh.items()}
        return [self._ids[item] for item in items]

    def row(self, item_id: str) -> Row:
        """Fields of the items table.

        Raises:
            DataError: Nobody knows the item.
        """
        if item_id in self._added:
            return self._added[item_id].row
        if item_id not in self.index:
            raise DataError(
                f"there is no item {item_id!r} among the {len(self.index)} of the data set and the {len(self._added)} "
                "new ones; give an id of items.parquet, or describe a new item"
            )
        return self.data.items.row(self.index[item_id], named=True)

    def context(self, person: Person, profile: str | None, item_ids: Sequence[str]) -> RankContext:
        """Tokens of a person's context.

        Whatever of the catalogue is ranked, it is shortened alike: for the longest target of all, or for a new item
        that is still longer.

        Args:
            person: Who.
            profile: What opens the question, where it is known.
            item_ids: What is ranked.
        """
        lines = {item_id: self.parts.line(self._shown(item_id)) for item_id in person.body.items}
        new = [self._added[item_id].n_tokens for item_id in item_ids if item_id in self._added]
        group = {**person.group, "longest": max([self._longest, *new])}
        return RankContext(**self.parts.context(group, profile, person.body, self.parts.fitter(lines)))

    def targets(self, item_ids: Sequence[str], middle_ids: Sequence[int]) -> list[PromptTarget]:
        """Prompts of items, in order."""
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
        """Let the stores know the picture: as the recommender sees it, and as the writer of summaries does."""
        stores = [self.stores.images, self.arrivals.plan.images if self.arrivals is not None else None]
        for images in stores:
            if images is not None and row["image"] is not None:
                images.add(row["item_id"], Path(row["image"]))


def _free_id(item: NewItem, taken: set[str]) -> str:
    """The item's own id, or one made for it."""
    if item.item_id is None:
        return next(name for n in range(1, len(taken) + 2) if (name := f"new-{n}") not in taken)
    if item.item_id in taken:
        raise DataError(
            f"item_id={item.item_id!r} of a new item names another item already; choose another, or leave it out"
        )
    return item.item_id
