"""Batches of prompts for summaries: within a token budget, padded on the left, sharded over processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from mllm_srec.data.pictures.feature_store import FeatureStore
from mllm_srec.data.pictures.image_store import ImageStore
from mllm_srec.prompts.chat import ChatEncoder
from mllm_srec.prompts.summaries import SummaryPrompt
from mllm_srec.types import ConfigError, DataError, GenerationBatch


@dataclass(frozen=True)
class EncodedPrompt:
    """A tokenised `SummaryPrompt`.

    Attributes:
        key: Key of the summary in the store.
        input_ids: int32 `(T,)`.
        picture: Key of the picture in the image store; None for a prompt without one.
    """

    key: str
    input_ids: np.ndarray
    picture: str | None


class SummaryDataset(Dataset[EncodedPrompt]):
    """Prompts, tokenised once.

    Args:
        prompts: Prompts of the summaries that are missing.
        chat: Encoder of the model that writes.
        max_new_tokens: Tokens reserved for each answer.
        images: Store of the pictures; None for stages without.
        max_positions: Tokens of the model's longest text, prompt and answer together; None for no limit.

    Raises:
        DataError: A prompt leaves no room for its answer.
        ConfigError: A prompt has a picture, but there is no image store.
    """

    def __init__(
        self,
        prompts: Sequence[SummaryPrompt],
        chat: ChatEncoder,
        max_new_tokens: int,
        images: ImageStore | None = None,
        max_positions: int | None = None,
    ) -> None:
        self.max_new_tokens = max_new_tokens
        self.rows = [_encode(prompt, chat, images) for prompt in prompts]
        self.lengths = np.array([len(row.input_ids) for row in self.rows], dtype=np.int64)  # (N,)
        for row, prompt in zip(self.rows, prompts, strict=True):
            n_tokens = len(row.input_ids) + max_new_tokens
            if max_positions is not None and n_tokens > max_positions:
                raise DataError(
                    f"max_new_tokens={max_new_tokens}: the prompt about {prompt.about or prompt.key!r} has "
                    f"{len(row.input_ids)} tokens, together more than the {max_positions} of the model; lower "
                    "data.prompt.max_item_tokens or max_new_tokens, or choose a model with a longer context, or "
                    "summaries.variant=full, which reads a history in windows"
                )

    def __len__(self) -> int:
        """Number of prompts."""
        return len(self.rows)

    def __getitem__(self, index: int) -> EncodedPrompt:
        """Prompt `index`."""
        return self.rows[index]


def _encode(prompt: SummaryPrompt, chat: ChatEncoder, images: ImageStore | None) -> EncodedPrompt:
    if prompt.picture is not None and images is None:
        raise ConfigError(
            f"images=None: the prompt {prompt.key!r} shows picture {prompt.picture!r}; give the image store that has it"
        )
    n_image_tokens = images.n_tokens(prompt.picture) if images and prompt.picture is not None else 0
    ids = np.array(chat.encode(prompt.messages, n_image_tokens), dtype=np.int32)  # (T,)
    return EncodedPrompt(prompt.key, ids, prompt.picture)


class TokenBudgetSampler(Sampler[list[int]]):
    """Yields batches of prompt indices: longest first, so that memory runs out at once or never.

    Args:
        dataset: The prompts.
        token_budget: Tokens of a batch at most, padding and answers included; a longer prompt gets a batch of its own.
        rank: Rank of this process.
        world_size: Number of processes; every prompt goes to exactly one of them.

    A process without prompts gets one empty batch: Lightning skips a loop of length zero, and the other processes would
    wait for it.
    """

    def __init__(self, dataset: SummaryDataset, token_budget: int, rank: int = 0, world_size: int = 1) -> None:
        order = sorted(range(len(dataset)), key=lambda index: (-dataset.lengths[index], dataset[index].key))
        self.batches: list[list[int]] = []
        mine = order[rank::world_size]  # lengths are dealt out in turn, so that all processes have about the same work
        while mine:
            widest = int(dataset.lengths[mine[0]]) + dataset.max_new_tokens
            n_rows = max(1, token_budget // widest)
            self.batches.append(mine[:n_rows])
            mine = mine[n_rows:]
        self.batches = self.batches or [[]]

    def __len__(self) -> int:
        """Number of batches, at least one."""
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        """The batches of this process."""
        return iter(self.batches)


class SummaryCollator:
    """Makes padded batches with pictures of tokenised prompts.

    Args:
        chat: Encoder of the model that writes.
        images: Store of the pictures; None for stages without.
        features: Stored outputs of the model's vision tower, used in place of pixels; None computes them.
    """

    def __init__(
        self, chat: ChatEncoder, images: ImageStore | None = None, features: FeatureStore | None = None
    ) -> None:
        self._pad_token_id, self._image_token_id = chat.pad_token_id, chat.image_token_id
        self._images, self._features = images, features

    def __call__(self, rows: Sequence[EncodedPrompt]) -> GenerationBatch:
        """Pad `rows` on the left and look up their pictures."""
        n_tokens = max((len(row.input_ids) for row in rows), default=0)
        input_ids = torch.full((len(rows), n_tokens), self._pad_token_id)  # (B, T)
        attention_mask = torch.zeros(len(rows), n_tokens, dtype=torch.long)  # (B, T)
        for index, row in enumerate(rows):
            begin = n_tokens - len(row.input_ids)
            input_ids[index, begin:] = torch.from_numpy(row.input_ids)
            attention_mask[index, begin:] = 1
        batch: GenerationBatch = {
            "keys": [row.key for row in rows],
            "input_ids": input_ids,
            "attention_mask": attention_mask,
        }
        pictures = [row.picture for row in rows if row.picture is not None]
        if pictures and self._images is not None:
            self._add_pictures(batch, pictures, self._images)
        return batch

    def _add_pictures(self, batch: GenerationBatch, pictures: list[str], images: ImageStore) -> None:
        is_picture = (batch["input_ids"] == self._image_token_id) & (batch["attention_mask"] == 1)  # (B, T)
        batch["mm_token_type_ids"] = is_picture.long()
        if self._features is not None:
            batch["image_grid_thw"] = torch.tensor([images.grid(picture) for picture in pictures])  # (n pictures, 3)
            batch["image_features"] = self._features.features(pictures)  # (sum of tokens, D)
        else:
            batch["pixel_values"], batch["image_grid_thw"] = images.pixel_values(pictures)


def summary_loader(
    dataset: SummaryDataset, sampler: TokenBudgetSampler, collator: SummaryCollator, num_workers: int = 0
) -> DataLoader[EncodedPrompt]:
    """Make the loader for `Trainer.predict`; its sampler shards, so set `use_distributed_sampler=False` there."""
    return DataLoader(dataset, batch_sampler=sampler, collate_fn=collator, num_workers=num_workers)
