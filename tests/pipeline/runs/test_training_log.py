"""Training logs: against pandas, with resumed runs merged, and without a curve where nothing was logged."""

import pandas as pd
import pytest

from mllm_srec.pipeline.runs.training_log import training_log
from mllm_srec.types import DataError


def write(run, name, rows):
    folder = run / "logs" / name
    folder.mkdir(parents=True)
    pd.DataFrame(rows).to_csv(folder / "metrics.csv", index=False)


def test_curves_are_those_of_the_log(tmp_path):
    rows = [{"epoch": 0, "step": step, "train/loss": 1 / step, "val/auc": None} for step in (9, 19)]
    write(tmp_path, "1-fit", [*rows, {"epoch": 0, "step": 23, "train/loss": None, "val/auc": 0.75}])
    write(tmp_path, "2-test", [{"step": 23, "train/loss": 99, "val/auc": 99}])
    log = training_log(tmp_path, "a", 3)
    assert (log.row, log.seed) == ("a", 3)
    assert (log.loss.steps, log.validation.steps) == ((9, 19), (23,))
    assert log.loss.values == pytest.approx((1 / 9, 1 / 19))
    assert log.validation.values == (0.75,)


def test_of_a_continued_run_the_later_log_counts(tmp_path):
    write(tmp_path, "2-fit", [{"step": step, "train/loss": 0.1 * step} for step in (2, 3)])
    write(tmp_path, "10-fit", [{"step": 3, "train/loss": 7.0}])
    assert training_log(tmp_path, "a", 0).loss.values == pytest.approx((0.2, 7.0))


def test_without_auc_the_ranking_metric_is_drawn(tmp_path):
    write(tmp_path, "1-fit", [{"step": 1, "train/loss": 0.5, "val/ndcg@10": 0.25}])
    log = training_log(tmp_path, "a", 0)
    assert (log.validation.values, log.metric) == ((0.25,), "val/ndcg@10")


def test_what_was_not_trained_has_no_curves(tmp_path):
    assert training_log(tmp_path / "gone", "a", 0) is None
    write(tmp_path, "1-test", [{"step": 1, "train/loss": 0.5}])
    assert training_log(tmp_path, "a", 0) is None


def test_a_log_that_ended_before_its_first_line(tmp_path):
    write(tmp_path, "1-fit", [{"step": 1, "train/loss": 0.5}])
    (tmp_path / "logs/1-fit/metrics.csv").write_text("")
    assert training_log(tmp_path, "a", 0) is None


def test_a_file_that_is_no_log_is_named(tmp_path):
    write(tmp_path, "1-fit", [{"epoch": 1, "train/loss": 0.5}])
    with pytest.raises(
        DataError, match=r"1-fit/metrics\.csv: the training log cannot be read \(it has no column step\)"
    ):
        training_log(tmp_path, "a", 0)
