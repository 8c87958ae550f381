"""Run folders behind a grid's results: seeds together, and what is not here named."""

import json

import pytest

from mllm_srec.pipeline.grid.results import CELL_KEYS, grid_run_groups
from mllm_srec.types import ConfigError


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Two data sets, rows whose names sort against their runs, one run folder missing; paths as commands see them."""
    monkeypatch.chdir(tmp_path)
    cells = tmp_path / "results/cells"
    cells.mkdir(parents=True)
    for row, data_set, seed in (
        ("b", "x", 1),
        ("b", "x", 0),
        ("a", "x", 0),
        ("a", "x", 10),
        ("a", "x", 2),
        ("a", "y", 0),
    ):
        run = tmp_path / f"runs/{data_set}/{row}-{seed}"
        if (row, seed) != ("a", 2):
            run.mkdir(parents=True)
        cell = {"table": "t", "row": row, "data_set": data_set, "seed": seed, "metrics": {}}
        cell |= dict.fromkeys(CELL_KEYS[5:], None) | {"metrics": {}}
        (cells / f"{row}{data_set}{seed}.json").write_text(
            json.dumps({**cell, "run": str(run.relative_to(tmp_path))})
        )  # fmt: skip
    return tmp_path / "results"


def test_seeds_of_a_row_are_together(results):
    groups, missing = grid_run_groups(results, "x")
    found = {group.name: [str(folder) for folder in group.folders] for group in groups}
    assert found == {"a": ["runs/x/a-0", "runs/x/a-10"], "b": ["runs/x/b-0", "runs/x/b-1"]}
    assert missing == ["a, seed 2: its run folder runs/x/a-2 is not here"]
    (only,), none = grid_run_groups(results, "y")
    assert (only.name, len(only.folders), none) == ("a", 1, [])


@pytest.mark.parametrize("name", [None, "z"])
def test_a_data_set_must_be_one_of_the_grid(results, name):
    with pytest.raises(ConfigError, match=rf"data_set={name!r}: .* holds results of x, y; name one"):
        grid_run_groups(results, name)


def test_a_grid_of_one_data_set_needs_no_name(results):
    (results / "cells/ay0.json").unlink()
    assert [group.name for group in grid_run_groups(results)[0]] == ["a", "b"]
    with pytest.raises(ConfigError, match="holds no results of a grid"):
        grid_run_groups(results / "cells")
