"""Multimodal sequential recommendation with multimodal large language models (MLLM-SRec)."""

__version__ = "0.1.0"
