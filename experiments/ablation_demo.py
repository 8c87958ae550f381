"""The article's ablations on the demo shop: components (Table 5), modalities (Table 4) and the chain of thought.

    OMP_NUM_THREADS=1 python experiments/ablation_demo.py --work /tmp/ablation --jobs 2

Every seed is a shop of its own with a training seed of its own; within a seed all cells share the shop, its splits and
its candidates, so differences are taken within seeds. A run that was killed continues: finished cells are not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results" / "ablation_demo.json"
CELLS = ("base", "sv", "svi", "full", "text", "image", "cot", "titles")
"""Overlays of configs/ablation/; `full` is also what `text`, `image` and `cot` are compared with."""
PAIRS = (("sv", "base"), ("svi", "sv"), ("full", "svi"), ("full", "text"), ("full", "image"), ("cot", "full"))
METRICS = ("auc", "auc_disliked", "user_auc", "hr@5", "ndcg@10")


def run(cell: str, seed: int, work: Path, extra: list[str]) -> dict[str, Any]:
    """One cell: summaries where they are missing, fit and test; what it measured."""
    shop, name = f"demo-{seed}", f"{cell}-{seed}"
    command = [
        *(sys.executable, "-m", "mllm_srec", "run"),
        *("--config", str(ROOT / "configs/demo.yaml"), "--config", str(ROOT / f"configs/ablation/{cell}.yaml")),
        *("--data.root", str(work / "data"), "--data.name", shop, "--prepare.demo.seed", str(seed)),
        *("--seed_everything", str(seed), "--trainer.default_root_dir", str(work / "runs"), "--name", name),
        *("--trainer.enable_progress_bar", "false", *extra),
    ]
    start = time.time()
    log = work / f"{name}.log"
    with log.open("a") as output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False, cwd=ROOT)
    if done.returncode != 0:
        raise SystemExit(f"{name} failed; see {log}")
    metrics = json.loads((work / "runs" / shop / name / "metrics.json").read_text())
    found = {key: metrics[f"test/{key}"] for key in METRICS}
    summaries = {key.split("/")[2]: value for key, value in metrics.items() if key.startswith("test/summaries/")}
    return {"cell": cell, "seed": seed, "seconds": round(time.time() - start), **found, "summaries": summaries}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means and standard deviations over seeds, and differences within seeds."""
    found = {(row["cell"], row["seed"]): row for row in rows}
    cells = {
        cell: {metric: _spread([row[metric] for row in rows if row["cell"] == cell]) for metric in METRICS}
        for cell in dict.fromkeys(row["cell"] for row in rows)
    }
    differences = {}
    for more, less in PAIRS:
        seeds = [seed for cell, seed in found if cell == more and (less, seed) in found]
        differences[f"{more} - {less}"] = {
            metric: _spread([found[more, seed][metric] - found[less, seed][metric] for seed in seeds])
            for metric in METRICS
        }
    return {"cells": cells, "differences": differences}


def _spread(values: list[float]) -> dict[str, Any]:
    deviation = statistics.stdev(values) if len(values) > 1 else None
    mean = statistics.fmean(values) if values else None
    return {"mean": mean, "sd": deviation, "values": values}


def main() -> None:
    """Run all cells and write what came out after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="Folder for data, runs and logs.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--cells", nargs="+", default=list(CELLS), choices=CELLS)
    parser.add_argument("--jobs", type=int, default=1, help="Cells at a time, each of another shop.")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments, extra = parser.parse_known_args()  # further settings go to every run
    arguments.work = arguments.work.resolve()
    arguments.work.mkdir(parents=True, exist_ok=True)
    before = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    if before and before["settings"] != extra:
        raise SystemExit(
            f"{arguments.output} holds results of the settings {before['settings']}; give another --output"
        )
    rows: list[dict[str, Any]] = before.get("rows", [])
    done = {(row["cell"], row["seed"]) for row in rows}
    tasks = [(cell, seed) for cell in arguments.cells for seed in arguments.seeds if (cell, seed) not in done]
    # One cell of a shop at a time, since they share its summaries.
    locks = {seed: Lock() for seed in arguments.seeds}

    def locked(task: tuple[str, int]) -> dict[str, Any]:
        with locks[task[1]]:
            return run(*task, arguments.work, extra)

    with ThreadPoolExecutor(arguments.jobs) as pool:
        for row in pool.map(locked, tasks):
            rows.append(row)
            print(json.dumps(rows[-1]), flush=True)
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            content = {"settings": extra, "rows": rows, **summary(rows)}
            arguments.output.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
