"""Packed rows written out in full: ids, segments, positions, labels, answer positions."""

from types import SimpleNamespace

import pytest
import torch

from mllm_srec.families import qwen2_vl
from mllm_srec.prompts.packing import (
    PackingSettings,
    PromptGroup,
    PromptTarget,
    attention_mask,
    pack,
    predicting_positions,
    split_targets,
)
from tests.left_padding import left_padded

IMAGE, PAD = 99, 0
ENCODER = SimpleNamespace(family=qwen2_vl.FAMILY, image_token_id=IMAGE, pad_token_id=PAD)
X = -100


@pytest.fixture
def groups():
    """A pair group with a picture of 2 x 2 tokens in its first target, and a group of one target."""
    pair = PromptGroup(
        7,
        [11, 12],
        [
            PromptTarget([98, 99, 99, 99, 99, 97, 21], [1, 2], (1, 4, 4), "p", item_index=3, relevance=1, kind=0),
            PromptTarget([31, 32], [4, 2], item_index=5, relevance=0, kind=2),
        ],
    )
    return [pair, PromptGroup(8, [13], [PromptTarget([41], [1, 2], item_index=6, relevance=1, kind=0)])]


def test_training_batch_in_full(groups):
    batch, pictures = pack(groups, ENCODER, PackingSettings())
    assert pictures == [("p", (1, 4, 4))]
    assert batch["input_ids"].tolist() == [
        [11, 12, 98, 99, 99, 99, 99, 97, 21, 1, 2, 31, 32, 4, 2],
        [13, 41, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ]
    assert batch["segment_ids"].tolist() == [
        [0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2],
        [0, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1],
    ]
    assert batch["labels"].tolist() == [
        [X, X, X, X, X, X, X, X, X, 1, 2, X, X, 4, 2],
        [X, X, 1, 2, X, X, X, X, X, X, X, X, X, X, X],
    ]
    time, height, width = batch["position_ids"][:, 0].tolist()
    assert time == [0, 1, 2, 3, 3, 3, 3, 5, 6, 7, 8, 2, 3, 4, 5]
    assert height == [0, 1, 2, 3, 3, 4, 4, 5, 6, 7, 8, 2, 3, 4, 5]
    assert width == [0, 1, 2, 3, 4, 3, 4, 5, 6, 7, 8, 2, 3, 4, 5]
    assert batch["position_ids"][:, 1, :4].tolist() == [[0, 1, 2, 3]] * 3
    assert batch["answer_index"].tolist() == [[[0, 8], [0, 12]], [[1, 1], [0, 0]]]
    assert batch["candidate_mask"].tolist() == [[True, True], [True, False]]
    assert batch["relevance"].tolist() == [[1, 0], [1, 0]]
    assert batch["kind"].tolist() == [[0, 2], [0, -1]]
    assert batch["item_index"].tolist() == [[3, 5], [6, -1]]
    assert batch["group_id"].tolist() == [7, 8]


def test_left_padding_in_full(groups):
    batch = left_padded(pack(groups, ENCODER, PackingSettings())[0])
    assert batch["input_ids"][1].tolist() == [0] * 11 + [13, 41, 1, 2]
    assert batch["segment_ids"][1].tolist() == [-1] * 11 + [0, 1, 1, 1]
    assert batch["labels"][1].tolist() == [X] * 13 + [1, 2]
    assert batch["position_ids"][:, 1, 11:].tolist() == [[0, 1, 2, 3]] * 3
    assert batch["answer_index"][1, 0].tolist() == [1, 12]


def test_separate_rows_in_full(groups):
    batch, pictures = pack(groups, ENCODER, PackingSettings(packed=False))
    assert batch["input_ids"].tolist() == [
        [11, 12, 98, 99, 99, 99, 99, 97, 21, 1, 2],
        [11, 12, 31, 32, 4, 2, 0, 0, 0, 0, 0],
        [13, 41, 1, 2, 0, 0, 0, 0, 0, 0, 0],
    ]
    assert batch["answer_index"].tolist() == [[[0, 8], [1, 3]], [[2, 1], [0, 0]]]
    assert pictures == [("p", (1, 4, 4))]


def test_attention_mask_in_full():
    mask = attention_mask(torch.tensor([[0, 0, 1, 1, 2, -1]]))[0, 0].int().tolist()
    assert mask == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]


def test_each_target_is_predicted_from_the_end_of_the_prefix():
    segments = torch.tensor([[0, 0, 1, 1, 2, 2, -1], [-1, -1, -1, 0, 1, 1, 2]])
    assert predicting_positions(segments).tolist() == [[0, 0, 1, 2, 1, 4, 5], [0, 0, 1, 2, 3, 4, 3]]


def test_positions_of_two_pictures_equal_transformers(load_tiny, encoder):
    """Two pictures side by side and text around them, against the position code of transformers."""
    grids = [(1, 4, 8), (1, 6, 4)]
    image = encoder.image_token_id
    model = load_tiny(finetune="none", quantization="none").base.model
    # transformers tells neighbouring pictures apart only with a text token between them
    spaced = torch.tensor([305, 306, *[image] * 8, 304, *[image] * 6, 307, 308])
    expected, _ = model.get_rope_index(
        spaced[None], (spaced == image).int()[None], image_grid_thw=torch.tensor(grids), attention_mask=None
    )
    found, following = qwen2_vl.rope_positions(spaced, grids, image, 0)
    assert found.tolist() == expected[:, 0].tolist()
    assert following == expected.max().item() + 1


def test_placeholders_must_fit_their_pictures():
    with pytest.raises(ValueError, match="3 picture placeholders for grids"):
        qwen2_vl.rope_positions(torch.tensor([1, IMAGE, IMAGE, IMAGE]), [(1, 4, 4)], IMAGE, 0)


@pytest.mark.parametrize(
    ("max_row_tokens", "expected"),
    [(100, [[0, 1, 2]]), (16, [[0, 1], [2]]), (12, [[0], [1], [2]]), (1, [[0], [1], [2]])],
)
def test_long_lists_are_cut_into_rows(max_row_tokens, expected):
    assert split_targets(6, [5, 5, 5], PackingSettings(max_row_tokens=max_row_tokens)) == expected


def test_a_batch_needs_groups_with_targets():
    with pytest.raises(ValueError, match="every group a target"):
        pack([PromptGroup(1, [1], [])], ENCODER, PackingSettings())
