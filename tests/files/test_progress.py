"""A bar on a terminal, a line every half minute in a log file, nothing where a job is quick."""

from __future__ import annotations

import io
import sys

from mllm_srec.files import progress
from mllm_srec.files.progress import BYTES, LateProgress, duration_words, progress_line, speed_words, track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def run(monkeypatch, patience: float) -> str:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "PATIENCE", patience)
    with LateProgress("Reading reviews.json.gz", 1234) as bar:
        for done in range(1234):
            bar.update(done)
    return stream.getvalue()


def test_a_bar_with_counts_appears_on_a_terminal_once_it_takes_long(monkeypatch):
    drawn = run(monkeypatch, patience=-1.0)
    assert "Reading reviews.json.gz" in drawn
    assert "1233/1234" in drawn
    assert run(monkeypatch, patience=60.0) == ""


def test_a_log_file_gets_a_line_every_half_minute(capsys):
    clock = Clock()
    with LateProgress("ranking", 200, "users", clock=clock) as job:
        for done in range(1, 201):
            clock.now += 1.0 if done <= 90 else 0.5  # the second half is twice as fast, and the lines say so
            job.update(done)
    assert capsys.readouterr().err.splitlines() == [
        "ranking: 30 of 200 users (15 %), 1.0 a second, 2 min 50 s left",
        "ranking: 60 of 200 users (30 %), 1.0 a second, 2 min 20 s left",
        "ranking: 90 of 200 users (45 %), 1.0 a second, 1 min 50 s left",
        "ranking: 150 of 200 users (75 %), 2.0 a second, 25 s left",
    ]


def test_an_estimate_never_counts_more_than_its_part_and_the_next_begins_where_it_ends(capsys):
    clock = Clock()
    with LateProgress("writing", 10, clock=clock) as job:
        for n, advances in ((3, [2, 2]), (4, [2]), (3, [8])):
            with job.part(n):
                for advance in advances:
                    clock.now += 30
                    job.advance(advance)
            clock.now += 30
            job.advance(0)
    done = [line.split()[1] for line in capsys.readouterr().err.splitlines()]
    assert done == ["2", "3", "3", "5", "7", "10", "10"]


def test_a_quick_job_leaves_no_line(capsys):
    clock = Clock()
    with LateProgress("ranking", 5, clock=clock) as job:
        for done in range(6):
            job.update(done)
            clock.now += 4.9
    assert list(track(range(3), 3, "counting")) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_what_was_done_before_is_no_speed(capsys):
    clock = Clock()
    with LateProgress("image summaries", 1000, clock=clock) as job:
        job.skip(900)
        for _ in range(2):
            clock.now += 15
            job.advance(5)
    assert capsys.readouterr().err == "image summaries: 910 of 1,000 (91 %), 20 a minute, 4 min 30 s left\n"


def test_nothing_is_said_where_it_is_not_wanted(capsys):
    clock = Clock()
    with LateProgress("ranking", 5, shown=False, clock=clock) as job:
        clock.now += 100
        job.update(3)
    assert capsys.readouterr().err == ""


def test_lines():
    assert progress_line("a", 1, 3, 0, 30) == "a: 1 of 3 (33 %)"
    assert progress_line("a", 0, 0, 0, 0) == "a: 0 of 0 (100 %)"
    found = progress_line("Reading x.gz", 2_500_000_000, 10_000_000_000, 60e6, 30, BYTES)
    assert found == "Reading x.gz: 2,500 of 10,000 MB (25 %), 2.0 MB a second, 1 h 2 min left"


def test_speeds_and_lengths_of_time():
    assert [speed_words(speed) for speed in (4123.4, 41.2, 9.94, 1, 0.5, 1 / 60, 1 / 90, 1e-5)] == [
        "4,123 a second", "41 a second", "9.9 a second", "1.0 a second", "30 a minute", "1.0 a minute", "40 an hour",
        "0.0 an hour",
    ]  # fmt: skip
    assert [duration_words(seconds) for seconds in (0.2, 59.4, 60, 90, 3600, 3725, 86400, 100_000)] == [
        "0 s", "59 s", "1 min", "1 min 30 s", "1 h", "1 h 2 min", "1 d", "1 d 3 h",
    ]  # fmt: skip
