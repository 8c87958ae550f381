"""Comparison of finished runs with the first one, user by user: the table, its notes, and the JSON file of both.

Runs are compared only if they were measured alike; see `pipeline.runs.protocol`.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mllm_srec.files.atomic import check_output_file, write_output_file
from mllm_srec.metrics.comparison import Compared, Resample, Values, compare_with_first
from mllm_srec.metrics.significance import PairedDifference
from mllm_srec.pipeline.analysis.list_metrics import (
    as_measured,
    by_user,
    check_same_lists,
    check_split,
    read_lists,
    read_results,
)
from mllm_srec.pipeline.analysis.run_groups import RunGroup
from mllm_srec.pipeline.runs.protocol import SAME_IN_A_GROUP, common_protocol
from mllm_srec.reports.tables.difference_words import counted, few_users, how_compared, one_family
from mllm_srec.types import ConfigError, Split

CONFIDENCE = 0.95
"""Confidence level of the intervals."""


@dataclass(frozen=True)
class Comparison:
    """A table of runs against the first of them.

    Attributes:
        groups: Compared runs; the first group is the base.
        split: `test` or `val`.
        protocol: Parts of the protocol that all runs state and agree in.
        rows: Rows of the table, metric by metric, the base first.
        n_users: Number of users with rank lists.
        n_lists: Number of rank lists.
        left_out: Metric -> number of users without a value in any run.
        unstated: Part of the protocol that some runs do not state -> the first such run.
        equal: Pairs of runs of one group with the same value for every list; seeds of a trained model never agree so.
        n_resamples: Number of resamples of the bootstrap.
        seed: Seed of the bootstrap.
        resample: What intervals and p-values account for.
    """

    groups: tuple[RunGroup, ...]
    split: Split
    protocol: Mapping[str, Any]
    rows: tuple[Compared, ...]
    n_users: int
    n_lists: int
    left_out: Mapping[str, int]
    unstated: Mapping[str, Path]
    equal: tuple[tuple[Path, Path], ...]
    n_resamples: int
    seed: int
    resample: Resample = "users"

    @property
    def n_differences(self) -> int:
        """Number of differences in the table, the family of Holm's correction."""
        return sum(row.difference is not None for row in self.rows)

    @property
    def lowest_holm_p(self) -> float:
        """Lower bound of the smallest corrected p-value with this number of resamples."""
        return min(1.0, self.n_differences * 2 / (self.n_resamples + 1))


def compare_runs(
    groups: Sequence[RunGroup],
    metrics: Sequence[str],
    split: Split = "test",
    n_resamples: int = 10_000,
    seed: int = 0,
    resample: Resample = "users",
) -> Comparison:
    """Compare finished runs with the first one, using the stored values of every user.

    A user with several lists counts once, with their mean; seeds of a group are averaged within a user.

    Args:
        groups: Groups of `run_groups`; the first is the base.
        metrics: Columns of the runs' files, such as `ndcg@10`; all of them count in Holm's correction. `user_auc` has
            another name where lists were reranked.
        split: `test` or `val`.
        n_resamples: Number of resamples of the bootstrap.
        seed: Seed of the bootstrap.
        resample: Resample users only, or the seeds of every group, too.

    Raises:
        ConfigError: A run is not finished, runs were measured differently, or a metric is unknown, given twice or
            without values.
        DataError: A file is damaged.
    """
    check_split(split)
    folders = [folder for group in groups for folder in group.folders]
    results = {folder: read_results(folder, split) for folder in folders}
    protocol, unstated = common_protocol(results)
    for group in groups:
        common_protocol({folder: results[folder] for folder in group.folders}, SAME_IN_A_GROUP, group.name)
    metrics = as_measured(metrics, results[folders[0]])
    _check_metrics(metrics)
    lists = {folder: read_lists(folder, split, metrics, results[folder]) for folder in folders}
    for folder in folders[1:]:
        check_same_lists((folders[0], lists[folders[0]]), (folder, lists[folder]))
    users = {folder: by_user(table) for folder, table in lists.items()}
    first = users[folders[0]]
    left_out = {metric: first[metric].null_count() for metric in metrics}
    for metric in metrics:
        if left_out[metric] == first.height:
            raise ConfigError(f"metrics={metric!r}: no user has a value of it in these runs; leave it out")
    return Comparison(
        groups=tuple(groups),
        split=split,
        protocol=protocol,
        rows=tuple(compare_with_first(_values(groups, users, metrics), n_resamples, CONFIDENCE, seed, resample)),
        n_users=first.height,
        n_lists=lists[folders[0]].height,
        left_out=left_out,
        unstated=unstated,
        equal=tuple(
            (one, other)
            for group in groups
            for one, other in itertools.combinations(group.folders, 2)
            if lists[one].equals(lists[other])
        ),
        n_resamples=n_resamples,
        seed=seed,
        resample=resample,
    )


