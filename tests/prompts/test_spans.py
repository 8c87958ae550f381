"""Spans name every token that a score depends on, once, whatever the layout; passes keep to their budget."""

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mllm_srec.families import qwen2_vl
from mllm_srec.prompts.packing import PackingSettings, PromptGroup, PromptTarget, pack
from mllm_srec.prompts.spans import GroupSpans, Span, group_spans, plan_passes
from tests.left_padding import pack_padded

IMAGE, PAD = 9, 0
ENCODER = SimpleNamespace(family=qwen2_vl.FAMILY, image_token_id=IMAGE, pad_token_id=PAD)
GROUPS = [
    PromptGroup(0, [1, 2, 3], [PromptTarget([11, 12]), PromptTarget([13], [70, 71])]),
    PromptGroup(1, [4, 5, 6, 7, 8], [PromptTarget([14, 15, 16], [70])]),
    PromptGroup(2, [], [PromptTarget([17]), PromptTarget([18, 19], [72])]),
]
LAYOUTS = [
    {"packed": packed, "padding_side": side, "max_row_tokens": tokens}
    for packed in (True, False)
    for side in ("right", "left")
    for tokens in (4096, 6)
]


def read(batch, span):
    return batch["input_ids"][span.row, span.begin : span.end].tolist()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_prompts_back_without_responses(layout):
    batch, _ = pack_padded(GROUPS, ENCODER, **layout)
    found = group_spans(batch)
    assert [read(batch, group.prefix) for group in found] == [list(group.prefix_ids) for group in GROUPS]
    texts = [{column: read(batch, span) for column, span in group.targets.items()} for group in found]
    assert texts == [{c: list(target.input_ids) for c, target in enumerate(group.targets)} for group in GROUPS]


def test_masked_candidates_are_left_out():
    batch, _ = pack(GROUPS, ENCODER, PackingSettings())
    batch["candidate_mask"][0, 0] = False
    batch["candidate_mask"][1] = False
    assert [sorted(group.targets) for group in group_spans(batch)] == [[1], [], [0, 1]]


def group(n_prefix, lengths):
    begins = [n_prefix + sum(lengths[:index]) for index in range(len(lengths))]
    return GroupSpans(
        Span(0, 0, n_prefix), {c: Span(0, b, b + n) for c, (b, n) in enumerate(zip(begins, lengths, strict=True))}
    )


def test_a_list_that_does_not_fit_goes_on_in_the_next_pass():
    passes = plan_passes([group(4, [3, 1, 2, 3]), group(2, [2])], max_tokens=8)
    assert [[(p.group, p.begins, [c for c, _ in p.targets], p.continues) for p in ps] for ps in passes] == [
        [(0, True, [1, 2], True)],
        [(0, False, [0, 3], False)],
        [(1, True, [0], False)],
    ]
    assert [[p.n_tokens for p in ps] for ps in passes] == [[7], [6], [4]]


lists = st.tuples(st.integers(0, 30), st.lists(st.integers(1, 20), max_size=30))


@settings(max_examples=200, deadline=None)
@given(st.lists(lists, max_size=6), st.integers(1, 120))
def test_every_token_is_computed_once_and_within_the_budget(shapes, max_tokens):
    groups = [group(*shape) for shape in shapes]
    passes = plan_passes(groups, max_tokens)
    entries = [entry for ps in passes for entry in ps]
    for index, (n_prefix, lengths) in enumerate(shapes):
        own = [entry for entry in entries if entry.group == index]
        assert sorted(c for entry in own for c, _ in entry.targets) == list(range(len(lengths)))
        assert [entry.begins for entry in own] == [True] + [False] * (len(own) - 1) if lengths else own == []
        assert [entry.continues for entry in own] == [True] * (len(own) - 1) + [False] if lengths else True
        assert sum(entry.n_tokens for entry in own) == (n_prefix + sum(lengths) if lengths else 0)
    for ps in passes:
        alone = len(ps) == 1 and len(ps[0].targets) == 1
        assert sum(entry.n_tokens for entry in ps) <= max_tokens or alone
        assert sum(entry.continues for entry in ps) <= 1, "more than one prefix is kept"
        assert all(entry.targets for entry in ps)


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"max_tokens=0: .* at least 1 token"):
        plan_passes([group(1, [1])], 0)
