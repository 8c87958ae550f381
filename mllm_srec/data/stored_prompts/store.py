"""The prompt store: contexts and targets tokenised once, memory-mapped, in a folder named by all that decides them.

`contexts.arrow` has one row a group (its shared prefix), `targets.arrow` one row an item; a training row or a candidate
list is put together from them by integer look-ups. Pictures are named by key here, their pixels are in the image store.

In a chain of thought a prompt is `prefix | before | middle | after` (see `prompts/chain_of_thought.py`): prefix and
middle are in `contexts`, before and after in `targets`. Without one, middle and before are empty.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import datasets
import polars as pl
import pyarrow.compute
from datasets.arrow_writer import ArrowWriter

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.pictures.image_store import ImageStore
from mllm_srec.data.stored_prompts.contexts import ContextTexts, PromptReport
from mllm_srec.data.stored_prompts.parts import PromptParts
from mllm_srec.data.stored_prompts.summary_texts import SummaryTexts
from mllm_srec.families.base import Grid
from mllm_srec.files.atomic import KEY, write_json
from mllm_srec.files.checksums import check_checksums, note_checksums
from mllm_srec.files.folders import atomic_folder, build_lock
from mllm_srec.files.progress import track
from mllm_srec.files.reading import read_object, read_whole
from mllm_srec.prompts.encoding import PromptEncoder
from mllm_srec.prompts.packing import PromptTarget
from mllm_srec.prompts.templates import PromptSettings
from mllm_srec.types import ConfigError

CONTEXTS, TARGETS = "contexts.arrow", "targets.arrow"
IDS = datasets.Sequence(datasets.Value("int32"))
CONTEXT_FEATURES = datasets.Features({"prefix_ids": IDS, "middle_ids": IDS, "n_dropped": datasets.Value("int32")})
TARGET_FEATURES = datasets.Features(
    {"before_ids": IDS, "input_ids": IDS, "choice_ids": IDS, "picture": datasets.Value("string"), "grid": IDS}
)


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
        images: The image store; None for prompts without pictures.
        settings: Wording and fields.
        max_length: Tokens of a prompt with its longest target and answer; longer histories lose their oldest items.
        texts: Stored summaries; None for prompts of titles.

    Raises:
        ConfigError: Instruction, question and target alone exceed `max_length`, a chain of thought has no summaries, or
            the wording has no place for preferences.
        DataError: A summary that is needed was not written, or does not belong to these tables.
    """
    _check_summaries(settings, texts)
    key = {
        "template": settings.version,
        "settings": settings.recorded(),
        "tokenizer": encoder.fingerprint(),
        "max_length": max_length,
        "room": "of the longest item",  # the same for pairs and lists, which may hold any item
        "pictures": images.folder.name if images else None,
        "tables": data.content_hash,
        "summaries": [texts.identity, texts.modality, asdict(texts.prompts)] if texts else None,
    }
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
    folder = data.folder / "prompts" / name
    if not (folder / "report.json").exists():
        with build_lock(folder):
            if not (folder / "report.json").exists():  # another process may have been faster
                with atomic_folder(folder) as partial:
                    writer = PromptWriter(data, encoder, images, settings, max_length, texts)
                    writer.write(partial)
                    write_json(key, partial / KEY)
                    write_json(asdict(writer.report), partial / "report.json")
    return PromptStore(folder)


def _check_summaries(settings: PromptSettings, texts: SummaryTexts | None) -> None:
    """Check that a chain of thought has its earlier answers, and that the wording shows the summaries."""
    if settings.cot and (texts is None or texts.titled):
        variant = "none" if texts is None else "vst"
        raise ConfigError(
            f"data.prompt.cot=true: needs stored summaries for its earlier turns, but summaries.variant={variant} "
            "writes none; set summaries.variant to base, sv, svi or full, or cot to false"
        )
    if settings.phrases.items_only and texts is not None and not texts.titled:
        raise ConfigError(
            f"data.prompt.wording={settings.wording!r}: lists items and has no place for preferences; "
            "set summaries.variant to none, or to vst"
        )


