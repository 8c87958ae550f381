"""Qwen2.5-VL: seen from here a Qwen2-VL of another class; the windows of its vision tower are its own affair."""

from __future__ import annotations

from dataclasses import replace

from mllm_srec.families import qwen2_vl

FAMILY = replace(
    qwen2_vl.FAMILY,
    model_type="qwen2_5_vl",
    title="Qwen2.5-VL",
    model_class="Qwen2_5_VLForConditionalGeneration",
)
