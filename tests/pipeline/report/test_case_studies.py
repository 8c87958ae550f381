"""Case studies: places and verdicts by brute force, chosen by the seed, and told as the model was told."""

import io
import json
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import polars as pl
import pytest
from PIL import Image

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.pipeline.report import sections
from mllm_srec.pipeline.report.case_studies import case_studies, list_verdicts, small_jpeg, with_places
from mllm_srec.prompts.summaries import collapse_whitespace
from mllm_srec.types import ConfigError, DataError
from tests.conftest import write_picture


def by_hand(group):
    """Verdict on one list, from its definition."""
    best = group["score"].max()
    top = group[group["score"] == best]["label"]
    return "wrong" if (top == 0).all() else "right" if (top == 1).all() else "undecided"


def test_places_and_verdicts_by_brute_force():
    random = np.random.default_rng(0)
    rows = pd.DataFrame({
        "group_id": np.repeat(np.arange(200), 6), "score": random.integers(0, 4, 1200) / 2.0,
        "label": random.integers(0, 2, 1200),
    })  # fmt: skip
    found = with_places(pl.from_pandas(rows))
    for _, group in found.to_pandas().groupby("group_id"):
        for _, row in group.iterrows():
            assert row["place"] == 1 + (group["score"] > row["score"]).sum()
            assert row["tied"] == (group["score"] == row["score"]).sum()
        assert (group["n_candidates"] == 6).all()
    verdicts = list_verdicts(found)
    expected = {key: by_hand(group) for key, group in rows.groupby("group_id")}
    assert dict(verdicts.iter_rows()) == expected
    assert set(expected.values()) == {"right", "wrong", "undecided"}


def test_items_that_a_retriever_missed_have_no_place():
    rows = pl.DataFrame({"group_id": [1, 1, 1], "score": [0.5, None, 0.2], "label": [0, 1, 0]})
    found = with_places(rows)
    assert found["place"].to_list() == [1, None, 2]
    assert found["tied"].to_list() == [1, 0, 1]
    assert found["n_candidates"].to_list() == [2, 2, 2]
    assert list_verdicts(found)["verdict"].to_list() == ["wrong"]


def test_of_parts_of_lists_their_own_places_are_taken():
    rows = pl.DataFrame(
        {"group_id": [1], "score": [0.5], "label": [1], "n_above": [41], "n_tied": [2], "n_candidates": [99]}
    )
    assert with_places(rows).select("place", "tied", "n_candidates").row(0) == (42, 2, 99)


def test_a_case_tells_what_the_model_was_told(told_run, told_root):
    data = PreparedDataset.open(told_root / "shop")
    studies = case_studies(told_run, n_right=3, n_wrong=2, seed=4)
    assert [case.verdict for case in studies.cases] == ["right"] * 3 + ["wrong"] * 2
    titles = dict(data.items.select("item_id", "title").iter_rows())
    for case in studies.cases:
        group = data.groups.filter(pl.col("group_id") == case.group_id).row(0, named=True)
        assert case.user_id == group["user_id"]
        assert [item.item_id for item in case.history] == group["history"][-8:]
        assert case.n_history == len(group["history"])
        assert [target.place for target in case.targets] == sorted(target.place for target in case.targets)
        for target in case.targets:
            assert target.item.title == titles[target.item.item_id]
            assert target.probability == pytest.approx(1 / (1 + math.exp(-target.score)), abs=1e-6)
            assert (target.item.picture is None) == (target.item.item_id == "i05")
            assert target.item.item_summary is not None
        liked = data.candidates.filter((pl.col("group_id") == case.group_id) & (pl.col("label") == 1))["item_id"]
        assert {t.item.item_id for t in case.targets if t.liked} == set(liked)
        assert (case.targets[0].liked, case.targets[0].place) == (case.verdict == "right", 1)


def test_preferences_are_those_before_the_context(told_run, told_root):
    data = PreparedDataset.open(told_root / "shop")
    views = [pl.read_parquet(path) for path in (told_root / "shop/summaries/preference/views").glob("*.parquet")]
    cases = case_studies(told_run, n_right=6, n_wrong=6).cases
    told = [case for case in cases if case.preference is not None]
    assert told, "some people have liked enough for a preference"
    for case in told:
        group = data.groups.filter(pl.col("group_id") == case.group_id).row(0, named=True)
        last = set()
        for written in views:  # of both variants, which say different things of everybody
            own = written.filter((pl.col("user_id") == case.user_id) & (pl.col("visible") == "train_val"))
            before = own.filter(pl.col("timestamp") < group["timestamp"]).sort("timestamp")
            last |= {collapse_whitespace(text) for text in [t for t in before["text"] if t.strip()][-1:]}
        assert case.preference in last
        assert 0 <= case.n_since <= case.n_history


def test_the_seed_decides_and_the_rule_is_stated(told_run):
    one, again, other = (case_studies(told_run, 1, 1, seed) for seed in (0, 0, 5))
    assert one == again
    assert any(
        [c.group_id for c in one.cases] != [c.group_id for c in case_studies(told_run, 1, 1, seed).cases]
        for seed in range(1, 6)
    )
    assert "drawn at random with seed 5" in other.rule
    n = len(case_studies(told_run, 99, 99).cases)
    assert f"Of {n} test lists" in one.rule


def test_candidates_of_another_preparation_are_refused(told_run, tmp_path):
    import shutil

    run = shutil.copytree(told_run, tmp_path / "old")
    (run / "metrics.json").write_text(json.dumps({"test/candidates_hash": "c0ffee"}))
    with pytest.raises(DataError, match="was tested on candidates c0ffee, but"):
        case_studies(run)
    (run / "predictions/test.parquet").unlink()
    with pytest.raises(ConfigError, match=r"test\.parquet: missing; run `python -m mllm_srec test`"):
        case_studies(run)


def test_a_picture_is_drawn_anew(tmp_path):
    path = write_picture(tmp_path / "big.png", 400, 300)
    path.write_bytes(path.read_bytes() + b"<script>alert(1)</script>")
    content = small_jpeg(path)
    assert b"script" not in content
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.format == "JPEG"
        assert max(picture.size) == 160
    turned, exif = Image.new("RGB", (40, 20), "red"), Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    turned.save(tmp_path / "turned.jpg", exif=exif, comment="<script>")
    content = small_jpeg(tmp_path / "turned.jpg")
    assert b"script" not in content
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.size == (20, 40)
    (tmp_path / "broken.png").write_bytes(b"<svg onload=alert(1)>")
    with pytest.raises(DataError, match=r"broken\.png: the picture cannot be read"):
        small_jpeg(tmp_path / "broken.png")


@pytest.mark.parametrize(("metric", "best"), [("auc", "high"), ("ece", "low")])
def test_cases_are_of_the_row_with_the_best_value(metric, best, tmp_path, monkeypatch):
    rows = {"low": 0.1, "high": 0.4}
    for row in rows:
        (tmp_path / row).mkdir()
        (tmp_path / row / "config.yaml").write_text("{}\n")
    records = [{"row": row, "run": str(tmp_path / row), "data_set": "shop", "seed": 0} for row in rows]
    summary = pl.DataFrame(
        [
            {"row": row, "data_set": "shop", "metric": metric, "mean": mean, "reference": False}
            for row, mean in rows.items()
        ]
    )
    grid = SimpleNamespace(summary=summary, about=SimpleNamespace(shown_metrics=[metric]))
    monkeypatch.setattr(sections, "case_blocks", lambda run, title, cases: [run.name])
    assert sections._grid_cases(grid, records, (2, 0)) == [best]
