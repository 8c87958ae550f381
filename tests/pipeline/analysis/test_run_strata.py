"""Strata of random data against pandas and scikit-learn: every value and every count."""

from dataclasses import replace

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from mllm_srec.pipeline.analysis.run_strata import cold_items, history_length, negative_kinds, popularity_matched
from mllm_srec.pipeline.analysis.scored_tables import ScoredTables
from mllm_srec.pipeline.analysis.strata import StrataSettings, StratumRow
from mllm_srec.types import ConfigError

N_ITEMS, M = 60, 12
SETTINGS = StrataSettings(history_bins=(0, 1, 4), like_bins=(0, 2, 6), popularity_bins=5, n_resamples=40)
LIKES = np.random.default_rng(99).geometric(0.15, N_ITEMS) - 1


def targets(rng, groups, kinds):
    """Rows of `kinds` for every group, with distinct items, coarse scores, and the likes of the items."""
    frames = []
    for group, user in groups:
        items = rng.choice(N_ITEMS, len(kinds), replace=False)
        label = np.array([kind == "liked" for kind in kinds])
        frames.append(pd.DataFrame({
            "group_id": group, "user_id": user, "item_id": [f"i{i:02d}" for i in items], "label": label.astype("int8"),
            "kind": list(kinds), "likes": LIKES[items],
            "score": np.round(rng.normal(label * 0.8 + LIKES[items] * 0.05), 1),
        }))  # fmt: skip
    return pd.concat(frames).sort_values(["group_id", "item_id"]).reset_index(drop=True)


def world(n_seeds=2, n_users=30):
    """Tables of seeds: two lists of every third user, undefined metrics, one user's list without negatives."""
    rng = np.random.default_rng(5)
    owners = [f"u{i}" for i in range(n_users)] + [f"u{i}" for i in range(0, n_users, 3)]
    groups = list(enumerate(owners, start=500))
    lists = pd.DataFrame(groups, columns=["group_id", "user_id"])
    lists["n_history"] = rng.integers(0, 9, len(lists))
    candidates = targets(rng, groups[1:], ["liked", "liked", *["sampled"] * M])
    alone = targets(rng, groups[:1], ["liked"])
    candidates = pd.concat([alone, candidates]).reset_index(drop=True)
    pairs = targets(rng, [(g, u) for g, u in enumerate(owners * 3)], ["liked", "sampled"])
    pairs = pd.concat([pairs, targets(rng, [(g + 200, u) for g, u in enumerate(owners)], ["disliked"])])
    pairs = pairs.reset_index(drop=True)
    pairs["n_history"] = pairs["group_id"] % 7
    seeds = []
    for _ in range(n_seeds):
        mine = lists.assign(**{"ndcg@10": rng.random(len(lists)), "user_auc": rng.random(len(lists))})
        mine.loc[[2, 8], "user_auc"] = np.nan
        noisy = [t.assign(score=np.round(t["score"] + rng.normal(0, 0.5, len(t)), 1)) for t in (candidates, pairs)]
        noisy[0].loc[[4, 40], "score"] = -np.inf
        seeds.append((mine, *noisy))
    return seeds


def polars_of(seeds):
    def table(frame):
        found = pl.DataFrame({name: frame[name].to_list() for name in frame})
        return found.with_columns(pl.col(pl.Float64).fill_nan(None))

    return [ScoredTables(*map(table, seed)) for seed in seeds]


@pytest.fixture(scope="module")
def frames():
    return world()


@pytest.fixture(scope="module")
def seeds(frames):
    return polars_of(frames)


def by_name(rows):
    assert all(isinstance(row, StratumRow) for row in rows)
    found = {(row.stratum, row.metric, row.unit): row for row in rows}
    assert len(found) == len(rows), "a number is there twice"
    return found


