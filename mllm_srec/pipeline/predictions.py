"""Writes every scored row of a test as Parquet: each row once, whatever the number of processes."""

from __future__ import annotations

import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import polars
import torch

from mllm_srec.data.prompt_datamodule import PromptDataModule
from mllm_srec.types import KINDS, MllmSrecError, PackedBatch

FILES = ("test_pairs", "test")
"""File by loader: pairs, lists."""

COLUMNS = ("group_id", "user_id", "item_id", "label", "kind", "score", "yes_logit", "no_logit")

SCORED = {
    "group_id": polars.Int64,
    "item_index": polars.Int64,
    "score": polars.Float32,
    "yes_logit": polars.Float32,
    "no_logit": polars.Float32,
}
"""Columns of what a process collects."""


class PredictionWriter(pl.Callback):
    """Collects scores of its process, and merges those of all processes when the test ends.

    Args:
        folder: `predictions/` of the run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._parts: dict[str, list[polars.DataFrame]] = defaultdict(list)

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: PackedBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the rows of one batch."""
        self._parts[FILES[dataloader_idx]].append(_rows(outputs, batch))

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: PackedBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the rows of one batch of lists."""
        self._parts["test"].append(_rows(outputs, batch))

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Merge both files."""
        self._merge(trainer, FILES)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Merge the file of lists."""
        self._merge(trainer, ("test",))

    def _merge(self, trainer: pl.Trainer, names: tuple[str, ...]) -> None:
        parts = self.folder / ".parts"
        parts.mkdir(parents=True, exist_ok=True)
        for name in names:
            path = parts / f"{name}-{trainer.global_rank}.parquet"
            path.unlink(missing_ok=True)  # of an earlier, killed run
            if self._parts[name]:
                polars.concat(self._parts[name]).write_parquet(path)
        self._parts.clear()
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            try:
                _write({name: _merged(parts, name, trainer) for name in names}, self.folder)
            finally:
                shutil.rmtree(parts)
        trainer.strategy.barrier()


def _datamodule(trainer: pl.Trainer) -> PromptDataModule:
    datamodule = trainer.datamodule  # type: ignore[attr-defined]
    if not isinstance(datamodule, PromptDataModule):
        raise MllmSrecError(f"PredictionWriter needs a PromptDataModule, got {type(datamodule).__name__}")
    return datamodule


def _rows(outputs: dict[str, torch.Tensor], batch: PackedBatch) -> polars.DataFrame:
    """Unmasked candidates of a batch, one row each."""
    mask = batch["candidate_mask"].cpu()  # (B, C)
    group = batch["group_id"].cpu()[:, None].expand_as(mask)  # (B, C)
    logits = outputs["logits"].float().cpu()  # (B, C, 2)
    return polars.DataFrame(
        {
            "group_id": group[mask].numpy(),
            "item_index": batch["item_index"].cpu()[mask].numpy(),
            "score": outputs["scores"].float().cpu()[mask].numpy(),
            "yes_logit": logits[..., 0][mask].numpy(),
            "no_logit": logits[..., 1][mask].numpy(),
        }
    )


def _merged(parts: Path, name: str, trainer: pl.Trainer) -> polars.DataFrame:
    """Scores of all processes, checked and in order."""
    paths = [parts / f"{name}-{rank}.parquet" for rank in range(trainer.world_size)]
    scored = [polars.read_parquet(path) for path in paths if path.exists()]
    return joined_scores(name, _datamodule(trainer), scored)


def joined_scores(name: str, datamodule: PromptDataModule, parts: list[polars.DataFrame]) -> polars.DataFrame:
    """Scores joined to the rows that were to be scored, in their order.

    Args:
        name: `test_pairs` or `test`.
        datamodule: Knows the rows.
        parts: Scored rows, in any order.

    Raises:
        MllmSrecError: A row is missing, unknown or double.
    """
    expected = expected_rows(datamodule, name)
    items = datamodule.data.items.select("item_id").with_row_index("item_index")
    empty = polars.DataFrame(schema=SCORED)
    scored = polars.concat([empty, *parts]).join(
        items.with_columns(polars.col("item_index").cast(polars.Int64)), on="item_index"
    )
    keys = ["group_id", "item_id"]
    n_double = scored.height - scored.n_unique(keys)
    n_missing = expected.join(scored, on=keys, how="anti").height
    n_unknown = scored.join(expected, on=keys, how="anti").height
    if n_double or n_missing or n_unknown:
        raise MllmSrecError(
            f"of {expected.height} rows to be scored for {name}, {n_missing} have no score; {n_double} scores are "
            f"double and {n_unknown} belong to no row; nothing is written"
        )
    return expected.join(scored, on=keys, how="left", maintain_order="left", validate="1:1").select(COLUMNS)


def _write(tables: dict[str, polars.DataFrame], folder: Path) -> None:
    """Write every table, each whole or not at all."""
    for name, table in tables.items():
        partial = folder / f".{name}.partial"
        table.write_parquet(partial)
        partial.replace(folder / f"{name}.parquet")


def expected_rows(datamodule: PromptDataModule, name: str) -> polars.DataFrame:
    """Rows that were to be scored, with their labels: those of the pairs (`test_pairs`) or of the lists (`test`)."""
    examples = datamodule.eval_examples("test")[FILES.index(name)]
    groups = datamodule.data.groups.select("group_id", "user_id")
    kinds = polars.Series(KINDS)
    rows = polars.DataFrame(
        {
            "group_id": np.repeat(examples.group_id, np.diff(examples.offsets)),
            "item_id": datamodule.data.items["item_id"][examples.item_index],
            "label": polars.Series(examples.relevance, dtype=polars.Int8),
            "kind": kinds[examples.kind],
        }
    )
    return rows.join(groups, on="group_id", how="left", maintain_order="left")
