"""From raw files to a prepared data set: read or generated, filtered, split, and written as one folder.

The folder is written under a hidden name beside its final path and renamed when it is complete.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl

from mllm_srec.data.manifest import candidates_hash, check_manifest, raw_files, write_manifest
from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.data.ratings import RatingRule, check_rating_settings, is_liked, report_ratings
from mllm_srec.data.raw.schema import INTERACTION_SCHEMA, RawData
from mllm_srec.data.settings import CandidateSettings, PrepareSettings
from mllm_srec.data.tables.interactions import deduplicate, k_core, kept_items, kept_users
from mllm_srec.data.tables.splits import assign_splits
from mllm_srec.data.tables.targets import Tables, build_tables
from mllm_srec.files.faults import explained
from mllm_srec.files.folders import atomic_folder, locked
from mllm_srec.files.reading import read_object
from mllm_srec.types import SPLITS, ConfigError, DataError, check_literals

REPORT = "prepare_report.json"

NOBODY_RANKED = "nobody ranked"
"""Stage of the report that holds one sentence, where no user has anything to be ranked by."""


def prepare_dataset(folder: Path, settings: PrepareSettings, candidates: CandidateSettings) -> PrepareReport:
    """Prepare a data set, unless the folder holds it already.

    The write is atomic and under a file lock: a run killed at any moment leaves no partial data set, and of several
    processes started at once only one prepares.

    Args:
        folder: `<data.root>/<data.name>`; must be missing, be empty, or hold this very data set.
        settings: Raw files, filters and split.
        candidates: Number and kind of the frozen candidate lists.

    Returns:
        The report, as in `prepare_report.json`; with the fact `already prepared` if the folder held the data set.

    Raises:
        ConfigError: A setting is out of range, the folder holds something else, or it cannot be written.
        DataError: The raw data cannot be used, or nothing of them is left after filtering.
    """
    check_settings(settings, candidates)
    folder = Path(folder)
    if check_manifest(folder, settings, candidates):  # before taking the lock: a prepared folder may be read-only
        return _saved_report(folder)
    with locked(folder.parent / f".{folder.name}.lock", setting="data.root"):
        if check_manifest(folder, settings, candidates):  # another process prepared it meanwhile
            return _saved_report(folder)
        _check_unused(folder)
        kept = f"{folder.name} was not finished and nothing of it was kept; other data sets are as they were"
        with explained(folder.parent, kept), atomic_folder(folder) as partial:
            return _write_dataset(partial, settings, candidates)


def check_settings(settings: PrepareSettings, candidates: CandidateSettings) -> None:
    """Check that numbers are in range and that choices are among the accepted ones.

    Raises:
        ConfigError: A setting is out of range; the message names it, its value and what is accepted.
    """
    least = {
        "prepare.k_core": (settings.k_core, 1),
        "prepare.max_history": (settings.max_history, 1),
        "prepare.max_image_pixels": (settings.max_image_pixels, 1),
        "prepare.seed": (settings.seed, 0),
        "prepare.corruption.seed": (settings.corruption.seed, 0),
        "candidates.n_negatives": (candidates.n_negatives, 1),
        "candidates.max_users": (candidates.max_users, 1),
        "candidates.seed": (candidates.seed, 0),
    }
    for name, (value, smallest) in least.items():
        if value is not None and value < smallest:
            raise ConfigError(f"{name}={value}: too small; set it to {smallest} or more")
    for name in ("strength", "share"):
        if not 0 <= (value := getattr(settings.corruption, name)) <= 1:
            raise ConfigError(f"prepare.corruption.{name}={value}: out of range; set it to a number from 0 to 1")
    check_literals(settings, "prepare")
    check_literals(candidates, "candidates")
    if settings.source == "tables" and settings.columns.timestamp is None and settings.split == "global_time":
        raise ConfigError(
            "prepare.split='global_time': needs times, and prepare.columns.timestamp is null; choose leave_one_out or "
            "random, which need only the order of the file"
        )
    check_rating_settings(settings)


def read_raw(settings: PrepareSettings, report: PrepareReport, staging: Path) -> RawData:
    """Read or generate the raw tables.

    Args:
        settings: Settings of the preparation; `source` chooses the reader.
        report: Receives counts of everything the reader skips.
        staging: An existing folder for files that a source generates; the demo shop draws its pictures into it.

    Returns:
        The raw tables.

    Raises:
        ConfigError: The source is unknown.
        DataError: The raw files cannot be used.
    """
    check_literals(settings, "prepare")
    # each reader is imported only for its own source: the demo shop needs no Amazon reader and vice versa
    if settings.source == "demo":
        from mllm_srec.data.demo.shop import generate_demo

        return generate_demo(settings.demo, pictures=staging)
    if settings.source == "tables":
        from mllm_srec.data.raw.own_tables import read_tables

        return read_tables(settings, report)
    from mllm_srec.data.raw.amazon import read_amazon

    return read_amazon(settings, report)


def picture_folder(settings: PrepareSettings, staging: Path) -> Path | None:
    """Return the folder of the source's pictures, or None if it has none."""
    if settings.source == "demo":
        return staging
    return None if settings.images is None else Path(settings.images)


def _saved_report(folder: Path) -> PrepareReport:
    """Return the report of the run that prepared the folder."""
    path = folder / REPORT
    report = PrepareReport()
    if path.is_file():
        remedy = "delete it: the data set does not need it, and what it says stays unknown"
        saved = read_object(path, "the report of the preparation", remedy, ("facts", "counts", "examples"))
        report = PrepareReport(saved["counts"], saved["examples"], saved["facts"])
    report.fact("already prepared", True)
    return report


