"""What a cell cost: memory, commits and versions."""

import subprocess
import sys

import pytest

from mllm_srec.pipeline.grid.record import peak_bytes
from mllm_srec.pipeline.runs.provenance import commit, versions


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count in bytes")
def test_peak_memory_is_in_bytes():
    assert peak_bytes(3) == 3 * 1024


def git(folder, *arguments):
    identity = ["-c", "user.name=n", "-c", "user.email=e"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_the_commit_of_a_package(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("a = 1\n")
    beside = [tmp_path / "experiments/results/t.json", tmp_path / "experiments/LOG.md", tmp_path / "configs/demo.yaml"]
    for path in beside:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1\n")
    assert commit(package) == (None, None)
    git(tmp_path, "init")
    assert commit(package) == (None, None), "installed within another repository's folder"
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "x")
    head = tmp_path / ".git" / "refs" / "heads"
    (branch,) = head.iterdir()
    assert commit(package) == (branch.read_text().strip(), False)
    (package / "new.py").touch()
    assert commit(package)[1] is False, "a file that git does not know changes nothing that it knows"
    for path in beside[:2]:
        path.write_text("2\n")
    assert commit(package)[1] is False, "results and texts decide no number"
    beside[2].write_text("2\n")
    assert commit(package)[1] is True, "configurations do"
    git(tmp_path, "checkout", "configs/demo.yaml")
    (package / "__init__.py").write_text("a = 2\n")
    assert commit(package) == (branch.read_text().strip(), True)


def test_the_commit_without_git(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit() == (None, None)


def test_versions_of_libraries():
    import torch

    found = versions()
    assert found["torch"] == torch.__version__
    assert found["python"] == sys.version.split()[0]
