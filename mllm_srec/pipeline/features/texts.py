"""Encodes item texts into one vector each: a prediction loop that can be killed at any moment, and its store.

A store is one file of float32 rows, named by the encoder and by the very token ids that it reads. So its full size is
known beforehand: what is there is a beginning of it, and what is missing is the rest.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mllm_srec.files.hashing import text_hash
from mllm_srec.models.text_encoder import TextEncoder, mean_over_tokens
from mllm_srec.pipeline.features.pictures import extraction_trainer
from mllm_srec.types import ConfigError

Tokens = tuple[int, ...]
TextBatch = tuple[Tensor, Tensor]
VERSION = "mean-v1"
"""Of the way from tokens to a vector; stores of another one are not read."""


class TextExtractor(pl.LightningModule):
    """Runs an encoder only, and appends the mean over each text's tokens to the store's file as it comes.

    Args:
        encoder: Is loaded when the loop begins.
        path: The store's file.
    """

    def __init__(self, encoder: TextEncoder, path: Path) -> None:
        super().__init__()
        self.encoder, self.path = encoder, path

    def configure_model(self) -> None:
        """Load the encoder onto this process's own device."""
        self.encoder.load(self.trainer.strategy.root_device)

    def predict_step(self, batch: TextBatch, batch_idx: int) -> None:
        """Encode texts and bring their rows to the disk.

        Raises:
            ConfigError: The encoder gave something else than numbers.
        """
        input_ids, mask = batch  # (B, T)
        rows = mean_over_tokens(self.encoder.hidden(input_ids, mask), mask)  # (B, D)
        if not rows.isfinite().all():
            raise ConfigError(f"{self.encoder.info.name} gave values that are not finite; set model.dtype to float32")
        with self.path.open("ab") as out:
            out.write(rows.cpu().numpy().tobytes())
            out.flush()
            os.fsync(out.fileno())  # else a power loss could leave rows of zeros in a file of the right size


class _Texts(Dataset[Tokens]):
    """Token ids of texts."""

    def __init__(self, texts: Sequence[Tokens]) -> None:
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> Tokens:
        return self.texts[index]


def text_features(encoder: TextEncoder, texts: Sequence[Tokens], root: Path, batch_size: int) -> np.ndarray:
    """Mean of the last hidden states of every text `(n, D)` float32; encodes what the store does not hold yet.

    Two processes must be kept apart by their callers, see `pipeline.build.folder_lock`.

    Args:
        encoder: Not loaded unless something is missing.
        texts: Token ids, at least one each; equal ones are encoded once.
        root: Folder of all stores.
        batch_size: Texts per step.
    """
    distinct = sorted(set(texts), key=lambda text: (-len(text), text))  # rows of a batch are about equally long
    path = text_store(encoder, distinct, root)
    n_done = _recover(path, encoder.width)
    if n_done < len(distinct):
        print(f"encoding {len(distinct) - n_done} of {len(distinct)} texts into {path}", flush=True)
        loader = DataLoader(_Texts(distinct[n_done:]), batch_size=batch_size, collate_fn=collate_texts)
        extraction_trainer(path.parent).predict(TextExtractor(encoder, path), loader, return_predictions=False)
    rows = np.fromfile(path, dtype=np.float32).reshape(len(distinct), encoder.width)
    place = {text: row for row, text in enumerate(distinct)}
    return rows[[place[text] for text in texts]]


def text_store(encoder: TextEncoder, distinct: Sequence[Tokens], root: Path) -> Path:
    """File of the store of these texts and this encoder, whether or not it is there.

    Args:
        encoder: See `TextEncoder.identity`.
        distinct: Token ids in the order of the rows.
        root: Folder of all stores.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    content = text_hash("\n".join(" ".join(map(str, text)) for text in distinct))
    return root / f"text-{text_hash(f'{VERSION} {encoder.identity} {device} {content}')[:12]}" / "rows.bin"


def collate_texts(texts: Sequence[Tokens]) -> TextBatch:
    """Ids `(B, T)` padded on the right, and bool `(B, T)`, False on padding; padding is never attended to."""
    lengths = torch.tensor([len(text) for text in texts])
    mask = torch.arange(int(lengths.max())) < lengths.unsqueeze(1)  # (B, T)
    input_ids = torch.zeros(mask.shape, dtype=torch.long)  # (B, T)
    input_ids[mask] = torch.tensor([token for text in texts for token in text])
    return input_ids, mask


def _recover(path: Path, width: int) -> int:
    """Number of whole rows that are there; cuts off a row that a kill left half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    n_rows = path.stat().st_size // (4 * width)
    os.truncate(path, n_rows * 4 * width)
    return n_rows
