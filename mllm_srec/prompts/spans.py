"""The inverse of packing: finds the prefix and the targets of each group in packed rows, and plans forward passes.

A span is a range of tokens in a row. Every token that a score depends on is in exactly one span, whatever the layout of
the rows: padding, responses, and prefixes that further rows repeat are left out. Chats and texts are elsewhere
(`builder.py`, `chat.py`); here are only positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mllm_srec.types import PackedBatch


@dataclass(frozen=True)
class Span:
    """Tokens `begin` to `end` (excluded) of a row."""

    row: int
    begin: int
    end: int

    def __len__(self) -> int:
        """Number of tokens."""
        return self.end - self.begin


@dataclass(frozen=True)
class GroupSpans:
    """Positions of the tokens that a group's scores depend on.

    Attributes:
        prefix: Tokens of the context, in the row of the first target; may be empty.
        targets: Column of the batch -> tokens of the target up to the one whose output predicts the response.
    """

    prefix: Span
    targets: dict[int, Span]


@dataclass(frozen=True)
class PassGroup:
    """The part of one group that one forward pass computes.

    Attributes:
        group: Index of the group in the batch.
        prefix: Tokens of its context.
        begins: True if the pass computes the context too; False if an earlier pass did, whose keys and values are kept.
        targets: Column and span of each target, shortest first.
        continues: True if a later pass computes further targets.
    """

    group: int
    prefix: Span
    begins: bool
    targets: list[tuple[int, Span]]
    continues: bool

    @property
    def n_tokens(self) -> int:
        """Tokens that the pass computes of this group."""
        return len(self.prefix) * self.begins + sum(len(span) for _, span in self.targets)


def group_spans(batch: PackedBatch) -> list[GroupSpans]:
    """Find every group's prefix and targets, in whatever layout they were packed.

    Args:
        batch: Batch whose `segment_ids`, `answer_index` and target mask are read.

    Returns:
        B groups, without responses (in training batches) and masked targets; a listwise prompt is one target.
    """
    segments = batch["segment_ids"].cpu().numpy()  # (R, T)
    present = batch["label_mask"].any(dim=-1) if "label_mask" in batch else batch["candidate_mask"]  # (B, C) or (B, P)
    answers, mask = batch["answer_index"].tolist(), present.tolist()
    begins = [_begins(row) for row in segments]
    groups = []
    for positions, present in zip(answers, mask, strict=True):
        targets: dict[int, Span] = {}
        for column, (row, token) in enumerate(positions):
            if present[column]:
                targets[column] = Span(row, begins[row][int(segments[row, token])], token + 1)
        row = min((span.row for span in targets.values()), default=0)
        begin = begins[row].get(0, 0)
        groups.append(GroupSpans(Span(row, begin, begin + int((segments[row] == 0).sum())), targets))
    return groups


def _begins(row: np.ndarray) -> dict[int, int]:
    """Return the first token of each segment of a row; a segment is one run of tokens."""
    changes = [0, *(np.flatnonzero(np.diff(row)) + 1).tolist()]
    return {int(row[token]): token for token in changes}


def plan_passes(groups: Sequence[GroupSpans], max_tokens: int) -> list[list[PassGroup]]:
    """Split a batch into forward passes that compute every token once.

    A group that does not fit continues in the next pass, so that at most one prefix is kept between two passes.

    Args:
        groups: Groups of the batch, as `group_spans` returned them.
        max_tokens: Tokens of a pass; exceeded only where one prefix with one target needs more.

    Raises:
        ValueError: `max_tokens` is below 1.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens={max_tokens}: a forward pass has at least 1 token; give a limit such as 4096")
    passes: list[list[PassGroup]] = []
    room = 0
    for index, group in enumerate(groups):
        waiting = sorted(group.targets.items(), key=lambda target: len(target[1]))
        begins = True
        while waiting:
            needed = len(group.prefix) * begins
            if not passes or needed + len(waiting[0][1]) > room:
                passes.append([])
                room = max_tokens
            n = _fitting([len(span) for _, span in waiting], room - needed)
            passes[-1].append(PassGroup(index, group.prefix, begins, waiting[:n], continues=n < len(waiting)))
            room -= passes[-1][-1].n_tokens
            waiting, begins = waiting[n:], False
    return passes


def _fitting(lengths: Sequence[int], room: int) -> int:
    """Return how many of the first targets fit, at least one."""
    return max(1, int(np.searchsorted(np.cumsum(lengths), room, side="right")))
