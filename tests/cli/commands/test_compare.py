"""The command: what it prints and writes, how it refuses, and that it needs no model library."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mllm_srec.__main__ import main


def values(n=60, gain=0.0, seed=0):
    rng = np.random.default_rng(seed)
    hit = (rng.random(n) < np.linspace(0, 1, n) + gain) * 1.0
    return {"ndcg@10": hit * rng.random(n), "hr@10": hit, "user_auc": rng.random(n)}


@pytest.fixture
def runs(finished_run, tmp_path, monkeypatch):
    """Folders `full-0`, `full-1`, `base-0`, `base-1` in the current one."""
    monkeypatch.chdir(tmp_path)
    return [
        finished_run(f"{n}-{i}", values(gain=g, seed=s + i))
        for n, g, s in (("full", 0.3, 0), ("base", 0, 9))
        for i in (0, 1)
    ]


def table(out):
    """(metric, run) -> cells."""
    lines = [line.split() for line in out.splitlines()]
    return {
        (cells[0], cells[1]): cells[2:] for cells in lines if cells and cells[0] in ("ndcg@10", "hr@10", "user_auc")
    }


def test_seeds_beside_a_base(runs, capsys):
    arguments = ["base=base-0,base-1", "full=full-0,full-1", "--metrics", "hr@10", "user_auc", "--n_resamples", "500"]
    assert main(["compare", *arguments, "--output", "out.json"]) == 0
    out = capsys.readouterr().out
    found = table(out)
    assert list(found) == [("hr@10", "base"), ("hr@10", "full"), ("user_auc", "base"), ("user_auc", "full")]
    means = [np.mean([values(gain=g, seed=s + i)["hr@10"].mean() for i in (0, 1)]) for g, s in ((0, 9), (0.3, 0))]
    assert float(found["hr@10", "base"][0]) == pytest.approx(means[0], abs=6e-5)
    assert float(found["hr@10", "full"][2]) == pytest.approx(means[1] - means[0], abs=1.1e-4)
    assert "Holm p: corrected over one family, the 2 differences shown (1 row x 2 metrics)" in out
    assert "interval and p say what other users would change, and nothing of other seeds" in out
    assert "500 resamples, seed 0" in out
    assert out.splitlines()[-1] == "written: out.json"
    stored = json.loads(Path("out.json").read_text())
    assert stored["rows"][1]["mean"] == pytest.approx(means[1])
    assert stored["runs"] == {"base": ["base-0", "base-1"], "full": ["full-0", "full-1"]}


def test_defaults(runs, capsys):
    assert main(["compare", "base-0", "full-0"]) == 0
    out = capsys.readouterr().out
    assert list(table(out)) == [(m, r) for m in ("ndcg@10", "hr@10", "user_auc") for r in ("base-0", "full-0")]
    assert "10000 resamples, seed 0" in out
    assert "one seed only: 'base-0', 'full-0'" in out


def test_users_and_seeds(runs, capsys):
    arguments = ["base=base-0,base-1", "full=full-0,full-1", "--n_resamples", "300", "--resample", "users_and_seeds"]
    assert main(["compare", *arguments]) == 0
    out = capsys.readouterr().out
    assert "interval and p account for other users and other seeds" in out
    assert main(["compare", *arguments[:-2]]) == 0
    assert table(out) != table(capsys.readouterr().out)


def test_the_seed_decides(runs, capsys):
    outs = []
    for seed in ("3", "3", "4"):
        assert main(["compare", "base-0", "full-0", "--n_resamples", "300", "--seed", seed]) == 0
        outs.append(table(capsys.readouterr().out))
    assert outs[0] == outs[1] != outs[2]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (
            ["base-0"],
            1,
            "run=['base-0']: too few arguments; give at least two run folders, the first of which is the base",
        ),
        (["base-0", "fll-0"], 1, "run='fll-0': is not a finished run (there is no such folder)"),
        (["base-0", "full-0", "--metrics", "auc"], 1, "computed over the pairs of all users together, not per user"),
        (["base-0", "full-0", "--output", "base-0/metrics.json"], 1, "exists and is no result of `compare`"),
        (["base-0", "full-0", "--output", "x/out.json"], 1, "output='x/out.json': 'x' is no folder; make it first"),
        (["base-0", "full-0", "--split", "val"], 1, "holds no val results; run `python -m mllm_srec validate`"),
        ([], 2, "the following arguments are required: runs"),
        (["base-0", "full-0", "--metric", "hr@10"], 2, "did you mean 'metrics'?"),
        (["base-0", "full-0", "--n_resamples", "0"], 2, "n_resamples"),
        (["base-0", "full-0", "--seed", "-1"], 2, "seed"),
        (["base-0", "full-0", "--split", "train"], 2, "split"),
    ],
)
def test_what_is_refused(runs, capsys, arguments, status, message):
    try:
        ended = main(["compare", *arguments])
    except SystemExit as stopped:
        ended = stopped.code
    assert ended == status
    out = capsys.readouterr()
    assert out.out == ""
    assert message in out.err
    assert (runs[2] / "metrics.json").read_text().startswith('{"test/')


def test_it_loads_no_model_library(runs):
    code = (
        "import sys; from mllm_srec.__main__ import main\n"
        "assert main(['compare', 'base-0', 'full-0']) == 0\n"
        "print('LOADED', [n for n in ('torch', 'lightning', 'transformers', 'datasets', 'PIL') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.splitlines()[-1] == "LOADED []", done.stderr
