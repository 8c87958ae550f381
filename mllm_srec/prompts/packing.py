"""Packs groups of prompts into tensors: packed rows, positions, masks and labels.

A group is one context and its targets. It becomes `prefix | target 1 + answer 1 | target 2 + answer 2 | ...` in one
row: each target sees the prefix and itself only, and its positions continue from the end of the prefix, so that every
target is computed exactly as if it were the only one behind the prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch

from mllm_srec.families.base import Grid
from mllm_srec.prompts.encoding import PromptEncoder
from mllm_srec.types import IGNORE_INDEX, CandidateBatch, ConfigError, PackedBatch


@dataclass(frozen=True)
class PromptTarget:
    """One target item of a group, as tokens.

    Attributes:
        input_ids: Tokens of the target with picture placeholders, up to the opening of the answer's turn.
        answer_ids: Tokens of the response for training; empty for scoring.
        grid: Patch grid of the target's picture; None where it has none.
        picture: Key of the picture in the image or feature store.
        item_index: Row of the item in the items table.
        relevance: 1 liked, 0 not.
        kind: Index into `types.LIST_KINDS`.
    """

    input_ids: Sequence[int]
    answer_ids: Sequence[int] = ()
    grid: Grid | None = None
    picture: str | None = None
    item_index: int = -1
    relevance: int = 0
    kind: int = -1


@dataclass(frozen=True)
class PromptGroup:
    """One context and its targets; `n_missed` relevant items of the group are not among them."""

    group_id: int
    prefix_ids: Sequence[int]
    targets: Sequence[PromptTarget] = field(default_factory=tuple)
    n_missed: int = 0


@dataclass(frozen=True)
class PackingSettings:
    """How groups become rows.

    Args:
        packed: Let several targets share one row and its prefix; false gives every target a row of its own, the
            reference for tests of packed rows.
        max_row_tokens: Tokens of a row; a group that needs more takes several rows.
    """

    packed: bool = True
    max_row_tokens: int = 4096


def split_targets(prefix: int, lengths: Sequence[int], settings: PackingSettings) -> list[list[int]]:
    """Return the indices of a group's targets, row by row: as many as fit `max_row_tokens`, and at least one."""
    rows: list[list[int]] = []
    room = 0
    for index, length in enumerate(lengths):
        if not rows or not settings.packed or length > room:
            rows.append([])
            room = settings.max_row_tokens - prefix
        rows[-1].append(index)
        room -= length
    return rows


@dataclass
class _Row:
    """One row under construction."""

    input_ids: torch.Tensor  # (T,)
    position_ids: torch.Tensor  # (3, T)
    segment_ids: torch.Tensor  # (T,)
    labels: torch.Tensor  # (T,)
    answers: dict[int, int]  # target of the group -> token that predicts its first response token
    pictures: list[tuple[str, Grid]]


def _lay_out(group: PromptGroup, chosen: Sequence[int], encoder: PromptEncoder, settings: PackingSettings) -> _Row:
    """Lay out the prefix and the chosen targets of one group as one row."""
    prefix = torch.tensor(list(group.prefix_ids), dtype=torch.long)
    image_token_id, place = encoder.image_token_id, encoder.family.positions
    positions, start = place(prefix, (), image_token_id, 0)
    ids, spans, segments = [prefix], [positions], [torch.zeros_like(prefix)]
    labels = [torch.full_like(prefix, IGNORE_INDEX)]
    answers: dict[int, int] = {}
    pictures: list[tuple[str, Grid]] = []
    offset = len(prefix)
    for segment, index in enumerate(chosen, start=1):
        target = group.targets[index]
        tokens = torch.tensor([*target.input_ids, *target.answer_ids], dtype=torch.long)
        label = tokens.clone()
        label[: len(target.input_ids)] = IGNORE_INDEX  # labels are those of the response
        grids = (target.grid,) if target.grid else ()
        ids.append(tokens)
        spans.append(place(tokens, grids, image_token_id, start)[0])
        segments.append(torch.full_like(tokens, segment))
        labels.append(label)
        answers[index] = offset + len(target.input_ids) - 1
        offset += len(tokens)
        if target.grid:
            pictures.append((str(target.picture), target.grid))
    return _Row(torch.cat(ids), torch.cat(spans, dim=1), torch.cat(segments), torch.cat(labels), answers, pictures)


