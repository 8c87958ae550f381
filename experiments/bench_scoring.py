"""Pairs per second of four ways to score candidate lists, against each other and against a lower bound.

    python experiments/bench_scoring.py --threads 2

The common practice (one row per candidate, `generate` for one token), separate rows in one pass, packed rows, and one
context for all candidates, with pixels and with the feature store, in one process, on the same untrained weights
and the same groups; all must give the same scores. Rounds are interleaved, times are medians. Times are of the model
alone: prompts are tokenised and pictures read before, in all ways alike. Expect ten minutes on two idle cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from scoring_inputs import BACKBONE, Inputs, InputSettings, count_tokens, make_backbone, make_inputs
from scoring_measure import Run, check_scores, measure
from scoring_variants import VARIANTS

from mllm_srec.files.quiet import silence_libraries, silence_loggers
from mllm_srec.models.random_backbone import RandomBackboneSettings
from mllm_srec.models.recommender import MLLMRecommender

RESULTS = Path(__file__).parent / "results" / "bench_scoring.json"
TARGETS = {"speedup_vs_common_practice": 7.0, "share_of_lower_bound": 0.8}
DEFINITIONS = {
    "speedup_vs_common_practice": "median seconds of common_practice / those of cached, pictures served alike; "
    "the smaller of pixels and features",
    "share_of_lower_bound": "median seconds of lower_bound / those of cached, pictures served alike; the smaller of "
    "pixels and features",
    "tokens_computed": "rows x tokens that enter the first language layer, padding included",
    "patches_encoded": "patches of pictures that enter the vision tower",
    "peak_memory_mb": "highest resident memory of a run that makes and scores its batches one by one, above what was "
    "resident before (weights and libraries); Linux only",
    "median_processor_seconds": "of both cores together: less touched by what else ran on the machine",
    "score_difference": "largest absolute difference from the scores of common_practice with pixels",
}


def report(runs: Sequence[Run], n_pairs: int) -> dict[str, dict[str, Any]]:
    """Figures of all runs by name."""
    by_name = {f"{name}_{run.variant.served}": run for run in runs for name in VARIANTS if _is(run, name)}
    for run in by_name.values():
        slowest, bound = (by_name[f"{name}_{run.variant.served}"] for name in ("common_practice", "lower_bound"))
        run.figures |= {
            "batch_size": run.size,
            "median_seconds": round(run.median, 4),
            "min_seconds": round(min(run.seconds), 4),
            "max_seconds": round(max(run.seconds), 4),
            "median_processor_seconds": round(statistics.median(run.processor_seconds), 4),
            "pairs_per_second": round(n_pairs / run.median, 2),
            "speedup_vs_common_practice": round(slowest.median / run.median, 3),
            "share_of_lower_bound": round(bound.median / run.median, 3),
        }
    return {name: run.figures for name, run in by_name.items()}


def _is(run: Run, name: str) -> bool:
    return type(run.variant) is VARIANTS[name]


def compare_ways(model: MLLMRecommender, inputs: Inputs, settings: InputSettings, rounds: int) -> dict[str, Any]:
    """Every variant on lists of one length."""
    groups = inputs.make_groups(settings)
    runs = [Run(way(model, inputs, groups, served)) for served in (False, True) for way in VARIANTS.values()]
    for run in runs:
        run.choose_size()
        print(f"{type(run.variant).__name__} ({run.variant.served}): {run.figures['seconds_by_size']}", flush=True)
    spread = check_scores(runs)
    measure(runs, rounds)
    figures = report(runs, settings.groups * settings.candidates)
    ours = [figures[f"cached_{served}"] for served in ("pixels", "features")]
    return {
        **{name: min(way[name] for way in ours) for name in TARGETS},
        "targets": TARGETS,
        "tokens": count_tokens(groups, inputs.images),
        "standard_deviation_of_scores": round(spread, 5),
        "variants": figures,
    }


def compare_lists(
    model: MLLMRecommender, inputs: Inputs, settings: InputSettings, lengths: Sequence[int], rounds: int
) -> dict[str, Any]:
    """Packed against cached on lists of several lengths, from features."""
    n_pairs = settings.groups * settings.candidates
    found = {}
    for length in lengths:
        n_groups = min(32, max(2, n_pairs // length))
        groups = inputs.make_groups(replace(settings, candidates=length, groups=n_groups), seed=1 + length)
        runs = {name: Run(VARIANTS[name](model, inputs, groups, True)) for name in ("packed", "cached")}
        for run in runs.values():
            run.choose_size()
        check_scores(list(runs.values()))
        measure(list(runs.values()), rounds)
        speed = {f"{name}_pairs_per_second": round(n_groups * length / run.median, 2) for name, run in runs.items()}
        memory = {f"{name}_peak_memory_mb": run.figures["peak_memory_mb"] for name, run in runs.items()}
        ratio = round(runs["packed"].median / runs["cached"].median, 3)
        found[str(length)] = {"groups": n_groups, **speed, **memory, "cached_vs_packed": ratio}
    return found


def hardware(threads: int) -> dict[str, Any]:
    """What it ran on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "threads": threads,
        "memory_gb": round(memory, 1),
        "load_before": round(os.getloadavg()[0], 1),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers")},
        },
    }


