"""Names of models and metrics: known ones as papers write them, all others and paths as they are."""

import pytest

from mllm_srec.reports.tables.paper_names import column_name, named, row_name


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("only hr@10, ndcg@10, user_auc are compared", "only HR@10, NDCG@10, User AUC are compared"),
        ("differs from mllm_srec (Holm p)", "differs from MLLM-SRec (Holm p)"),
        ("mllm_srec over best other, %", "MLLM-SRec over best other, %"),
        ("see runs/mllm_srec/metrics.json and mllm_srec.py", "see runs/mllm_srec/metrics.json and mllm_srec.py"),
        ("run python -m mllm_srec grid for mllm_srec", "run python -m mllm_srec grid for MLLM-SRec"),
        (
            r"in runs\mllm_srec, D:\vbpr\auc and vbpr\a",
            r"in runs\mllm_srec, D:\vbpr\auc and vbpr\a",
        ),
        ("`sasrec` and `grid --only vbpr auc` of vbpr", "`sasrec` and `grid --only vbpr auc` of VBPR"),
        ("a lone ` before vbpr", "a lone ` before VBPR"),
        ("my_sasrec, sasrec2 and sasrec-like", "my_sasrec, sasrec2 and SASRec-like"),
        ("freedom to draw a random base", "freedom to draw a random base"),
        ("hr_worst@5 of gru4rec", "HR@5 (worst ties) of GRU4Rec"),
    ],
)
def test_sentences(text, shown):
    assert named(text) == shown


def test_rows_and_columns():
    assert [row_name(label) for label in ("freedom", "freedom, toys", "random", "(chance)", "mine")] == [
        "FREEDOM", "FREEDOM, toys", "Random", "(chance)", "mine"
    ]  # fmt: skip
    assert [column_name(column) for column in ("auc", "mrr@20", "fit, s", "ndcg")] == [
        "AUC", "MRR@20", "fit, s", "ndcg"
    ]  # fmt: skip
