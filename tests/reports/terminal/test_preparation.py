"""What was prepared, the checks of a summary stage, and that texts of models cannot do anything to a terminal."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.reports.terminal import preparation
from mllm_srec.reports.terminal.preparation import MAX_SHOWN, print_prepared, print_quality

QUALITY = {"n": 12345, "n_refused": 2, "n_empty": 0, "tokens_median": 7.5, "share": None, "all_states/x": 0.25}


def printed(capsys, quality=QUALITY, examples=None):
    print_quality("item", quality, examples or {})
    return capsys.readouterr().out


def shown(capsys, text):
    """The line that an example becomes."""
    lines = printed(capsys, {}, {"n_refused": [text]}).splitlines()
    return lines[-1].removeprefix("n_refused: ")


def test_a_row_a_number(capsys):
    out = printed(capsys)
    found = {cells[0]: cells[1:] for line in out.splitlines() if (cells := line.split())}
    assert found["n"] == ["12,345"]
    assert found["n_refused"] == ["2"]
    assert found["tokens_median"] == ["7.5000"]
    assert found["share"] == ["-"]
    assert out.splitlines()[0].strip() == "summaries of the stage item"
    assert "all_states" not in out  # a detail
    assert max(map(len, out.splitlines())) <= 80


def test_examples_stand_below_the_table_a_line_each(capsys):
    out = printed(capsys, examples={"n_refused": ["I cannot\n see", "Sorry, I"], "n_empty": [" \u200b"]})
    assert out.splitlines()[-3:] == ["n_refused: I cannot see", "n_refused: Sorry, I", "n_empty: (nothing to see)"]


def test_counts_of_zero_share_one_line(capsys):
    zeros = {f"n_check_{n}": 0 for n in range(12)}
    lines = printed(capsys, {"n": 3, "n_refused": 1, "rate": 0.0, **zeros}).splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("none found: n_check_0, n_check_1,"))
    assert " ".join(map(str.strip, lines[start:])).removeprefix("none found: ").split(", ") == list(zeros)
    assert [line.split() for line in lines[:start] if "rate" in line] == [["rate", "0.0000"]], "a mean is no count"
    assert max(map(len, lines)) <= 80
    assert "none found" not in printed(capsys, {"n": 3})


@pytest.mark.parametrize(
    "text", ["[bold red]A mug[/bold red]", "[/]", "[link=https://x.y]here[/link]", ":red_heart: \\[a]", "x" * MAX_SHOWN]
)
def test_texts_are_shown_literally_and_on_one_line(capsys, text):
    assert shown(capsys, text) == text


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\x1b[2J\x1b]0;title\x07A mug", "[2J]0;titleA mug"),
        ("A\r\nB\tC\x0bD\u2028E", "A B C D E"),
        ("A \x00\x7f\x9b31m", "A 31m"),
        ("A \u202egum\u200b \ud800", "A gum"),
        ("é 漢 😀", "é 漢 😀"),
        ("y" * (MAX_SHOWN + 1), "y" * MAX_SHOWN + "..."),
    ],
)
def test_nothing_that_steers_a_terminal_is_left(capsys, text, line):
    assert shown(capsys, text) == line


def test_checks_that_fail_are_coloured_in_a_terminal(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(
        preparation,
        "Console",
        lambda **options: Console(file=out, force_terminal=True, color_system="standard", width=80, **options),
    )
    print_quality("item", QUALITY, {"n_refused": ["[red]no"], "n_empty": []})
    lines = {name: line for line in out.getvalue().splitlines() for name in ("n_refused", "n_empty") if name in line}
    assert "\x1b[33m" in out.getvalue().split("n_empty")[0]
    assert "\x1b[33m" not in lines["n_empty"]
    assert out.getvalue().splitlines()[-1] == "n_refused: [red]no"


@pytest.mark.parametrize(("done", "words"), [(False, "is prepared"), (True, "was already prepared with the same")])
def test_what_was_prepared(done, words, capsys):
    print_prepared(Path("data/demo"), [("data set", "users", "1,234"), ("reviews", "line is not JSON", "3")], done)
    out = capsys.readouterr().out
    assert f"data/demo {words}" in out
    assert "1,234" in out
    assert "line is not JSON" in out


def test_the_table_fits_80_columns_and_shows_what_could_not_be_used(capsys):
    report = PrepareReport()
    report.fact("candidates_hash", "ab" * 32)
    reason = "field spans lines that look like rows (an unpaired mark? prepare.columns.quote: null reads it as text)"
    report.count("reviews", reason, 7, "t.csv, line 4-20: \x1b[31mu0,i2,[bold]" + "x" * 500)
    report.count("k-core", "users with too few interactions", 3, "u7")
    print_prepared(Path("/a/rather/long/folder") / ("x" * 60), report.lines(), False)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "abababab" in out
    text = " ".join(out.split())
    assert "e.g. t.csv, line 4-20:" in text
    assert "[bold]" in text
    assert "\x1b" not in text
    assert "u7" not in text, "an example of a filter is in the report only"
    assert ("reviews", reason, "7") in report.lines()
