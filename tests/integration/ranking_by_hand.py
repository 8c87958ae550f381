"""An independent script: metrics of a run from its predictions, by numpy, pandas, scipy and scikit-learn alone.

python ranking_by_hand.py RUN prints them as JSON. Nothing of the package is imported.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import comb
from sklearn.metrics import roc_auc_score


def expected_gains(scores, labels):
    """Chance of a liked item at every place of a list, over all orders of equal scores `(C,)`."""
    order = np.argsort(-scores, kind="stable")
    frame = pd.DataFrame({"score": scores[order], "label": labels[order]})
    return frame.groupby("score")["label"].transform("mean").to_numpy()


def hit(scores, labels, k):
    """Chance that a liked item is among the first k, over all orders of equal scores."""
    border = np.sort(scores)[::-1][min(k, len(scores)) - 1]
    above, tied = scores > border, scores == border
    if labels[above].any():
        return 1.0
    n_tied, n_liked, slots = tied.sum(), labels[tied].sum(), min(k, len(scores)) - above.sum()
    return 1.0 - comb(n_tied - n_liked, slots) / comb(n_tied, slots)


def list_metrics(scores, labels):
    """Metrics of one list."""
    gains, n_liked = expected_gains(scores, labels), labels.sum()
    discounts = 1 / np.log2(np.arange(2, len(scores) + 2))
    values = {"user_auc": roc_auc_score(labels, scores)}
    for k in (5, 10, 20):
        values[f"hr@{k}"] = hit(scores, labels, k)
        values[f"recall@{k}"] = gains[:k].sum() / n_liked
        values[f"ndcg@{k}"] = (gains * discounts)[:k].sum() / discounts[: min(k, n_liked)].sum()
    return values


def run_metrics(run):
    """Metrics of a run."""
    pairs = pd.read_parquet(Path(run) / "predictions/test_pairs.parquet")
    lists = pd.read_parquet(Path(run) / "predictions/test.parquet")
    drawn = pairs[pairs["kind"].isin(["liked", "sampled"])]
    by_list = [
        list_metrics(group["score"].to_numpy(np.float64), group["label"].to_numpy(np.int64))
        for _, group in lists.groupby("group_id")
    ]
    return {"auc": roc_auc_score(drawn["label"], drawn["score"]), **pd.DataFrame(by_list).mean().to_dict()}


if __name__ == "__main__":
    print(json.dumps(run_metrics(sys.argv[1])))
