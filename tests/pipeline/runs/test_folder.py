"""Run folders: names on which all processes agree, results merged and never mixed, folders without write access."""

import hashlib
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mllm_srec.pipeline.runs import names as run_names
from mllm_srec.pipeline.runs.folder import RunFolder
from mllm_srec.pipeline.runs.names import (
    RANK_VARIABLES,
    RUN_VARIABLE,
    is_first_process,
    new_run,
    note_weights,
    run_for_checkpoint,
    run_of_checkpoint,
    shortest,
    was_tested,
)
from mllm_srec.pipeline.runs.protocol import PROTOCOL
from mllm_srec.types import ConfigError

LAUNCHER = (
    *RANK_VARIABLES, RUN_VARIABLE, "TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE", "SLURM_JOB_ID",
    "SLURM_STEP_ID", "WANDB_SWEEP_ID", "WANDB_RUN_ID",
)  # fmt: skip


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    """Remove the variables of launchers, and undo what a test sets."""
    for name in LAUNCHER:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(RUN_VARIABLE, "")
    monkeypatch.delenv(RUN_VARIABLE)


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass from call to call."""
    times = iter(f"20250101-00000{second}" for second in range(10))
    monkeypatch.setattr(run_names.time, "strftime", lambda _: next(times))


# --- names --------------------------------------------------------------------------------------------------------


def test_a_given_name():
    assert new_run("runs", "demo", "lora-16", 0).path == Path("runs/demo/lora-16")


def test_without_a_name_time_and_seed(clock):
    assert new_run("runs", "demo", None, 7).path == Path("runs/demo/20250101-000000-7")


def test_two_runs_of_one_process_have_different_names(clock):
    assert new_run("r", "d", None, 7).path.name == "20250101-000000-7"
    assert new_run("r", "d", None, 7).path.name == "20250101-000001-7"


def test_processes_that_the_trainer_launches_inherit_the_name(clock, monkeypatch):
    first = new_run("r", "d", None, 7)
    monkeypatch.setenv("LOCAL_RANK", "1")  # as in the process launched
    assert new_run("r", "d", None, 7) == first


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"TORCHELASTIC_RUN_ID": "job7"}, "job7-3"),
        ({"SLURM_JOB_ID": "11", "SLURM_STEP_ID": "2", "SLURM_PROCID": "5"}, "11.2-3"),
        ({"SLURM_JOB_ID": "11"}, "20250101-000000-3"),  # no step: two commands of one job are two runs
        ({"TORCHELASTIC_RUN_ID": "none"}, "20250101-000000-3"),
        ({"WANDB_SWEEP_ID": "s", "WANDB_RUN_ID": "ab12"}, "sweep-ab12-3"),  # agents side by side start in one second
        ({"WANDB_RUN_ID": "ab12"}, "20250101-000000-3"),
    ],
)
def test_job_numbers(environment, expected, clock, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert new_run("r", "d", None, 3).path.name == expected


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/tmp", "a/"])
def test_names_that_are_no_folder_names(name):
    with pytest.raises(ConfigError, match=r"is not a folder name; give one without slashes"):
        new_run("runs", "demo", name, 0)


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"RANK": "2", "LOCAL_RANK": "0"}, False),
        ({"LOCAL_RANK": "1"}, False),
        ({"SLURM_PROCID": "3"}, False),
        ({"NODE_RANK": "1"}, False),
        ({"RANK": ""}, True),
    ],
)
def test_the_first_process(environment, first, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_first_process() is first


@pytest.mark.slow
def test_processes_of_torchrun_agree(tmp_path):
    """They start at different seconds, and without a job number nothing but torchrun's store connects them."""
    script = tmp_path / "worker.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, time
            from mllm_srec.pipeline.runs.names import new_run
            time.sleep(1.2 * int(os.environ["RANK"]))
            path = new_run("runs", "demo", None, 7).path
            open(os.environ["RANK"] + ".txt", "w").write(str(path))
            """
        )
    )
    command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29617", str(script)]
    environment = {key: value for key, value in os.environ.items() if key not in LAUNCHER}
    done = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    first, second = ((tmp_path / f"{rank}.txt").read_text() for rank in (0, 1))
    assert first == second
    assert first.startswith("runs/demo/2")


# --- the run of a checkpoint --------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    """A run with a checkpoint."""
    folder = RunFolder(tmp_path / "runs/demo/a")
    folder.checkpoints.mkdir(parents=True)
    folder.config.write_text("name: a\n")
    folder.last.write_text("")
    return folder


def test_run_of_a_checkpoint(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = RunFolder(Path("runs/demo/a"))
    assert run_of_checkpoint("runs/demo/a/checkpoints/last.ckpt") == expected
    assert run_of_checkpoint(run.last) == expected
    (tmp_path / "link.ckpt").symlink_to(run.last)
    assert run_of_checkpoint("link.ckpt") == expected
    assert run_of_checkpoint("elsewhere/last.ckpt") is None


def test_run_of_a_checkpoint_from_within_its_folder(run, monkeypatch):
    monkeypatch.chdir(run.checkpoints)
    assert run_of_checkpoint("last.ckpt").path.resolve() == run.path


def test_a_folder_without_config_is_no_run(run):
    run.config.unlink()
    assert run_of_checkpoint(run.last) is None


def test_shortest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shortest(tmp_path / "a/b") == Path("a/b")
    assert shortest(tmp_path.parent) == tmp_path.parent


@pytest.mark.parametrize(
    ("root", "name", "expected"),
    [
        ("runs", None, "runs/demo/a"),
        ("runs", "a", "runs/demo/a"),
        ("runs", "b", "runs/demo/b"),  # a name that was typed wins
        ("other", None, "other/demo/a"),  # so does a root
    ],
)
def test_where_a_checkpoint_works(run, root, name, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    origin = run_of_checkpoint(run.last)
    assert run_for_checkpoint(origin, Path(root), "runs", "demo", name, run.last).path == Path(expected)


def test_a_typed_name_of_another_run_is_refused(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = RunFolder(tmp_path / "runs/demo/b")
    other.create()
    other.config.write_text("name: b\n")
    with pytest.raises(ConfigError, match=r"belongs to runs/demo/a, and runs/demo/b holds another run"):
        run_for_checkpoint(run_of_checkpoint(run.last), Path("runs"), "runs", "demo", "b", run.last)


def test_a_killed_test_of_the_same_weights_goes_on_where_it_was(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    begun = RunFolder(tmp_path / "runs/demo/b")
    begun.create()
    begun.config.write_text("name: b\n")
    note_weights(begun, "test", run.last)
    arguments = (run_of_checkpoint(run.last), Path("runs"), "runs", "demo", "b")
    assert run_for_checkpoint(*arguments, run.last).path == Path("runs/demo/b")
    assert not was_tested(begun, run.last), "begun is not done"
    begun.merge_metrics("test", {"test/n_users": 3}, {})
    assert not was_tested(begun, run.last), "these may be results of other weights"
    begun.merge_metrics("test", {}, {"weights": hashlib.sha256(run.last.read_bytes()).hexdigest()})
    assert was_tested(begun, run.last)
    other = run.last.with_name("other.ckpt")
    other.write_bytes(run.last.read_bytes() + b"x")
    assert not was_tested(begun, other)
    with pytest.raises(ConfigError, match="holds another run"):
        run_for_checkpoint(*arguments, other)
    with pytest.raises(ConfigError, match="no such file"):
        was_tested(begun, run.last.with_name("none.ckpt"))


# --- results ------------------------------------------------------------------------------------------------------

TEST = {
    "evaluator": "sampled@20", "candidates_hash": "abcdef0123456789", "corruption": None, "m": 20, "retriever": None,
    "lists_hash": None, "max_groups": None, "groups_seed": None,
    "split": "test", "ties": "expected", "score": "logit", "prompt": "v1/12", "checkpoint": "best.ckpt",
}  # fmt: skip


def test_the_protocol_is_whole():
    assert set(TEST) == set(PROTOCOL)


@pytest.fixture
def measured(run):
    """A run with results of validation and test."""
    run.merge_metrics("val", {"val/auc": 0.6}, {**TEST, "split": "val"})
    run.merge_metrics("test", {"test/auc": 0.7, "test/hr@5": None}, TEST)
    return run


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"evaluator": "full", "m": None}, "a--full"),
        ({"evaluator": "rerank@50", "m": None, "retriever": "popularity", "lists_hash": "77"},
         "a--rerank@50-retriever-popularity"),
    ],
)  # fmt: skip
def test_another_evaluator_gets_a_folder_that_names_it(measured, change, name):
    assert measured.for_protocol("test", {**TEST, **change}).path.name == name


def test_results_of_stages_lie_beside_each_other(measured):
    found = json.loads(measured.metrics.read_text())
    assert found["val/auc"] == 0.6
    assert (found["test/auc"], found["test/hr@5"]) == (0.7, None)
    assert (found["val/split"], found["test/split"], found["test/m"]) == ("val", "test", 20)
    assert list(found) == sorted(found)
    assert len(found) == 1 + 3 + 2 * len(PROTOCOL)  # with the checksum


def test_the_same_protocol_replaces_its_own_results_only(measured):
    measured.merge_metrics("test", {"test/auc": 0.8}, {**TEST, "step": 5})
    found = measured.read_metrics()
    assert (found["test/auc"], found["val/auc"], found["test/step"]) == (0.8, 0.6, 5)


CHANGES = {
    "evaluator": ({"evaluator": "sampled@10", "m": 10}, "a--sampled@10"),
    "candidates": ({"candidates_hash": "0123456789abcdef"}, "a--candidates-01234567"),
    "groups": ({"max_groups": 50, "groups_seed": 3}, "a--groups-50-seed-3"),
    "score": ({"score": "literal"}, "a--score-literal"),
    "prompt": ({"prompt": "v1/34"}, "a--prompt-v1-34"),
    "checkpoint": ({"checkpoint": "last.ckpt"}, "a--checkpoint-last"),
    "two": ({"score": "literal", "checkpoint": None}, "a--score-literal-checkpoint-none"),
}


@pytest.mark.parametrize(("change", "name"), CHANGES.values(), ids=CHANGES.keys())
def test_another_protocol_never_overwrites(measured, change, name):
    before = measured.metrics.read_bytes()
    with pytest.raises(ConfigError, match=f"holds test results of another protocol: {next(iter(change))} was"):
        measured.merge_metrics("test", {"test/auc": 0.1}, TEST | change)
    assert measured.metrics.read_bytes() == before
    assert measured.for_protocol("test", TEST | change).path == measured.path.with_name(name)


def test_an_equal_protocol_or_none_stays(measured):
    assert measured.for_protocol("test", TEST) == measured
    assert RunFolder(measured.path / "new").for_protocol("test", TEST).path == measured.path / "new"
    assert measured.protocol_differences("test", TEST | {"m": 5, "evaluator": "sampled@5"}) == {
        "evaluator": ("sampled@20", "sampled@5"),
        "m": (20, 5),
    }


def test_other_data_go_to_a_folder_that_names_them(run):
    run.merge_metrics("fit", {"fit/data": "demo", "fit/candidates_hash": "aaaaaaaaaa"}, {})
    assert run.for_data("demo", "aaaaaaaaaa") == run
    assert run.for_data("demo", "bbbbbbbbbb").path == run.path.with_name("a--candidates-bbbbbbbb")
    assert run.for_data("baby", "bbbbbbbbbb").path == run.path.parents[1] / "baby" / "a--from-demo"


def test_a_run_that_says_nothing_of_its_data_takes_all(run):
    assert run.for_data("demo", "x") == run


def test_a_killed_merge_leaves_the_old_results(measured, monkeypatch):
    before = measured.metrics.read_bytes()

    def stop(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        measured.merge_metrics("test", {"test/auc": 0.9}, TEST)
    assert measured.metrics.read_bytes() == before


def test_merges_side_by_side_lose_nothing(run):
    """Ten processes, a stage each."""
    code = (
        "import sys; from pathlib import Path; from mllm_srec.pipeline.runs.folder import RunFolder\n"
        "RunFolder(Path(sys.argv[1])).merge_metrics(sys.argv[2], {f'{sys.argv[2]}/x': 1}, {})"
    )
    names = [f"s{n}" for n in range(10)]
    children = [subprocess.Popen([sys.executable, "-c", code, str(run.path), name]) for name in names]
    assert [child.wait() for child in children] == [0] * 10
    assert run.read_metrics() == {f"{name}/x": 1 for name in names}


# --- work that must not be lost -----------------------------------------------------------------------------------


def test_what_counts_as_work(tmp_path):
    folder = RunFolder(tmp_path / "a")
    assert not folder.holds_work()
    folder.create()
    folder.config.write_text("")
    folder.merge_metrics("fit", {"fit/data": "demo"}, {})
    assert not folder.holds_work()  # killed before the first checkpoint: nothing to lose
    folder.merge_metrics("test", {"test/auc": 0.5}, {})
    assert folder.holds_work()
    other = RunFolder(tmp_path / "b")
    other.checkpoints.mkdir(parents=True)
    other.last.touch()
    assert other.holds_work()


def test_the_best_checkpoint_or_the_last(run):
    assert run.best == run.last
    (run.checkpoints / "best.ckpt").touch()
    assert run.best.name == "best.ckpt"


def test_logs_of_every_command_are_kept_apart(run):
    assert run.next_log("fit") == "1-fit"
    (run.logs / "1-fit").mkdir(parents=True)
    (run.logs / "wandb").mkdir()
    (run.logs / "12-test").mkdir()
    assert run.next_log("fit") == "13-fit"


def test_one_process_at_a_time_trains_in_a_folder(run):
    lock = run.occupy()
    code = (
        "import sys; from pathlib import Path; from mllm_srec.pipeline.runs.folder import RunFolder\n"
        "RunFolder(Path(sys.argv[1])).occupy()"
    )
    command = [sys.executable, "-c", code, str(run.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "another process is training in" in done.stderr
    lock.release()
    assert subprocess.run(command, check=False).returncode == 0


# --- places that cannot be written --------------------------------------------------------------------------------


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "runs").write_text("")
    folder = RunFolder(tmp_path / "runs/demo/a")
    for attempt in (folder.check_writable, folder.create):
        with pytest.raises(ConfigError, match=r"cannot be written .*; set trainer.default_root_dir"):
            attempt()


def test_no_permission(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ConfigError, match=f"no permission to write into {tmp_path}"):
        RunFolder(tmp_path / "demo/a").check_writable()


def test_checking_makes_nothing(tmp_path):
    RunFolder(tmp_path / "demo/a").check_writable()
    assert list(tmp_path.iterdir()) == []
