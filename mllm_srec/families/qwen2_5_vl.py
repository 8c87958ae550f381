"""Qwen2.5-VL: Qwen2-VL with another model class; its windowed vision attention needs no code here."""

from __future__ import annotations

from dataclasses import replace

from mllm_srec.families import qwen2_vl

FAMILY = replace(
    qwen2_vl.FAMILY,
    model_type="qwen2_5_vl",
    title="Qwen2.5-VL",
    model_class="Qwen2_5_VLForConditionalGeneration",
)
