"""`manifest.json`: record of the settings, raw files and tables of a data set, compared with the current ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from mllm_srec.data.settings import CandidateSettings, PrepareSettings
from mllm_srec.files.atomic import write_json
from mllm_srec.files.hashing import file_hash, table_hash
from mllm_srec.files.reading import read_object, readable
from mllm_srec.types import VERSION, ConfigError, DataError

MANIFEST = "manifest.json"

RAW_SETTINGS = ("reviews", "metadata", "users", "images")
"""Settings that name raw files, which are compared by content, so that moving a file changes nothing."""

Record = dict[str, Any]


def write_manifest(
    folder: Path,
    settings: PrepareSettings,
    candidates: CandidateSettings,
    raw: Mapping[str, Record],
    tables: Mapping[str, pl.DataFrame],
    candidates_hash: str,
) -> None:
    """Write `manifest.json` into the folder.

    Args:
        folder: Folder of the data set.
        settings: Settings of the preparation.
        candidates: Settings of the candidate lists.
        raw: Result of `raw_files(settings)` from before the files were read.
        tables: Name -> table written; the manifest holds their hashes.
        candidates_hash: Hash that labels results; see `candidates_hash`.
    """
    content = {
        "version": VERSION,
        "prepare": relevant_settings(settings),
        "candidates": asdict(candidates),
        "raw": dict(raw),
        "tables": {name: {"rows": table.height, "sha256": table_hash(table)} for name, table in tables.items()},
        "candidates_hash": candidates_hash,
    }
    write_json(content, folder / MANIFEST)


def candidates_hash(groups: pl.DataFrame, candidates: pl.DataFrame) -> str:
    """Compute the SHA-256 of everything that models rank: the rank groups with their contexts and candidate lists.

    The hash does not depend on pair groups, nor on the order of rows and columns.

    Args:
        groups: Columns of `tables.targets.GROUP_SCHEMA`.
        candidates: Columns of `tables.targets.CANDIDATE_SCHEMA`.
    """
    rank = groups.filter(pl.col("purpose") == "rank").sort("group_id")
    lists = candidates.sort("group_id", "position", "item_id")
    parts = [table_hash(table.select(sorted(table.columns))) for table in (rank, lists)]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def read_manifest(folder: Path) -> Record | None:
    """Read the manifest of a prepared data set; None if the folder has none.

    Raises:
        DataError: The file cannot be read as a manifest.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    return read_object(
        path, "the manifest", repair(folder), ("prepare", "candidates", "raw", "tables", "candidates_hash")
    )


def repair(folder: Path) -> str:
    """Say what to do about a damaged file of a prepared data set."""
    return (
        f"put a copy of it back, or delete {folder} and prepare it again with `python -m mllm_srec prepare --config "
        "...` (summaries are found again if you move summaries/ aside and back)"
    )


