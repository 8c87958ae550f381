"""Listwise prompts: lettered candidates in one prompt, shown in several random orders, so that no position is favoured.

Which candidates share a prompt, and in which order, depends on (seed, group, shuffle) and on the set of candidates
only: not on the order in which they came, nor on the rest of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch

from mllm_srec.prompts.encoding import PromptEncoder
from mllm_srec.prompts.packing import PackingSettings, PromptGroup, candidate_fields, pack
from mllm_srec.types import PackedBatch


@dataclass(frozen=True)
class ListPrompt:
    """The candidates that one listwise prompt shows.

    Attributes:
        shuffle: Index of the random order that the prompt is part of.
        candidates: Indices among the group's candidates, one a letter.
    """

    shuffle: int
    candidates: Sequence[int]


@dataclass(frozen=True)
class ListGroup:
    """One context and its candidates, as listwise prompts.

    Attributes:
        prompts: The context, with one target per listwise prompt.
        shown: Candidates of each prompt.
        candidates: The context's candidates, without tokens.
    """

    prompts: PromptGroup
    shown: Sequence[ListPrompt]
    candidates: PromptGroup


def draw_lists(item_index: np.ndarray, group_id: int, list_size: int, n_shuffles: int, seed: int) -> list[ListPrompt]:
    """Draw random orders of a group's candidates, and split each into lists whose sizes differ by at most one.

    Args:
        item_index: `(C,)` the candidates' rows in the items table, which is sorted by id; no duplicates.
        group_id: Id of the group.
        list_size: Candidates of a list, at most.
        n_shuffles: Number of orders.
        seed: Seed of the draws.

    Returns:
        Lists of all shuffles; each candidate is in exactly one list of a shuffle.
    """
    by_id = np.argsort(item_index, kind="stable")  # (C,)
    n_lists = -(-len(by_id) // list_size)
    lists: list[ListPrompt] = []
    for shuffle in range(n_shuffles):
        order = np.random.default_rng([seed, group_id, shuffle]).permutation(len(by_id))  # (C,)
        lists += [ListPrompt(shuffle, by_id[part].tolist()) for part in np.array_split(order, n_lists)]
    return lists


def list_tokens(
    lines: Sequence[Sequence[int]], label_ids: Sequence[int], end: Sequence[int], shown: ListPrompt
) -> list[int]:
    """Return the tokens of one listwise prompt behind its context.

    Args:
        lines: Tokens behind the letter, of each of the group's candidates.
        label_ids: Tokens of the letters.
        end: Tokens behind the last candidate.
        shown: Candidates of the prompt, in order.
    """
    ids: list[int] = []
    for label, candidate in zip(label_ids, shown.candidates, strict=False):
        ids += [label, *lines[candidate]]
    return [*ids, *end]


def pack_lists(
    groups: Sequence[ListGroup], label_ids: Sequence[int], encoder: PromptEncoder, settings: PackingSettings
) -> PackedBatch:
    """Lay listwise prompts out as packed rows, and record where the score of each candidate is read.

    Args:
        groups: B groups, all with the same number of shuffles.
        label_ids: Tokens of K letters.
        encoder: Encoder of the backbone.
        settings: Rows and padding side.
    """
    batch, _ = pack([group.prompts for group in groups], encoder, settings)
    n_prompts, n_labels = batch["answer_index"].shape[1], len(label_ids)
    n_shuffles = 1 + max(prompt.shuffle for group in groups for prompt in group.shown)
    n_candidates = max(len(group.candidates.targets) for group in groups)
    mask = torch.zeros(len(groups), n_prompts, n_labels, dtype=torch.bool)  # (B, P, K)
    places = torch.zeros(len(groups), n_shuffles, n_candidates, dtype=torch.long)  # (B, shuffles, C)
    for b, group in enumerate(groups):
        for p, prompt in enumerate(group.shown):
            n = len(prompt.candidates)
            mask[b, p, :n] = True
            places[b, prompt.shuffle, list(prompt.candidates)] = p * n_labels + torch.arange(n)
    lists = {"label_ids": torch.tensor(list(label_ids)), "label_mask": mask, "places": places}
    return cast(PackedBatch, {**batch, **candidate_fields([group.candidates for group in groups]), **lists})
