"""The ways of scoring that `bench_scoring.py` compares, each with its batches and what runs one of them.

None of them is slowed down on purpose: where a batch size matters, the script takes the fastest of `sizes`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from scoring_inputs import Inputs
from transformers.modeling_outputs import BaseModelOutputWithPooling

from mllm_srec.models.recommender import MLLMRecommender
from mllm_srec.models.scoring import ScoringLayout
from mllm_srec.prompts.packing import PromptGroup, PromptTarget
from mllm_srec.types import PackedBatch


@dataclass
class Variant(ABC):
    """One way of scoring all candidates of all groups.

    Args:
        model: The recommender, in evaluation mode.
        inputs: Catalogue with its stores.
        groups: What is scored.
        from_features: The vision tower's output comes from the feature store, else the tower runs.
    """

    model: MLLMRecommender
    inputs: Inputs
    groups: Sequence[PromptGroup]
    from_features: bool
    about: ClassVar[str]
    sizes: ClassVar[Sequence[int]]

    @abstractmethod
    def batches(self, size: int) -> Iterator[Any]:
        """Inputs of the model, `size` groups, or rows, at a time."""

    @abstractmethod
    def run(self, batch: Any) -> torch.Tensor:
        """Scores of one batch, in the order of groups and candidates: `(n,)`, empty where a way has none."""

    @property
    def served(self) -> str:
        """How pictures are served."""
        return "features" if self.from_features else "pixels"

    def pictures(self, targets: Sequence[PromptTarget]) -> dict[str, Any]:
        """Pictures as transformers takes them, one for each of `targets` that has one, however often it occurs."""
        keys = [target.picture for target in targets if target.picture]
        if not keys:
            return {}
        pixel_values, grids = self.inputs.images.pixel_values(keys)
        if not self.from_features:
            return {"pixel_values": pixel_values, "image_grid_thw": grids}
        features = tuple(self.inputs.features.features([key]) for key in keys)
        encoded = {"image": BaseModelOutputWithPooling(pooler_output=features)}  # type: ignore[arg-type]
        return {"mm_encoder_outputs": encoded, "image_grid_thw": grids}


class CommonPractice(Variant):
    """What scripts around chat models do."""

    about = (
        "one left-padded row per candidate, its picture encoded again, `generate` for one token with output_scores; "
        "the batch holds `size` candidates of a group"
    )
    sizes = (1, 4, 8, 32)

    def batches(self, size: int) -> Iterator[dict[str, Any]]:
        """Arguments of `generate`."""
        for group in self.groups:
            for begin in range(0, len(group.targets), size):
                yield self._arguments(group.prefix_ids, group.targets[begin : begin + size])

    def _arguments(self, prefix: Sequence[int], targets: Sequence[PromptTarget]) -> dict[str, Any]:
        encoder = self.inputs.encoder
        rows = [torch.tensor([*prefix, *target.input_ids]) for target in targets]
        input_ids = torch.nn.utils.rnn.pad_sequence(rows, True, encoder.pad_token_id, "left")  # (n, T)
        present = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], True, 0, "left")  # (n, T)
        kinds = {"mm_token_type_ids": ((input_ids == encoder.image_token_id) & present.bool()).int()}  # (n, T)
        return {"input_ids": input_ids, "attention_mask": present, **kinds, **self.pictures(targets)}

    def run(self, batch: dict[str, Any]) -> torch.Tensor:
        """Difference of two of the scores that `generate` returns."""
        pad = self.inputs.encoder.pad_token_id
        options = {"max_new_tokens": 1, "do_sample": False, "pad_token_id": pad}
        answer = self.model.loaded.net.generate(  # type: ignore[operator]
            **batch, **options, output_scores=True, return_dict_in_generate=True
        )
        logits = answer.scores[0].float()  # (n, V)
        scores: torch.Tensor = logits[:, self.model.yes_id] - logits[:, self.model.no_id]  # (n,)
        return scores


class Ours(Variant):
    """`MLLMRecommender.score_candidates` on batches of the collator."""

    packed: ClassVar[bool] = True
    scoring: ClassVar[ScoringLayout] = "packed"

    def batches(self, size: int) -> Iterator[PackedBatch]:
        """As evaluation makes them."""
        collate = self.inputs.collator(self.from_features, self.packed)
        for begin in range(0, len(self.groups), size):
            yield collate(self.groups[begin : begin + size])

    def run(self, batch: PackedBatch) -> torch.Tensor:
        """Scores of the candidates that are there."""
        self.model.scoring = self.scoring
        return self.model.score_candidates(batch)[batch["candidate_mask"]]


class SeparateRows(Ours):
    """The reference layout."""

    about = "one row per candidate, all of a group in one forward pass; a picture is encoded once per batch of groups"
    sizes = (1, 2)
    packed = False


class PackedRows(Ours):
    """The layout of training."""

    about = "context and candidates of a group in one row with a 4-D mask (`scoring: packed`); `size` groups a batch"
    sizes = (1, 2, 4, 8)


class Cached(Ours):
    """Every token once."""

    about = "a context's keys and values serve its candidates (`scoring: cached`); `size` groups a batch"
    sizes = (1, 2, 4, 8)
    scoring = "cached"


class LowerBound(Variant):
    """Not a way of scoring: the time that its tokens cost at least."""

    about = (
        "plain forward pass of the same model (no mask but the causal one, no cache, no head) over exactly as many "
        "tokens as must be computed once: of each group the context once and every candidate's own tokens once, "
        "picture placeholders included; laid out without padding in dense rows as long as a mean full prompt, `size` "
        "rows a batch. With pixels, the vision tower runs besides over every distinct picture once, all in one batch; "
        "with features it does not run."
    )
    sizes = (1, 2, 4, 8, 16)

    def batches(self, size: int) -> Iterator[dict[str, Any]]:
        """Rows of token ids, the last one shorter; before them the pictures."""
        targets = [target for group in self.groups for target in group.targets]
        distinct = list({target.picture: target for target in targets}.values())
        if not self.from_features and any(target.picture for target in distinct):
            yield self.pictures(distinct)
        ids = torch.tensor([token for group in self.groups for token in self._once(group)])  # (N,)
        n_prompts = sum(
            len(group.prefix_ids) + len(target.input_ids) for group in self.groups for target in group.targets
        )
        width = n_prompts // len(targets)
        full = len(ids) // width * width
        for rows in ids[:full].view(-1, width).split(size):
            yield {"input_ids": rows}  # (size, T)
        if full < len(ids):
            yield {"input_ids": ids[None, full:]}  # (1, rest)

    def _once(self, group: PromptGroup) -> list[int]:
        return [*group.prefix_ids, *(token for target in group.targets for token in target.input_ids)]

    def run(self, batch: dict[str, Any]) -> torch.Tensor:
        """Hidden states, thrown away."""
        if "pixel_values" in batch:
            self.model.loaded.image_features(**batch)
        else:
            self.model.loaded.base.model(**batch, use_cache=False)
        return torch.empty(0)


VARIANTS: dict[str, type[Variant]] = {
    "common_practice": CommonPractice,
    "separate_rows": SeparateRows,
    "packed": PackedRows,
    "cached": Cached,
    "lower_bound": LowerBound,
}