def check_manifest(folder: Path, settings: PrepareSettings, candidates: CandidateSettings) -> bool:
    """Check that a prepared folder holds exactly the data set that these settings describe.

    Raw files that no longer exist, or that this user may not read, are compared by name only: a prepared data set does
    not need them.

    Args:
        folder: Folder of the data set.
        settings: Settings of the preparation.
        candidates: Settings of the candidate lists.

    Returns:
        True if the folder was prepared with the same settings and raw files; False if nothing is prepared there.

    Raises:
        ConfigError: The folder was prepared differently; the message names each differing key with both values.
        DataError: The manifest is damaged.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return False
    there = _recorded_settings(manifest)
    here = _flat("prepare", relevant_settings(settings)) | _flat("candidates", asdict(candidates))
    lines = [
        f"{key}: prepared with {_shown(there, key)}, now {_shown(here, key)}"
        for key in here | there
        if (key in there) != (key in here) or not _equal(there.get(key), here.get(key))
    ]
    lines += _raw_differences(manifest["raw"], settings)
    if lines:
        raise ConfigError(
            f"{folder}: was prepared differently:\n  " + "\n  ".join(lines) + "\nSet these back, or choose another "
            "data.name for the new data set, or delete the folder (with its summaries) and prepare again."
        )
    return True


def relevant_settings(settings: PrepareSettings) -> Record:
    """Return the settings that affect the data set, without raw paths, unused sections and absent corruption."""
    content = asdict(settings)
    for name in RAW_SETTINGS:
        del content[name]
    if settings.source != "demo":
        del content["demo"]
    if settings.source != "tables":
        del content["columns"]
    if settings.corruption.kind == "none":
        del content["corruption"]
    content["no_rating"] = sorted(set(settings.no_rating))
    return content


def raw_files(settings: PrepareSettings) -> dict[str, Record]:
    """Return name, size and SHA-256 of each existing raw file that the source reads.

    The folder of pictures is hashed by the names and sizes of its files, not by their bytes.

    Raises:
        DataError: A file cannot be read.
    """
    found = {name: _fingerprint_of(path) for name, path in _raw_paths(settings).items()}
    return {name: record for name, record in found.items() if record is not None}


def _recorded_settings(manifest: Record) -> Record:
    """Return the settings of a manifest by dotted name; those that its version did not have stand at their defaults.

    The default of a setting that is new does what versions without it did.
    """
    source = manifest["prepare"].get("source", PrepareSettings.source)
    defaults = _flat("prepare", relevant_settings(PrepareSettings(source=source)))
    defaults |= _flat("candidates", asdict(CandidateSettings()))
    recorded = _flat("prepare", manifest["prepare"]) | _flat("candidates", manifest["candidates"])
    sections = {key.rpartition(".")[0] for key in recorded}  # a setting may have one value, or one per table
    return {key: value for key, value in defaults.items() if key not in sections} | recorded


def _raw_paths(settings: PrepareSettings) -> dict[str, Path]:
    """Return the raw paths that are set and that the source reads, by setting."""
    if settings.source == "demo":
        return {}
    names = [name for name in RAW_SETTINGS if name != "users" or settings.source == "tables"]
    values = {name: getattr(settings, name) for name in names}
    return {name: Path(value) for name, value in values.items() if value is not None}


def _fingerprint_of(path: Path) -> Record | None:
    """Compute the fingerprint of a raw file or folder; None if there is none."""
    with readable(path):
        return _fingerprint(path) if path.exists() else None


def _fingerprint(path: Path) -> Record:
    """Compute name, size in bytes and SHA-256 of a file, or of a folder's listing."""
    if not path.is_dir():
        return {"name": path.name, "size": path.stat().st_size, "sha256": file_hash(path)}
    sizes = {file.relative_to(path).as_posix(): file.stat().st_size for file in path.rglob("*") if file.is_file()}
    listing = json.dumps(sorted(sizes.items())).encode()
    return {"name": path.name, "size": sum(sizes.values()), "sha256": hashlib.sha256(listing).hexdigest()}


def _raw_differences(there: Mapping[str, Record], settings: PrepareSettings) -> list[str]:
    """Describe each raw file that differs from the recorded one, a line each."""
    paths = _raw_paths(settings)
    lines = []
    for name in RAW_SETTINGS:
        before, path = there.get(name), paths.get(name)
        now = None if path is None else _fingerprint_if_allowed(path)
        if before is None or path is None:
            same = before is None and path is None
        elif now is None:
            same = before["name"] == path.name
        else:
            same = (before["size"], before["sha256"]) == (now["size"], now["sha256"])
        if not same:
            current = _described(now) if now is not None else "null" if path is None else f"{path.name} (not there)"
            lines.append(f"prepare.{name}: prepared from {_described(before)}, now {current}")
    return lines


def _fingerprint_if_allowed(path: Path) -> Record | None:
    """Compute the fingerprint; None for a file that this user may not read, which is as good as one that is gone."""
    try:
        return _fingerprint_of(path)
    except DataError as error:
        if isinstance(error.__cause__, PermissionError):
            return None
        raise


def _described(record: Record | None) -> str:
    """Describe a raw file."""
    return "null" if record is None else f"{record['name']} ({record['size']} bytes, sha256 {record['sha256'][:12]})"


def _flat(prefix: str, content: Mapping[str, Any]) -> Record:
    """Flatten nested settings to dotted keys, as on the command line."""
    flat: Record = {}
    for name, value in content.items():
        flat |= _flat(f"{prefix}.{name}", value) if isinstance(value, dict) else {f"{prefix}.{name}": value}
    return flat


def _equal(one: Any, other: Any) -> bool:
    """Compare two values as JSON keeps them: 4 equals 4.0, and a tuple a list."""
    return bool(json.loads(json.dumps(one)) == json.loads(json.dumps(other)))


def _shown(values: Record, key: str) -> str:
    """Return a value as JSON, or "(not set)"."""
    return json.dumps(values[key], ensure_ascii=False) if key in values else "(not set)"
