"""A few evaluated examples with their pictures, as a table in Weights & Biases."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import polars
from lightning.pytorch.loggers import WandbLogger
from PIL import Image

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.loading.ranking_datamodule import RankingDataModule
from mllm_srec.data.pictures.files import small_copy
from mllm_srec.data.pictures.finder import UnusablePictureError
from mllm_srec.files.hashing import text_hash
from mllm_srec.models.ranking_module import PAIRS, Scored
from mllm_srec.pipeline.evaluation.schema import SCORES
from mllm_srec.pipeline.evaluation.scored_rows import batch_rows
from mllm_srec.types import CandidateBatch

KEY = "examples"
"""Name of the table in the run."""

N_EXAMPLES = 16
"""Default number of rows."""

N_TITLES = 5
"""Number of latest titles that are shown of a history."""

MAX_SIDE = 256
"""Pixels of the longer side of a picture."""

_SCORED: dict[str, type[polars.DataType]] = {**SCORES, "relevance": polars.Int64}


class ExampleTable(pl.Callback):
    """Logs labelled targets of some contexts of the last validation or test, once, at the end.

    The contexts are drawn by the hash of their group id: every run shows the same ones, and not those scored first,
    which have the longest prompts. Only the first process logs, and only targets that it scored itself, so that
    processes exchange nothing.

    Args:
        n_examples: Number of rows of the table.
    """

    def __init__(self, n_examples: int = N_EXAMPLES) -> None:
        self.n_examples = n_examples
        self._rows = polars.DataFrame(schema=_SCORED)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Drop the examples of the previous validation."""
        self._rows = self._rows.clear()

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: CandidateBatch,
        batch_idx: int, dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Keep the pairs drawn so far."""
        if not trainer.sanity_checking:
            self._keep(trainer, outputs, batch, dataloader_idx)

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: CandidateBatch,
        batch_idx: int, dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Keep the pairs drawn so far."""
        self._keep(trainer, outputs, batch, dataloader_idx)

    def _keep(self, trainer: pl.Trainer, scored: Scored | None, batch: CandidateBatch, loader: int) -> None:
        if trainer.is_global_zero and loader == PAIRS and scored is not None:
            rows = polars.concat([self._rows, batch_rows(scored, batch)])
            drawn = rows["group_id"].map_elements(_draw, polars.String)
            order = ["drawn", "relevance", "item_index"]
            rows = rows.with_columns(drawn=drawn).sort(order, descending=[False, True, False])
            self._rows = rows.head(self.n_examples).drop("drawn")

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the examples of the last validation."""
        self._log(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the examples of `validate`; during `fit`, `on_fit_end` does."""
        if trainer.state.fn == "validate":
            self._log(trainer)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the examples of the test."""
        self._log(trainer)

    def _log(self, trainer: pl.Trainer) -> None:
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        if not trainer.is_global_zero or not self._rows.height or not isinstance(datamodule, RankingDataModule):
            return
        table = example_rows(self._rows, datamodule.data)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                with _kept_below(logger.save_dir):
                    logger.log_metrics({KEY: _wandb_table(table, datamodule.data)}, trainer.global_step)


def _draw(group_id: int) -> str:
    """Return the key by which contexts are drawn."""
    return text_hash(str(group_id))


@contextmanager
def _kept_below(folder: str | None) -> Iterator[None]:
    """Have W&B keep pictures that wait for their upload in the run's folder, not in the user's home.

    So a run that was logged offline is complete on any machine that sees its folder.
    """
    if folder is None or "WANDB_DATA_DIR" in os.environ:
        yield
        return
    os.environ["WANDB_DATA_DIR"] = str(Path(folder).absolute() / "wandb")
    try:
        yield
    finally:
        del os.environ["WANDB_DATA_DIR"]


def example_rows(rows: polars.DataFrame, data: PreparedDataset) -> polars.DataFrame:
    """Describe scored targets in words.

    Args:
        rows: Rows of `batch_rows`.
        data: Prepared data set on which they were scored.

    Returns:
        `user_id`, `history` (the latest titles, oldest first), `title`, `image` (relative to the data set's folder, or
        null), `label` (1: liked), `score` and `probability` of a like (null if the model states none), in the order of
        `rows`.
    """
    titles = dict(data.items.select("item_id", "title").iter_rows())
    in_words = polars.element().replace_strict(titles, return_dtype=polars.String)
    groups = data.groups.select("group_id", "user_id", polars.col("history").list.tail(N_TITLES))
    items = data.items.select("title", "image").with_row_index("item_index").cast({"item_index": polars.Int64})
    joined = rows.join(groups, on="group_id", how="left", maintain_order="left").join(
        items, on="item_index", how="left", maintain_order="left"
    )
    difference = (polars.col("yes_logit") - polars.col("no_logit")).cast(polars.Float64)
    return joined.select(
        "user_id",
        polars.col("history").list.eval(in_words).list.join("; "),
        "title",
        "image",
        polars.col("relevance").alias("label"),
        "score",
        (1 / (1 + (-difference).exp())).alias("probability"),
    )


def _wandb_table(table: polars.DataFrame, data: PreparedDataset) -> Any:
    import wandb

    columns = ["user_id", "history", "picture", "title", "label", "probability", "score"]
    pictures = [None if path is None else _picture(data.folder / path) for path in table["image"]]
    if unread := pictures.count(None) - table["image"].null_count():
        print(f"{KEY}: {unread} of {len(pictures)} pictures can no longer be read", flush=True)
    shown = [None if picture is None else wandb.Image(picture) for picture in pictures]
    rows = [
        [picture if column == "picture" else row[column] for column in columns]
        for row, picture in zip(table.iter_rows(named=True), shown, strict=True)
    ]
    return wandb.Table(columns=columns, data=rows)


def _picture(path: Path) -> Image.Image | None:
    """Return a small copy that any browser shows; None for a file that broke meanwhile, since training must go on."""
    try:
        return small_copy(path, MAX_SIDE)
    except UnusablePictureError:
        return None
