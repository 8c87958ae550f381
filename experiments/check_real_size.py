"""Does the real size work? Qwen2-VL-2B in its exact shape is loaded, trained and scored as in `fit`; 7B is counted.

    python experiments/check_real_size.py --tokenizer FOLDER [--folder FOLDER] [--keep] [--out FILE] [--dtype auto]

Writes Qwen2-VL-2B-Instruct with random weights, loads it in NF4 with LoRA, takes one training step on a pair group and
scores 1 + 4 candidates twice: packed and in separate rows. 7B is counted on the meta device, which holds shapes without
values. The weights (4.4 GB) go to a new folder inside `--folder` (default: the system's temporary one), removed at the
end unless `--keep` is given. Without `--tokenizer`, a folder of a Qwen2 tokenizer, a small one is learned from the
prompts. Plan 11 GB of memory and five minutes on two idle cores. Sizes and times only: random weights know nothing.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import resource
import shutil
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import real_size_backbone as real
import torch
from real_size_backbone import QWEN2_VL_2B, QWEN2_VL_7B, Shape
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from mllm_srec.families import qwen2_vl
from mllm_srec.models.backbone import Backbone
from mllm_srec.models.losses import response_loss
from mllm_srec.models.random_backbone import build_tokenizer
from mllm_srec.models.recommender import MLLMRecommender
from mllm_srec.prompts import builder
from mllm_srec.prompts.encoding import PromptEncoder, load_tokenizer
from mllm_srec.prompts.packing import PackingSettings, PromptGroup, PromptTarget, pack
from mllm_srec.prompts.templates import PromptSettings
from mllm_srec.types import PackedBatch

OUT = Path(__file__).parent / "results" / "real_size.json"
TITLES = [f"Gift card number {n} in a black box with a red ribbon" for n in range(10)]
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "lightning", "safetensors")
STATM = Path("/proc/self/statm")
Phases = dict[str, dict[str, float]]


@contextmanager
def measured(phases: Phases, name: str) -> Iterator[None]:
    """Add a phase's times and peak memory to `phases`: all that is resident, and that without mapped files."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # memory that was freed goes back to the system, so that it is not counted
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts anew; elsewhere it is that since start
    own, done = [0.0], threading.Event()
    threading.Thread(target=watch, args=(own, done), daemon=True).start()
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        yield
    finally:
        done.set()
    figures = {"seconds": time.perf_counter() - wall, "processor_seconds": time.process_time() - cpu}
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    figures |= {"peak_memory_gb": max(own), "peak_with_mapped_files_gb": resident / 1e9}
    phases[name] = {key: round(value, 2) for key, value in figures.items()}
    print(f"{name}: {phases[name]}", flush=True)


def watch(own: list[float], done: threading.Event) -> None:
    """Append this process's memory without mapped files, in GB, every 20 ms until `done`; on Linux only."""
    while STATM.exists() and not done.is_set():
        resident, shared = map(int, STATM.read_text().split()[1:3])
        own.append((resident - shared) * os.sysconf("SC_PAGE_SIZE") / 1e9)
        done.wait(0.02)


