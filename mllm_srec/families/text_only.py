"""Causal language models without pictures, such as Llama: they write item and preference summaries.

A text-only Qwen2 has Qwen2-VL's vocabulary and is spoken to in the same ChatML; any other in its own chat template.
"""

from __future__ import annotations

from dataclasses import replace

from mllm_srec.families import qwen2_vl
from mllm_srec.families.base import Family

FAMILY = Family(
    model_type="",
    title="text-only causal language model with a chat template, such as Llama-3.1-8B-Instruct",
    model_class="AutoModelForCausalLM",
    text_only=True,
    language_model="model",
    control_tokens=qwen2_vl.CONTROL_TOKENS,
    foreign_tokens=(qwen2_vl.THINK,),
    image_token=qwen2_vl.IMAGE_PAD,
    expand_picture=qwen2_vl.expand_picture,
    positions=qwen2_vl.rope_positions,
)


def family_for(model_type: str) -> Family | None:
    """Return the family of a type that transformers can load as a causal language model, None for any other."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    model_class = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type)
    return replace(FAMILY, model_type=model_type, model_class=model_class) if model_class else None
