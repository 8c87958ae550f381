"""Tokenises items once, puts every context together from them, and counts what had to be shortened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
import polars as pl
from datasets.arrow_writer import ArrowWriter

from mllm_srec.data.context_fitting import ContextFitter
from mllm_srec.data.context_texts import ContextTexts
from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.image_store import ImageStore
from mllm_srec.data.item_texts import ShownItem, shown_item
from mllm_srec.data.progress import track
from mllm_srec.data.prompt_report import PromptReport
from mllm_srec.data.summary_texts import SummaryTexts
from mllm_srec.prompts.builder import ContextFrame, Piece, history_line, plain_context, target
from mllm_srec.prompts.chain import chain_context, chain_target
from mllm_srec.prompts.encoding import PromptEncoder
from mllm_srec.prompts.templates import NO_PICTURE, PromptSettings
from mllm_srec.types import ConfigError

IDS = datasets.Sequence(datasets.Value("int32"))
CONTEXT_FEATURES = datasets.Features({"prefix_ids": IDS, "middle_ids": IDS, "n_dropped": datasets.Value("int32")})
TARGET_FEATURES = datasets.Features(
    {"before_ids": IDS, "input_ids": IDS, "picture": datasets.Value("string"), "grid": IDS}
)


class PromptWriter:
    """Writes the prompts of a data set.

    Args:
        data: The prepared data set.
        encoder: The backbone's tokenizer.
        images: The image store, None for prompts without pictures.
        settings: Wording and fields.
        max_length: Tokens of a prompt with its longest target and answer.
        texts: Stored summaries, None for prompts of titles; a chain of thought needs them.

    Raises:
        DataError: A summary that is needed was not written.
    """

    def __init__(
        self,
        data: PreparedDataset,
        encoder: PromptEncoder,
        images: ImageStore | None,
        settings: PromptSettings,
        max_length: int,
        texts: SummaryTexts | None = None,
    ) -> None:
        self.data, self.encoder, self.settings, self.max_length = data, encoder, settings, max_length
        self.texts = texts
        self.chain = texts.prompts if texts is not None and settings.cot else None
        self.mentions_pictures = texts is None or texts.modality != "text"
        self.images = images if self.mentions_pictures else None
        self.report = PromptReport()
        self.items = [self._shown(row) for row in data.items.iter_rows(named=True)]
        users = data.users
        self.profiles: dict[str, str] = (
            dict(users.select("user_id", "profile").iter_rows()) if users is not None else {}
        )

    def write(self, folder: Path) -> None:
        """Write both tables."""
        targets = [self._target_row(i, item) for i, item in enumerate(self.data.items["item_id"])]
        _write_arrow(folder / "targets.arrow", TARGET_FEATURES, iter(targets))
        contexts = self._context_rows([len(row["before_ids"]) + len(row["input_ids"]) for row in targets])
        _write_arrow(folder / "contexts.arrow", CONTEXT_FEATURES, contexts)

    def _shown(self, row: dict[str, Any]) -> ShownItem:
        """The item's texts, cut at `max_item_tokens` and counted where one was."""
        whole = shown_item(row, self.settings, self.texts)
        shown = whole.cut(self.encoder, self.settings.max_item_tokens)
        self.report.n_cut_texts += shown != whole
        return shown

    def _target_row(self, index: int, item_id: str) -> dict[str, Any]:
        picture = self.images.picture_of(item_id) if self.images else None
        n_tokens = self.images.n_tokens(picture) if self.images and picture else 0
        grid = list(self.images.grid(picture)) if self.images and picture else []
        item = self.items[index]
        before, after = self._target_pieces(item, picture is not None)
        named = item.image_summary != NO_PICTURE if self.chain else picture is not None
        self.report.n_without_picture += self.mentions_pictures and not named
        return {
            "before_ids": self.encoder.encode(before, n_tokens),
            "input_ids": self.encoder.encode(after, n_tokens),
            "picture": picture,
            "grid": grid,
        }

    def _target_pieces(self, item: ShownItem, has_picture: bool) -> tuple[list[Piece], list[Piece]]:
        """What stands before the context's middle part, and behind it."""
        if self.chain is None:
            return [], target(item.line, has_picture if self.mentions_pictures else None, self.settings)
        before = chain_target(self.chain, has_picture, item.image_summary, item.text, item.line)
        return before, target(item.line, None, self.settings)

    def _context_rows(self, target_lengths: list[int]) -> Iterator[dict[str, Any]]:
        lines = [self.encoder.encode_text(history_line(item.line)) for item in self.items]
        line_of = dict(zip(self.data.items["item_id"], lines, strict=True))
        fitter = ContextFitter(line_of, self.encoder, self.settings.max_preference_tokens, self.report)
        contexts = ContextTexts(self.data, self.texts)
        groups = self.data.groups.join(_longest_target(self.data, target_lengths), on="group_id", how="left")
        longest = max(target_lengths, default=0)  # any item may be ranked in a list, whatever was drawn for it
        groups = groups.with_columns(
            longest=pl.when(pl.col("purpose") == "rank").then(longest).otherwise(pl.col("longest"))
        )
        for group in track(groups.iter_rows(named=True), groups.height, "tokenising contexts"):
            frame = self._frame(group["user_id"])
            head, tail, apart = (self.encoder.encode(pieces) for pieces in (frame.head, frame.tail, frame.apart))
            room = self._room(group, len(head) + len(tail) + len(apart), len(fitter.nothing))
            body, n_dropped = fitter.fit(contexts.body(group), room)
            whole = head + body + tail
            prefix, middle = (whole, apart) if frame.body_first else (apart, whole)
            yield {"prefix_ids": prefix, "middle_ids": middle, "n_dropped": n_dropped}

    def _frame(self, user_id: str) -> ContextFrame:
        profile = self.profiles.get(user_id)
        if self.chain is None:
            return plain_context(user_id, profile, self.settings)
        return chain_context(self.chain, user_id, profile, self.settings)

    def _room(self, group: Mapping[str, Any], n_frame: int, n_nothing: int) -> int:
        """Tokens that `max_length` leaves for the body of a context."""
        answer = max(map(len, self.encoder.answer_ids.values()))
        room = self.max_length - n_frame - (group["longest"] or 0) - answer
        if room < n_nothing:
            raise ConfigError(
                f"max_length={self.max_length} is too short for group {group['group_id']} of user "
                f"{group['user_id']!r}: without any history it needs {self.max_length - room + n_nothing}; raise "
                "data.max_length, or lower data.pictures.max_pixels or data.prompt.max_item_tokens"
            )
        return room


def _longest_target(data: PreparedDataset, target_lengths: list[int]) -> pl.DataFrame:
    """Tokens of the longest target of each pair group: `group_id`, `longest`."""
    lengths = pl.DataFrame({"item_id": data.items["item_id"], "longest": target_lengths})
    asked = data.samples.select("group_id", "item_id")
    return asked.join(lengths, on="item_id").group_by("group_id").agg(pl.col("longest").max())


def _write_arrow(path: Path, features: datasets.Features, rows: Iterator[dict[str, Any]]) -> None:
    with ArrowWriter(path=str(path), features=features) as writer:
        for row in rows:
            writer.write(row)
        writer.finalize()
