"""The inverse of packing: which tokens of packed rows are a group's prefix and its targets, and in what order to run.

Every token that a score depends on is named once here, whatever the layout of the rows: prefixes that several rows
repeat, padding and responses are left out.
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
    """Where the tokens stand that a group's scores depend on.

    Attributes:
        prefix: The context, in the row of the first target; may be empty.
        targets: By column of the batch: a target up to the token whose output predicts the response.
    """

    prefix: Span
    targets: dict[int, Span]


@dataclass(frozen=True)
class PassGroup:
    """What one forward pass computes of one group.

    Attributes:
        group: Index in the batch.
        prefix: The group's context.
        begins: The pass computes the context too; else an earlier one did, whose keys and values are at hand.
        targets: Column and span, shortest first.
        continues: A later pass computes further targets.
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
        batch: Its `segment_ids`, `answer_index` and the mask of its targets are read.

    Returns:
        B groups. Responses (in training batches) and masked targets are left out; a prompt of a list is one target.
    """
    segments = batch["segment_ids"].cpu().numpy()  # (R, T)
    present = batch["label_mask"].any(dim=-1) if "label_mask" in batch else batch["candidate_mask"]  # (B, C) or (B, P)
    answers, mask = batch["answer_index"].tolist(), present.tolist()
    begins = [_begins(row) for row in segments]
    groups = []
    for places, present in zip(answers, mask, strict=True):
        targets: dict[int, Span] = {}
        for column, (row, token) in enumerate(places):
            if present[column]:
                targets[column] = Span(row, begins[row][int(segments[row, token])], token + 1)
        row = min((span.row for span in targets.values()), default=0)
        begin = begins[row].get(0, 0)
        groups.append(GroupSpans(Span(row, begin, begin + int((segments[row] == 0).sum())), targets))
    return groups


def _begins(row: np.ndarray) -> dict[int, int]:
    """First token of each segment of a row; a segment is one run of tokens."""
    changes = [0, *(np.flatnonzero(np.diff(row)) + 1).tolist()]
    return {int(row[token]): token for token in changes}


def plan_passes(groups: Sequence[GroupSpans], max_tokens: int) -> list[list[PassGroup]]:
    """Cut a batch into forward passes in which every token occurs once.

    A group that does not fit goes on in the next pass, so that at most one prefix is kept between two passes.

    Args:
        groups: What `group_spans` found.
        max_tokens: Tokens of a pass; more only where one prefix with one target needs more.

    Raises:
        ValueError: `max_tokens` is below 1.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens={max_tokens}; a forward pass computes at least 1 token, give some such as 4096")
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
    """How many of the first targets fit, at least one."""
    return max(1, int(np.searchsorted(np.cumsum(lengths), room, side="right")))