def _check_unused(folder: Path) -> None:
    """Refuse a folder that holds anything else.

    Raises:
        ConfigError: The folder exists and is not empty.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigError(
            f"data.name: {folder} exists but holds no prepared data set (no manifest.json); choose another data.name, "
            "or move its content away"
        )


def _write_dataset(folder: Path, settings: PrepareSettings, candidates: CandidateSettings) -> PrepareReport:
    """Write all files of the data set into an empty folder."""
    report = PrepareReport()
    fingerprints = raw_files(settings)
    staging = folder / ".staging"
    staging.mkdir()
    raw = read_raw(settings, report, staging)
    interactions = _kept_interactions(raw, settings, report)
    items = _import_pictures(folder, kept_items(raw.items, interactions, report), settings, staging, report)
    shutil.rmtree(staging)
    interactions = assign_splits(interactions, settings.split, settings.seed, report)
    _report_nobody_ranked(interactions, settings, report)
    tables = build_tables(interactions, items["item_id"], settings, candidates, report)
    digest = candidates_hash(tables.groups, tables.candidates)
    _describe(tables, candidates, digest, report)
    written = {
        "items": items,
        "interactions": interactions.select(*INTERACTION_SCHEMA, "split"),
        "groups": tables.groups,
        "samples": tables.samples,
        "candidates": tables.candidates,
    }
    if raw.users is not None:
        written["users"] = kept_users(raw.users, interactions, report)
    for name, table in written.items():
        table.write_parquet(folder / f"{name}.parquet")
    report.write(folder / REPORT)
    write_manifest(folder, settings, candidates, fingerprints, written, digest)
    if settings.source == "demo":
        from mllm_srec.data.demo.ceilings import write_ceilings  # only the demo shop has a ground truth

        write_ceilings(folder, settings)
    return report


def _kept_interactions(raw: RawData, settings: PrepareSettings, report: PrepareReport) -> pl.DataFrame:
    """Mark likes, drop duplicates and what is outside the k-core; at least one like is left."""
    k, marked = settings.k_core, RatingRule.of(settings).mark(raw.interactions)
    if marked.height:
        report_ratings(marked, settings, report)
    rows = deduplicate(marked, report)
    kept = k_core(rows, k, report)
    if not kept.height:
        raise DataError(
            f"prepare.k_core={k}: leaves nothing of {rows.height} interactions of {rows['user_id'].n_unique()} users "
            f"with {rows['item_id'].n_unique()} items ({raw.interactions.height} rows read); "
            + ("choose a smaller k_core" if rows.height else "check that the raw file is the right one")
        )
    users, items = kept["user_id"].n_unique(), kept["item_id"].n_unique()
    if not (likes := kept.filter(is_liked()).height):
        raise DataError(
            f"prepare.k_core={k}: leaves {kept.height} of {rows.height} interactions, none of them a like; choose a "
            "smaller k_core, or a lower prepare.liked_from"
        )
    report.fact("users", users)
    report.fact("items", items)
    report.fact("interactions", kept.height)
    report.fact("likes", likes)
    report.fact("sparsity", round(1 - kept.height / (users * items), 6))
    return kept.with_columns(pl.col("review").fill_null(""))


def _report_nobody_ranked(interactions: pl.DataFrame, settings: PrepareSettings, report: PrepareReport) -> None:
    """Say why nobody can be ranked, where the split holds out no like for test; such data are for training only."""
    likes = interactions.filter(is_liked())
    if (likes["split"] == "test").any():
        return
    counts = likes["user_id"].value_counts()["count"]
    needed = {
        "random": "a user needs 2 likes",
        "leave_one_out": "a user needs 3 likes",
        "global_time": "the last tenth of all likes, of 10 or more, must have later times than those before",
    }
    report.count(
        NOBODY_RANKED,
        f"prepare.split={settings.split!r}: holds out no like for test, so nobody can be ranked: "
        f"{needed[settings.split]}, and there are {likes.height} likes of {len(counts)} users, at most "
        f"{counts.to_numpy().max()} of one; lower prepare.liked_from (now {settings.liked_from:g}) or prepare.k_core "
        f"(now {settings.k_core}), or choose another prepare.split",
    )


def _import_pictures(
    folder: Path, items: pl.DataFrame, settings: PrepareSettings, staging: Path, report: PrepareReport
) -> pl.DataFrame:
    """Copy pictures into `images/`, corrupt them if asked to, and put their relative paths into the column `image`."""
    # needs Pillow, which opening a prepared data set does not
    from mllm_srec.data.pictures.files import import_pictures

    source = picture_folder(settings, staging)
    items = import_pictures(items, source, folder / "images", settings.max_image_pixels, report)
    (folder / "images").mkdir(exist_ok=True)
    report.fact("items with picture", items.height - items["image"].null_count())
    if settings.corruption.kind != "none":
        from mllm_srec.data.pictures.corruption import corrupt_pictures

        corrupt_pictures(folder, items, settings.corruption, report)
    return items


def _describe(tables: Tables, candidates: CandidateSettings, digest: str, report: PrepareReport) -> None:
    """Report facts about the candidate lists that every model ranks."""
    ranks = tables.groups.filter(pl.col("purpose") == "rank")
    lengths = tables.candidates.group_by("group_id", "split").agg(n=(pl.col("kind") == "sampled").sum())
    for split in SPLITS[1:]:
        here = ranks.filter(pl.col("split") == split)
        silent = here.filter(pl.col("history").list.len() == 0)["user_id"].n_unique()
        short = lengths.filter((pl.col("split") == split) & (pl.col("n") < candidates.n_negatives)).height
        report.fact(f"users ranked, {split}", here["user_id"].n_unique())
        report.fact(f"users without history, {split}", silent)
        report.fact(f"lists with fewer than {candidates.n_negatives} negatives, {split}", short)
    report.fact("candidates_hash", digest)
