"""Prepared real data for the leak proofs; read only, since every test of a process reads the same tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from mllm_srec.data.settings import CandidateSettings
from tests.data.no_leak.oracle import Prepared, prepare
from tests.data.no_leak.sources import CARDS, SOURCES, drawing, sets


@pytest.fixture(scope="session")
def prepared_once(tmp_path_factory) -> Callable[[str, str], Prepared]:
    """Function: a source prepared with one mode of splitting, the first time that it is asked for."""
    done: dict[tuple[str, str], Prepared] = {}

    def get(name: str, mode: str) -> Prepared:
        if (name, mode) not in done:
            folder = tmp_path_factory.mktemp("data") / name
            done[name, mode] = prepare(folder, replace(SOURCES[name], split=mode, seed=3), drawing(name, seed=5))
        return done[name, mode]

    return get


@pytest.fixture(scope="module", params=sets("random", "leave_one_out", "global_time"))
def data(request, prepared_once) -> Prepared:
    return prepared_once(*request.param)


@pytest.fixture(scope="module", params=CARDS)
def variant(request, tmp_path_factory) -> Prepared:
    """Everything that is not a default: short histories, one list per like, few users and negatives, no k-core."""
    settings = replace(SOURCES[request.param], max_history=3, k_core=1, seed=11)
    candidates = CandidateSettings(n_negatives=1000, unit="instance", seed=1)
    return prepare(tmp_path_factory.mktemp("data") / "variant", settings, candidates)
