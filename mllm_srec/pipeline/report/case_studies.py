"""Case studies of a finished run (article, Figure 7), drawn by a rule and a seed, not picked by hand.

studies = case_studies(Path("runs/demo/first"), n_right=2, n_wrong=2, seed=0)
studies.cases[0].preference, studies.cases[0].targets[0].probability
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.pictures.files import small_copy
from mllm_srec.data.pictures.finder import UnusablePictureError
from mllm_srec.data.stored_prompts.contexts import ContextTexts
from mllm_srec.data.stored_prompts.summary_texts import SummaryTexts
from mllm_srec.files.reading import read_table
from mllm_srec.pipeline.ranking.loaded_run import load_run
from mllm_srec.pipeline.runs.folder import RunFolder
from mllm_srec.pipeline.runs.settings import read_settings
from mllm_srec.prompts.templates import PromptSettings
from mllm_srec.reports.page.cases import Case, CaseItem, CaseStudies, CaseTarget, Verdict
from mllm_srec.types import ConfigError, DataError

SHOWN_HISTORY = 8
"""Number of the latest items of a history that are shown."""

SHOWN_OTHERS = 2
"""Number of the best candidates without a known like that are shown beside the liked ones."""

SHOWN_LIKED = 4
"""Number of liked candidates that are shown, the best first."""

MAX_SIDE = 160
"""Pixels of a shown picture's longer side."""


@dataclass(frozen=True)
class CaseSource:
    """The data, predictions and texts that cases are made from.

    Attributes:
        data: Data set that the run was tested on.
        lists: Columns of `predictions/test.parquet`, with `place` and `tied` among the candidates.
        texts: Summaries that are part of the run's prompts; None if there are none.
        prompt: Settings of its prompts; None for a baseline.
    """

    data: PreparedDataset
    lists: pl.DataFrame
    texts: SummaryTexts | None
    prompt: PromptSettings | None


def case_studies(
    run: Path, n_right: int = 2, n_wrong: int = 2, seed: int = 0, data_root: Path | None = None
) -> CaseStudies:
    """Draw right and wrong test lists of a run, and collect all that led to them.

    Args:
        run: Run folder with predictions of the test split.
        n_right: Number of lists on which only liked items have the highest score; fewer if there are fewer.
        n_wrong: Number of lists on which no liked item has the highest score.
        seed: Seed of the draw.
        data_root: Folder in place of `data.root` of its settings.

    Raises:
        ConfigError: The folder holds no tested run, or its data set or summaries are missing.
        DataError: The predictions are of another data set.
    """
    source = open_source(run, data_root)
    verdicts = list_verdicts(source.lists)
    chosen: list[int] = []
    counts = {verdict: verdicts.filter(pl.col("verdict") == verdict).height for verdict in ("right", "wrong")}
    for number, (verdict, n) in enumerate((("right", n_right), ("wrong", n_wrong))):
        ids = verdicts.filter(pl.col("verdict") == verdict)["group_id"].sort().to_numpy()
        random = np.random.default_rng([seed, number])
        chosen += [int(group) for group in random.choice(ids, min(n, len(ids)), replace=False)] if len(ids) else []
    undecided = verdicts.height - sum(counts.values())
    rule = (
        f"Of {verdicts.height} test lists, {counts['right']} have a liked item on top (right), {counts['wrong']} have "
        f"another (wrong)" + (f", and on {undecided} both share the highest score" if undecided else "") + ". "
        f"Shown are {min(n_right, counts['right'])} of the right and {min(n_wrong, counts['wrong'])} of the wrong, "
        f"drawn at random with seed {seed}, not picked by hand. Each list is shown with up to {SHOWN_LIKED} "
        f"liked items and the {SHOWN_OTHERS} best-placed others."
    )
    return CaseStudies(run.resolve().name, rule, tuple(_case(source, group, verdicts) for group in chosen))


def open_source(run: Path, data_root: Path | None = None) -> CaseSource:
    """Open a run for its cases, without reading weights.

    Args:
        run: Run folder.
        data_root: Folder in place of `data.root` of its settings.

    Raises:
        ConfigError: A file is missing.
        DataError: The predictions are of another data set.
    """
    settings, path = read_settings(run, data_root), RunFolder(run).predictions / "test.parquet"
    if not path.is_file():
        raise ConfigError(f"{path}: missing; run `python -m mllm_srec test` with a checkpoint of the run")
    if settings.get("baseline"):
        section = settings["data"]
        data, texts, prompt = PreparedDataset.open(Path(section["root"]) / section["name"]), None, None
    else:
        loaded = load_run(settings).datamodule
        data, texts, prompt = loaded.data, loaded.summaries, loaded.prompt
    stated = RunFolder(run).read_metrics().get("test/candidates_hash")
    if stated != data.candidates_hash:
        raise DataError(
            f"{run}: was tested on candidates {str(stated)[:12]}, but {data.folder} holds "
            f"{data.candidates_hash[:12]}, prepared later; test the run again"
        )
    lists = read_table(path, "the table of scored rows", "test the run again")
    return CaseSource(data, with_places(lists), texts, prompt)