def pack(
    groups: Sequence[PromptGroup], encoder: PromptEncoder, settings: PackingSettings
) -> tuple[PackedBatch, list[tuple[str, Grid]]]:
    """Lay a batch of groups out as padded rows.

    Args:
        groups: B groups, each with at least one target.
        encoder: Encoder of the backbone: its family, placeholder and padding tokens.
        settings: Packed or separate rows, and their length.

    Returns:
        The batch without picture tensors, and the pictures (key, grid) in the order of their placeholders.

    Raises:
        ValueError: There is no group, or a group has no targets.
        ConfigError: Targets of the encoder's family cannot share a row.
    """
    if settings.packed and not encoder.family.shares_prefix:
        raise ConfigError(
            f"data.packing.packed=True: the layers of {encoder.family.title} carry a state along a row, so that "
            "targets cannot share one; set it to false"
        )
    if not groups or any(not group.targets for group in groups):
        raise ValueError(
            f"groups: {len(groups)} of them; a batch needs a group, and every group a target; leave out empty groups"
        )
    rows: list[_Row] = []
    answer_index = torch.zeros(len(groups), max(len(group.targets) for group in groups), 2, dtype=torch.long)
    for b, group in enumerate(groups):
        lengths = [len(target.input_ids) + len(target.answer_ids) for target in group.targets]
        for chosen in split_targets(len(group.prefix_ids), lengths, settings):
            row = _lay_out(group, chosen, encoder, settings)
            for index, token in row.answers.items():
                answer_index[b, index] = torch.tensor([len(rows), token])
            rows.append(row)
    width = max(len(row.input_ids) for row in rows)
    batch = {
        "input_ids": _pad([row.input_ids for row in rows], width, encoder.pad_token_id),  # (R, T)
        "position_ids": _pad([row.position_ids for row in rows], width, 0).transpose(0, 1),  # (3, R, T)
        "segment_ids": _pad([row.segment_ids for row in rows], width, -1),  # (R, T)
        "labels": _pad([row.labels for row in rows], width, IGNORE_INDEX),  # (R, T)
        "answer_index": answer_index,  # (B, C, 2)
        **candidate_fields(groups),
    }
    return cast(PackedBatch, batch), [picture for row in rows for picture in row.pictures]


def attention_mask(segment_ids: torch.Tensor) -> torch.Tensor:
    """Compute who sees whom in packed rows: causal attention within the prefix and a token's own target.

    Args:
        segment_ids: `(R, T)`: -1 padding, 0 prefix, 1.. the targets.

    Returns:
        Bool `(R, 1, T, T)`, True where a query (third dimension) sees a key. Padding sees itself, since the
        softmax of a row without any key would be NaN.
    """
    n_tokens = segment_ids.shape[1]
    query, key = segment_ids[:, :, None], segment_ids[:, None, :]  # (R, T, 1), (R, 1, T)
    causal = torch.ones(n_tokens, n_tokens, dtype=torch.bool, device=segment_ids.device).tril()
    visible = causal & (key >= 0) & (query >= 0) & ((key == 0) | (key == query))  # (R, T, T)
    return (visible | torch.eye(n_tokens, dtype=torch.bool, device=segment_ids.device)).unsqueeze(1)


def predicting_positions(segment_ids: torch.Tensor) -> torch.Tensor:
    """Find the token whose output predicts each token of packed rows.

    It is the token before, except for the first token of a target, which the last token of the prefix predicts.

    Args:
        segment_ids: `(R, T)`: -1 padding, 0 prefix, 1.. the targets.

    Returns:
        Positions `(R, T)` within the row; 0 for the first token, which nothing predicts.
    """
    n_rows, n_tokens = segment_ids.shape
    index = torch.arange(n_tokens, device=segment_ids.device).expand(n_rows, n_tokens)  # (R, T)
    before = segment_ids.roll(1, dims=1)
    prefix_end = torch.where(segment_ids == 0, index, 0).amax(dim=1, keepdim=True)  # (R, 1)
    opens_target = (segment_ids > 0) & (before != segment_ids)
    return torch.where(opens_target, prefix_end, (index - 1).clamp(min=0))


def candidate_fields(groups: Sequence[PromptGroup]) -> CandidateBatch:
    """Return the fields of a batch about the targets of B groups, which do not depend on their prompts."""
    return {
        "group_id": torch.tensor([group.group_id for group in groups]),  # (B,)
        "candidate_mask": _per_target(groups, lambda target: 1, 0).bool(),  # (B, C)
        "relevance": _per_target(groups, lambda target: target.relevance, 0),  # (B, C)
        "kind": _per_target(groups, lambda target: target.kind, -1),  # (B, C)
        "item_index": _per_target(groups, lambda target: target.item_index, -1),  # (B, C)
        "n_missed": torch.tensor([group.n_missed for group in groups]),  # (B,)
    }


def no_groups() -> PackedBatch:
    """Return the batch of a process without groups: every process runs each loop, so that none waits forever."""
    rows = torch.zeros(0, 0, dtype=torch.long)  # (R, T), and (B, C)
    none = torch.zeros(0, dtype=torch.long)  # (B,)
    return {
        "input_ids": rows, "position_ids": rows.expand(3, 0, 0), "segment_ids": rows, "labels": rows,
        "answer_index": rows.unsqueeze(-1).expand(0, 0, 2), "group_id": none, "candidate_mask": rows.bool(),
        "relevance": rows, "kind": rows, "item_index": rows, "n_missed": none,
    }  # fmt: skip


def _per_target(groups: Sequence[PromptGroup], value: Callable[[PromptTarget], int], fill: int) -> torch.Tensor:
    """Return one number per target, padded with `fill` to `(B, C)`."""
    rows = [[value(target) for target in group.targets] for group in groups]
    n_targets = max(map(len, rows))
    return torch.tensor([row + [fill] * (n_targets - len(row)) for row in rows])


def _pad(rows: Sequence[torch.Tensor], width: int, fill: int) -> torch.Tensor:
    """Stack rows `(..., t)` to `(R, ..., width)`, padded on the right with `fill`."""
    stacked = torch.full((len(rows), *rows[0].shape[:-1], width), fill, dtype=torch.long)
    for index, row in enumerate(rows):
        stacked[index, ..., : row.shape[-1]] = row
    return stacked
