"""AUC and rank metrics of the demo shop's ceilings in plain code: the oracle that the package's metrics are held to."""

from __future__ import annotations

from itertools import accumulate
from math import comb, log2
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from mllm_srec.types import EVAL_TOP_K

_DISCOUNT = list(accumulate((1 / log2(rank + 1) for rank in range(1, 10_001)), initial=0.0))


def auc(positive: npt.NDArray[np.float64], negative: npt.NDArray[np.float64]) -> float | None:
    """P(a positive scores above a negative), ties counting half; None if either is empty."""
    if not len(positive) or not len(negative):
        return None
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, side="left")
    not_above = np.searchsorted(ordered, positive, side="right")
    return float((below + not_above).mean() / (2 * len(ordered)))


def expected_hit_and_ndcg(
    scores: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], top_k: int
) -> tuple[float, float]:
    """HR@K and NDCG@K of one list, averaged over all orders of tied scores.

    Args:
        scores: (C,) larger is better.
        labels: (C,) 1 for the positives, of which there is at least one.
        top_k: K.
    """
    miss, gain, start = 1.0, 0.0, 0
    for score in np.unique(scores)[::-1]:
        tied = labels[scores == score]
        size, hits = len(tied), int(tied.sum())
        inside = min(max(top_k - start, 0), size)
        gain += hits / size * (_DISCOUNT[start + inside] - _DISCOUNT[start])
        miss *= comb(size - hits, inside) / comb(size, inside)
        start += size
        if start >= top_k:
            break
    return 1 - miss, gain / _DISCOUNT[min(int(labels.sum()), top_k)]


def ceiling_metrics(scored: pl.DataFrame, column: str, n_negatives: int) -> dict[str, float | int | None]:
    """Metrics of one score column; keys as in `metrics.json` without `test/`.

    Args:
        scored: `table` (samples|candidates), `group_id`, `label`, `kind`, `position` and the score `column`.
        column: Name of the score.
        n_negatives: Rank lists keep the positives and the first so many negatives by `position`.

    Returns:
        `auc` (liked against sampled pairs), `auc_disliked`, `user_auc` (mean over lists), `hr@K` and `ndcg@K` for K in
        5, 10, 20, and the numbers of pairs and lists; None where there is nothing to compare.
    """
    pairs = scored.filter(pl.col("table") == "samples")
    kinds = {kind: pairs.filter(pl.col("kind") == kind)[column].to_numpy() for kind in ("liked", "sampled", "disliked")}
    lists = scored.filter((pl.col("table") == "candidates") & (pl.col("position") <= n_negatives))
    user_aucs, ranks = [], []
    for _, rows in lists.group_by("group_id", maintain_order=True):
        scores, labels = rows[column].to_numpy(), rows["label"].to_numpy().astype(np.int64)
        user_aucs.append(auc(scores[labels == 1], scores[labels == 0]))
        ranks.append([value for k in EVAL_TOP_K for value in expected_hit_and_ndcg(scores, labels, k)])
    known = [value for value in user_aucs if value is not None]
    names = [f"{metric}@{k}" for k in EVAL_TOP_K for metric in ("hr", "ndcg")]
    means = np.mean(ranks, axis=0).tolist() if ranks else [None] * len(names)
    return {
        "auc": auc(kinds["liked"], kinds["sampled"]),
        "auc_disliked": auc(kinds["liked"], kinds["disliked"]),
        "user_auc": float(np.mean(known)) if known else None,
        **dict(zip(names, means, strict=True)),
        "n_liked": len(kinds["liked"]),
        "n_sampled": len(kinds["sampled"]),
        "n_disliked": len(kinds["disliked"]),
        "n_lists": len(ranks),
        "n_negatives": n_negatives,
    }


def read_ceilings(folder: Path, n_negatives: int = 20) -> dict[str, dict[str, float | int | None]]:
    """Metrics of every score column of `ceilings.parquet`, on the test split of a prepared demo shop."""
    written = pl.read_parquet(folder / "ceilings.parquet")
    parts = []
    for name in ("samples", "candidates"):
        rows = pl.read_parquet(folder / f"{name}.parquet").filter(pl.col("split") == "test")
        position = pl.col("position").cast(pl.Int64) if name == "candidates" else pl.lit(0, pl.Int64).alias("position")
        parts.append(rows.select(pl.lit(name).alias("table"), "group_id", "item_id", "label", "kind", position))
    scored = pl.concat(parts).join(written, on=["table", "group_id", "item_id"], how="left", maintain_order="left")
    return {name: ceiling_metrics(scored, name, n_negatives) for name in written.columns[3:]}