def _check_metrics(metrics: Sequence[str]) -> None:
    if not metrics:
        raise ConfigError("metrics=[]: is empty; name at least one metric, such as ndcg@10")
    for name, n in Counter(metrics).items():
        if n > 1:
            raise ConfigError(
                f"metrics={name!r}: is given {n} times; name it once, as all metrics count in Holm's correction"
            )


def _values(
    groups: Sequence[RunGroup], users: Mapping[Path, pl.DataFrame], metrics: Sequence[str]
) -> dict[str, dict[str, Values]]:
    """Return group -> metric -> values `(seeds, users)` of the users that have one."""
    return {
        group.name: {
            metric: np.stack([users[folder][metric].drop_nulls().to_numpy() for folder in group.folders])
            for metric in metrics
        }
        for group in groups
    }


def notes(comparison: Comparison) -> list[str]:
    """Explain how to read the table and which of its numbers to doubt, one line each."""
    how = how_compared(comparison.resample)
    return [
        f"gain: run minus {comparison.groups[0].name!r}, mean over {comparison.n_users} users; {CONFIDENCE:.0%} "
        f"{how[0]}; {comparison.n_resamples} resamples, seed {comparison.seed}",
        *how[1:],
        f"Holm p: {one_family(len(comparison.groups) - 1, len(comparison.left_out))}; a finding at level .05 if at "
        "most .05",
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
                f"all {n_runs} runs of {group.name!r} have the same value for every list: right if nothing is trained "
                "or drawn; otherwise they are not different seeds"
            )
            continue
        lines += [
            f"{str(one)!r} and {str(other)!r} have the same value for every list; are they different seeds?"
            for one, other in equal
        ]
    if single:
        lines.append(f"one seed only: {', '.join(single)}; what another seed would change is unknown and not in p")
    return lines


def _about_users(comparison: Comparison) -> list[str]:
    lines = [
        f"{metric}: {counted(count, 'user')} without a value in any run, left out"
        for metric, count in comparison.left_out.items()
        if count
    ]
    if comparison.n_lists > comparison.n_users:
        lines.append(
            f"{comparison.n_lists} lists of {comparison.n_users} users: here a user counts once, with the mean of "
            "their lists; metrics.json averages over lists"
        )
    return lines


def _about_power(comparison: Comparison) -> list[str]:
    changed = [(row.run, row.metric, row.difference.n_changed) for row in comparison.rows if row.difference]
    lines = few_users(changed, comparison.resample)
    if comparison.lowest_holm_p > 1 - CONFIDENCE:
        lines.append(
            f"with {comparison.n_resamples} resamples no Holm p can be below {comparison.lowest_holm_p:.2g}; "
            "raise n_resamples"
        )
    return lines


def as_record(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison and its notes as plain values for JSON."""
    return {
        "comparison": {
            "base": comparison.groups[0].name,
            "split": comparison.split,
            "confidence": CONFIDENCE,
            "n_resamples": comparison.n_resamples,
            "resample": comparison.resample,
            "seed": comparison.seed,
            "n_users": comparison.n_users,
            "n_lists": comparison.n_lists,
            "n_differences": comparison.n_differences,
            "left_out": dict(comparison.left_out),
        },
        "protocol": dict(comparison.protocol),
        "runs": {group.name: [str(folder) for folder in group.folders] for group in comparison.groups},
        "rows": [_flat_row(row) for row in comparison.rows],
        "notes": notes(comparison),
    }


def _flat_row(row: Compared) -> dict[str, Any]:
    """Merge a row and its difference into one mapping; the base has None for the latter."""
    difference = asdict(row.difference) if row.difference else {field.name: None for field in fields(PairedDifference)}
    return asdict(row) | difference | {"n_users": row.n_users}


def check_output(path: Path) -> None:
    """Check that the result may be written to `path`; see `check_output_file`."""
    check_output_file(path, "compare", lambda text: isinstance(json.loads(text)["comparison"], dict))


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Write the comparison as JSON; see `write_output_file`."""
    write_output_file(json.dumps(as_record(comparison), indent=2, allow_nan=False) + "\n", path)
