"""A comparison in words and as JSON: how its table is to be read, and what in it is to be doubted."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from mllm_srec.metrics.comparison import Compared
from mllm_srec.metrics.significance import PairedDifference
from mllm_srec.pipeline.comparison import CONFIDENCE, Comparison
from mllm_srec.pipeline.runs.output_files import check_output_file, write_output_file

FEW = 30
"""Below about so many users that differ, interval and p are too optimistic."""


def notes(comparison: Comparison) -> list[str]:
    """How the table is to be read, and what in it is to be doubted, one line each."""
    n, n_others, n_metrics = comparison.n_differences, len(comparison.groups) - 1, len(comparison.left_out)
    return [
        f"gain: run minus {comparison.groups[0].name!r}, mean over {comparison.n_users} users; {CONFIDENCE:.0%} "
        f"interval and p: paired bootstrap over users, {comparison.n_resamples} resamples, seed {comparison.seed}",
        f"Holm p: corrected over the {n} differences shown ({_counted(n_others, 'run')} x "
        f"{_counted(n_metrics, 'metric')}); a finding at the level .05 if at most .05",
        *_about_seeds(comparison),
        *_about_users(comparison),
        *(f"{key} is not stated by {str(run)!r}, so it was not compared" for key, run in comparison.unstated.items()),
        *_about_power(comparison),
    ]


def _about_seeds(comparison: Comparison) -> list[str]:
    single = [repr(group.name) for group in comparison.groups if len(group.folders) == 1]
    lines: list[str] = []
    for group in comparison.groups:
        equal = [pair for pair in comparison.equal if pair[0] in group.folders]
        n_runs = len(group.folders)
        if n_runs > 2 and len(equal) == n_runs * (n_runs - 1) // 2:
            lines.append(
                f"all {n_runs} runs of {group.name!r} have the same value for every list: right where nothing is "
                "trained or drawn, else they are not different seeds"
            )
            continue
        lines += [
            f"{str(one)!r} and {str(other)!r} have the same value for every list; are they different seeds?"
            for one, other in equal
        ]
    if single:
        lines.append(f"one seed only: {', '.join(single)}; luck of the seed is in the gain and not in p")
    return lines


def _about_users(comparison: Comparison) -> list[str]:
    lines = [
        f"{metric}: {_counted(count, 'user')} without a value in any run, left out"
        for metric, count in comparison.left_out.items()
        if count
    ]
    if comparison.n_lists > comparison.n_users:
        lines.append(
            f"{comparison.n_lists} lists of {comparison.n_users} users: a user counts once, with the mean of them, "
            "where metrics.json counts lists"
        )
    return lines


def _about_power(comparison: Comparison) -> list[str]:
    few = [(row, row.difference.n_changed) for row in comparison.rows if row.difference]
    named = [f"{row.run!r} {row.metric} ({n})" for row, n in few if 0 < n < FEW]
    lines = []
    if named:
        lines.append(f"fewer than {FEW} users differ at all, interval and p are too optimistic: {', '.join(named)}")
    if comparison.lowest_holm_p > 1 - CONFIDENCE:
        lines.append(
            f"with {comparison.n_resamples} resamples the smallest Holm p starts at {comparison.lowest_holm_p:.2g}; "
            "raise n_resamples"
        )
    return lines


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def as_record(comparison: Comparison) -> dict[str, Any]:
    """All of it as plain values, for JSON."""
    return {
        "comparison": {
            "base": comparison.groups[0].name,
            "split": comparison.split,
            "confidence": CONFIDENCE,
            "n_resamples": comparison.n_resamples,
            "seed": comparison.seed,
            "n_users": comparison.n_users,
            "n_lists": comparison.n_lists,
            "n_differences": comparison.n_differences,
            "left_out": dict(comparison.left_out),
        },
        "protocol": dict(comparison.protocol),
        "runs": {group.name: [str(folder) for folder in group.folders] for group in comparison.groups},
        "rows": [_flat(row) for row in comparison.rows],
        "notes": notes(comparison),
    }


def _flat(row: Compared) -> dict[str, Any]:
    """A row and its difference in one mapping; what the base has not is None."""
    difference = asdict(row.difference) if row.difference else {field.name: None for field in fields(PairedDifference)}
    return asdict(row) | difference | {"n_users": row.n_users}


def check_output(path: Path) -> None:
    """Look whether the result may be written; see `check_output_file`."""
    check_output_file(path, "compare", lambda text: isinstance(json.loads(text)["comparison"], dict))


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Write it as JSON; see `write_output_file`."""
    write_output_file(json.dumps(as_record(comparison), indent=2, allow_nan=False) + "\n", path)
