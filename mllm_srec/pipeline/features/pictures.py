"""Features of pictures: the frozen vision tower's output for every picture, from a prediction loop that can resume."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as pl
import polars
import torch
from torch.utils.data import DataLoader, Dataset

from mllm_srec.data.pictures.image_store import ImageStore, processor_key
from mllm_srec.files.atomic import KEY, write_json, write_table, write_text
from mllm_srec.files.folders import build_lock
from mllm_srec.files.hashing import text_hash
from mllm_srec.models.backbone import Backbone, BackboneSettings, load_backbone
from mllm_srec.models.backbone_files import describe_backbone
from mllm_srec.types import ConfigError

PictureBatch = tuple[list[str], torch.Tensor, torch.Tensor]
"""Keys of n pictures, pixel values `(P, F)` and grids `(n, 3)`."""

Entry = dict[str, int | str]
"""A line of the index: picture, number of tokens and dimensions, dtype, CRC-32 of its features."""


class FeatureExtractor(pl.LightningModule):
    """Runs only the vision tower, and appends its output to the store's file batch by batch.

    Args:
        settings: Settings of the untrained backbone.
        folder: Folder of the store; features from an earlier, killed run are kept.
    """

    def __init__(self, settings: BackboneSettings, folder: Path) -> None:
        super().__init__()
        self.settings, self.folder = settings, folder
        self.backbone: Backbone | None = None

    def configure_model(self) -> None:
        """Load the backbone once."""
        if self.backbone is None:
            self.backbone = load_backbone(self.settings, self.trainer.strategy.root_device)

    def predict_step(self, batch: PictureBatch, batch_idx: int) -> None:
        """Encode pictures and write each before its line in the index, so that a kill loses one batch.

        Raises:
            ConfigError: The module was not started through a Trainer.
        """
        keys, pixel_values, grids = batch
        if self.backbone is None:
            raise ConfigError("backbone=None: configure_model() has not run; start through a Trainer")
        features = self.backbone.image_features(pixel_values, grids)  # list of (tokens, D)
        with (self.folder / "features.bin").open("ab") as out, (self.folder / "index.jsonl").open("a") as index:
            for key, rows in zip(keys, features, strict=True):
                content = _bytes(rows)
                out.write(content)
                entry = {"picture": key, "n_tokens": len(rows), "n_dims": rows.shape[1], "dtype": str(rows.dtype)[6:]}
                entry["crc32"] = zlib.crc32(content)
                out.flush()
                index.write(json.dumps(entry) + "\n")


def _bytes(rows: torch.Tensor) -> bytes:
    """Return the raw bytes of float32 or bfloat16 rows; numpy has no bfloat16, whose bits are taken as int16."""
    rows = rows.detach().cpu().contiguous()
    return bytes((rows.view(torch.int16) if rows.dtype == torch.bfloat16 else rows.float()).numpy().tobytes())


class _Pictures(Dataset[str]):
    """Keys of the pictures to encode."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = keys

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> str:
        return self.keys[index]


def frozen(settings: BackboneSettings) -> BackboneSettings:
    """Return the settings of the untrained backbone; quantization saves memory and never touches the tower."""
    name, revision, dtype = settings.name, settings.revision, settings.dtype
    return BackboneSettings(name, revision, "none", dtype=dtype, quantization=settings.quantization)


def feature_folder(images: ImageStore, settings: BackboneSettings) -> Path:
    """Return the folder of the feature store of these pictures and this tower, which may not exist yet.

    Args:
        images: Pictures of the data set.
        settings: Settings of the backbone, see `frozen`.
    """
    return _folder(images, settings, describe_backbone(settings.name, settings.revision).fingerprint)


def _folder(images: ImageStore, settings: BackboneSettings, fingerprint: str) -> Path:
    content = f"{fingerprint} {images.folder.name} {settings.dtype} {_device()}"
    return images.folder.parents[1] / "features" / text_hash(content)[:12]


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _note_key(folder: Path, images: ImageStore, settings: BackboneSettings) -> None:
    """Write what the features are made from."""
    pictures = {"pictures": images.folder.name, "processor": processor_key(images.processor)}
    backbone = describe_backbone(settings.name, settings.revision).fingerprint
    write_json({**pictures, "backbone": backbone, "dtype": settings.dtype, "device": _device()}, folder / KEY)


