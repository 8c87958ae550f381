"""What a busy machine does to training: a small `fit` alone and beside programs that keep every core busy.

    python experiments/bench_busy.py --repeats 3

Each way of waiting is measured in both situations, in turns, so that a machine that gets slower meets all of them. The
commands let OpenMP's threads spin briefly and then sleep (`early.BRIEF_WAIT`); `sleep` does so at once, `spin` is what
torch does by itself.
Times are those of training and validation, from the line that names what is trained to the end of the command. Run it
on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from mllm_srec.cli.early import BRIEF_WAIT

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results" / "bench_busy.json"
WAYS = {
    "ours": BRIEF_WAIT,
    "sleep": {"OMP_WAIT_POLICY": "PASSIVE"},
    "spin": {"KMP_BLOCKTIME": "200"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
"""Way of waiting -> environment; the second leaves the library that torch brings to itself."""

SETTINGS = (
    *("--config", str(ROOT / "configs/demo.yaml"), "--summaries.variant=none", "--trainer.enable_progress_bar=false"),
    *("--prepare.demo.n_users=60", "--prepare.demo.n_items=80", "--data.max_eval_groups=40"),
)


@contextmanager
def busy_cores(wanted: bool) -> Iterator[None]:
    """Keep every core busy with a program that does nothing else."""
    cores = os.cpu_count() or 1
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores if wanted else 0)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def seconds_of_training(folder: Path, name: str, n_groups: int, way: dict[str, str]) -> float:
    """Run `fit` once in `folder`; return the seconds from the start of training to the end of the process."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_", "KMP_"))}
    environment = {**kept, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **way}
    command = [
        sys.executable,
        "-m",
        "mllm_srec",
        "fit",
        *SETTINGS,
        "--name",
        name,
        f"--data.max_train_groups={n_groups}",
    ]
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    begun = next((time.perf_counter() for line in process.stdout if line.startswith("training ")), None)
    process.stdout.read()
    if process.wait() != 0 or begun is None:
        raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}")
    return time.perf_counter() - begun


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--groups", type=int, default=320, help="training examples")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    times: dict[tuple[str, bool], list[float]] = {(way, busy): [] for way in WAYS for busy in (False, True)}
    with tempfile.TemporaryDirectory() as folder:
        seconds_of_training(Path(folder), "warm", 16, WAYS["sleep"])  # prepares the shop and its features
        for turn in range(args.repeats):
            for (way, busy), found in times.items():
                with busy_cores(busy):
                    found.append(seconds_of_training(Path(folder), f"{turn}-{way}-{busy}", args.groups, WAYS[way]))
    alone = {way: median(times[way, False]) for way in WAYS}
    rows = [
        {"way": way, "busy": busy, "seconds": found, "median": median(found),
         "of its own alone": median(found) / alone[way],
         "of spinning alone": median(found) / alone["spin"]}
        for (way, busy), found in times.items()
    ]  # fmt: skip
    for row in rows:
        print({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()})
    args.output.write_text(json.dumps({"cores": os.cpu_count(), "rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
