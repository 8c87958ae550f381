"""How `bench_scoring.py` measures: interleaved times, tokens that enter the layers, peak memory, and equal scores."""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from scoring_variants import LowerBound, Variant

from mllm_srec.models.recommender import MLLMRecommender

TOLERANCE = 1e-5
"""Largest difference between the scores of two ways."""


@dataclass
class Run:
    """A variant and what was measured of it."""

    variant: Variant
    size: int = 0
    batches: list[Any] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    processor_seconds: list[float] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """Median seconds."""
        return statistics.median(self.seconds)

    def time(self) -> tuple[float, float]:
        """Seconds of one pass over all groups: by the clock, and of all processors together."""
        begin = time.perf_counter(), time.process_time()
        for batch in self.batches:
            self.variant.run(batch)
        return time.perf_counter() - begin[0], time.process_time() - begin[1]

    def choose_size(self) -> None:
        """Take the fastest batch size, each tried twice."""
        found: dict[int, float] = {}
        for size in self.variant.sizes:
            self.batches = list(self.variant.batches(size))
            found[size] = min(self.time(), self.time())[0]
        self.size = min(found, key=lambda size: found[size])
        self.batches = list(self.variant.batches(self.size))
        self.figures["seconds_by_size"] = {str(size): round(seconds, 3) for size, seconds in found.items()}

    def inspect(self) -> torch.Tensor:
        """One run apart from the timed ones: scores `(n,)`, tokens, patches and peak memory."""
        self.batches = []
        with counted(self.variant.model, self.figures), peak_memory(self.figures):
            scores = torch.cat([self.variant.run(batch) for batch in self.variant.batches(self.size)])  # (n,)
        self.batches = list(self.variant.batches(self.size))
        return scores


@contextmanager
def counted(model: MLLMRecommender, figures: dict[str, Any]) -> Iterator[None]:
    """Count what enters the first language layer and the vision tower."""
    counts = {"tokens_computed": 0, "patches_encoded": 0}

    def count(name: str, n_dims: int) -> Any:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            states = args[0] if args else kwargs["hidden_states"]
            counts[name] += states.shape[:n_dims].numel()

        return hook

    net = model.loaded.base.model
    handles = [
        net.language_model.layers[0].register_forward_pre_hook(count("tokens_computed", 2), with_kwargs=True),
        net.visual.register_forward_pre_hook(count("patches_encoded", 1), with_kwargs=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    figures.update(counts)


@contextmanager
def peak_memory(figures: dict[str, Any]) -> Iterator[None]:
    """Highest resident memory above the present one, in MB; the kernel's own mark is set back before."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # else memory that an earlier variant freed would hide what this one takes
        Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    yield
    figures["peak_memory_mb"] = round((_status("VmHWM") - before) / 1024, 1)


def _status(name: str) -> int:
    """A line of the process's status, in KiB; 0 where the system has none."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)


def measure(runs: Sequence[Run], rounds: int) -> None:
    """Time all runs in turn, round by round; every second round backwards."""
    for index in range(rounds):
        for run in runs[:: 1 if index % 2 == 0 else -1]:
            seconds, processor_seconds = run.time()
            run.seconds.append(seconds)
            run.processor_seconds.append(processor_seconds)


def check_scores(runs: Sequence[Run]) -> float:
    """Compare all scores with those of the first run; returns their spread within the lists' pairs.

    Raises:
        RuntimeError: A way of scoring differs by more than `TOLERANCE`.
    """
    expected: torch.Tensor | None = None
    for run in runs:
        scores = run.inspect()
        if isinstance(run.variant, LowerBound):
            continue
        expected = scores if expected is None else expected
        difference = float((scores - expected).abs().max())
        run.figures["score_difference"] = difference
        if difference > TOLERANCE:
            raise RuntimeError(f"{type(run.variant).__name__} ({run.variant.served}) differs by {difference}")
    return 0.0 if expected is None else float(expected.std())
