"""Stands in for `python -m mllm_srec` in tests of grids: leaves what `run` leaves of a run, in a fraction of a second.

    python grid_stand_in.py run --trainer.default_root_dir=R --data.name=D --seed_everything=0 --name N [--stand.KEY=V]
    python grid_stand_in.py grid --config FILE ...

The second is the real command line, whose cells are run by the first. `stand.` settings: `gain` (added to the chance of
a hit), `sleep` (seconds within `fit`), `first` (the same, the first time only), `fail` (text of an error), `hash` (of
the candidates), `memory` (MiB to use), `child` (program of a process that lives on), `together` (fit only when so many
cells do), `until` (fit until this file is there), `untrained` (there is nothing to train).
"""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

N_USERS = 40
METRICS = ("ndcg@10", "hr@10", "user_auc")


def settings_of(arguments):
    """Flags as a mapping."""
    words = [word for argument in arguments for word in argument.removeprefix("--").split("=", 1)]
    return dict(zip(words[::2], words[1::2], strict=True))


def user_values(seed, gain):
    """Metric -> values of all users, drawn with the seed."""
    import numpy as np

    rng = np.random.default_rng(seed)
    ease = np.linspace(0, 1, N_USERS)
    return {metric: (rng.random(N_USERS) < ease + gain) * rng.random(N_USERS) for metric in METRICS}


def run(arguments):
    settings = settings_of(arguments)
    root = Path(settings["trainer.default_root_dir"])
    name, seed = settings["name"], int(settings["seed_everything"])
    with (root / "invocations").open("a") as file:
        file.write(f"{name}\n")
    folder = root / settings.get("data.name", Path(settings["config"]).stem) / name  # the last file's
    from mllm_srec.pipeline.runs.folder import RunFolder
    from mllm_srec.pipeline.runs.stages import timed_stage

    print("$ python -m mllm_srec prepare --config x", flush=True)
    with timed_stage(RunFolder(folder), "prepare"), (root / "building").open("a") as file:
        file.write(f"{name} in\n")
        file.flush()
        time.sleep(0.15)
        file.write(f"{name} out\n")
    print("$ python -m mllm_srec fit --config x", flush=True)
    with timed_stage(RunFolder(folder), "fit"):
        fit(settings, root, name)
    print("$ python -m mllm_srec test --config x", flush=True)
    values = user_values(seed, float(settings.get("stand.gain", 0)))
    with timed_stage(RunFolder(folder), "test"):
        leave_results(folder, values, settings.get("stand.hash", "c0ffee"))
    if "ckpt_path" in settings or "stand.untrained" in settings:
        forget_training(folder, settings.get("ckpt_path"))


def fit(settings, root, name):
    """Do what the `stand.` settings say."""
    if "stand.child" in settings:
        child = subprocess.Popen([sys.executable, "-c", settings["stand.child"]])
        (root / "child").write_text(str(child.pid))
    if "stand.memory" in settings:
        _ = bytearray(os.urandom(1 << 20)) * int(settings["stand.memory"])
    (root / f".{name}").write_text(str(os.getpid()))
    (root / f".{name}").rename(root / f"{name}.fitting")
    wait_for(lambda: len(list(root.glob("*.fitting"))) >= int(settings.get("stand.together", 0)))
    wait_for(Path(settings.get("stand.until", ".")).exists)
    first = (root / "invocations").read_text().split().count(name) == 1
    time.sleep(float(settings.get("stand.sleep", 0)) + first * float(settings.get("stand.first", 0)))
    if "stand.fail" in settings:
        print(f"epoch 1: 10 %\repoch 1: 20 %\nRuntimeError: {settings['stand.fail']}\n\n", file=sys.stderr)
        sys.exit(3)


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def leave_results(folder, values, candidates_hash):
    """What `test` leaves."""
    import polars as pl

    (folder / "predictions").mkdir(parents=True, exist_ok=True)
    ids = {"group_id": list(range(N_USERS)), "user_id": [f"u{i}" for i in range(N_USERS)]}
    pl.DataFrame({**ids, **values}).write_parquet(folder / "predictions/test_users.parquet")
    means = {metric: float(column.mean()) for metric, column in values.items()}
    protocol = {"candidates_hash": candidates_hash, "evaluator": "sampled@20", "m": 20, "max_groups": None}
    protocol |= {"groups_seed": None, "split": "test", "ties": "expected", "score": "logit", "prompt": "v1/0"}
    references = {"reference/chance/hr@10": 0.5, "reference/popularity/hr@10": 0.6, "reference/chance/ndcg@10": 0.2}
    results = {**means, **protocol, **references, "n_users": N_USERS, "auc": None, "random_backbone": False}
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints/best.ckpt").write_text(folder.name)
    content = {"fit/steps": 7, "fit/best_step": 5, **{f"test/{key}": value for key, value in results.items()}}
    (folder / "metrics.json").write_text(json.dumps(content))


def forget_training(folder, checkpoint):
    """Only what a test leaves, and whose weights were tested."""
    (folder / "checkpoints/best.ckpt").unlink()
    content = json.loads((folder / "metrics.json").read_text())
    del content["fit/steps"], content["fit/best_step"]
    content["test/weights_of"] = Path(checkpoint).read_text() if checkpoint else None
    if checkpoint:
        weights = hashlib.sha256(Path(checkpoint).read_bytes()).hexdigest()
        content |= {"test/weights": weights, "test/begun_weights": weights}
    (folder / "config.yaml").write_text("{}\n")
    (folder / "metrics.json").write_text(json.dumps(content))


def grid(arguments):
    from functools import partial

    from mllm_srec.__main__ import main
    from mllm_srec.pipeline.grid import run as runner

    runner.run_grid = partial(runner.run_grid, program=(sys.executable, __file__))
    sys.exit(main(["grid", *arguments]))


if __name__ == "__main__":
    {"run": run, "grid": grid}[sys.argv[1]](sys.argv[2:])
