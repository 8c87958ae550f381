"""From stored prompts to packed batches in which candidates are shown as lists (`data.prompt.layout: listwise`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from torch.utils.data import Dataset

from mllm_srec.data.examples import GroupExamples
from mllm_srec.data.prompt_batches import PromptStores
from mllm_srec.prompts.builder import choices_end
from mllm_srec.prompts.lists import ListGroup, draw_lists, list_tokens, pack_lists
from mllm_srec.prompts.packing import PackingSettings, PromptGroup, PromptTarget, no_groups
from mllm_srec.prompts.templates import PromptSettings
from mllm_srec.types import PackedBatch


class ListDataset(Dataset[ListGroup]):
    """Candidate lists with tokenised list prompts.

    Args:
        examples: Groups and their candidates.
        stores: Prompts.
        settings: Size of a list, and number of shuffles.
        seed: Seed of the shuffles.

    Raises:
        ConfigError: The tokenizer splits a letter.
    """

    def __init__(self, examples: GroupExamples, stores: PromptStores, settings: PromptSettings, seed: int) -> None:
        self.examples, self.stores, self.settings, self.seed = examples, stores, settings, seed
        self.label_ids = stores.encoder.label_ids(settings.list_size)
        self.end = stores.encoder.encode(choices_end(settings))
        contexts = stores.prompts.context_lengths().to_numpy().astype(np.int64)
        lines = stores.prompts.choice_lengths().to_numpy().astype(np.int64) + 1  # with their letter
        summed = np.concatenate([[0], lines[examples.item_index].cumsum()])[examples.offsets]  # (G + 1,)
        ends = -(-examples.sizes // settings.list_size) * len(self.end)  # (G,)
        self.lengths = contexts[examples.context] + settings.list_shuffles * (np.diff(summed) + ends)  # (G,)

    def __len__(self) -> int:
        """Number of groups."""
        return len(self.examples)

    def __getitem__(self, index: int) -> ListGroup:
        """Group `index`, ready to be packed."""
        rows, prompts, settings = self.examples, self.stores.prompts, self.settings
        chosen = slice(rows.offsets[index], rows.offsets[index + 1])
        items, group_id = rows.item_index[chosen], int(rows.group_id[index])
        lines = [prompts.choice(int(item)) for item in items]
        shown = draw_lists(items, group_id, settings.list_size, settings.list_shuffles, self.seed)
        asked = [PromptTarget(list_tokens(lines, self.label_ids, self.end, prompt)) for prompt in shown]
        of_items = zip(items.tolist(), rows.relevance[chosen].tolist(), rows.kind[chosen].tolist(), strict=True)
        candidates = [PromptTarget((), item_index=item, relevance=label, kind=kind) for item, label, kind in of_items]
        prefix, n_missed = prompts.prefix(int(rows.context[index])), int(rows.n_missed[index])
        return ListGroup(
            PromptGroup(group_id, prefix, asked), shown, PromptGroup(group_id, prefix, candidates, n_missed)
        )


@dataclass
class ListCollator:
    """Groups -> packed batch of list prompts."""

    dataset: ListDataset
    packing: PackingSettings = field(default_factory=PackingSettings)

    def __call__(self, groups: Sequence[ListGroup]) -> PackedBatch:
        """Pack `groups`; no groups give the batch of none."""
        if not groups:
            return no_groups()
        return pack_lists(groups, self.dataset.label_ids, self.dataset.stores.encoder.pad_token_id, self.packing)
