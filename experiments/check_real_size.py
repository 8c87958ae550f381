"""Does the real size work? Qwen2-VL-2B in its exact shape goes through our loading, training and scoring; 7B is counted.

Writes Qwen2-VL-2B-Instruct with random weights, in the published layout of configuration and tensors, loads it in NF4
with LoRA as `fit` does, takes one training step on a pair group and scores one list of 1 + 4 candidates. For 7B, modules
and parameters are counted on the meta device, which holds shapes without values. Nothing is downloaded.

    python experiments/check_real_size.py --tokenizer FOLDER [--folder FOLDER] [--keep] [--out FILE] [--dtype auto]

The weights (4.4 GB) go to a new folder inside `--folder` (default: the system's) and are removed after the run unless
`--keep` is given. Without `--tokenizer`, the folder of a Qwen2 tokenizer, a small one is learned from the prompts. Plan
10 GB of memory and ten minutes on two cores. The figures are sizes and times; random weights say nothing of quality.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import resource
import shutil
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import BitsAndBytesConfig, Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer

from mllm_srec.data.image_store import load_image_processor
from mllm_srec.data.settings import PictureSettings
from mllm_srec.models.backbone import SKIPPED, Backbone, BackboneSettings, census, prepare_backbone
from mllm_srec.models.backbone_files import RANDOM_MARK, BackboneInfo
from mllm_srec.models.random_backbone import build_tokenizer
from mllm_srec.models.recommender import MLLMRecommender
from mllm_srec.models.scoring import response_loss
from mllm_srec.prompts.builder import ItemText, context_head, context_tail, history_line, item_text, target
from mllm_srec.prompts.encoding import PromptEncoder, load_tokenizer
from mllm_srec.prompts.packing import PackingSettings, PromptGroup, PromptTarget, pack
from mllm_srec.prompts.templates import PromptSettings
from mllm_srec.types import PackedBatch
