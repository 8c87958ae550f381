"""Names as papers write them: `mllm_srec` is MLLM-SRec and `ndcg@10` NDCG@10 wherever people read them.

Files for programs (CSV, Parquet, JSON) keep the keys. A name that is not known here is shown as it is.
"""

from __future__ import annotations

import re

from mllm_srec.reports.tables.metric_words import find_metric, metric_label

ROWS = {
    "random": "Random",
    "popularity": "Popularity",
    "recency_popularity": "Recent popularity",
    "item_knn": "ItemKNN",
    "item_knn_tfidf": "ItemKNN (TF-IDF)",
    "item_knn_bm25": "ItemKNN (BM25)",
    "two_hop": "Two hops",
    "two_hop_features": "Two hops (features)",
    "ials": "iALS",
    "ease": "EASE-R",
    "gru4rec": "GRU4Rec",
    "bert4rec": "BERT4Rec",
    "sasrec": "SASRec",
    "sasrec_bce": "SASRec (BCE)",
    "gsasrec": "gSASRec",
    "esasrec": "eSASRec",
    "gptrec": "GPTRec",
    "vbpr": "VBPR",
    "lightgcn": "LightGCN",
    "freedom": "FREEDOM",
    "mmgcn": "MMGCN",
    "mmsr": "MMSR",
    "vip5": "VIP5",
    "vip5_random": "VIP5 (random weights)",
    "tallrec": "TALLRec",
    "rec_gpt4v": "Rec-GPT4V",
    "rec_gpt4v_listwise": "Rec-GPT4V (listwise)",
    "mllm_srec": "MLLM-SRec",
    "base": "Base",
    "sv": "SV",
    "svi": "SVI",
    "full": "Full",
    "zero_shot": "Zero-shot",
    "qlora": "QLoRA",
    "qlora_chain": "QLoRA, chain of thought",
    "image": "Image",
    "text": "Text",
    "image_text": "Image and text",
}
"""Label of a row in our grids -> its name in papers."""

PLAIN_WORDS = ("random", "popularity", "freedom", "ease", "base", "full", "image", "text")
"""Labels that are also plain words; within a sentence they stay as they are."""

_IN_TEXT = re.compile(
    r"`[^`]*`|(?<![\w/\\.-])(?<!-m )(?:"
    + "|".join(sorted((name for name in ROWS if name not in PLAIN_WORDS), key=len, reverse=True))
    + r"|user_auc|auc_disliked|auc|(?:hr|ndcg|recall|mrr)(?:_worst)?@\d+)(?![\w/\\]|\.\w)"
)
"""Names to replace; what stands in backticks, paths and the module of a command stay as they are."""


def row_name(label: str) -> str:
    """Return the name of a row; of a label with a data set, `ROW, DATA SET`, the row's part is named.

    >>> row_name("sasrec_bce"), row_name("freedom, toys"), row_name("my_sasrec")
    ('SASRec (BCE)', 'FREEDOM, toys', 'my_sasrec')
    """
    row, comma, rest = label.partition(", ")
    return ROWS[row] + comma + rest if row in ROWS else named(label)


def column_name(column: str) -> str:
    """Return the name of a column: that of a metric, or the column itself.

    >>> column_name("user_auc"), column_name("95 % interval")
    ('User AUC', '95 % interval')
    """
    return column if find_metric(column) is None else metric_label(column)


def named(text: str) -> str:
    """Return a sentence of ours in which models and metrics have their names.

    >>> named("differences to mllm_srec in ndcg@10; freedom is level")
    'differences to MLLM-SRec in NDCG@10; freedom is level'
    """
    return _IN_TEXT.sub(lambda found: found[0] if found[0][0] == "`" else _name(found[0]), text)


def _name(word: str) -> str:
    return ROWS.get(word) or metric_label(word)
