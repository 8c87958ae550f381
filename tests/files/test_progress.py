from __future__ import annotations

import io
import sys

import pytest

from mllm_srec.files import progress
from mllm_srec.files.progress import LateProgress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(monkeypatch, stream: io.StringIO, patience: float) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "PATIENCE", patience)
    with LateProgress("Reading reviews.json.gz", 100) as bar:
        for done in range(100):
            bar.update(done)
    return stream.getvalue()


def test_bar_appears_on_a_terminal_once_it_takes_long(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    assert "Reading reviews.json.gz" in run(monkeypatch, Terminal(), patience=-1.0)


@pytest.mark.parametrize(("stream", "patience"), [(Terminal(), 60.0), (io.StringIO(), -1.0)], ids=["quick", "log file"])
def test_quick_jobs_and_log_files_see_nothing(monkeypatch, stream, patience):
    assert run(monkeypatch, stream, patience) == ""