def with_places(lists: pl.DataFrame) -> pl.DataFrame:
    """Add the `place` of each candidate, from 1, and the number of candidates `tied` with it, itself included.

    Equal scores share the best of their places. Items that a retriever missed have no score and no place.

    Args:
        lists: Columns of `predictions/test.parquet`; if it holds parts of lists, it has these numbers already.
    """
    if {"n_above", "n_tied"} <= set(lists.columns):
        return lists.with_columns(place=pl.col("n_above") + 1, tied=pl.col("n_tied"))
    place = pl.col("score").rank("min", descending=True).over("group_id").cast(pl.Int64)
    scored = pl.col("score").is_not_null()
    tied = pl.when(scored).then(pl.len().over("group_id", "score")).otherwise(0).cast(pl.Int64)
    n_candidates = scored.sum().over("group_id").cast(pl.Int64)
    return lists.with_columns(place=place, tied=tied, n_candidates=n_candidates)


def list_verdicts(lists: pl.DataFrame) -> pl.DataFrame:
    """Judge every list: columns `group_id` and `verdict`.

    Args:
        lists: Result of `with_places`.
    """
    top = pl.col("place") == 1
    liked, tied = ((pl.col("label") == 1) & top).sum(), pl.col("tied").filter(top).max()
    verdict = pl.when(liked == 0).then(pl.lit("wrong")).when(liked == tied).then(pl.lit("right"))
    verdicts = lists.group_by("group_id").agg(verdict.otherwise(pl.lit("undecided")).alias("verdict"))
    return verdicts.sort("group_id")


# --- one case ---------------------------------------------------------------------------------------------------------


def _case(source: CaseSource, group_id: int, verdicts: pl.DataFrame) -> Case:
    """Collect history, preference, candidates and verdict of a list."""
    group = source.data.groups.row(by_predicate=pl.col("group_id") == group_id, named=True)
    of_user = source.data.interactions.filter(pl.col("user_id") == group["user_id"])
    body = ContextTexts(of_user, source.texts, source.prompt or PromptSettings()).body(group)
    candidates = source.lists.filter(pl.col("group_id") == group_id)
    verdict: Verdict = verdicts.row(by_predicate=pl.col("group_id") == group_id, named=True)["verdict"]
    history = group["history"]
    return Case(
        user_id=group["user_id"],
        profile=source.data.profiles.get(group["user_id"]),
        group_id=group_id,
        history=tuple(_item(source, item_id) for item_id in history[-SHOWN_HISTORY:]),
        n_history=len(history),
        n_since=len(body.items) - body.n_told if body.preference is not None else 0,
        preference=body.preference,
        targets=tuple(_target(source, row) for row in _shown(candidates).iter_rows(named=True)),
        n_candidates=int(candidates["n_candidates"].max() or candidates.height),  # type: ignore[arg-type]
        verdict=verdict,
    )


def _shown(candidates: pl.DataFrame) -> pl.DataFrame:
    """Return the best-placed liked candidates and the best-placed others, by place; missed ones last."""
    ordered = candidates.sort("place", "item_id", nulls_last=True)
    liked, others = (ordered.filter(pl.col("label") == label) for label in (1, 0))
    return pl.concat([liked.head(SHOWN_LIKED), others.head(SHOWN_OTHERS)]).sort("place", "item_id", nulls_last=True)


def _target(source: CaseSource, row: Mapping[str, Any]) -> CaseTarget:
    """Make a candidate from its prediction."""
    yes, no = row.get("yes_logit"), row.get("no_logit")
    stated = None if yes is None or no is None else 1 / (1 + math.exp(min(700.0, no - yes)))
    item = _item(source, row["item_id"], with_summaries=True)
    return CaseTarget(item, row["label"] == 1, row["place"], row["tied"], row["score"], stated)


def _item(source: CaseSource, item_id: str, with_summaries: bool = False) -> CaseItem:
    """Collect title, picture and, for candidates, the summaries of an item."""
    row = source.data.items.row(by_predicate=pl.col("item_id") == item_id, named=True)
    texts = source.texts if with_summaries else None
    return CaseItem(
        item_id,
        row["title"],
        None if row["image"] is None else small_jpeg(source.data.folder / row["image"]),
        None if texts is None else texts.image.get(item_id),
        None if texts is None else texts.item.get(item_id),
    )


def small_jpeg(path: Path) -> bytes:
    """Return a small JPEG of a picture: nothing else of an untrusted file reaches the page.

    Args:
        path: Picture file of the data set.

    Raises:
        DataError: The file is missing or broken.
    """
    try:
        small = small_copy(path, MAX_SIDE)
    except UnusablePictureError as error:
        raise DataError(f"{path}: the picture cannot be read ({error}); prepare the data set again") from error
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()