def _note_earlier(images: ImageStore, settings: BackboneSettings) -> None:
    """Say why features that an earlier version wrote for a model of this shape are not used."""
    earlier = describe_backbone(settings.name, settings.revision).earlier_fingerprint
    if earlier is not None and (folder := _folder(images, settings, earlier)).exists():
        print(
            f"{folder} may be of another revision of the backbone, which earlier versions did not tell apart; its "
            "features are computed again, and the folder can be deleted",
            flush=True,
        )


def extract_features(images: ImageStore, settings: BackboneSettings, batch_size: int = 16) -> Path:
    """Extract the missing features and return the folder of the finished store.

    Args:
        images: Pictures of the data set.
        settings: Settings of the backbone whose tower is run; must not be trained.
        batch_size: Pictures per step.
    """
    folder = feature_folder(images, settings)
    if (folder / "meta.json").exists():
        return folder
    with build_lock(folder):
        if (folder / "meta.json").exists():  # another process extracted them meanwhile
            return folder
        folder.mkdir(parents=True, exist_ok=True)
        _note_key(folder, images, settings)
        done = _recover(folder)
        missing = [picture for picture in images.pictures if picture not in done]
        if missing:
            _note_earlier(images, settings)
            print(f"encoding {len(missing)} of {len(images.pictures)} pictures into {folder}", flush=True)
            _predict(missing, images, settings, folder, batch_size)
        _finish(folder)
    return folder


def extraction_trainer(folder: Path) -> pl.Trainer:
    """Make the Trainer of a prediction loop whose module writes its output below `folder`."""
    return pl.Trainer(
        accelerator="auto",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=str(folder),
    )


def _predict(pictures: list[str], images: ImageStore, settings: BackboneSettings, folder: Path, size: int) -> None:
    def collate(keys: Sequence[str]) -> PictureBatch:
        return list(keys), *images.pixel_values(keys)

    loader: DataLoader[str] = DataLoader(_Pictures(pictures), batch_size=size, collate_fn=collate)
    trainer = extraction_trainer(folder)
    trainer.predict(FeatureExtractor(settings, folder), loader, return_predictions=False)


def _entries(folder: Path) -> list[Entry]:
    """Read the index up to the first line that is broken (by a kill or a full disk) or has no features."""
    path, features = folder / "index.jsonl", folder / "features.bin"
    n_bytes = features.stat().st_size if features.exists() else 0
    entries: list[Entry] = []
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        try:
            entry = json.loads(line)
            n_bytes -= _size(entry)
        except (ValueError, TypeError, KeyError):
            break
        if not line.endswith(b"\n") or n_bytes < 0:
            break
        entries.append(entry)
    return entries


def _size(entry: Entry) -> int:
    """Return the number of bytes of a picture's features."""
    return int(entry["n_tokens"]) * int(entry["n_dims"]) * (2 if entry["dtype"] == "bfloat16" else 4)


def _recover(folder: Path) -> set[str]:
    """Cut off incomplete features and lines of an earlier run, and return the pictures that it finished."""
    entries = _entries(folder)
    path = folder / "features.bin"
    path.touch()
    with path.open("r+b") as file:
        file.truncate(sum(map(_size, entries)))
    write_text("".join(json.dumps(entry) + "\n" for entry in entries), folder / "index.jsonl")
    return {str(entry["picture"]) for entry in entries}


def _finish(folder: Path) -> None:
    """Write the index as a table, and last `meta.json`, which marks the store as finished."""
    entries = _entries(folder)
    rows = [(entry["picture"], entry["n_tokens"], entry.get("crc32")) for entry in entries]
    schema = {"picture": polars.String, "n_tokens": polars.Int64, "crc32": polars.Int64}
    offset = polars.col("n_tokens").cum_sum() - polars.col("n_tokens")
    table = polars.DataFrame(rows, schema, orient="row").with_columns(offset.alias("offset"))
    write_table(table, folder / "index.parquet")
    first = entries[0] if entries else {"n_dims": 0, "dtype": "float32"}
    write_json({"n_dims": first["n_dims"], "dtype": first["dtype"]}, folder / "meta.json")
