"""Ranked lists of many users in one file, Parquet or CSV, written in parts so that a killed command can be resumed."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from mllm_srec.files.atomic import atomic_file, write_table
from mllm_srec.files.folders import lock_if_free, make_writable
from mllm_srec.files.hashing import file_hash
from mllm_srec.files.progress import LateProgress
from mllm_srec.files.reading import read_table
from mllm_srec.pipeline.ranking.new_items import NewItem
from mllm_srec.pipeline.ranking.ranker import LIST_SCHEMA, Ranker
from mllm_srec.summaries.store import content_key
from mllm_srec.types import ConfigError

USERS_PER_PART = 50
"""Lists per part: a killed command loses at most so many."""


FORMATS = (".parquet", ".csv")
"""Endings of a file's name, by which its format is chosen."""


def check_output(path: Path) -> None:
    """Check that a file can be written, before hours are spent on its content.

    Raises:
        ConfigError: The file cannot be written, or its name does not say its format.
    """
    if path.is_dir():
        raise ConfigError(f"output={str(path)!r}: is a folder; give the name of a file, such as lists.parquet")
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(
            f"output={str(path)!r}: does not say whether to write Parquet or CSV; give a name that ends in "
            f"{' or '.join(FORMATS)}"
        )
    try:
        make_writable(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error


def write_lists(
    ranker: Ranker, path: Path, user_ids: Sequence[str], new_items: Sequence[NewItem], top_k: int | None
) -> pl.DataFrame:
    """Rank for users and write one table with columns `LIST_SCHEMA` atomically, users in the given order.

    Until then, finished parts lie beside the file in a folder named by the hash of everything that decides them.

    Args:
        ranker: Ranker of the run.
        path: File to write, in the format that its ending names.
        user_ids: Ids of the users to rank for, one list each.
        new_items: New items, ranked together with those of the data set.
        top_k: Length of the lists; None keeps all items.

    Returns:
        The written table.

    Raises:
        ConfigError: The file cannot be written, or another process is writing it.
    """
    check_output(path)
    parts = path.with_name(f".{path.name}.{_key(ranker, user_ids, new_items, top_k)}.parts")
    try:
        parts.mkdir(exist_ok=True)
        lock = lock_if_free(parts / ".lock")
        if lock is None:
            raise ConfigError(
                f"output={str(path)!r}: another process is writing it; wait for it, or choose another output"
            )
        try:
            table = pl.concat([pl.DataFrame(schema=LIST_SCHEMA), *_parts(ranker, parts, user_ids, new_items, top_k)])
            _write(table, path)
        finally:
            lock.release()
    except OSError as error:
        raise _unwritable(path, error) from error
    for folder in path.parent.glob(f".{path.name}.*.parts"):  # also those of earlier settings
        shutil.rmtree(folder, ignore_errors=True)
    return table


def _write(table: pl.DataFrame, path: Path) -> None:
    if path.suffix.lower() == ".csv":
        with atomic_file(path) as file:
            table.write_csv(file)
    else:
        write_table(table, path)


def _parts(
    ranker: Ranker, folder: Path, user_ids: Sequence[str], new_items: Sequence[NewItem], top_k: int | None
) -> list[pl.DataFrame]:
    """Rank the users part by part; parts of an earlier command are read back."""
    tables = []
    with LateProgress("ranking", len(user_ids), "users") as progress:
        for begin in range(0, len(user_ids), USERS_PER_PART):
            part = folder / f"{begin:09d}.parquet"
            chunk = user_ids[begin : begin + USERS_PER_PART]
            if part.exists():
                progress.skip(len(chunk))
            else:
                lists = []
                for ranked in ranker.rank_all(chunk, new_items, top_k):
                    lists.append(ranked.table)
                    progress.advance()
                write_table(pl.concat(lists), part)
            tables.append(read_table(part, "a part of the lists", "delete it and start again"))
    return tables


def _key(ranker: Ranker, user_ids: Sequence[str], new_items: Sequence[NewItem], top_k: int | None) -> str:
    """Return the hash of everything that decides the lists."""
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
        "new": [[*map(str, asdict(item).values()), _optional_hash(item.picture)] for item in new_items],
        "users": list(user_ids),
        "top_k": top_k,
    }
    return content_key(**parts)[:16]


def _optional_hash(path: Path | str | None) -> str | None:
    return None if path is None else file_hash(Path(path))


def _unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"output={str(path)!r}: cannot be written ({error.strerror}); choose a writable folder")
