"""Tokenises items once, puts every context together from them, and counts what had to be shortened."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import polars as pl
from datasets.arrow_writer import ArrowWriter

from mllm_srec.data.context_texts import ContextTexts
from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.pictures.image_store import ImageStore
from mllm_srec.data.prompt_parts import PromptParts
from mllm_srec.data.prompt_report import PromptReport
from mllm_srec.data.summary_texts import SummaryTexts
from mllm_srec.files.progress import track
from mllm_srec.prompts.encoding import PromptEncoder
from mllm_srec.prompts.templates import PromptSettings

IDS = datasets.Sequence(datasets.Value("int32"))
CONTEXT_FEATURES = datasets.Features({"prefix_ids": IDS, "middle_ids": IDS, "n_dropped": datasets.Value("int32")})
TARGET_FEATURES = datasets.Features(
    {"before_ids": IDS, "input_ids": IDS, "choice_ids": IDS, "picture": datasets.Value("string"), "grid": IDS}
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
        self.data = data
        self.parts = PromptParts(encoder, images, settings, max_length, texts)
        self.items = [self.parts.shown(row) for row in data.items.iter_rows(named=True)]
        self.profiles = data.profiles

    @property
    def report(self) -> PromptReport:
        """What had to be shortened so far."""
        return self.parts.report

    def write(self, folder: Path) -> None:
        """Write both tables."""
        shown = zip(self.data.items["item_id"], self.items, strict=True)
        targets = [self.parts.target(item_id, item) for item_id, item in shown]
        _write_arrow(folder / "targets.arrow", TARGET_FEATURES, iter(targets))
        lengths = [len(row["before_ids"]) + len(row["input_ids"]) for row in targets]
        longest = max(lengths, default=0)  # any item may be ranked in a list, whatever was drawn for it
        if self.parts.listwise:
            longest = self.parts.longest_list([len(row["choice_ids"]) for row in targets])
        contexts = self._context_rows(lengths, longest)
        _write_arrow(folder / "contexts.arrow", CONTEXT_FEATURES, contexts)

    def _context_rows(self, target_lengths: list[int], longest: int) -> Iterator[dict[str, Any]]:
        lines = map(self.parts.line, self.items)
        fitter = self.parts.fitter(dict(zip(self.data.items["item_id"], lines, strict=True)))
        contexts = ContextTexts(self.data.interactions, self.parts.texts, self.parts.settings)
        groups = self.data.groups.join(_longest_target(self.data, target_lengths), on="group_id", how="left")
        groups = groups.with_columns(
            longest=pl.when(pl.col("purpose") == "rank").then(longest).otherwise(pl.col("longest"))
        )
        for group in track(groups.iter_rows(named=True), groups.height, "tokenising contexts"):
            profile = self.profiles.get(group["user_id"])
            yield self.parts.context(group, profile, contexts.body(group), fitter)


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