def make_batch(encoder: PromptEncoder, n_targets: int, train: bool, packed: bool = True) -> PackedBatch:
    """One group, each target with a picture of 64 tokens; the first target is liked, the others are sampled."""
    settings = PromptSettings()
    history = [token for title in TITLES for token in encoder.encode_text(builder.history_line(title))]
    head, tail = builder.context_head("A1", None, settings), builder.context_tail("A1", settings)
    prefix = [*encoder.encode(head), *history, *encoder.encode(tail)]
    pictures = np.random.default_rng(0).integers(0, 256, (n_targets, 224, 224, 3), dtype=np.uint8)
    patches = Qwen2VLImageProcessorPil()(images=list(pictures), return_tensors="pt")
    targets = []
    for index, (t, h, w) in enumerate(patches["image_grid_thw"].tolist()):
        liked = int(index == 0)
        ids = encoder.encode(builder.target(TITLES[index], True, settings), n_image_tokens=t * h * w // 4)
        answer = encoder.answer_ids[liked] if train else ()
        targets.append(PromptTarget(ids, answer, (t, h, w), str(index), index, liked, kind=0 if liked else 2))
    group = PromptGroup(0, prefix, targets)
    batch, _ = pack([group], encoder, PackingSettings(packed=packed))
    batch["image_index"] = torch.arange(n_targets)
    batch["image_grid_thw"], batch["pixel_values"] = patches["image_grid_thw"], patches["pixel_values"]
    return batch


def checksums(backbone: Backbone, trained: bool) -> dict[str, int]:
    """Checksum of the bytes of every frozen, or every trained, parameter."""
    return {
        name: zlib.crc32(parameter.detach().contiguous().view(torch.uint8).numpy().data)
        for name, parameter in backbone.named_parameters()
        if parameter.requires_grad == trained
    }


def train_step(model: MLLMRecommender, batch: PackedBatch, phases: Phases) -> dict[str, Any]:
    """Loss, gradients and one step of AdamW; what changed by it."""
    model.train()
    torch.manual_seed(0)
    optimizer: Any = model.configure_optimizers()["optimizer"]  # type: ignore[index, call-overload]
    frozen, adapters = checksums(model.loaded, trained=False), checksums(model.loaded, trained=True)
    with measured(phases, "forward"):
        loss, _ = response_loss(model.loaded(batch), model.loaded.lm_head, batch)
    with measured(phases, "backward"):
        loss.backward()  # type: ignore[no-untyped-call]
    gradients = {name: p.grad.norm().item() for name, p in model.named_parameters() if p.grad is not None}
    with measured(phases, "optimizer"):
        optimizer.step()
    after = checksums(model.loaded, trained=True)
    return {
        "row_tokens": batch["input_ids"].shape[1],
        "prefix_tokens": int((batch["segment_ids"] == 0).sum()),
        "loss": round(loss.item(), 4),
        "gradient_norm": round(float(np.linalg.norm(list(gradients.values()))), 6),
        "n_tensors_with_gradient": sum(norm > 0 for norm in gradients.values()),  # B alone: it begins at zero
        "n_adapters_changed": sum(adapters[name] != after[name] for name in adapters),
        "n_base_tensors": len(frozen),
        "base_unchanged": frozen == checksums(model.loaded, trained=False),
    }


def score_list(model: MLLMRecommender, encoder: PromptEncoder, phases: Phases) -> dict[str, Any]:
    """Scores of 1 + 4 candidates, packed in one row and in rows of their own."""
    model.eval()
    scores = []
    for phase, packed in (("score", True), ("score_in_separate_rows", False)):
        batch = make_batch(encoder, n_targets=5, train=False, packed=packed)
        with torch.inference_mode(), measured(phases, phase):
            scores.append(model.score_candidates(batch)[0])
    return {"scores": scores[0].tolist(), "difference_of_separate_rows": (scores[0] - scores[1]).abs().max().item()}


def check_loaded(shape: Shape, folder: Path, tokenizer: Any, dtype: str) -> dict[str, Any]:
    """Write, load, train one step and score."""
    phases: Phases = {}
    with measured(phases, "write"):
        real.write_backbone(folder, shape, tokenizer)
    model = MLLMRecommender(str(folder), dtype=dtype)  # type: ignore[arg-type]
    with measured(phases, "load"):
        model.configure_model()
    loaded = {"dtype": str(model.loaded.lm_head.dtype), "bytes_4_bit": real.bytes_in_4_bit(model.loaded)}
    loaded |= real.compare_with_files(folder, model.loaded)
    encoder = PromptEncoder(tokenizer, qwen2_vl.FAMILY)
    trained = train_step(model, make_batch(encoder, n_targets=2, train=True), phases)
    ranked = score_list(model, encoder, phases)
    return {**real.count(model.loaded, shape), "loaded": loaded, "step": trained, "list": ranked, "phases": phases}


def main(arguments: Sequence[str] | None = None, small: Shape = QWEN2_VL_2B, large: Shape = QWEN2_VL_7B) -> None:
    """Run everything and write the JSON; `small` is loaded, `large` is counted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", help="folder of a Qwen2 tokenizer")
    parser.add_argument("--folder", help="where the temporary folder of weights is made")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--keep", action="store_true", help="keep the weights")
    options = parser.parse_args(arguments)
    learned = not options.tokenizer
    tokenizer = build_tokenizer(TITLES, 1000) if learned else load_tokenizer(options.tokenizer)
    memory, load = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), round(os.getloadavg()[0], 1)
    result: dict[str, Any] = {
        "random_weights": True,
        "tokenizer": "learned from the prompts" if learned else f"given, {len(tokenizer)} tokens",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        "machine": {"cores": os.cpu_count(), "load_before": load, "memory_gb": round(memory / 1e9, 1)},
        "formulas": real.FORMULAS,
    }
    folder = Path(tempfile.mkdtemp(prefix="real_size_", dir=options.folder))
    try:
        result[small.name] = check_loaded(small, folder, tokenizer, options.dtype)
    finally:
        if not options.keep:
            shutil.rmtree(folder)
    phases: Phases = {}
    with measured(phases, "count on the meta device"):
        counted = real.count(real.planned_backbone(large, tokenizer.get_vocab()), large)
    result[large.name] = {**counted, "phases": phases}
    options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
