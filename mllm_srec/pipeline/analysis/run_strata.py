"""Results of a run by length of history, by popularity of the items, and by kind of negative.

Every function takes the seeds of one variant: values are averaged over them row by row (AUC: seed by seed) before users
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
"""Kinds of targets compared by AUC; the last pair shows if a model finds rated items rather than liked ones."""


def history_length(seeds: Sequence[ScoredTables], metrics: Sequence[str], settings: StrataSettings) -> list[StratumRow]:
    """Split metrics of rank lists and the AUC of pairs by the number of liked items in the context.

    Args:
        seeds: Runs that differ only in their seed.
        metrics: Columns of `ScoredTables.lists`.
        settings: Settings with `history_bins`.
    """
    lists, pairs = seeds[0].lists, seeds[0].pairs
    bins, labels = bin_of(lists["n_history"], settings.history_bins), bin_labels(settings.history_bins)
    result: list[StratumRow] = []
    for metric in metrics:
        values = np.mean([seed.lists[metric].fill_null(np.nan).to_numpy() for seed in seeds], axis=0)  # (L,)
        split = Strata("history_length", metric, "lists", bins, labels, ~np.isnan(values))
        result += split.rows(_mean_of(values, lists["user_id"].to_numpy(), settings))
    if not pairs.height:
        return result
    chosen = (pairs["kind"] != "disliked").to_numpy()
    scores, positive, user = _columns(seeds, chosen)
    bins = bin_of(pairs["n_history"].to_numpy()[chosen], settings.history_bins)
    split = Strata("history_length", "auc", "targets", bins, labels, np.ones(len(bins), dtype=bool))
    return result + list(split.rows(lambda mask: settings.area(scores[:, mask], positive[mask], user[mask])))


def cold_items(seeds: Sequence[ScoredTables], settings: StrataSettings) -> list[StratumRow]:
    """Split positives by the number of train likes of their item.

    `recall@K` and `auc_in_list` are those of positives of rank lists (see `metrics.positives`); `auc` compares liked
    targets of the pairs with *all* sampled ones, so that strata differ only in their positives.

    Args:
        seeds: Runs that differ only in their seed.
        settings: Settings with `like_bins` and `top_k`.
    """
    labels = bin_labels(settings.like_bins)
    result: list[StratumRow] = []
    positives = seeds[0].candidates.filter(pl.col("label") == 1)
    bins, user = bin_of(positives["likes"], settings.like_bins), positives["user_id"].to_numpy()
    of_seeds = [_of_positives(seed, settings.top_k) for seed in seeds]
    for metric in of_seeds[0]:
        values = np.mean([of[metric] for of in of_seeds], axis=0)  # (P,)
        split = Strata("cold_items", metric, "positives", bins, labels, ~np.isnan(values))
        result += split.rows(_mean_of(values, user, settings))
    pairs = seeds[0].pairs.filter(pl.col("kind") != "disliked")
    if not pairs.height:
        return result
    scores, positive, user = _columns(seeds, (seeds[0].pairs["kind"] != "disliked").to_numpy())
    of_positives = bin_of(pairs["likes"].to_numpy()[positive], settings.like_bins)

    def area(members: Mask) -> Estimate:
        rows = ~positive
        rows[np.flatnonzero(positive)[members]] = True
        estimate = settings.area(scores[:, rows], positive[rows], user[rows])
        return replace(estimate, n_users=len(np.unique(user[positive][members])))  # all strata share the negatives

    split = Strata("cold_items", "auc", "positives", of_positives, labels, np.ones(len(of_positives), dtype=bool))
    return result + list(split.rows(area))


def popularity_matched(seeds: Sequence[ScoredTables], settings: StrataSettings) -> list[StratumRow]:
    """Compute AUC with negatives as drawn, and weighted to the popularity of the positives; see `weighted_auc`.

    `auc` is that of pairs. `user_auc` is the mean over rank lists, with weights that match the negatives of all lists
    together; it needs complete lists. `popularity/...` is the same with popularity as the score.

    Args:
        seeds: Runs that differ only in their seed.
        settings: Settings with `popularity_bins`.
    """
    result: list[StratumRow] = _matched_pairs(seeds, settings) if seeds[0].pairs.height else []
    return result + (_matched_lists(seeds, settings) if all(seed.complete for seed in seeds) else [])


def _matched_pairs(seeds: Sequence[ScoredTables], settings: StrataSettings) -> list[StratumRow]:
    """Compute the rows of `popularity_matched` that come from pairs."""
    chosen = (seeds[0].pairs["kind"] != "disliked").to_numpy()
    scores, positive, user = _columns(seeds, chosen)
    likes = seeds[0].pairs["likes"].to_numpy()[chosen]
    weights = _matching(likes, positive, settings)
    unmatched = int((weights[positive] == 0).sum())
    result: list[StratumRow] = []
    for metric, by_seed in (("auc", scores), ("popularity/auc", likes[None].astype(np.float64))):
        drawn, matched = settings.area(by_seed, positive, user), settings.area(by_seed, positive, user, weights)
        n_drawn, n_matched = len(user), len(user) - unmatched
        result.append(stratum_row("popularity_matched", "as drawn", metric, drawn, n_drawn, "targets"))
        result.append(stratum_row("popularity_matched", "matched", metric, matched, n_matched, "targets"))
        result += left_out("popularity_matched", metric, unmatched, "targets")
    return result


def _matched_lists(seeds: Sequence[ScoredTables], settings: StrataSettings) -> list[StratumRow]:
    """Compute the rows of `popularity_matched` that come from rank lists."""
    candidates = seeds[0].candidates
    groups, list_index = np.unique(candidates["group_id"].to_numpy(), return_inverse=True)
    user = seeds[0].lists["user_id"].to_numpy()  # by group, as `groups` is
    positive, likes = candidates["label"].to_numpy() == 1, candidates["likes"].to_numpy()
    scores = {
        seeds[0].auc_name: [seed.candidates["score"].to_numpy() for seed in seeds],
        f"popularity/{seeds[0].auc_name}": [likes.astype(np.float64)],
    }
    result = []
    for metric, by_seed in scores.items():
        for stratum, weights in (
            ("as drawn", np.ones(len(positive))),
            ("matched", _matching(likes, positive, settings)),
        ):
            sorted_rows = (SortedRows.of(seed, positive, list_index, len(groups)) for seed in by_seed)
            values = np.mean([rows.auc(weights) for rows in sorted_rows], axis=0)  # (L,)
            defined = ~np.isnan(values)
            estimate = settings.mean(values[defined], user[defined])
            result.append(stratum_row("popularity_matched", stratum, metric, estimate, int(defined.sum()), "lists"))
            result += left_out("popularity_matched", metric, int((~defined).sum()), "lists", f", {stratum}")
    return result


def negative_kinds(seeds: Sequence[ScoredTables], settings: StrataSettings) -> list[StratumRow]:
    """Compute the AUC of every pair of `KIND_PAIRS`.

    Args:
        seeds: Runs that differ only in their seed.
        settings: Settings of the intervals.
    """
    kind = seeds[0].pairs["kind"].to_numpy()
    result = []
    for better, worse in KIND_PAIRS if len(kind) else ():
        chosen = (kind == better) | (kind == worse)
        scores, _, user = _columns(seeds, chosen)
        estimate = settings.area(scores, kind[chosen] == better, user)
        result.append(
            stratum_row("negative_kinds", f"{better} / {worse}", "auc", estimate, int(chosen.sum()), "targets")
        )
    return result


def _mean_of(values: Floats, user: Users, settings: StrataSettings) -> Callable[[Mask], Estimate]:
    return lambda members: settings.mean(values[members], user[members])


def _columns(seeds: Sequence[ScoredTables], chosen: Mask) -> tuple[Floats, Mask, Users]:
    """Return scores `(seeds, N)`, labels `(N,)` and users `(N,)` of the chosen pairs."""
    pairs = seeds[0].pairs
    scores = np.stack([seed.pairs["score"].to_numpy()[chosen] for seed in seeds])
    return scores, pairs["label"].to_numpy()[chosen] == 1, pairs["user_id"].to_numpy()[chosen]


def _matching(likes: Ints, positive: Mask, settings: StrataSettings) -> Floats:
    return matching_weights(likes, positive, popularity_edges(likes[positive], settings.popularity_bins))


def _of_positives(seed: ScoredTables, top_k: int) -> dict[str, Floats]:
    """Return metrics of every positive `(P,)` of the rank lists, by group and item."""
    rows = seed.candidates
    positive = rows["label"].to_numpy() == 1
    list_index = np.unique(rows["group_id"].to_numpy(), return_inverse=True)[1]
    score = rows["score"].to_numpy()
    if seed.complete:
        ranks = positive_ranks(score, positive, list_index)
    else:  # all positives were kept, each with the number of candidates above it
        above, tied, n = (rows[name].to_numpy()[positive] for name in ("n_above", "n_tied", "n_candidates"))
        n_negatives = n - np.bincount(list_index[positive], minlength=list_index.max() + 1)[list_index[positive]]
        ranks = ranks_from_counts(score[positive], list_index[positive], above, tied, n_negatives)
    recall = np.where(ranks.n_negatives > 0, ranks.recall(top_k), np.nan)  # lists without negatives are not measured
    return {f"recall@{top_k}": recall, "auc_in_list": ranks.auc()}
