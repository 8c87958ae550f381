"""Arguments of the command line become groups of runs and seeds with distinct names."""

from pathlib import Path

import pytest

from mllm_srec.pipeline.analysis.run_groups import RunGroup, run_groups
from mllm_srec.types import ConfigError


def groups(*arguments):
    return {group.name: [str(folder) for folder in group.folders] for group in run_groups(arguments)}


def test_a_run_is_called_as_its_folder_and_seeds_as_they_are_named():
    assert groups("runs/demo/lora", "full=runs/a,runs/b", "one=runs/c") == {
        "lora": ["runs/demo/lora"],
        "full": ["runs/a", "runs/b"],
        "one": ["runs/c"],
    }
    assert run_groups(["a", "b"])[0] == RunGroup("a", (Path("a"),))


def test_folders_of_one_name_are_called_by_their_paths():
    assert list(groups("runs/demo/lora", "runs/toys/lora", "runs/toys/full")) == [
        "runs/demo/lora", "runs/toys/lora", "full",
    ]  # fmt: skip
    assert list(groups("lora=runs/a", "runs/demo/lora")) == ["lora", "runs/demo/lora"]


def test_a_folder_is_what_it_is_however_it_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m=5,k=3").mkdir()
    assert groups("m=5,k=3", "b/") == {"m=5,k=3": ["m=5,k=3"], "b": ["b"]}
    assert groups(".", "x=m=5") == {tmp_path.name: ["."], "x": ["m=5"]}  # the first `=` ends the name
    assert groups("./b/../c", "[a]*?") == {"c": ["b/../c"], "[a]*?": ["[a]*?"]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "run=[]: too few arguments; give at least two run folders, the first of which is the base"),
        (["a"], "run=['a']: too few arguments; give at least two"),
        (["a", ""], "run='': is empty; give a run folder, such as runs/demo/lora"),
        (["a", "=b"], "run='=b': a name or run is empty; give NAME=RUN,RUN,..."),
        (["a", "x="], "run='x=': a name or run is empty; give NAME=RUN"),
        (["a", "x=b,,c"], "run='x=b,,c': a name or run is empty; give NAME=RUN"),
        (["a", "x=b, "], "run='x=b, ': a name or run is empty; give NAME=RUN"),
        (["x=a", "x=b"], "run='x': the name is given 2 times; choose distinct names with NAME=RUN"),
        (["r/a", "r/a=r/b", "s/a"], "run='r/a': the name is given 2 times"),
    ],
)
def test_malformed_arguments_are_refused(arguments, message):
    with pytest.raises(ConfigError) as error:
        run_groups(arguments)
    assert message in str(error.value)


def test_a_run_given_twice_is_refused_however_it_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("a")
    for arguments in (["a", "./a/"], ["a", "x=b,a"], ["x=a,b,a", "c"], ["a", "link"], ["a", str(tmp_path / "a")]):
        with pytest.raises(ConfigError, match=r"is given \d times, and a run cannot be compared with itself"):
            run_groups(arguments)
