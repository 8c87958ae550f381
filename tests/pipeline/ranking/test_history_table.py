"""The history table of a person, against the files of the data set and the summary stores."""

from pathlib import Path

import pandas as pd
import pytest

from mllm_srec.pipeline.ranking.people import History
from mllm_srec.pipeline.ranking.ranker import HISTORY_SCHEMA, Ranker, history_table


@pytest.fixture(scope="module")
def rankers(write_run, told_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {
        variant: Ranker.open(write_run(folder / variant, told_root, variant=variant)) for variant in ("none", "full")
    }


@pytest.mark.parametrize("variant", ["none", "full"])
def test_the_visible_likes_with_titles_and_pictures(rankers, told_root, variant):
    ranker = rankers[variant]
    items, rows = (pd.read_parquet(told_root / f"shop/{name}.parquet") for name in ("items", "interactions"))
    items = items.set_index("item_id")
    for user in ranker.user_ids:
        own = rows[(rows["user_id"] == user) & (rows["split"] != "test") & (rows["rating"] >= 4)]
        found = history_table(ranker, ranker.person(user))
        assert found.columns == list(HISTORY_SCHEMA)
        assert found["item_id"].to_list() == own.sort_values(["timestamp", "order"])["item_id"].to_list()
        for row in found.iter_rows(named=True):
            expected = items.loc[row["item_id"]]
            assert row["title"] == expected["title"]
            assert (row["picture"] is None) == pd.isna(expected["image"]) == (row["item_id"] == "i05")
            assert row["picture"] is None or Path(row["picture"]).is_file()


def test_summaries_and_what_came_since(rankers):
    told, plain = rankers["full"], rankers["none"]
    texts = told.run.datamodule.summaries
    counted = 0
    for user in told.user_ids:
        person = told.person(user)
        found = history_table(told, person)
        for row in found.iter_rows(named=True):
            assert row["item_summary"] == texts.item_summary(row["item_id"])
            assert row["image_summary"] == (None if row["item_id"] == "i05" else texts.image_summary(row["item_id"]))
        since = found["since"].to_list()
        assert since == sorted(since), "a preference knows the older ones, and the prompt lists the others"
        assert sum(since) == len(person.body.items)
        counted += person.body.preference is not None and not all(since)
        without = history_table(plain, plain.person(user))
        assert without["item_summary"].null_count() == without["image_summary"].null_count() == without.height
        assert without["since"].all()
    assert counted > 3, "else no preference was looked at"


def test_nobody_has_no_history(rankers):
    assert history_table(rankers["none"], rankers["none"].person(History([]))).height == 0
