"""Tokenises items once, puts every context together from them, and counts what had to be shortened."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import polars as pl
from datasets.arrow_writer import ArrowWriter

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.image_store import ImageStore
from mllm_srec.data.progress import track
from mllm_srec.prompts.builder import (
    ItemText,
    context_head,
    context_tail,
    empty_history,
    history_line,
    item_text,
    target,
)
from mllm_srec.prompts.encoding import PromptEncoder
from mllm_srec.prompts.templates import PromptSettings
from mllm_srec.types import ConfigError

IDS = datasets.Sequence(datasets.Value("int32"))
CONTEXT_FEATURES = datasets.Features({"prefix_ids": IDS, "n_dropped": datasets.Value("int32")})
TARGET_FEATURES = datasets.Features({"input_ids": IDS, "picture": datasets.Value("string"), "grid": IDS})


@dataclass
class PromptReport:
    """What building the prompts had to shorten; printed, and kept as `report.json` beside the store.

    Attributes:
        n_contexts: Contexts written.
        n_without_history: Contexts that say "no history".
        n_shortened: Contexts whose oldest history items did not fit `max_length`.
        n_dropped_items: History items dropped from them.
        n_cut_histories: Contexts with room for not even their newest item, which stands there cut.
        n_cut_texts: Items whose text was cut at `max_item_tokens`.
        n_without_picture: Items whose prompt says that there is no picture.
    """

    n_contexts: int = 0
    n_without_history: int = 0
    n_shortened: int = 0
    n_dropped_items: int = 0
    n_cut_histories: int = 0
    n_cut_texts: int = 0
    n_without_picture: int = 0


class PromptWriter:
    """Writes the prompts of a data set.

    Args:
        data: The prepared data set.
        encoder: The backbone's tokenizer.
        images: The image store, None for prompts without pictures.
        settings: Wording and fields.
        max_length: Tokens of a prompt with its longest target and answer.
    """

    def __init__(
        self,
        data: PreparedDataset,
        encoder: PromptEncoder,
        images: ImageStore | None,
        settings: PromptSettings,
        max_length: int,
    ) -> None:
        self.data, self.encoder, self.images, self.settings = data, encoder, images, settings
        self.max_length = max_length
        self.report = PromptReport()
        self.texts = [self._item_text(row) for row in data.items.iter_rows(named=True)]

    def write(self, folder: Path) -> None:
        """Write both tables."""
        targets = [self._target_row(i, item) for i, item in enumerate(self.data.items["item_id"])]
        _write_arrow(folder / "targets.arrow", TARGET_FEATURES, iter(targets))
        contexts = self._context_rows([len(row["input_ids"]) for row in targets])
        _write_arrow(folder / "contexts.arrow", CONTEXT_FEATURES, contexts)

    def _item_text(self, row: dict[str, Any]) -> str:
        """The item's line, cut at `max_item_tokens` and counted where it was."""
        item = ItemText(row["title"], row["brand"] or "", row["categories"] or (), row["description"])
        text = item_text(item, self.settings)
        ids = self.encoder.encode_text(text)
        if len(ids) <= self.settings.max_item_tokens:
            return text
        self.report.n_cut_texts += 1
        decoded: str = self.encoder.tokenizer.decode(ids[: self.settings.max_item_tokens])
        return decoded.rstrip("\ufffd ")  # a cut inside a multi-byte letter leaves a replacement sign

    def _target_row(self, index: int, item_id: str) -> dict[str, Any]:
        picture = self.images.picture_of(item_id) if self.images else None
        n_tokens = self.images.n_tokens(picture) if self.images and picture else 0
        self.report.n_without_picture += picture is None
        ids = self.encoder.encode(target(self.texts[index], picture is not None, self.settings), n_tokens)
        grid = list(self.images.grid(picture)) if self.images and picture else []
        return {"input_ids": ids, "picture": picture, "grid": grid}

    def _context_rows(self, target_lengths: list[int]) -> Iterator[dict[str, Any]]:
        lines = [self.encoder.encode_text(history_line(text)) for text in self.texts]
        nothing = self.encoder.encode_text(empty_history())
        row_of = {item: index for index, item in enumerate(self.data.items["item_id"])}
        answer = max(map(len, self.encoder.answer_ids.values()))
        users = self.data.users
        profiles: dict[str, str] = dict(users.select("user_id", "profile").iter_rows()) if users is not None else {}
        groups = self.data.groups.join(_longest_target(self.data, target_lengths), on="group_id", how="left")
        rows = groups.select("user_id", "history", "longest", "group_id").iter_rows()
        for user_id, history, longest, group_id in track(rows, groups.height, "tokenising contexts"):
            head = self.encoder.encode(context_head(user_id, profiles.get(user_id), self.settings))
            tail = self.encoder.encode(context_tail(user_id, self.settings))
            room = self.max_length - len(head) - len(tail) - (longest or 0) - answer
            if room < len(nothing):
                raise ConfigError(
                    f"max_length={self.max_length} is too short for group {group_id} of user {user_id!r}: without any "
                    f"history it needs {self.max_length - room + len(nothing)}; raise data.max_length, or lower "
                    "data.pictures.max_pixels or data.prompt.max_item_tokens"
                )
            kept = self._newest_that_fit([lines[row_of[item]] for item in history], room)
            if history and not kept:  # never claim that there is no history: the newest item, cut
                kept = [lines[row_of[history[-1]]][:room]]
                self.report.n_cut_histories += 1
            self._count(len(history), len(kept))
            middle = [token for line in kept for token in line] or nothing
            yield {"prefix_ids": head + middle + tail, "n_dropped": len(history) - len(kept)}

    @staticmethod
    def _newest_that_fit(lines: list[list[int]], room: int) -> list[list[int]]:
        first = len(lines)
        while first > 0 and len(lines[first - 1]) <= room:
            first -= 1
            room -= len(lines[first])
        return lines[first:]

    def _count(self, n_history: int, n_kept: int) -> None:
        self.report.n_contexts += 1
        self.report.n_without_history += n_history == 0
        self.report.n_shortened += n_kept < n_history
        self.report.n_dropped_items += n_history - n_kept


def _longest_target(data: PreparedDataset, target_lengths: list[int]) -> pl.DataFrame:
    """Tokens of the longest target of each group: `group_id`, `longest`."""
    lengths = pl.DataFrame({"item_id": data.items["item_id"], "longest": target_lengths})
    asked = pl.concat([data.samples.select("group_id", "item_id"), data.candidates.select("group_id", "item_id")])
    return asked.join(lengths, on="item_id").group_by("group_id").agg(pl.col("longest").max())


def _write_arrow(path: Path, features: datasets.Features, rows: Iterator[dict[str, Any]]) -> None:
    with ArrowWriter(path=str(path), features=features) as writer:
        for row in rows:
            writer.write(row)
        writer.finalize()