@dataclass
class PromptStore:
    """Reads stored prompts.

    Attributes:
        folder: Folder of the store.
        report: Counts of what was shortened when it was built.
    """

    folder: Path
    report: PromptReport = field(init=False)

    def __post_init__(self) -> None:
        """Map the tables into memory, after comparing them with their checksums; nothing is copied.

        Raises:
            DataError: A file of the store is missing or damaged.
        """
        remedy = f"delete {self.folder}, which is made again when it is needed"
        report = read_object(self.folder / "report.json", "the report of stored prompts", remedy, ("n_contexts",))
        names = {count.name for count in fields(PromptReport)} & set(report)  # others are of another version
        self.report = PromptReport(**{name: report[name] for name in names})
        check_checksums(self.folder, CONTEXTS, TARGETS, what="stored prompts", remedy=remedy)
        self._contexts, self._targets = (
            read_whole(self.folder / name, lambda path: datasets.Dataset.from_file(str(path)), "stored prompts", remedy)
            for name in (CONTEXTS, TARGETS)
        )

    def prefix(self, context: int) -> list[int]:
        """Return the token ids of a context, by its row in the groups table."""
        ids: list[int] = self._contexts[context]["prefix_ids"]
        return ids

    def middle(self, context: int) -> list[int]:
        """Return the token ids that a context adds to each of its targets; empty without a chain of thought."""
        ids: list[int] = self._contexts[context]["middle_ids"]
        return ids

    def target(
        self, item_index: int, answer_ids: list[int], relevance: int, kind: int, middle: Sequence[int] = ()
    ) -> PromptTarget:
        """Return the prompt of one target, by the item's row in the items table.

        Args:
            item_index: Row in the items table.
            answer_ids: The response for training; empty for scoring.
            relevance: 1 liked, 0 not.
            kind: Index into `types.KINDS`.
            middle: Token ids that the context adds, as `middle` returned them.
        """
        return replace(
            prompt_target(self._targets[item_index], middle),
            answer_ids=answer_ids,
            item_index=item_index,
            relevance=relevance,
            kind=kind,
        )

    def choice(self, item_index: int) -> list[int]:
        """Return the token ids of a candidate behind its letter, by the item's row; empty without a listwise layout."""
        ids: list[int] = self._targets[item_index]["choice_ids"]
        return ids

    def choice_lengths(self) -> pl.Series:
        """Return the number of tokens of every candidate behind its letter."""
        return _lengths(self._targets, "choice_ids")

    def context_lengths(self) -> pl.Series:
        """Return the number of tokens of every context's prefix."""
        return _lengths(self._contexts, "prefix_ids")

    def middle_lengths(self) -> pl.Series:
        """Return the number of tokens that every context adds to each of its targets."""
        return _lengths(self._contexts, "middle_ids")

    def target_lengths(self) -> pl.Series:
        """Return the number of tokens of every target, pictures included, without the context's middle part."""
        return _lengths(self._targets, "before_ids") + _lengths(self._targets, "input_ids")


def prompt_target(row: Mapping[str, Any], middle: Sequence[int]) -> PromptTarget:
    """Return the prompt of a target that is to be scored.

    Args:
        row: A row of `targets`.
        middle: Token ids that the context adds to each of its targets.
    """
    grid: Grid | None = (row["grid"][0], row["grid"][1], row["grid"][2]) if row["picture"] else None
    return PromptTarget([*row["before_ids"], *middle, *row["input_ids"]], (), grid, row["picture"])


def _lengths(table: datasets.Dataset, column: str) -> pl.Series:
    """Return the lengths of a column of lists, without reading the lists."""
    lengths = pyarrow.compute.list_value_length(table.data.column(column))
    return pl.Series(lengths.to_pylist(), dtype=pl.Int64)


class PromptWriter:
    """Writes the prompts of a data set.

    Args:
        data: The prepared data set.
        encoder: The backbone's tokenizer.
        images: The image store; None for prompts without pictures.
        settings: Wording and fields.
        max_length: Tokens of a prompt with its longest target and answer.
        texts: Stored summaries; None for prompts of titles. A chain of thought needs them.

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
        """Counts of what was shortened so far."""
        return self.parts.report

    def write(self, folder: Path) -> None:
        """Write both tables into a folder."""
        shown = zip(self.data.items["item_id"], self.items, strict=True)
        targets = [self.parts.target(item_id, item) for item_id, item in shown]
        _write_arrow(folder / TARGETS, TARGET_FEATURES, iter(targets))
        contexts = self._context_rows(self.parts.longest_question(targets))
        _write_arrow(folder / CONTEXTS, CONTEXT_FEATURES, contexts)
        note_checksums(folder, TARGETS, CONTEXTS)

    def _context_rows(self, longest: int) -> Iterator[dict[str, Any]]:
        """Yield the rows of `contexts`, each with room for a target or list of `longest` tokens."""
        lines = map(self.parts.line, self.items)
        fitter = self.parts.fitter(dict(zip(self.data.items["item_id"], lines, strict=True)))
        contexts = ContextTexts(self.data.interactions, self.parts.texts, self.parts.settings)
        for group in track(self.data.groups.iter_rows(named=True), self.data.groups.height, "tokenising contexts"):
            profile = self.profiles.get(group["user_id"])
            yield self.parts.context(group, profile, contexts.body(group), fitter, longest)


def _write_arrow(path: Path, features: datasets.Features, rows: Iterator[dict[str, Any]]) -> None:
    with ArrowWriter(path=str(path), features=features) as writer:
        for row in rows:
            writer.write(row)
        writer.finalize()
