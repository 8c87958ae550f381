"""The protocol of a measurement: what must be equal for two numbers of the same name to be comparable.

One list serves every command: a run folder keeps results of one protocol per split, `compare` and `analyse` refuse runs
that were measured differently, a grid refuses such cells, and the report says in words how its numbers were measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mllm_srec.types import ConfigError

PROTOCOL = (
    "evaluator",
    "candidates_hash",
    "corruption",
    "m",
    "retriever",
    "lists_hash",
    "max_groups",
    "groups_seed",
    "split",
    "ties",
    "score",
    "prompt",
    "checkpoint",
)
"""Parts of the protocol, stored in `metrics.json` as `<split>/<part>`."""

SAME_IN_A_GROUP = ("prompt", "score")
"""Parts in which compared runs may differ, but not the seeds of one variant."""

MUST_AGREE = tuple(part for part in PROTOCOL if part not in (*SAME_IN_A_GROUP, "checkpoint"))
"""Parts that must be equal in all runs that stand in one comparison, analysis or table."""

NULL_IF_ABSENT = ("corruption",)
"""Parts that runs of earlier versions do not state because their value was always null."""


def stated(results: Mapping[str, Any], part: str) -> bool:
    """True if a run states this part of the protocol, or its absence has a meaning.

    Args:
        results: Results of one split, without the split's name in their keys.
        part: One of `PROTOCOL`.
    """
    return part in results or part in NULL_IF_ABSENT


def differences(stored: Mapping[str, Any], current: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Compare stored results with a current protocol.

    Args:
        stored: Results of one split, without the split's name in their keys.
        current: Parts of a protocol and their values.

    Returns:
        Part -> (stored value, current value), for the parts that both state differently.
    """
    return {
        part: (stored[part], current[part])
        for part in PROTOCOL
        if part in current and part in stored and stored[part] != current[part]
    }


def common_protocol(
    results: Mapping[Path, Mapping[str, Any]], parts: Sequence[str] = MUST_AGREE, group: str | None = None
) -> tuple[dict[str, Any], dict[str, Path]]:
    """Check that runs agree in parts of the protocol.

    Args:
        results: Run folder -> results of one split, without the split's name in their keys.
        parts: Parts that must agree.
        group: Name of the group whose seeds these runs are; None for runs that are compared.

    Returns:
        The common protocol, and the parts that some runs do not state -> the first such run.

    Raises:
        ConfigError: Two runs state different values; the message names the part, both values and both runs.
    """
    protocol, unstated = {}, {}
    for part in parts:
        values = {folder: of.get(part) for folder, of in results.items() if stated(of, part)}
        if not values:
            continue
        first, value = next(iter(values.items()))
        for folder, other in values.items():
            if other != value:
                why = "numbers of different protocols cannot be compared; measure both runs in the same way"
                if group is not None:
                    why = f"runs in the group {group!r} may differ in their seed only; give them as runs of their own"
                raise ConfigError(f"{part} is {value!r} in {str(first)!r} and {other!r} in {str(folder)!r}; {why}")
        protocol[part] = value
        if value is not None and len(values) < len(results):
            unstated[part] = next(folder for folder in results if folder not in values)
    return protocol, unstated


def protocol_words(metrics: Mapping[str, Any]) -> str:
    """Say in words how the candidate lists of the test split were made.

    Args:
        metrics: Content of `metrics.json`.
    """
    evaluator, m = str(metrics.get("test/evaluator")), metrics.get("test/m")
    lists = {
        "sampled": f"items liked later among {m} drawn ones that the user never met",
        "full": "all items that the user has not met",
        "rerank": f"the items that the retriever {metrics.get('test/retriever')} found",
    }.get(evaluator.partition("@")[0], "unknown to this version")
    corruption = metrics.get("test/corruption")
    pictures = "" if corruption is None else f"; pictures corrupted ({corruption})"
    return (
        f"evaluator {evaluator} ({lists}); lists of {metrics.get('test/n_users')} users; ties "
        f"{metrics.get('test/ties')}; candidates {str(metrics.get('test/candidates_hash'))[:12]}; test split{pictures}"
    )
