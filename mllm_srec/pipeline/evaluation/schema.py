"""Columns of scored targets, shared by what writes predictions and what reads finished runs; loads no model library."""

from __future__ import annotations

import polars as pl

TARGETS = {"group_id": pl.Int64, "user_id": pl.String, "item_id": pl.String, "label": pl.Int8, "kind": pl.String}
"""Columns of `predictions/<split>.parquet` that identify a target; its `score` follows them."""

SCORES: dict[str, type[pl.DataType]] = {
    "group_id": pl.Int64,
    "item_index": pl.Int64,
    "score": pl.Float32,
    "yes_logit": pl.Float32,
    "no_logit": pl.Float32,
    "yes_no_mass": pl.Float32,
}
"""Columns of a scored target while an evaluation runs; null where a model does not give them."""

PLACE: dict[str, type[pl.DataType]] = {
    "rank": pl.Int64,
    "n_above": pl.Int64,
    "n_tied": pl.Int64,
    "n_candidates": pl.Int64,
}
"""Further columns where only part of a list is kept: the target's rank from 1 (ties in random order), and the numbers
of candidates with a higher score, with the same score (itself included), and in total."""