def adds_up(rows):
    """Counts of the strata add up to that of all; values of all lie between; intervals hold their value."""
    for metric, unit in {(row.metric, row.unit) for row in rows}:
        own = [row for row in rows if (row.metric, row.unit) == (metric, unit) and row.stratum != "left out"]
        assert own[0].stratum == "all"
        assert own[0].n == sum(row.n for row in own[1:])
        for row in own:
            assert row.value is None or row.low <= row.value <= row.high


def test_a_model_without_scores_of_single_targets_has_no_rows_of_pairs(seeds):
    lists_only = [replace(seed, pairs=seed.pairs.head(0), auc_name="user_auc_reranked") for seed in seeds]
    rows = [
        *history_length(lists_only, ["ndcg@10"], SETTINGS),
        *cold_items(lists_only, SETTINGS),
        *popularity_matched(lists_only, SETTINGS),
        *negative_kinds(lists_only, SETTINGS),
    ]
    assert {row.metric for row in rows} == {
        "ndcg@10", "recall@10", "auc_in_list", "user_auc_reranked", "popularity/user_auc_reranked",
    }  # fmt: skip
    assert all(row.value is not None for row in rows if row.stratum in ("all", "as drawn", "matched"))


# --- length of history ------------------------------------------------------------------------------------------------


def in_bin(counts, edges, place):
    return (counts >= edges[place]) & (counts < ([*edges[1:], np.inf])[place])


def test_history_length(frames, seeds):
    rows = history_length(seeds, ["ndcg@10", "user_auc"], SETTINGS)
    found = by_name(rows)
    adds_up(rows)
    mean = sum(f[0][["ndcg@10", "user_auc"]] for f in frames) / 2
    history = frames[0][0]["n_history"]
    for place, label in enumerate(["0", "1-3", "4+"]):
        own = in_bin(history, SETTINGS.history_bins, place)
        for metric in mean:
            row = found[label, metric, "lists"]
            assert row.value == pytest.approx(mean[metric][own].mean())
            assert row.n == mean[metric][own].notna().sum()
            assert row.n_users == frames[0][0]["user_id"][own & mean[metric].notna()].nunique()
        pairs = [f[1:][1] for f in frames]
        areas = []
        for table in pairs:
            rated = table[in_bin(table["n_history"], SETTINGS.history_bins, place) & (table["kind"] != "disliked")]
            areas.append(roc_auc_score(rated["label"], rated["score"]))
        assert found[label, "auc", "targets"].value == pytest.approx(np.mean(areas))
        assert found[label, "auc", "targets"].n == len(rated)
    assert found["left out", "user_auc", "lists"].n == 2
    assert found["all", "user_auc", "lists"].n == len(history) - 2
    assert ("left out", "ndcg@10", "lists") not in found


def test_an_interval_by_resampling_tables(frames, seeds):
    """Resample the users of a stratum, each with all rows, and compute the AUC by scikit-learn."""
    row = by_name(history_length(seeds, [], SETTINGS))["1-3", "auc", "targets"]
    tables = []
    for _, _, pairs in frames:
        own = in_bin(pairs["n_history"], SETTINGS.history_bins, 1) & (pairs["kind"] != "disliked")
        tables.append(dict(list(pairs[own].groupby("user_id"))))
    users, generator = sorted(tables[0]), np.random.default_rng(0)
    areas = []
    for _ in range(40):
        drawn = [users[i] for i in generator.integers(len(users), size=len(users))]
        resampled = [pd.concat([of[user] for user in drawn]) for of in tables]
        areas.append(np.mean([roc_auc_score(t["label"], t["score"]) for t in resampled]))
    assert (row.low, row.high) == pytest.approx(tuple(np.quantile(areas, [0.025, 0.975])))


# --- cold items -------------------------------------------------------------------------------------------------------


