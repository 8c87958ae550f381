"""List prompts: candidates with letters in one prompt, shown in several orders, so that no place is favoured.

Which candidates stand together, and in which order, is drawn from (seed, group, shuffle) and from the set of
candidates alone: not from the order in which they came, nor from what else is in the batch.
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
    """Which candidates a prompt shows.

    Attributes:
        shuffle: Number of the order that it belongs to.
        candidates: Their places among the group's candidates, by letter.
    """

    shuffle: int
    candidates: Sequence[int]


@dataclass(frozen=True)
class ListGroup:
    """One context and its candidates, shown as lists.

    Attributes:
        prompts: The context and one target per list prompt.
        shown: Whom each of them shows.
        candidates: The same context's candidates; they have no tokens of their own.
    """

    prompts: PromptGroup
    shown: Sequence[ListPrompt]
    candidates: PromptGroup


def draw_lists(item_index: np.ndarray, group_id: int, list_size: int, n_shuffles: int, seed: int) -> list[ListPrompt]:
    """Draw orders of a group's candidates, and cut each into lists of equal size, one more or less.

    Args:
        item_index: `(C,)` the candidates' rows in the items table, which is sorted by id; no item twice.
        group_id: The group.
        list_size: Candidates of a list, at most.
        n_shuffles: Orders.
        seed: Seed of the draws.

    Returns:
        Every candidate is in one list of each shuffle.
    """
    by_id = np.argsort(item_index, kind="stable")  # (C,)
    n_lists = -(-len(by_id) // list_size)
    found: list[ListPrompt] = []
    for shuffle in range(n_shuffles):
        order = np.random.default_rng([seed, group_id, shuffle]).permutation(len(by_id))  # (C,)
        found += [ListPrompt(shuffle, by_id[part].tolist()) for part in np.array_split(order, n_lists)]
    return found


def list_tokens(
    lines: Sequence[Sequence[int]], label_ids: Sequence[int], end: Sequence[int], shown: ListPrompt
) -> list[int]:
    """Tokens of one list prompt behind its context.

    Args:
        lines: What follows the letter of each of the group's candidates.
        label_ids: Tokens of the letters.
        end: What follows the list.
        shown: Which candidates, in which order.
    """
    ids: list[int] = []
    for label, candidate in zip(label_ids, shown.candidates, strict=False):
        ids += [label, *lines[candidate]]
    return [*ids, *end]


def pack_lists(
    groups: Sequence[ListGroup], label_ids: Sequence[int], encoder: PromptEncoder, settings: PackingSettings
) -> PackedBatch:
    """Lay list prompts out as packed rows, and say where each candidate stands in them.

    Args:
        groups: B groups, all with the same number of shuffles.
        label_ids: K tokens of letters.
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
