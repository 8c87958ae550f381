"""Writes every scored row of an evaluation as Parquet: each once, on any number of processes, after any kill."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import polars
from filelock import FileLock

from mllm_srec.data.loading.examples import GroupExamples
from mllm_srec.data.loading.ranking_datamodule import Lists, RankingDataModule, ServedInputs
from mllm_srec.files.atomic import write_table
from mllm_srec.files.folders import lock_if_free
from mllm_srec.files.reading import read_table
from mllm_srec.models.ranking_module import RankingModule, Scored
from mllm_srec.pipeline.evaluation.prediction_tables import lists_table, pairs_table, user_table
from mllm_srec.pipeline.evaluation.schema import SCORES
from mllm_srec.pipeline.evaluation.scored_rows import (
    batch_rows,
    kept_chunks,
    kept_pairs,
    top_of_batch,
    top_rows,
)
from mllm_srec.types import CandidateBatch, ConfigError, MllmSrecError, Split

SPLIT_OF: dict[str, Split] = {"validate": "val", "test": "test", "predict": "test"}
"""Trainer method -> split that it scores; `fit` writes no predictions."""

NAMES = ("pairs", "lists")
"""Names of the two loaders' parts, by index of the loader."""


class PredictionWriter(pl.Callback):
    """Writes the rows of each batch as they come, and merges those of all processes when the evaluation ends.

    An evaluation that was killed continues: groups of complete batches are neither scored nor counted again.

    Args:
        folder: `predictions/` of the run folder.
        identity: Hash of everything that decides the scores. Parts of an earlier evaluation are reused only if its
            hash was the same; with None, never.
    """

    def __init__(self, folder: Path, identity: str | None = None) -> None:
        self.folder, self.identity = folder, identity
        self._lock: FileLock | None = None

    # --- before the loop ------------------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find groups that were scored before; a barrier after set-up keeps faster processes from writing meanwhile."""
        stage = getattr(stage, "value", stage)  # Lightning hands over an enumeration, which prints otherwise
        if stage not in SPLIT_OF:
            raise MllmSrecError(f"PredictionWriter belongs to {', '.join(SPLIT_OF)}, not to {stage}")
        self.split, self.method = SPLIT_OF[stage], stage
        self.parts = self.folder / f".{stage}-{(self.identity or 'once')[:16]}"
        datamodule = _datamodule(trainer)
        self._keeps_top = datamodule.evaluator == "full"
        pairs, lists = datamodule.eval_examples(self.split)
        self.examples: dict[str, Lists] = {"lists": lists} if stage == "predict" else {"pairs": pairs, "lists": lists}
        if trainer.is_global_zero:
            self._clear_other_parts()
        # All agree on what is there: a process that outlived the kill of the others may still be writing.
        found = [path.name for path in self.parts.glob("*.parquet")] if trainer.is_global_zero else []
        self._known, self._attempt = trainer.strategy.broadcast((sorted(found), time.time_ns()))
        self.before = {name: self._stored(name) for name in self.examples}
        done = {name: set(rows["group_id"].unique()) for name, rows in self.before.items()}
        nothing: set[int] = set()
        scored = (frozenset(done.get("pairs", nothing)), frozenset(done.get("lists", nothing)))
        datamodule.use(ServedInputs(scored=scored))
        if trainer.is_global_zero and any(done.values()):
            counts = ", ".join(f"{len(done[name])} of {len(self.examples[name])} {name}" for name in done)
            print(f"continuing an interrupted evaluation: {counts} are scored already", flush=True)
        self._rank, self._n_written = trainer.global_rank, 0

    def _clear_other_parts(self) -> None:
        """Lock the folder, and remove parts of evaluations that will not be continued."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = lock_if_free(self.folder / ".lock")
        if self._lock is None:
            raise ConfigError(f"another process is evaluating into {self.folder}; wait for it, or stop it")
        for other in self.folder.glob(f".{self.method}-*"):
            if other != self.parts or self.identity is None:
                shutil.rmtree(other, ignore_errors=True)
        self.parts.mkdir(exist_ok=True)

    def _stored(self, name: str) -> polars.DataFrame:
        """Rows of the groups that are to be scored, of all processes: those found before, and those of this attempt."""
        known = [self.parts / part for part in self._known if part.startswith(f"{name}-")]
        paths = known + sorted(self.parts.glob(f"{name}-{self._attempt}-*.parquet"))
        if not paths:
            return polars.DataFrame(schema=SCORES | {"relevance": polars.Int64})
        wanted = polars.DataFrame({"group_id": self.examples[name].group_id})
        remedy = f"delete {self.parts} and start again: what it holds is scored anew"
        rows = [read_table(path, "a part of this evaluation", remedy) for path in paths]
        return polars.concat(rows).join(wanted, on="group_id", how="semi")

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add groups that were scored before to the metrics of the first process."""
        if not trainer.is_global_zero or not isinstance(pl_module, RankingModule):
            return
        metrics, device = pl_module.metrics_of(self.split), pl_module.device
        for name, rows in self.before.items():
            examples = self.examples[name].only(set(rows["group_id"]))
            if not len(examples):
                continue
            if name == "lists":
                for part in kept_chunks(examples, rows):
                    metrics.add_lists(*(value.to(device) for value in part))
            elif isinstance(examples, GroupExamples):
                metrics.add_pairs(**{key: value.to(device) for key, value in kept_pairs(examples, rows).items()})

    on_test_start = on_validation_start

    # --- in the loop ----------------------------------------------------------------------------------------------

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: CandidateBatch,
        batch_idx: int, dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Write the rows of one batch."""
        self._write_part(NAMES[dataloader_idx], outputs, batch)

    on_test_batch_end = on_validation_batch_end

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: CandidateBatch,
        batch_idx: int, dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Write the rows of one batch of candidate lists."""
        self._write_part("lists", outputs, batch)

    def _write_part(self, name: str, found: Scored | None, batch: CandidateBatch) -> None:
        """Write one file per batch, atomically."""
        if found is None:
            return
        rows = self._rows(name, found, batch)
        write_table(rows, self.parts / f"{name}-{self._attempt}-{self._rank}-{self._n_written:06}.parquet")
        self._n_written += 1

    def _rows(self, name: str, found: Scored, batch: CandidateBatch) -> polars.DataFrame:
        """Return the rows of a batch to keep: all of them, or only the top of catalogue lists."""
        if name == "pairs" or not self._keeps_top:
            return batch_rows(found, batch)
        return top_of_batch(found, batch) if "logits" not in found else top_rows(batch_rows(found, batch))

    # --- after the loop -------------------------------------------------------------------------------------------

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Merge the parts of all processes into the tables of the split."""
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            served = _datamodule(trainer)
            data = served.data
            tables: dict[str, polars.DataFrame] = {}
            if isinstance(pairs := self.examples.get("pairs"), GroupExamples):
                tables[f"{self.split}_pairs"] = pairs_table(pairs, self._stored("pairs"), data)
            rows = self._stored("lists")
            tables[self.split] = lists_table(self.examples["lists"], rows, data)
            tables[f"{self.split}_users"] = user_table(
                self.examples["lists"], rows, data, served.cut_offs, served.evaluator
            )
            for name, table in tables.items():
                write_table(table, self.folder / f"{name}.parquet")
            shutil.rmtree(self.parts)
        trainer.strategy.barrier()

    on_test_end = on_validation_end
    on_predict_end = on_validation_end

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Release the folder."""
        self._release()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Release the folder, with the parts that complete batches wrote into it."""
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def _datamodule(trainer: pl.Trainer) -> RankingDataModule:
    datamodule = trainer.datamodule  # type: ignore[attr-defined]
    if not isinstance(datamodule, RankingDataModule):
        raise MllmSrecError(f"PredictionWriter needs a RankingDataModule, got {type(datamodule).__name__}")
    return datamodule