def of_positives(candidates, top_k=10):
    """Each positive by loops over its list."""
    rows = []
    for _, own in candidates.groupby("group_id"):
        negatives = own[own["label"] == 0]["score"]
        for score, likes in own[own["label"] == 1][["score", "likes"]].itertuples(index=False):
            above, tied = (own["score"] > score).sum(), (own["score"] == score).sum()
            hit = np.nan if not len(negatives) else 0.0 if np.isinf(score) else min(max((top_k - above) / tied, 0), 1)
            area = ((score > negatives) + 0.5 * (score == negatives)).mean() if len(negatives) else np.nan
            rows.append((likes, hit, area))
    return pd.DataFrame(rows, columns=["likes", "recall@10", "auc_in_list"])


def test_cold_items(frames, seeds):
    rows = cold_items(seeds, SETTINGS)
    found = by_name(rows)
    adds_up(rows)
    positives = [of_positives(f[1]) for f in frames]
    likes = positives[0]["likes"]
    for place, label in enumerate(["0-1", "2-5", "6+"]):
        own = in_bin(likes, SETTINGS.like_bins, place)
        for metric in ("recall@10", "auc_in_list"):
            mean = sum(p[metric] for p in positives)[own] / 2
            assert found[label, metric, "positives"].value == pytest.approx(mean.mean())
            assert found[label, metric, "positives"].n == mean.notna().sum()
        areas = []
        for _, _, pairs in frames:
            liked = (pairs["kind"] == "liked") & in_bin(pairs["likes"], SETTINGS.like_bins, place)
            rated = pairs[liked | (pairs["kind"] == "sampled")]
            areas.append(roc_auc_score(rated["label"], rated["score"]))
        assert found[label, "auc", "positives"].value == pytest.approx(np.mean(areas))
        assert found[label, "auc", "positives"].n == liked.sum()
    assert found["left out", "auc_in_list", "positives"].n == 1
    assert found["left out", "recall@10", "positives"].n == 1, "a list without negatives, whose every recall is 1"


def test_positives_of_lists_that_were_kept_in_part(seeds, frames):
    """A catalogue list keeps its first items and all positives, with their ranks."""
    cut = []
    for lists, candidates, pairs in frames:
        candidates = candidates.assign(score=candidates["score"].clip(lower=-9))
        by = candidates.groupby("group_id")["score"]
        above = [(by.get_group(g) > s).sum() for g, s in candidates[["group_id", "score"]].itertuples(index=False)]
        tied = [(by.get_group(g) == s).sum() for g, s in candidates[["group_id", "score"]].itertuples(index=False)]
        placed = candidates.assign(rank=by.rank(method="first", ascending=False).astype(int), n_above=above,
                                   n_tied=tied, n_candidates=by.transform("size"))  # fmt: skip
        cut.append(
            (lists, candidates, pairs, placed[(placed["rank"] <= 3) | (placed["label"] == 1)].reset_index(drop=True))
        )
    whole = cold_items(polars_of([c[:3] for c in cut]), SETTINGS)
    part = polars_of([(lists, kept, pairs) for lists, _, pairs, kept in cut])
    assert cold_items(part, SETTINGS) == whole
    assert not any(row.unit == "lists" for row in popularity_matched(part, SETTINGS)), "negatives are missing"


# --- popularity -------------------------------------------------------------------------------------------------------


