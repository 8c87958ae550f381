"""Texts per second of the summary stages in batches (preferences in lock-step) and one prompt at a time.

    python experiments/bench_summaries.py --users 64

Both ways run in one process, on the same generated shop, the same weights and the same prompts, and must write the same
texts. Times are those of the prediction loops, without loading the model.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.prepare import prepare_dataset
from mllm_srec.data.settings import CandidateSettings, DemoSettings, PictureSettings, PrepareSettings
from mllm_srec.files.quiet import silence_libraries
from mllm_srec.pipeline.build import resolve_backbone
from mllm_srec.prompts.decoding import GenerationSettings
from mllm_srec.prompts.templates import PromptSettings
from mllm_srec.summaries.inputs import SummaryInputs
from mllm_srec.summaries.plan import SummaryPlan
from mllm_srec.summaries.run import Summarizer, summary_trainer
from mllm_srec.summaries.settings import STAGES, Stage, StageSettings, SummarySettings

RESULTS = Path(__file__).parent / "results" / "bench_summaries.json"
MAX_NEW_TOKENS: dict[Stage, int] = {"image": 24, "item": 32, "preference": 96}


class Stopwatch(Callback):
    """Seconds inside prediction loops."""

    seconds = 0.0

    def on_predict_start(self, *args: Any) -> None:
        """Start; the model is loaded by now."""
        self._begin = time.perf_counter()

    def on_predict_end(self, *args: Any) -> None:
        """Stop."""
        self.seconds += time.perf_counter() - self._begin


def prepare(folder: Path, n_users: int, n_interactions: int) -> PreparedDataset:
    """A demo shop of so many users."""
    demo = DemoSettings(n_users=n_users, n_items=120, n_interactions=n_interactions)
    prepare_dataset(folder, PrepareSettings(source="demo", k_core=1, demo=demo), CandidateSettings(n_negatives=1))
    return PreparedDataset.open(folder)


def run(data: PreparedDataset, backbone: str, quantization: str, token_budget: int | None) -> dict[str, dict[str, Any]]:
    """Write all stages; per stage the texts, their number and the seconds."""
    stages = {
        stage: StageSettings(quantization=quantization, generation=GenerationSettings(MAX_NEW_TOKENS[stage]))
        for stage in STAGES
    }
    if token_budget is not None:
        stages = {stage: replace(settings, token_budget=token_budget) for stage, settings in stages.items()}
    pictures = PictureSettings(max_pixels=3136)
    plan = SummaryPlan(data, SummarySettings(**stages), PromptSettings(), pictures, backbone, None)
    found: dict[str, dict[str, Any]] = {}
    for stage in STAGES:
        trainer, watch = summary_trainer(accelerator="cpu", devices=1, enable_progress_bar=False), Stopwatch()
        trainer.callbacks.append(watch)
        Summarizer(plan, trainer).run([stage])
        table = SummaryInputs(plan).table(stage)
        texts = dict(table.select("key", "text").iter_rows())
        found[stage] = {"texts": texts, "n": len(texts), "seconds": watch.seconds}
    return found


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=64)
    parser.add_argument("--interactions", type=int, default=14, help="Of each user.")
    parser.add_argument("--backbone", default="demo", help="Name or folder of a Qwen2-VL.")
    parser.add_argument("--quantization", default="none", choices=("none", "nf4"))
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    silence_libraries()
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for way, budget in (("batched", None), ("single", 1)):
            data = prepare(Path(folder) / way, arguments.users, arguments.interactions)
            backbone = resolve_backbone(arguments.backbone, data)
            found[way] = run(data, backbone, arguments.quantization, budget)
    for stage in STAGES:
        batched, single = found["batched"][stage], found["single"][stage]
        equal = sum(single["texts"].get(key) == text for key, text in batched["texts"].items())
        speeds = {way: found[way][stage]["n"] / found[way][stage]["seconds"] for way in found}
        results[stage] = {
            "n_texts": batched["n"],
            "n_equal_texts": equal,
            "batched_texts_per_second": round(speeds["batched"], 2),
            "single_texts_per_second": round(speeds["single"], 2),
            "speedup": round(speeds["batched"] / speeds["single"], 2),
        }
        print(f"{stage}: {json.dumps(results[stage])}")
    about = {"users": arguments.users, "backbone": arguments.backbone, "quantization": arguments.quantization}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps({**about, **results}, indent=2) + "\n")
    print(f"written: {arguments.output}")


if __name__ == "__main__":
    main()
