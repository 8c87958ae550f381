"""Generation of answers by transformers' `generate`, with every setting stated here.

Decoding is greedy by default. Sampling is an argmax too, over scores with Gumbel noise: the noise of a row depends on
the row's own seed and the step only, so that its text does not depend on the rest of the batch.
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

from mllm_srec.families.base import Family
from mllm_srec.families.lookup import family_of
from mllm_srec.prompts.decoding import GenerationSettings
from mllm_srec.types import GenerationBatch

FinishReason = Literal["stop", "length"]


@torch.inference_mode()
def generate(
    net: Any, batch: GenerationBatch, decoding: GenerationSettings, stop_ids: Sequence[int], pad_token_id: int
) -> list[list[int]]:
    """Answer every chat of a batch.

    Args:
        net: Causal language model of transformers. Its own generation settings are overwritten.
        batch: At least one chat; with pictures only for a multimodal family.
        decoding: Length and sampling.
        stop_ids: Tokens that end an answer.
        pad_token_id: Filler of rows that end before others; it is cut off again.

    Returns:
        Token ids of each row, up to and including the token that ended it.
    """
    config = generation_config(decoding, stop_ids, pad_token_id)
    # Settings that a config leaves open come from the model's own one on the hub: repetition penalties, token bans.
    net.generation_config = config
    family = family_of(net.config)
    family.forget(net)
    n_prompt_tokens = batch["input_ids"].shape[1]
    processors = _sampler(decoding, batch["keys"], n_prompt_tokens) if decoding.sample else LogitsProcessorList()
    rows = net.generate(
        **_model_inputs(batch, family), generation_config=config, logits_processor=processors, synced_gpus=False
    )  # (B, T + n)
    return [_until_stop(row, stop_ids) for row in rows[:, n_prompt_tokens:].tolist()]


def finish_reason(ids: Sequence[int], stop_ids: Sequence[int]) -> FinishReason:
    """Return `stop` for an answer that ended by itself, `length` for one that the limit cut off."""
    return "stop" if ids and ids[-1] in stop_ids else "length"


def generation_config(decoding: GenerationSettings, stop_ids: Sequence[int], pad_token_id: int) -> GenerationConfig:
    """Build a config of greedy search that states every setting that could change a text; all others are off."""
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
    """Derive the seed of one record's draws, below 2^64."""
    return int.from_bytes(hashlib.sha256(f"{seed} {key}".encode()).digest()[:8])


class GumbelNoise(LogitsProcessor):  # type: ignore[misc]  # transformers is untyped here
    """Standard Gumbel noise on log-probabilities, which makes their argmax a draw from their softmax.

    Args:
        seeds: One seed per row.
        n_prompt_tokens: Length of the padded prompts, from which the step is counted.
    """

    def __init__(self, seeds: Sequence[int], n_prompt_tokens: int) -> None:
        self.seeds, self.n_prompt_tokens = seeds, n_prompt_tokens

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Add noise to scores `(B, V)`."""
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


def _model_inputs(batch: GenerationBatch, family: Family) -> dict[str, Any]:
    """Return the arguments of the forward pass, with pictures as patches or as the tower's output."""
    inputs: dict[str, Any] = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    if "image_grid_thw" not in batch:
        return inputs
    grids = batch["image_grid_thw"]
    inputs |= {"mm_token_type_ids": batch["mm_token_type_ids"], "image_grid_thw": grids}
    if "image_features" in batch:
        return inputs | family.picture_inputs(family.split_pictures(batch["image_features"], grids))
    return inputs | {"pixel_values": batch["pixel_values"]}


def _until_stop(row: list[int], stop_ids: Sequence[int]) -> list[int]:
    ends = [index for index, token in enumerate(row) if token in stop_ids]
    return row[: ends[0] + 1] if ends else row
