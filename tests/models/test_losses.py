"""Labels that a loss trains on; the loss itself is compared with plain transformers in `test_packing_parity.py`."""

from types import SimpleNamespace

import torch

from mllm_srec.families import qwen2_vl
from mllm_srec.models.losses import label_everything, labelled_tokens, opens_response
from mllm_srec.prompts.packing import PackingSettings, PromptGroup, PromptTarget, pack
from tests.left_padding import left_padded

IMAGE, X = 99, -100
ENCODER = SimpleNamespace(family=qwen2_vl.FAMILY, image_token_id=IMAGE, pad_token_id=0)
GROUPS = [
    PromptGroup(7, [11, 12], [
        PromptTarget([98, 99, 99, 99, 99, 97, 21], [1, 2], (1, 4, 4), "p", item_index=3, relevance=1, kind=0),
        PromptTarget([31, 32], [4, 2], item_index=5, relevance=0, kind=2),
    ]),
    PromptGroup(8, [13], [PromptTarget([41], [1, 2], item_index=6, relevance=1, kind=0)]),
]  # fmt: skip


def batch():
    return pack(GROUPS, ENCODER, PackingSettings())[0]


def test_loss_on_everything_but_pictures():
    packed = batch()
    before = packed["labels"].clone()
    assert label_everything(packed, IMAGE)["labels"].tolist() == [
        [11, 12, 98, X, X, X, X, 97, 21, 1, 2, 31, 32, 4, 2],
        [13, 41, 1, 2, X, X, X, X, X, X, X, X, X, X, X],
    ]
    assert packed["labels"].equal(before)  # the batch itself keeps the labels of its responses


def test_padding_on_the_left_is_not_labelled_either():
    labels = label_everything(left_padded(batch()), IMAGE)["labels"]
    assert labels[1].tolist() == [X] * 11 + [13, 41, 1, 2]


def test_labelled_tokens_and_the_first_of_each_response():
    rows, tokens, predicting = labelled_tokens(batch())
    assert list(zip(rows.tolist(), tokens.tolist(), predicting.tolist(), strict=True)) == [
        (0, 9, 8), (0, 10, 9), (0, 13, 12), (0, 14, 13), (1, 2, 1), (1, 3, 2),
    ]  # fmt: skip
    assert opens_response(batch(), rows, tokens).tolist() == [True, False, True, False, True, False]


def test_the_first_token_of_a_target_is_predicted_by_the_prefix_and_the_first_of_a_row_by_nothing():
    rows, tokens, predicting = labelled_tokens(label_everything(batch(), IMAGE))
    predicted = dict(zip(zip(rows.tolist(), tokens.tolist(), strict=True), predicting.tolist(), strict=True))
    assert (0, 0) not in predicted
    assert predicted[0, 2] == predicted[0, 11] == 1  # both targets follow the last token of the prefix
    assert torch.tensor(sorted(predicted))[:, 1].min() > 0
