"""Data sets and collators of prompts: stored tokens of groups become packed batches with pictures.

`PromptDataset` serves one prompt per target, `DrawnPromptDataset` those of targets that are drawn anew each epoch, too;
`ListDataset` serves listwise prompts, each with many candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch.utils.data import Dataset

from mllm_srec.data.loading.examples import GroupExamples
from mllm_srec.data.loading.train_negatives import TrainNegatives
from mllm_srec.data.pictures.feature_store import PictureFeatures
from mllm_srec.data.pictures.image_store import ImageStore
from mllm_srec.data.stored_prompts.store import PromptStore
from mllm_srec.families.base import Grid
from mllm_srec.prompts.builder import choices_end
from mllm_srec.prompts.encoding import PromptEncoder
from mllm_srec.prompts.listwise import ListGroup, draw_lists, list_tokens, pack_lists
from mllm_srec.prompts.packing import PackingSettings, PromptGroup, PromptTarget, no_groups, pack
from mllm_srec.prompts.templates import PromptSettings
from mllm_srec.types import PackedBatch


@dataclass
class PromptStores:
    """Stores from which batches are built.

    Attributes:
        prompts: Token ids of contexts, targets and choices.
        images: Pictures; None if prompts show none.
        features: Features of the pictures, served instead of pixels; None: pixels.
        encoder: Tokenizer and special tokens.
    """

    prompts: PromptStore
    images: ImageStore | None
    features: PictureFeatures | None
    encoder: PromptEncoder


class PromptDataset(Dataset[PromptGroup]):
    """Groups with tokenised prompts.

    Args:
        examples: Groups and their targets.
        stores: Stores of the prompts.
        train: True to append the answer to each target.

    Attributes:
        lengths: Number of tokens of each group `(G,)`.
    """

    def __init__(self, examples: GroupExamples, stores: PromptStores, train: bool) -> None:
        self.examples, self.stores, self.train = examples, stores, train
        contexts = stores.prompts.context_lengths().to_numpy().astype(np.int64)
        targets = stores.prompts.target_lengths().to_numpy().astype(np.int64)
        middles = stores.prompts.middle_lengths().to_numpy().astype(np.int64)
        n_targets = np.diff(examples.offsets)  # (G,)
        per_target = targets[examples.item_index] + np.repeat(middles[examples.context], n_targets)  # (N,)
        summed = np.add.reduceat(per_target, examples.offsets[:-1]) if len(examples) else np.zeros(0, np.int64)
        self.lengths = contexts[examples.context] + summed  # (G,)

    def __len__(self) -> int:
        """Number of groups."""
        return len(self.examples)

    def __getitem__(self, index: int) -> PromptGroup:
        """Return group `index`, ready to be packed."""
        rows, prompts = self.examples, self.stores.prompts
        context = int(rows.context[index])
        middle = prompts.middle(context)
        targets = []
        for row in range(rows.offsets[index], rows.offsets[index + 1]):
            relevance = int(rows.relevance[row])
            answer_ids = self.stores.encoder.answer_ids[relevance] if self.train else []
            item, kind = int(rows.item_index[row]), int(rows.kind[row])
            targets.append(prompts.target(item, answer_ids, relevance, kind, middle))
        return PromptGroup(int(rows.group_id[index]), prompts.prefix(context), targets, int(rows.n_missed[index]))


class DrawnPromptDataset(Dataset[PromptGroup]):
    """Training groups with further negatives behind the stored targets; entries are named by epoch and group.

    Args:
        stored: Training groups with their stored targets.
        negatives: Draws the others.

    Attributes:
        lengths: Number of tokens of each group with its stored targets `(G,)`: batches hold the same groups, in the
            same order, however many negatives are drawn.
    """

    def __init__(self, stored: PromptDataset, negatives: TrainNegatives) -> None:
        self.stored, self.negatives = stored, negatives
        self.lengths = stored.lengths

    def __len__(self) -> int:
        """Number of groups."""
        return len(self.stored)

    def __getitem__(self, place: tuple[int, int]) -> PromptGroup:
        """Return a group as it is in an epoch; `place` is (epoch, group)."""
        epoch, index = place
        group, examples, stores = self.stored[index], self.stored.examples, self.stored.stores
        middle = stores.prompts.middle(int(examples.context[index]))
        answer_ids = stores.encoder.answer_ids[0]
        drawn = [
            stores.prompts.target(int(item), answer_ids, 0, self.negatives.kind, middle)
            for item in self.negatives.draw(examples, index, epoch)
        ]
        return replace(group, targets=[*group.targets, *drawn])

    def n_more(self, epoch: int) -> int:
        """Count the tokens of the targets that are drawn in an epoch, without their answers."""
        examples, prompts = self.stored.examples, self.stored.stores.prompts
        targets, middles = prompts.target_lengths().to_numpy(), prompts.middle_lengths().to_numpy()
        drawn = [self.negatives.draw(examples, index, epoch) for index in range(len(examples))]
        per_group = [
            int(targets[items].sum() + middles[examples.context[index]] * len(items))
            for index, items in enumerate(drawn)
        ]
        return sum(per_group)


@dataclass
class PromptCollator:
    """Packs groups into a batch with pictures; each distinct picture is served once per batch.

    Attributes:
        stores: Stores of the prompts.
        packing: Layout of the rows.
    """

    stores: PromptStores
    packing: PackingSettings = field(default_factory=PackingSettings)

    def __call__(self, groups: Sequence[PromptGroup]) -> PackedBatch:
        """Pack `groups` and look up their pictures; no groups give an empty batch."""
        if not groups:
            return no_groups()
        batch, pictures = pack(groups, self.stores.encoder, self.packing)
        if pictures:
            self._add_pictures(batch, pictures)
        return batch

    def _add_pictures(self, batch: PackedBatch, pictures: Sequence[tuple[str, Grid]]) -> None:
        distinct = list(dict.fromkeys(key for key, _ in pictures))
        row_of = {key: index for index, key in enumerate(distinct)}
        grids = dict(pictures)
        batch["image_index"] = torch.tensor([row_of[key] for key, _ in pictures])  # (n placeholders,)
        batch["image_grid_thw"] = torch.tensor([grids[key] for key in distinct])  # (n pictures, 3)
        if self.stores.features is not None:
            batch["image_features"] = self.stores.features.features(distinct)  # (sum of tokens, D)
        elif self.stores.images is not None:
            batch["pixel_values"] = self.stores.images.pixel_values(distinct)[0]  # (P, F)


class ListDataset(Dataset[ListGroup]):
    """Groups with tokenised listwise prompts.

    Args:
        examples: Groups and their candidates.
        stores: Stores of the prompts.
        settings: Settings with `list_size` and `list_shuffles`.
        seed: Seed of the shuffles.

    Raises:
        ConfigError: The tokenizer splits one of the letters that name candidates.

    Attributes:
        lengths: Number of tokens of each group `(G,)`.
    """

    def __init__(self, examples: GroupExamples, stores: PromptStores, settings: PromptSettings, seed: int) -> None:
        self.examples, self.stores, self.settings, self.seed = examples, stores, settings, seed
        self.label_ids = stores.encoder.label_ids(settings.list_size)
        self.end = stores.encoder.encode(choices_end(settings))
        contexts = stores.prompts.context_lengths().to_numpy().astype(np.int64)
        lines = stores.prompts.choice_lengths().to_numpy().astype(np.int64) + 1  # and the candidate's letter
        summed = np.concatenate([[0], lines[examples.item_index].cumsum()])[examples.offsets]  # (G + 1,)
        ends = -(-examples.sizes // settings.list_size) * len(self.end)  # (G,)
        self.lengths = contexts[examples.context] + settings.list_shuffles * (np.diff(summed) + ends)  # (G,)

    def __len__(self) -> int:
        """Number of groups."""
        return len(self.examples)

    def __getitem__(self, index: int) -> ListGroup:
        """Return group `index`, ready to be packed."""
        rows, prompts, settings = self.examples, self.stores.prompts, self.settings
        chosen = slice(rows.offsets[index], rows.offsets[index + 1])
        items, group_id = rows.item_index[chosen], int(rows.group_id[index])
        lines = [prompts.choice(int(item)) for item in items]
        shown = draw_lists(items, group_id, settings.list_size, settings.list_shuffles, self.seed)
        questions = [PromptTarget(list_tokens(lines, self.label_ids, self.end, prompt)) for prompt in shown]
        fields = zip(items.tolist(), rows.relevance[chosen].tolist(), rows.kind[chosen].tolist(), strict=True)
        candidates = [PromptTarget((), item_index=item, relevance=label, kind=kind) for item, label, kind in fields]
        prefix, n_missed = prompts.prefix(int(rows.context[index])), int(rows.n_missed[index])
        return ListGroup(
            PromptGroup(group_id, prefix, questions), shown, PromptGroup(group_id, prefix, candidates, n_missed)
        )


@dataclass
class ListCollator:
    """Packs groups into a batch of listwise prompts.

    Attributes:
        dataset: Data set that the groups come from.
        packing: Layout of the rows.
    """

    dataset: ListDataset
    packing: PackingSettings = field(default_factory=PackingSettings)

    def __call__(self, groups: Sequence[ListGroup]) -> PackedBatch:
        """Pack `groups`; no groups give an empty batch."""
        if not groups:
            return no_groups()
        return pack_lists(groups, self.dataset.label_ids, self.dataset.stores.encoder, self.packing)
