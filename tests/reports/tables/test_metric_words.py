"""The table of metrics: every metric of a list is in it, and it alone decides what grids, terminal and page do."""

import doctest

import pytest

from mllm_srec.metrics import functional
from mllm_srec.reports.tables import metric_words
from mllm_srec.reports.tables.metric_words import (
    METRICS,
    at_every_cut_off,
    check_metrics,
    find_metric,
    headline_columns,
    higher_is_better,
    shown_cut_offs,
)
from mllm_srec.types import EVAL_TOP_K, ConfigError


def test_the_examples_hold():
    assert doctest.testmod(metric_words).failed == 0


def test_every_metric_of_lists_is_in_the_table():
    for name in functional._METRICS:
        for column in (f"{name}@{k}" for k in EVAL_TOP_K):
            metric = find_metric(column)
            assert metric is not None, f"enter {name}@K in metric_words"
            assert metric.has_cut_offs
            assert metric.per_user
            assert find_metric(column.replace("@", "_worst@")) == metric
            check_metrics("metrics", [column, column.replace("@", "_worst@")], per_user=True)


def test_no_name_belongs_to_two_metrics():
    import re

    for metric in METRICS:
        for column in metric.columns():
            assert [m.name for m in METRICS if re.fullmatch(m.pattern, column) or m.name == column] == [metric.name]


def test_the_terminal_shows_them_in_order():
    cuts = [f"{name}@{k}" for name in ("hr", "ndcg", "recall", "mrr") for k in (5, 10, 20)]
    assert headline_columns() == ["auc", "auc_disliked", "user_auc", "user_auc_reranked", *cuts]
    assert headline_columns([1])[4:] == ["hr@1", "ndcg@1", "recall@1", "mrr@1"]


def test_cut_offs_that_cover_all_drawn_candidates_are_not_shown():
    results = {f"test/hr@{k}": 0.5 for k in (20, 5, 1, 10)} | {"val/hr@3": 0, "test/hr_worst@2": 0}
    assert shown_cut_offs({**results, "test/m": 20}, "test") == [1, 5, 10]
    assert shown_cut_offs({**results, "test/m": None}, "test") == [1, 5, 10, 20]
    assert shown_cut_offs({**results, "test/m": 100}, "test") == [1, 5, 10, 20]
    assert at_every_cut_off("hr", "ndcg") == ["hr@5", "hr@10", "ndcg@5", "ndcg@10"]


@pytest.mark.parametrize("name", ["ece", "temperature", "n_users", "tokens", "unheard_of"])
def test_only_where_more_is_better_a_best_value_is_bold(name):
    assert not higher_is_better(name)


@pytest.mark.parametrize(
    ("name", "per_user", "message"),
    [
        ("ndgc@10", False, r"^metrics='ndgc@10': unknown metric; did you mean 'ndcg@10' "),
        ("hr@07", False, r"^metrics='hr@07': unknown metric; did you mean .*hr@5"),
        ("hr_worst@0", True, r"^metrics='hr_worst@0': unknown metric; "),
        ("hr@K", False, r"^metrics='hr@K': unknown metric; "),
        ("n_*", False, r"^metrics='n_\*': unknown metric; "),
        ("summaries/*/attribute_accuracy", False, r"^metrics='summaries/\*/attribute_accuracy': unknown metric; "),
        ("map@10", True, r"^metrics='map@10': unknown metric; "),
        ("summaries/image/poetry", False, r"^metrics='summaries/image/poetry': unknown metric; "),
        ("qqq", False, r"^metrics='qqq': unknown metric; accepted are auc, auc_disliked, .*n_\*$"),
        ("ece", True, r"^metrics='ece': users have no value of it; accepted are user_auc, user_auc_reranked, hr@5, "),
    ],
)
def test_unknown_metrics_are_refused(name, per_user, message):
    with pytest.raises(ConfigError, match=message):
        check_metrics("metrics", ["user_auc", name], per_user)
