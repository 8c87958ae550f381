"""Precomputed prompts: contexts and targets tokenised once, memory-mapped, keyed by everything that decides them.

`contexts` has one row per group (its shared prefix), `targets` one row per item. A training row or a candidate list is
put together from them by integer look-ups. Pictures are named by key here and travel through the image store.

In a chain of thought a prompt is `prefix | before | middle | after` (see `prompts.chain`): prefix and middle are in
`contexts`, before and after in `targets`. Without one, middle and before are empty.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
import polars as pl
import pyarrow.compute

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.pictures.image_store import ImageStore
from mllm_srec.data.prompt_report import PromptReport
from mllm_srec.data.prompt_writer import PromptWriter
from mllm_srec.data.summary_texts import SummaryTexts
from mllm_srec.prompts.encoding import PromptEncoder
from mllm_srec.prompts.geometry import Grid
from mllm_srec.prompts.packing import PromptTarget
from mllm_srec.prompts.templates import PromptSettings
from mllm_srec.types import ConfigError


@dataclass
class PromptStore:
    """Reads precomputed prompts.

    Attributes:
        folder: Folder of the store.
        report: What building had to shorten.
    """

    folder: Path
    report: PromptReport = field(init=False)

    def __post_init__(self) -> None:
        """Map the tables into memory; nothing is copied."""
        self.report = PromptReport(**json.loads((self.folder / "report.json").read_text()))
        self._contexts = datasets.Dataset.from_file(str(self.folder / "contexts.arrow"))
        self._targets = datasets.Dataset.from_file(str(self.folder / "targets.arrow"))

    def prefix(self, context: int) -> list[int]:
        """Token ids of a context, by its row in the groups table."""
        ids: list[int] = self._contexts[context]["prefix_ids"]
        return ids

    def middle(self, context: int) -> list[int]:
        """Token ids of a context that stand within each of its targets; empty without a chain of thought."""
        ids: list[int] = self._contexts[context]["middle_ids"]
        return ids

    def target(
        self, item_index: int, answer_ids: list[int], relevance: int, kind: int, middle: Sequence[int] = ()
    ) -> PromptTarget:
        """The prompt of one target, by the item's row in the items table.

        Args:
            item_index: Row in the items table.
            answer_ids: The response for training, empty for scoring.
            relevance: 1 liked, 0 not.
            kind: Index into `types.KINDS`.
            middle: What `middle` returned for the context.
        """
        return replace(
            prompt_target(self._targets[item_index], middle),
            answer_ids=answer_ids,
            item_index=item_index,
            relevance=relevance,
            kind=kind,
        )

    def choice(self, item_index: int) -> list[int]:
        """Token ids of a candidate behind its letter, by the item's row; empty where no lists are shown."""
        ids: list[int] = self._targets[item_index]["choice_ids"]
        return ids

    def choice_lengths(self) -> pl.Series:
        """Tokens of every candidate behind its letter."""
        return _lengths(self._targets, "choice_ids")

    def context_lengths(self) -> pl.Series:
        """Tokens of every context's prefix."""
        return _lengths(self._contexts, "prefix_ids")

    def middle_lengths(self) -> pl.Series:
        """Tokens that every context adds to each of its targets."""
        return _lengths(self._contexts, "middle_ids")

    def target_lengths(self) -> pl.Series:
        """Tokens of every target, pictures included, without the context's middle part."""
        return _lengths(self._targets, "before_ids") + _lengths(self._targets, "input_ids")


def prompt_target(row: Mapping[str, Any], middle: Sequence[int]) -> PromptTarget:
    """The prompt of a target that is to be scored.

    Args:
        row: A row of `targets`.
        middle: What the context adds to each of its targets.
    """
    grid: Grid | None = (row["grid"][0], row["grid"][1], row["grid"][2]) if row["picture"] else None
    return PromptTarget([*row["before_ids"], *middle, *row["input_ids"]], (), grid, row["picture"])


def build_prompt_store(
    data: PreparedDataset,
    encoder: PromptEncoder,
    images: ImageStore | None,
    settings: PromptSettings,
    max_length: int,
    texts: SummaryTexts | None = None,
) -> PromptStore:
    """Open the prompt store of these inputs; build it first where it is missing.

    Args:
        data: The prepared data set.
        encoder: The backbone's tokenizer.
        images: The image store, None for prompts without pictures.
        settings: Wording and fields.
        max_length: Tokens of a prompt with its longest target and answer; the oldest history gives way.
        texts: Stored summaries, None for prompts of titles.

    Raises:
        ConfigError: Instruction, question and target alone exceed `max_length`, a chain of thought has no summaries, or
            the wording has no place for preferences.
        DataError: A summary that is needed was not written, or does not belong to these tables.
    """
    _check_summaries(settings, texts)
    key = {
        "template": settings.version,
        "settings": asdict(settings),
        "tokenizer": encoder.fingerprint(),
        "max_length": max_length,
        "room": "of the longest item, in lists",  # which items a list may hold is not known here
        "pictures": images.folder.name if images else None,
        "tables": data.content_hash,  # with each interaction: it is a pair group, and its item a sample
        "summaries": [texts.identity, texts.modality, asdict(texts.prompts)] if texts else None,
    }
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
    folder = data.folder / "prompts" / name
    if not (folder / "report.json").exists():
        partial = folder.with_name(f"{name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        writer = PromptWriter(data, encoder, images, settings, max_length, texts)
        writer.write(partial)
        (partial / "key.json").write_text(json.dumps(key, indent=2) + "\n")
        (partial / "report.json").write_text(json.dumps(asdict(writer.report), indent=2) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    return PromptStore(folder)


def _check_summaries(settings: PromptSettings, texts: SummaryTexts | None) -> None:
    """Refuse a chain of thought without its earlier answers, and summaries that would not be shown."""
    if settings.cot and (texts is None or texts.titled):
        variant = "none" if texts is None else "vst"
        raise ConfigError(
            "data.prompt.cot=true needs stored summaries for its earlier turns, but there are none "
            f"(summaries.variant={variant}); set summaries.variant to base, sv, svi or full, or cot to false"
        )
    if settings.phrases.items_only and texts is not None and not texts.titled:
        raise ConfigError(
            f"data.prompt.wording={settings.wording!r} lists items and has no place for preferences; "
            "set summaries.variant to none, or to vst"
        )


def _lengths(table: datasets.Dataset, column: str) -> pl.Series:
    """Lengths of a column of lists, without reading the lists."""
    lengths = pyarrow.compute.list_value_length(table.data.column(column))
    return pl.Series(lengths.to_pylist(), dtype=pl.Int64)
