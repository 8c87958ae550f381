"""Ranked lists of many users as one Parquet file, written so that a killed command continues when it is run again."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from mllm_srec.files.atomic import write_table
from mllm_srec.files.folders import lock_if_free, make_writable
from mllm_srec.files.hashing import file_hash
from mllm_srec.files.progress import LateProgress
from mllm_srec.pipeline.ranking.new_items import NewItem
from mllm_srec.pipeline.ranking.ranker import LIST_SCHEMA, Ranker
from mllm_srec.summaries.store import content_key
from mllm_srec.types import ConfigError

USERS_PER_PART = 50
"""Lists that a kill may lose."""


def check_output(path: Path) -> None:
    """Look whether a file can be written there, before hours are spent on its content.

    Raises:
        ConfigError: It cannot.
    """
    try:
        make_writable(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    if path.is_dir():
        raise ConfigError(f"output={str(path)!r} is a folder; give the name of a file, such as lists.parquet")


def write_lists(
    ranker: Ranker, path: Path, user_ids: Sequence[str], new_items: Sequence[NewItem], top_k: int | None
) -> pl.DataFrame:
    """Rank for every user and write columns of `LIST_SCHEMA`, users in the given order, whole or not at all.

    Finished parts lie beside the file, under the hash of everything that decides them, until it is written.

    Args:
        ranker: Knows the run.
        path: The file.
        user_ids: For whom.
        new_items: Ranked beside the items of the data set.
        top_k: Longest list; None for all items.

    Returns:
        What was written.

    Raises:
        ConfigError: The file cannot be written, or another process is writing it.
    """
    check_output(path)
    parts = path.with_name(f".{path.name}.{_key(ranker, user_ids, new_items, top_k)}.parts")
    try:
        parts.mkdir(exist_ok=True)
        lock = lock_if_free(parts / ".lock")
        if lock is None:
            raise ConfigError(f"another process is writing {path}; wait for it, or choose another output")
        try:
            table = pl.concat([pl.DataFrame(schema=LIST_SCHEMA), *_parts(ranker, parts, user_ids, new_items, top_k)])
            write_table(table, path)
        finally:
            lock.release()
    except OSError as error:
        raise _unwritable(path, error) from error
    for left in path.parent.glob(f".{path.name}.*.parts"):  # of earlier settings too
        shutil.rmtree(left, ignore_errors=True)
    return table


def _parts(
    ranker: Ranker, folder: Path, user_ids: Sequence[str], new_items: Sequence[NewItem], top_k: int | None
) -> list[pl.DataFrame]:
    """The lists, part by part, those of an earlier command read back."""
    found = []
    with LateProgress("ranking", len(user_ids)) as progress:
        for begin in range(0, len(user_ids), USERS_PER_PART):
            part = folder / f"{begin:09d}.parquet"
            if not part.exists():
                chunk = user_ids[begin : begin + USERS_PER_PART]
                lists = [ranked.table for ranked in ranker.rank_all(chunk, new_items, top_k)]
                write_table(pl.concat(lists), part)
            found.append(pl.read_parquet(part, glob=False))
            progress.update(min(begin + USERS_PER_PART, len(user_ids)))
    return found


def _key(ranker: Ranker, user_ids: Sequence[str], new_items: Sequence[NewItem], top_k: int | None) -> str:
    """Hash of everything that decides the lists."""
    data, chooser, texts = ranker.run.datamodule, ranker.chooser, ranker.run.datamodule.summaries
    retriever = Path(chooser.retriever)
    retriever = retriever / "predictions/test.parquet" if retriever.is_dir() else retriever
    parts: dict[str, Any] = {
        "weights": _optional_hash(ranker.checkpoint),
        "prompts": data.stores.prompts.folder.name,
        "summaries": texts.identity if texts else None,
        "data": data.data.content_hash,
        "score": ranker.run.model.score_kind,
        "candidates": [
            chooser.max_items,
            chooser.retriever,
            _optional_hash(retriever if retriever.is_file() else None),
        ],
        "new": [[*map(str, asdict(item).values()), _optional_hash(item.image)] for item in new_items],
        "users": list(user_ids),
        "top_k": top_k,
    }
    return content_key(**parts)[:16]


def _optional_hash(path: Path | str | None) -> str | None:
    return None if path is None else file_hash(Path(path))


def _unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"output={str(path)!r} cannot be written ({error.strerror}); name a file in a folder of yours")
