"""Precomputed prompts: contexts and targets tokenised once, memory-mapped, keyed by everything that decides them.

`contexts` has one row per group (its shared prefix), `targets` one row per item. A training row or a candidate list is
put together from them by integer look-ups. Pictures are named by key here and travel through the image store.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import datasets
import polars as pl
import pyarrow.compute

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.image_store import ImageStore
from mllm_srec.data.prompt_writer import PromptReport, PromptWriter
from mllm_srec.prompts.encoding import PromptEncoder
from mllm_srec.prompts.geometry import Grid
from mllm_srec.prompts.packing import PromptTarget
from mllm_srec.prompts.templates import PromptSettings


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

    def target(self, item_index: int, answer_ids: list[int], relevance: int, kind: int) -> PromptTarget:
        """The prompt of one target, by the item's row in the items table."""
        row: dict[str, Any] = self._targets[item_index]
        grid: Grid | None = (row["grid"][0], row["grid"][1], row["grid"][2]) if row["picture"] else None
        return PromptTarget(row["input_ids"], answer_ids, grid, row["picture"], item_index, relevance, kind)

    def context_lengths(self) -> pl.Series:
        """Tokens of every context."""
        return _lengths(self._contexts, "prefix_ids")

    def target_lengths(self) -> pl.Series:
        """Tokens of every target, pictures included."""
        return _lengths(self._targets, "input_ids")


def build_prompt_store(
    data: PreparedDataset,
    encoder: PromptEncoder,
    images: ImageStore | None,
    settings: PromptSettings,
    max_length: int,
) -> PromptStore:
    """Open the prompt store of these inputs; build it first where it is missing.

    Args:
        data: The prepared data set.
        encoder: The backbone's tokenizer.
        images: The image store, None for prompts without pictures.
        settings: Wording and fields.
        max_length: Tokens of a prompt with its longest target and answer; the oldest history gives way.

    Raises:
        ConfigError: Instruction, question and target alone exceed `max_length`.
    """
    key = {
        "template": settings.version,
        "settings": asdict(settings),
        "tokenizer": encoder.fingerprint(),
        "max_length": max_length,
        "pictures": images.folder.name if images else None,
        "tables": data.content_hash,
    }
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
    folder = data.folder / "prompts" / name
    if not (folder / "report.json").exists():
        partial = folder.with_name(f"{name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        writer = PromptWriter(data, encoder, images, settings, max_length)
        writer.write(partial)
        (partial / "key.json").write_text(json.dumps(key, indent=2) + "\n")
        (partial / "report.json").write_text(json.dumps(asdict(writer.report), indent=2) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    return PromptStore(folder)


def _lengths(table: datasets.Dataset, column: str) -> pl.Series:
    """Lengths of a column of lists, without reading the lists."""
    lengths = pyarrow.compute.list_value_length(table.data.column(column))
    return pl.Series(lengths.to_pylist(), dtype=pl.Int64)
