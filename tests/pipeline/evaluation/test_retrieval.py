"""Items of a retriever from which hard negatives are drawn in training."""

import polars as pl
import pytest

from mllm_srec.pipeline.evaluation.references import protocol
from mllm_srec.pipeline.evaluation.retrieval import hard_lists, popular_lists
from mllm_srec.pipeline.runs.folder import RunFolder
from mllm_srec.types import ConfigError


def test_popularity_needs_no_lists(shop):
    assert hard_lists("popularity", shop, 5) is None


def test_the_lists_of_a_validated_run_by_user(shop, make_datamodule, tmp_path):
    run = RunFolder(tmp_path / "retriever")
    lists = popular_lists(shop, "val", 6).with_columns(n_candidates=pl.lit(6))
    run.predictions.mkdir(parents=True)
    lists.write_parquet(run.predictions / "val.parquet")
    with pytest.raises(ConfigError, match=r"data\.retriever=.*on the val split first"):
        hard_lists(str(run.path), shop, 3)
    run.merge_metrics("val", {}, protocol(make_datamodule(evaluator="full"), "val", "logit", None))
    found = hard_lists(str(run.path), shop, 3)
    users = shop.groups.select("group_id", "user_id")
    expected = lists.filter(pl.col("rank") <= 3).join(users, on="group_id").select("user_id", "item_id", "rank")
    assert found is not None
    assert found.rows() == expected.sort("user_id", "rank").rows()
    train = shop.interactions.filter(pl.col("split") == "train")
    assert found.join(train, on=["user_id", "item_id"]).is_empty()