def weights_of(table):
    """Of negatives: positives over negatives of their bin; bins by pandas, from quantiles of the positives."""
    likes = table["likes"].to_numpy()
    mine = np.sort(likes[table["label"] == 1])
    cuts = sorted({mine[len(mine) * k // 5] for k in range(1, 5)} - {0})
    bins = pd.cut(likes, [-1, *(c - 1 for c in cuts), np.inf], labels=False)
    n = pd.crosstab(bins, table["label"].to_numpy()).reindex(columns=[0, 1], fill_value=0)
    positive = table["label"].to_numpy() == 1
    share = (n[1] / n[0].where(n[0] > 0)).fillna(0)
    return np.where(positive, n[0].loc[bins].to_numpy() > 0, share.loc[bins].to_numpy())


def test_popularity_matched(frames, seeds):
    rows = popularity_matched(seeds, SETTINGS)
    found = by_name(rows)
    tables = [f[2][f[2]["kind"] != "disliked"] for f in frames]
    weights = weights_of(tables[0])
    for metric, of in (("auc", "score"), ("popularity/auc", "likes")):
        plain = np.mean([roc_auc_score(t["label"], t[of]) for t in tables])
        matched = np.mean([roc_auc_score(t["label"], t[of], sample_weight=weights) for t in tables])
        assert found["as drawn", metric, "targets"].value == pytest.approx(plain)
        assert found["matched", metric, "targets"].value == pytest.approx(matched)
        assert abs(plain - matched) > 1e-3, "else the weights do nothing"
    lists = [f[1] for f in frames]
    weights = pd.Series(weights_of(lists[0]))
    for metric, of in (("user_auc", "score"), ("popularity/user_auc", "likes")):
        for stratum, own in (("as drawn", weights * 0 + 1), ("matched", weights)):
            areas = pd.DataFrame([
                {g: area(rows, own[rows.index], of) for g, rows in table.groupby("group_id")} for table in lists
            ])  # fmt: skip
            known = areas.mean(skipna=False).dropna()
            assert found[stratum, metric, "lists"].value == pytest.approx(known.mean())
            assert found[stratum, metric, "lists"].n == len(known)
            assert found[f"left out, {stratum}", metric, "lists"].n == areas.shape[1] - len(known) > 0


def area(rows, weights, column):
    """NaN for a list of one class."""
    if rows["label"].nunique() < 2:
        return np.nan
    return roc_auc_score(rows["label"], rows[column].clip(lower=-99), sample_weight=weights)


def test_positives_without_a_negative_as_popular_are_counted():
    frames = world(1)
    pairs = frames[0][2]
    liked = pairs["kind"] == "liked"
    pairs.loc[pairs.index[liked][:7], "likes"] = 500
    found = by_name(popularity_matched(polars_of(frames), StrataSettings(popularity_bins=100, n_resamples=5)))
    n = found["left out", "auc", "targets"].n
    assert n >= 7
    assert found["matched", "auc", "targets"].n == (pairs["kind"] != "disliked").sum() - n


# --- kinds ------------------------------------------------------------------------------------------------------------


def test_negative_kinds(frames, seeds):
    found = by_name(negative_kinds(seeds, SETTINGS))
    for better, worse in (("liked", "sampled"), ("liked", "disliked"), ("disliked", "sampled")):
        areas = []
        for _, _, pairs in frames:
            own = pairs[pairs["kind"].isin([better, worse])]
            areas.append(roc_auc_score(own["kind"] == better, own["score"]))
        row = found[f"{better} / {worse}", "auc", "targets"]
        assert row.value == pytest.approx(np.mean(areas))
        assert (row.n, row.n_users) == (len(own), own["user_id"].nunique())


def test_a_kind_that_is_not_there_has_no_number():
    frames = [(lists, c, p[p["kind"] != "disliked"].reset_index(drop=True)) for lists, c, p in world(1)]
    found = by_name(negative_kinds(polars_of(frames), SETTINGS))
    row = found["liked / disliked", "auc", "targets"]
    assert (row.value, row.low, row.high) == (None, None, None)
    assert row.n == (frames[0][2]["kind"] == "liked").sum()


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"history_bins": (1, 3)}, r"history_bins=\[1, 3\]: does not start at 0 and increase"),
        ({"like_bins": (0, 3, 3)}, r"like_bins=\[0, 3, 3\]"),
        ({"popularity_bins": 0}, "popularity_bins=0: must be at least 1"),
        ({"n_resamples": 0}, "n_resamples=0: must"),
    ],
)
def test_settings_that_lose_something_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        StrataSettings(**changes)