def commit() -> str:
    """The commit that was measured; with `-dirty` where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def main(arguments: Sequence[str] | None = None, shape: RandomBackboneSettings = BACKBONE) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context-tokens", type=int, default=InputSettings.context_tokens)
    parser.add_argument("--candidates", type=int, default=InputSettings.candidates)
    parser.add_argument("--groups", type=int, default=InputSettings.groups)
    parser.add_argument("--items", type=int, default=InputSettings.items)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--lists", type=int, nargs="*", default=[1, 2, 21, 101], help="Lengths, packed against cached.")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    silence_loggers()
    silence_libraries()
    about = {"commit": commit(), "hardware": hardware(options.threads)}
    settings = InputSettings(options.context_tokens, options.candidates, options.groups, options.items)
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        folder, backbone = Path(name), Path(name) / "backbone"
        backbone.mkdir()
        parameters = make_backbone(backbone, shape)
        inputs = make_inputs(folder, backbone, settings)
        model = MLLMRecommender(str(backbone), finetune="none", quantization="none", dtype="float32")
        model.configure_model()
        model.eval()
        ways = compare_ways(model, inputs, settings, options.rounds)
        lists = compare_lists(model, inputs, settings, options.lists, options.rounds)
    about |= {"random_weights": True, "parameters": parameters, "dtype": "float32", "rounds": options.rounds}
    about |= {"backbone": asdict(shape), "settings": asdict(settings), "definitions": DEFINITIONS}
    ways_in_words = {name: {"sizes_tried": way.sizes, "about": way.about} for name, way in VARIANTS.items()}
    result = {**ways, **about, "ways": ways_in_words, "lists_from_features": lists}
    show(result)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written: {options.output}")


def show(result: dict[str, Any]) -> None:
    """Print a table."""
    columns = (
        "pairs_per_second",
        "tokens_computed",
        "peak_memory_mb",
        "speedup_vs_common_practice",
        "share_of_lower_bound",
    )
    print(f"random weights; {json.dumps(result['tokens'])}")
    print(f"{'':28}" + "".join(f"{column:>28}" for column in columns))
    for name, figures in result["variants"].items():
        print(f"{name:28}" + "".join(f"{figures[column]:>28}" for column in columns))
    for length, figures in result["lists_from_features"].items():
        print(f"{length} candidates: {json.dumps(figures)}")
    print(json.dumps({name: result[name] for name in TARGETS} | {"targets": TARGETS}))


if __name__ == "__main__":
    main()
