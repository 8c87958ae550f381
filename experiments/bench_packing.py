"""How much packing saves: packed rows against separate rows, side by side in one run.

Interleaves both layouts on the same groups and prints the ratio of their median times (packed / separate), for a
training step on pairs and for scoring lists of 21 candidates. The model is a small untrained Qwen2-VL: the ratio is a
matter of lengths, not of weights.

    python experiments/bench_packing.py [--out experiments/results/packing.json] [--repeats 7]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from mllm_srec.models.backbone import Backbone, BackboneSettings, load_backbone
from mllm_srec.models.random_backbone import RandomBackboneSettings, build_random_backbone
from mllm_srec.models.scoring import gather_answers, response_loss, yes_no_logits
from mllm_srec.prompts.encoding import PromptEncoder, load_tokenizer
from mllm_srec.prompts.packing import PackingSettings, PromptGroup, PromptTarget, pack
from mllm_srec.types import PackedBatch

N_PREFIX, N_TARGET, N_GROUPS = 300, 40, 4
"""Tokens of a context with some fifteen titles, tokens of a target with a small picture, groups in a batch."""


def make_batch(encoder: PromptEncoder, n_targets: int, train: bool, packed: bool) -> PackedBatch:
    """Groups of random text tokens, as packed or as separate rows."""
    random = torch.Generator().manual_seed(0)

    def text(n_tokens: int) -> list[int]:
        return torch.randint(10, len(encoder.tokenizer), (n_tokens,), generator=random).tolist()

    groups = [
        PromptGroup(
            g,
            text(N_PREFIX),
            [
                PromptTarget(text(N_TARGET), encoder.answer_ids[c % 2] if train else [], relevance=c % 2)
                for c in range(n_targets)
            ],
        )
        for g in range(N_GROUPS)
    ]
    settings = PackingSettings(packed=packed)
    return pack(groups, encoder.image_token_id, encoder.pad_token_id, settings)[0]


def train_step(backbone: Backbone, batch: PackedBatch) -> None:
    """Forward and backward pass."""
    response_loss(backbone(batch), backbone.lm_head, batch)[0].backward()


def score(backbone: Backbone, batch: PackedBatch) -> None:
    """Yes/no logits of all candidates."""
    with torch.no_grad():
        yes_no_logits(gather_answers(backbone(batch), batch["answer_index"]), backbone.lm_head, 0, 1)


def compare(
    run: Callable[[PackedBatch], None], packed: PackedBatch, separate: PackedBatch, repeats: int
) -> dict[str, float]:
    """Median seconds of both, measured in turns, and their ratio."""
    seconds: dict[str, list[float]] = {"packed": [], "separate": []}
    for _ in range(repeats + 1):
        for name, batch in (("packed", packed), ("separate", separate)):
            begun = time.perf_counter()
            run(batch)
            seconds[name].append(time.perf_counter() - begun)
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}  # the first warms up
    return {**medians, "ratio": medians["packed"] / medians["separate"]}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("experiments/results/packing.json"))
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        build_random_backbone(
            Path(folder), ["some words to learn"] * 50, RandomBackboneSettings(hidden_size=256, n_layers=6)
        )
        backbone = load_backbone(BackboneSettings(folder, quantization="none"), torch.device("cpu"))
        encoder = PromptEncoder(load_tokenizer(folder))
    results = {
        "untrained model": True,
        "prefix tokens": N_PREFIX,
        "target tokens": N_TARGET,
        "threads": torch.get_num_threads(),
    }
    for name, n_targets, run in (("training step, pairs", 2, train_step), ("scoring, lists of 21", 21, score)):
        train = run is train_step
        batches = [make_batch(encoder, n_targets, train, packed) for packed in (True, False)]
        results[name] = compare(lambda batch, run=run: run(backbone, batch), *batches, arguments.repeats)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
