"""Kept rows of scored lists give the metrics of the complete lists: ties, long lists, every positive."""

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mllm_srec.data.loading.examples import GroupExamples
from mllm_srec.metrics.functional import ranking_metrics, user_auc
from mllm_srec.pipeline.evaluation.scored_rows import (
    KEPT_TOP,
    batch_rows,
    kept_lists,
    kept_pairs,
    padded,
    scores_of,
    top_of_batch,
    top_rows,
)
from mllm_srec.types import MllmSrecError


def make_examples(sizes, relevance):
    n = sum(sizes)
    return GroupExamples(
        group_id=np.arange(len(sizes)) * 7 + 3,
        context=np.arange(len(sizes)),
        offsets=np.concatenate([[0], np.cumsum(sizes)]),
        item_index=np.concatenate([np.arange(size) for size in sizes]) if n else np.zeros(0, np.int64),
        relevance=relevance,
        kind=np.where(relevance == 1, 0, 2),
        n_missed=np.zeros(len(sizes), dtype=np.int64),
    )


def make_batch(examples, scores):
    """The same as a batch and a model's scores of it."""
    sizes = np.diff(examples.offsets)
    mask = torch.arange(int(sizes.max())) < torch.from_numpy(sizes)[:, None]
    batch = {
        "group_id": torch.from_numpy(examples.group_id), "candidate_mask": mask,
        "item_index": padded(examples, examples.item_index, -1), "relevance": padded(examples, examples.relevance),
    }  # fmt: skip
    return {"scores": padded(examples, scores)}, batch


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.integers(1, 260), min_size=1, max_size=4),
    n_levels=st.sampled_from([1, 3, 40, 10_000]),
)
def test_the_top_of_a_batch_is_that_of_its_rows(seed, sizes, n_levels):
    random = np.random.default_rng(seed)
    relevance = (random.random(sum(sizes)) < 0.1).astype(np.int64)
    scores = random.integers(0, n_levels, sum(sizes)).astype(np.float32) / 8 - 3
    found, batch = make_batch(make_examples(sizes, relevance), scores)
    slow, fast = top_rows(batch_rows(found, batch)), top_of_batch(found, batch)
    assert fast.schema == slow.schema
    assert fast.rows() == slow.rows()


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.integers(1, 260), min_size=1, max_size=4),
    n_levels=st.sampled_from([1, 2, 5, 40, 10_000]),
    share=st.sampled_from([0.02, 0.2, 0.9]),
)
def test_kept_parts_have_the_metrics_of_complete_lists(seed, sizes, n_levels, share):
    random = np.random.default_rng(seed)
    relevance = (random.random(sum(sizes)) < share).astype(np.int64)
    scores = random.integers(0, n_levels, sum(sizes)).astype(np.float32) / 8 - 3
    examples = make_examples(sizes, relevance)
    found, batch = make_batch(examples, scores)
    rows = top_rows(batch_rows(found, batch))
    kept = rows.group_by("group_id").agg(top=(pl.col("rank") <= KEPT_TOP).sum(), n=pl.len(), of=pl.col("n_candidates"))
    assert (kept["top"] == [min(KEPT_TOP, of[0]) for of in kept["of"]]).all()
    assert rows.filter(pl.col("relevance") == 1).height == relevance.sum()
    assert rows.height <= sum(min(KEPT_TOP, size) for size in sizes) + relevance.sum()
    s, r, m, _ = kept_lists(examples, rows.sample(fraction=1.0, shuffle=True, seed=seed % 1000))
    whole = (found["scores"], batch["relevance"], batch["candidate_mask"])
    policies = ("expected", "worst", "best")
    expected = {**ranking_metrics(*whole, policies=policies), "user_auc": user_auc(*whole)}
    for name, value in {**ranking_metrics(s, r, m, policies=policies), "user_auc": user_auc(s, r, m)}.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-12, equal_nan=True, msg=name)


def test_ties_are_not_broken_by_the_place_in_the_list():
    """Positives come first in a list: a constant scorer must not rank them first."""
    examples = make_examples([50] * 200, np.tile((np.arange(50) == 0).astype(np.int64), 200))
    found, batch = make_batch(examples, np.zeros(10_000, dtype=np.float32))
    ranks = top_rows(batch_rows(found, batch)).filter(pl.col("relevance") == 1)["rank"].to_numpy()
    assert abs(ranks.mean() - 25.5) < 4


def test_complete_lists_and_pairs_come_back_unchanged():
    random = np.random.default_rng(1)
    sizes = [3, 1, 6]
    examples = make_examples(sizes, (np.arange(10) % 3 == 0).astype(np.int64))
    found, batch = make_batch(examples, random.normal(size=10).astype(np.float32))
    found |= {"logits": torch.stack([found["scores"], -found["scores"]], dim=-1), "mass": found["scores"].sigmoid()}
    rows = batch_rows(found, batch)
    mask = batch["candidate_mask"]
    scores, relevance, kept_mask, n_missed = kept_lists(examples, rows.reverse())
    assert torch.equal(scores[mask], found["scores"][mask])
    assert torch.equal(relevance[mask], batch["relevance"][mask])
    assert torch.equal(kept_mask, mask)
    assert n_missed.tolist() == [0, 0, 0]
    pairs = kept_pairs(examples, rows)
    assert torch.equal(pairs["logits"][mask], 2 * found["scores"][mask])
    assert torch.equal(pairs["mass"][mask], found["mass"][mask])
    assert (pairs["kind"][~mask] == -1).all()
    assert set(kept_pairs(examples, batch_rows({"scores": found["scores"]}, batch))) == set(pairs) - {"logits", "mass"}
    with pytest.raises(MllmSrecError, match="1 of 10 targets have no score"):
        scores_of(examples, rows[1:], "score")
