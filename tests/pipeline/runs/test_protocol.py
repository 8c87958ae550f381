"""One definition of "measured alike": every part of it, in every command that puts numbers side by side."""

import json

import numpy as np
import pytest

from mllm_srec.pipeline.analysis.analyse import analyse_runs
from mllm_srec.pipeline.analysis.comparison import compare_runs
from mllm_srec.pipeline.analysis.run_groups import RunGroup
from mllm_srec.pipeline.grid.merge import check_measured_alike
from mllm_srec.pipeline.runs.folder import RunFolder
from mllm_srec.pipeline.runs.protocol import (
    MUST_AGREE,
    NULL_IF_ABSENT,
    PROTOCOL,
    SAME_IN_A_GROUP,
    common_protocol,
    differences,
    protocol_words,
)
from mllm_srec.types import ConfigError

STATED = {
    "evaluator": "rerank@50", "candidates_hash": "c0ffee", "corruption": None, "m": 20, "retriever": "popularity",
    "lists_hash": "beef", "max_groups": 30, "groups_seed": 0, "split": "test", "ties": "expected", "score": "logit",
    "prompt": "v1/0", "checkpoint": "best.ckpt",
}  # fmt: skip
OTHER = {
    "evaluator": "full", "candidates_hash": "bead", "corruption": "blur severity 3 seed 0", "m": 100,
    "retriever": "sasrec", "lists_hash": "f00d", "max_groups": None, "groups_seed": 1, "split": "val", "ties": "worst",
    "score": "literal", "prompt": "v2/1", "checkpoint": "last.ckpt",
}  # fmt: skip


@pytest.fixture
def two_runs(finished_run):
    """Function: two finished runs, the second with one part of the protocol changed."""

    def write(part, stored=STATED):
        values = {"hr@10": np.linspace(0, 1, 40)}
        first = finished_run("clean", values, **stored)
        second = finished_run("other", values, **stored)
        path = second / "metrics.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {f"test/{part}": OTHER[part]}))
        return first, second

    return write


def compare(*runs):
    compare_runs([RunGroup(run.name, (run,)) for run in runs], ["hr@10"], n_resamples=10)


def analyse(*runs):
    analyse_runs([RunGroup(run.name, (run,)) for run in runs], ["hr@10"])


def test_the_parts_are_known():
    assert set(PROTOCOL) == set(STATED) == set(OTHER)
    assert set(MUST_AGREE) == set(PROTOCOL) - {"score", "prompt", "checkpoint"}
    assert set(SAME_IN_A_GROUP) == {"score", "prompt"}


@pytest.mark.parametrize("command", [compare, analyse])
@pytest.mark.parametrize("part", MUST_AGREE)
def test_runs_that_differ_are_refused_by_name(two_runs, command, part):
    first, second = two_runs(part)
    with pytest.raises(ConfigError) as caught:
        command(first, second)
    assert str(caught.value).startswith(
        f"{part} is {STATED[part]!r} in {str(first)!r} and {OTHER[part]!r} in {str(second)!r}; numbers of different"
    )


@pytest.mark.parametrize("command", [compare, analyse])
def test_clean_pictures_of_an_earlier_version_beside_corrupted_ones_are_refused(two_runs, command):
    """Such a run does not state `corruption` at all."""
    runs = two_runs("corruption", {**STATED, "corruption": "absent"})
    with pytest.raises(ConfigError, match=r"corruption is None in .* and 'blur severity 3 seed 0' in"):
        command(*runs)


@pytest.mark.parametrize("part", MUST_AGREE)
def test_cells_of_a_grid_that_differ_are_refused_by_name(part):
    changed = STATED | {part: OTHER[part]}
    records = [
        {"row": row, "data_set": "demo", "seed": 0, "run": f"runs/{row}", "table": "t",
         "metrics": {f"test/{key}": value for key, value in stated.items()}}
        for row, stated in (("a", STATED), ("b", STATED), ("c", changed))
    ]  # fmt: skip
    check_measured_alike(records[:2])
    with pytest.raises(ConfigError, match=rf"{part} of data set 'demo' is .* in 2 cells, but not in\n  row 'c'"):
        check_measured_alike(records)


@pytest.mark.parametrize("part", PROTOCOL)
def test_a_run_folder_keeps_results_of_one_protocol(tmp_path, part):
    run = RunFolder(tmp_path / "a")
    run.create()
    run.merge_metrics("test", {"test/auc": 0.7}, STATED)
    changed = STATED | {part: OTHER[part]}
    assert run.protocol_differences("test", changed) == {part: (STATED[part], OTHER[part])}
    assert run.for_protocol("test", changed).path != run.path
    with pytest.raises(ConfigError, match=f"another protocol: {part} was"):
        run.merge_metrics("test", {"test/auc": 0.8}, changed)


@pytest.mark.parametrize("part", SAME_IN_A_GROUP)
def test_seeds_of_one_variant_agree_in_more(tmp_path, part):
    results = {tmp_path / "a": STATED, tmp_path / "b": STATED | {part: OTHER[part]}}
    assert common_protocol(results)[0] == {key: STATED[key] for key in MUST_AGREE}
    with pytest.raises(ConfigError, match="runs in the group 'lora' may differ in their seed only"):
        common_protocol(results, SAME_IN_A_GROUP, "lora")


def test_what_a_run_does_not_state_is_named_unless_absence_has_a_meaning(tmp_path):
    old = {key: value for key, value in STATED.items() if key not in ("m", *NULL_IF_ABSENT)}
    protocol, unstated = common_protocol({tmp_path / "old": old, tmp_path / "new": STATED})
    assert protocol == {key: STATED[key] for key in MUST_AGREE}
    assert unstated == {"m": tmp_path / "old"}


def test_differences_are_of_what_both_state():
    assert differences({"m": 20, "ties": "expected", "auc": 1}, {"m": 5, "ties": "expected", "split": "val"}) == {
        "m": (20, 5)
    }


def test_corrupted_pictures_are_named_in_words():
    metrics = {f"test/{key}": value for key, value in STATED.items()}
    metrics["test/n_users"] = 40
    expected = "evaluator rerank@50 (the items that the retriever popularity found); lists of 40 users"
    assert protocol_words(metrics).startswith(expected)
    assert "pictures" not in protocol_words(metrics)
    assert protocol_words(metrics | {"test/corruption": "blur"}).endswith("; test split; pictures corrupted (blur)")
