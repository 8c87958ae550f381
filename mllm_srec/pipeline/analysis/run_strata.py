"""The numbers of a run by length of history, by how known the items are, and by kind of negative.

Every function takes the seeds of one thing: values are averaged over them row by row (areas: seed by seed) before users
are resampled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from mllm_srec.metrics.bins import Ints, bin_labels, bin_of
from mllm_srec.metrics.clustered import Estimate, Floats
from mllm_srec.metrics.positives import positive_ranks, ranks_from_counts
from mllm_srec.metrics.weighted_auc import SortedRows, matching_weights, popularity_edges
from mllm_srec.pipeline.analysis.scored_tables import ScoredTables
from mllm_srec.pipeline.analysis.strata import Mask, Strata, StrataSettings, StratumRow, Users, left_out, stratum_row
from mllm_srec.types import Kind

KIND_PAIRS: tuple[tuple[Kind, Kind], ...] = (("liked", "sampled"), ("liked", "disliked"), ("disliked", "sampled"))
"""What is told apart; the last says whether a model finds what is rated at all rather than what is liked."""


def history_length(seeds: Sequence[ScoredTables], metrics: Sequence[str], settings: StrataSettings) -> list[StratumRow]:
    """Metrics of rank lists, and the AUC of pairs, by the number of liked items that the context shows.

    Args:
        seeds: Runs that differ in their seed only.
        metrics: Columns of `lists`.
        settings: `history_bins`.
    """
    lists, pairs = seeds[0].lists, seeds[0].pairs
    bins, labels = bin_of(lists["n_history"], settings.history_bins), bin_labels(settings.history_bins)
    found: list[StratumRow] = []
    for metric in metrics:
        values = np.mean([seed.lists[metric].fill_null(np.nan).to_numpy() for seed in seeds], axis=0)  # (L,)
        split = Strata("history_length", metric, "lists", bins, labels, ~np.isnan(values))
        found += split.rows(_mean_of(values, lists["user_id"].to_numpy(), settings))
    asked = (pairs["kind"] != "disliked").to_numpy()
    scores, positive, user = _columns(seeds, asked)
    bins = bin_of(pairs["n_history"].to_numpy()[asked], settings.history_bins)
    split = Strata("history_length", "auc", "targets", bins, labels, np.ones(len(bins), dtype=bool))
    return found + list(split.rows(lambda own: settings.area(scores[:, own], positive[own], user[own])))


def cold_items(seeds: Sequence[ScoredTables], settings: StrataSettings) -> list[StratumRow]:
    """Each positive by the number of train likes of its item.

    `recall@K` and `auc_in_list` are of positives of rank lists (see `metrics.positives`); `auc` sets liked targets of
    the pairs against *all* sampled ones, so that strata differ in their positives only.

    Args:
        seeds: Runs that differ in their seed only.
        settings: `like_bins` and `top_k`.
    """
    labels = bin_labels(settings.like_bins)
    found: list[StratumRow] = []
    positives = seeds[0].candidates.filter(pl.col("label") == 1)
    bins, user = bin_of(positives["likes"], settings.like_bins), positives["user_id"].to_numpy()
    of_seeds = [_of_positives(seed, settings.top_k) for seed in seeds]
    for metric in of_seeds[0]:
        values = np.mean([of[metric] for of in of_seeds], axis=0)  # (P,)
        split = Strata("cold_items", metric, "positives", bins, labels, ~np.isnan(values))
        found += split.rows(_mean_of(values, user, settings))
    pairs = seeds[0].pairs.filter(pl.col("kind") != "disliked")
    scores, positive, user = _columns(seeds, (seeds[0].pairs["kind"] != "disliked").to_numpy())
    of_positives = bin_of(pairs["likes"].to_numpy()[positive], settings.like_bins)

    def area(own: Mask) -> Estimate:
        rows = ~positive
        rows[np.flatnonzero(positive)[own]] = True
        found = settings.area(scores[:, rows], positive[rows], user[rows])
        return replace(found, n_users=len(np.unique(user[positive][own])))  # negatives are of all users in any stratum

    split = Strata("cold_items", "auc", "positives", of_positives, labels, np.ones(len(of_positives), dtype=bool))
    return found + list(split.rows(area))


def popularity_matched(seeds: Sequence[ScoredTables], settings: StrataSettings) -> list[StratumRow]:
    """AUC against negatives as they were drawn, and weighted to the positives' popularity; see `weighted_auc`.

    `auc` is of pairs. `user_auc` is the mean over rank lists, within which the negatives keep the weights that match
    those of all lists together; it needs whole lists. Beside each stands what popularity gets as a score.

    Args:
        seeds: Runs that differ in their seed only.
        settings: `popularity_bins`.
    """
    asked = (seeds[0].pairs["kind"] != "disliked").to_numpy()
    scores, positive, user = _columns(seeds, asked)
    likes = seeds[0].pairs["likes"].to_numpy()[asked]
    weights = _matching(likes, positive, settings)
    unmatched = int((weights[positive] == 0).sum())
    found: list[StratumRow] = []
    for metric, of in (("auc", scores), ("popularity/auc", likes[None].astype(np.float64))):
        row = ("popularity_matched", "as drawn", metric)
        found.append(stratum_row(*row, settings.area(of, positive, user), len(user), "targets"))
        row = ("popularity_matched", "matched", metric)
        found.append(stratum_row(*row, settings.area(of, positive, user, weights), len(user) - unmatched, "targets"))
        found += left_out("popularity_matched", metric, unmatched, "targets")
    return found + (_matched_lists(seeds, settings) if all(seed.whole for seed in seeds) else [])


def _matched_lists(seeds: Sequence[ScoredTables], settings: StrataSettings) -> list[StratumRow]:
    """The list part of `popularity_matched`."""
    rows = seeds[0].candidates
    groups, place = np.unique(rows["group_id"].to_numpy(), return_inverse=True)
    user = seeds[0].lists["user_id"].to_numpy()  # by group, as `groups` is
    positive, likes = rows["label"].to_numpy() == 1, rows["likes"].to_numpy()
    scores = {
        "user_auc": [seed.candidates["score"].to_numpy() for seed in seeds],
        "popularity/user_auc": [likes.astype(np.float64)],
    }
    found = []
    for metric, of in scores.items():
        for stratum, weights in (
            ("as drawn", np.ones(len(positive))),
            ("matched", _matching(likes, positive, settings)),
        ):
            areas = [SortedRows.of(seed, positive, place, len(groups)).auc(weights) for seed in of]  # (L,) each
            values = np.mean(areas, axis=0)
            known = ~np.isnan(values)
            estimate = settings.mean(values[known], user[known])
            found.append(stratum_row("popularity_matched", stratum, metric, estimate, int(known.sum()), "lists"))
            found += left_out("popularity_matched", metric, int((~known).sum()), "lists", f", {stratum}")
    return found


def negative_kinds(seeds: Sequence[ScoredTables], settings: StrataSettings) -> list[StratumRow]:
    """AUC of every pair of kinds of labelled targets.

    Args:
        seeds: Runs that differ in their seed only.
        settings: Of the intervals.
    """
    kind = seeds[0].pairs["kind"].to_numpy()
    found = []
    for better, worse in KIND_PAIRS:
        asked = (kind == better) | (kind == worse)
        scores, _, user = _columns(seeds, asked)
        estimate = settings.area(scores, kind[asked] == better, user)
        found.append(stratum_row("negative_kinds", f"{better} / {worse}", "auc", estimate, int(asked.sum()), "targets"))
    return found


def _mean_of(values: Floats, user: Users, settings: StrataSettings) -> Callable[[Mask], Estimate]:
    return lambda own: settings.mean(values[own], user[own])


def _columns(seeds: Sequence[ScoredTables], asked: Mask) -> tuple[Floats, Mask, Users]:
    """Of the pairs asked about: scores `(seeds, N)`, labels and users `(N,)`."""
    pairs = seeds[0].pairs
    scores = np.stack([seed.pairs["score"].to_numpy()[asked] for seed in seeds])
    return scores, pairs["label"].to_numpy()[asked] == 1, pairs["user_id"].to_numpy()[asked]


def _matching(likes: Ints, positive: Mask, settings: StrataSettings) -> Floats:
    return matching_weights(likes, positive, popularity_edges(likes[positive], settings.popularity_bins))


def _of_positives(seed: ScoredTables, top_k: int) -> dict[str, Floats]:
    """Values of every positive `(P,)` of the rank lists, by group and item."""
    rows = seed.candidates
    positive = rows["label"].to_numpy() == 1
    place = np.unique(rows["group_id"].to_numpy(), return_inverse=True)[1]
    score = rows["score"].to_numpy()
    if seed.whole:
        ranks = positive_ranks(score, positive, place)
    else:  # all positives are there, and each knows how many of all candidates are above it
        above, tied, n = (rows[name].to_numpy()[positive] for name in ("n_above", "n_tied", "n_candidates"))
        n_negatives = n - np.bincount(place[positive], minlength=place.max() + 1)[place[positive]]
        ranks = ranks_from_counts(score[positive], place[positive], above, tied, n_negatives)
    return {f"recall@{top_k}": ranks.recall(top_k), "auc_in_list": ranks.auc()}
