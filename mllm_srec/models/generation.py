"""Writes answers with transformers' `generate`, under settings that are all stated here.

Greedy by default. Sampling is an argmax too, over scores with Gumbel noise: the noise of a row depends on the row's own
seed and the step only, so that its text does not depend on what else is in the batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling

from mllm_srec.prompts.decoding import GenerationSettings
from mllm_srec.prompts.geometry import MERGE
from mllm_srec.types import GenerationBatch

FinishReason = Literal["stop", "length"]


@torch.inference_mode()
def generate(
    net: Any, batch: GenerationBatch, decoding: GenerationSettings, stop_ids: Sequence[int], pad_token_id: int
) -> list[list[int]]:
    """Answer every chat of a batch.

    Args:
        net: A causal language model of transformers. Its own generation settings are replaced for good.
        batch: At least one chat; pictures only for a Qwen-VL.
        decoding: Length and sampling.
        stop_ids: Tokens that end an answer.
        pad_token_id: Fills rows that ended before others; cut off again.

    Returns:
        Token ids per row, up to and including the token that ended it.
    """
    config = generation_config(decoding, stop_ids, pad_token_id)
    # What a config leaves open is taken from the model's, which comes from the hub: repetition penalties, token bans.
    net.generation_config = config
    if hasattr(getattr(net, "model", None), "rope_deltas"):
        net.model.rope_deltas = None  # a Qwen-VL keeps those of its last batch
    n_prompt_tokens = batch["input_ids"].shape[1]
    processors = _sampler(decoding, batch["keys"], n_prompt_tokens) if decoding.sample else LogitsProcessorList()
    rows = net.generate(
        **_model_inputs(batch), generation_config=config, logits_processor=processors, synced_gpus=False
    )  # (B, T + n)
    return [_until_stop(row, stop_ids) for row in rows[:, n_prompt_tokens:].tolist()]


def finish_reason(ids: Sequence[int], stop_ids: Sequence[int]) -> FinishReason:
    """`stop` where an answer ended by itself, `length` where the limit cut it off."""
    return "stop" if ids and ids[-1] in stop_ids else "length"


def generation_config(decoding: GenerationSettings, stop_ids: Sequence[int], pad_token_id: int) -> GenerationConfig:
    """Greedy search with every setting that could change a text; what is not named here is off when left out."""
    return GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        min_length=0,
        eos_token_id=list(stop_ids),
        pad_token_id=pad_token_id,
        do_sample=False,  # sampling is ours, see GumbelNoise
        num_beams=1,
        num_return_sequences=1,
        temperature=1.0,
        top_k=50,  # the library's neutral value: any other is warned about in greedy search, where none is used
        top_p=1.0,
        typical_p=1.0,
        epsilon_cutoff=0.0,
        eta_cutoff=0.0,
        repetition_penalty=1.0,
        encoder_repetition_penalty=1.0,
        length_penalty=1.0,
        no_repeat_ngram_size=0,
        encoder_no_repeat_ngram_size=0,
        guidance_scale=1.0,
        early_stopping=False,
        renormalize_logits=False,
        remove_invalid_values=False,
        token_healing=False,
        use_cache=True,
        disable_compile=True,
        return_dict_in_generate=False,
    )


def row_seed(seed: int, key: str) -> int:
    """Seed of one record's draws, below 2^64."""
    return int.from_bytes(hashlib.sha256(f"{seed} {key}".encode()).digest()[:8])


class GumbelNoise(LogitsProcessor):  # type: ignore[misc]  # transformers is untyped here
    """Adds standard Gumbel noise to log-probabilities, so that their argmax is a draw from their softmax.

    Args:
        seeds: One per row.
        n_prompt_tokens: Length of the padded prompts: tells the step.
    """

    def __init__(self, seeds: Sequence[int], n_prompt_tokens: int) -> None:
        self.seeds, self.n_prompt_tokens = seeds, n_prompt_tokens

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores `(B, V)` with noise."""
        step = input_ids.shape[1] - self.n_prompt_tokens
        generator = torch.Generator(device=scores.device)
        noise = torch.empty(scores.shape, dtype=torch.float64, device=scores.device)  # (B, V)
        for row, seed in zip(noise, self.seeds, strict=True):
            mixed = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]
            row.exponential_(generator=generator.manual_seed(int(mixed)))
        # In float64: float32 draws an exact 0 now and then, and its logarithm would win against any score.
        return scores - noise.clamp_min(torch.finfo(torch.float64).tiny).log().to(scores.dtype)


def _sampler(decoding: GenerationSettings, keys: Sequence[str], n_prompt_tokens: int) -> LogitsProcessorList:
    return LogitsProcessorList(
        [
            TemperatureLogitsWarper(float(decoding.temperature)),
            TopPLogitsWarper(float(decoding.top_p)),
            GumbelNoise([row_seed(decoding.seed, key) for key in keys], n_prompt_tokens),
        ]
    )


def _model_inputs(batch: GenerationBatch) -> dict[str, Any]:
    """What the model's forward pass takes; pictures as patches or as the tower's output."""
    inputs: dict[str, Any] = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    if "image_grid_thw" not in batch:
        return inputs
    grids = batch["image_grid_thw"]
    inputs |= {"mm_token_type_ids": batch["mm_token_type_ids"], "image_grid_thw": grids}
    if "image_features" in batch:
        pictures = torch.split(batch["image_features"], (grids.prod(dim=1) // MERGE**2).tolist())
        return inputs | {"mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=pictures)}}
    return inputs | {"pixel_values": batch["pixel_values"]}


def _until_stop(row: list[int], stop_ids: Sequence[int]) -> list[int]:
    ends = [index for index, token in enumerate(row) if token in stop_ids]
    return row[: ends[0] + 1] if ends else row
