"""Features of texts: one vector per item text, from a prediction loop that can resume, and their store.

A store is one file of float32 rows, named by the hash of the encoder and of all token ids. Its final size is therefore
known in advance: existing rows are the first ones, and the rest is missing.
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

from mllm_srec.files.atomic import KEY, write_json
from mllm_srec.files.checksums import check_checksums, is_noted, note_checksums
from mllm_srec.files.folders import build_lock, why_not_writable
from mllm_srec.files.hashing import text_hash
from mllm_srec.files.reading import read_whole
from mllm_srec.models.text_encoder import TextEncoder, mean_over_tokens
from mllm_srec.pipeline.features.pictures import extraction_trainer
from mllm_srec.types import ConfigError

Tokens = tuple[int, ...]
TextBatch = tuple[Tensor, Tensor]
"""Token ids and mask, `(B, T)` each."""

VERSION = "mean-v1"
"""Version of the pooling of tokens into a vector; stores of other versions are not read."""


class TextExtractor(pl.LightningModule):
    """Runs an encoder, and appends the mean over each text's tokens to the store's file batch by batch.

    Args:
        encoder: Text encoder, loaded when the loop begins.
        path: File of the store.
    """

    def __init__(self, encoder: TextEncoder, path: Path) -> None:
        super().__init__()
        self.encoder, self.path = encoder, path

    def configure_model(self) -> None:
        """Load the encoder onto the device of this process."""
        self.encoder.load(self.trainer.strategy.root_device)

    def predict_step(self, batch: TextBatch, batch_idx: int) -> None:
        """Encode texts and write their rows to disk.

        Raises:
            ConfigError: The encoder gave values that are infinite or NaN.
        """
        input_ids, mask = batch  # (B, T)
        rows = mean_over_tokens(self.encoder.hidden(input_ids, mask), mask)  # (B, D)
        if not rows.isfinite().all():
            raise ConfigError(f"{self.encoder.info.name}: gave values that are not finite; set model.dtype to float32")
        with self.path.open("ab") as out:
            out.write(rows.cpu().numpy().tobytes())
            out.flush()
            os.fsync(out.fileno())  # otherwise a power loss could leave rows of zeros in a file of full size


class _Texts(Dataset[Tokens]):
    """Token ids of the texts to encode."""

    def __init__(self, texts: Sequence[Tokens]) -> None:
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> Tokens:
        return self.texts[index]


def text_features(
    encoder: TextEncoder, texts: Sequence[Tokens], root: Path, batch_size: int, items_hash: str
) -> np.ndarray:
    """Return the mean of the last hidden states of every text `(n, D)` float32; encode texts missing in the store.

    Args:
        encoder: Text encoder, loaded only if a text is missing.
        texts: Token ids of the texts, at least one each; equal texts are encoded once.
        root: Folder of all stores.
        batch_size: Texts per step.
        items_hash: Hash of the items table whose texts these are, which the store notes.
    """
    distinct = sorted(set(texts), key=lambda text: (-len(text), text))  # so that texts of a batch are of similar length
    path = text_store(encoder, distinct, root)
    size = 4 * encoder.width * len(distinct)
    if not _is_finished(path, size):
        with build_lock(path.parent):
            if not _is_finished(path, size):  # another process may have been faster
                path.parent.mkdir(parents=True, exist_ok=True)
                write_json({"items": items_hash, "encoder": encoder.identity}, path.parent / KEY)
                _encode_missing(encoder, path, distinct, batch_size)
    remedy = f"delete {path.parent}, which is made again when it is needed"
    check_checksums(path.parent, path.name, what="the features of texts", remedy=remedy)
    rows = read_whole(
        path,
        lambda file: np.fromfile(file, dtype=np.float32).reshape(len(distinct), encoder.width),
        "the features of texts",
        remedy,
    )
    row_of = {text: row for row, text in enumerate(distinct)}
    return rows[[row_of[text] for text in texts]]


def _is_finished(path: Path, size: int) -> bool:
    """Return True if all rows are there, with their checksum: a kill or an earlier version may have left it out."""
    if not path.exists() or path.stat().st_size != size:
        return False
    return is_noted(path) or why_not_writable(path.parent) is not None


def _encode_missing(encoder: TextEncoder, path: Path, distinct: Sequence[Tokens], batch_size: int) -> None:
    """Encode the texts that the file lacks, and note its checksum."""
    n_done = _recover(path, encoder.width)
    if n_done < len(distinct):
        print(f"encoding {len(distinct) - n_done} of {len(distinct)} texts into {path}", flush=True)
        loader = DataLoader(_Texts(distinct[n_done:]), batch_size=batch_size, collate_fn=collate_texts)
        extraction_trainer(path.parent).predict(TextExtractor(encoder, path), loader, return_predictions=False)
    note_checksums(path.parent, path.name)


def text_store(encoder: TextEncoder, distinct: Sequence[Tokens], root: Path) -> Path:
    """Return the file of the store of these texts and this encoder, which may not exist yet.

    Args:
        encoder: Text encoder, of which `identity` is used.
        distinct: Token ids in the order of the rows.
        root: Folder of all stores.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    content = text_hash("\n".join(" ".join(map(str, text)) for text in distinct))
    return root / f"text-{text_hash(f'{VERSION} {encoder.identity} {device} {content}')[:12]}" / "rows.bin"


def collate_texts(texts: Sequence[Tokens]) -> TextBatch:
    """Pad ids `(B, T)` on the right, and make their mask, bool `(B, T)`: False on padding, which is not attended to."""
    lengths = torch.tensor([len(text) for text in texts])
    mask = torch.arange(int(lengths.max())) < lengths.unsqueeze(1)  # (B, T)
    input_ids = torch.zeros(mask.shape, dtype=torch.long)  # (B, T)
    input_ids[mask] = torch.tensor([token for text in texts for token in text])
    return input_ids, mask


def _recover(path: Path, width: int) -> int:
    """Cut off a row that a kill left incomplete, and return the number of rows in the file."""
    path.touch()
    n_rows = path.stat().st_size // (4 * width)
    os.truncate(path, n_rows * 4 * width)
    return n_rows
