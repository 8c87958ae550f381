"""Tables of strata for the terminal: numbers, what is empty, and names that nobody has read."""

import pytest

from mllm_srec.reports.terminal.strata import print_strata


def row(stratum, metric="auc", value=0.51234, n=1234, run="a", analysis="history_length", unit="lists", half=0.01):
    ends = {"low": None, "high": None} if value is None else {"low": value - half, "high": value + half}
    names = {"run": run, "analysis": analysis, "stratum": stratum, "metric": metric, "unit": unit}
    return {**names, "value": value, "n": n, "n_users": 9, "n_seeds": 1, **ends}


def lines(capsys, rows, notes=()):
    print_strata("test", rows, notes)
    return [line.strip() for line in capsys.readouterr().out.splitlines() if line.strip()]


def test_one_run(capsys):
    rows = [row("all"), row("all", "ndcg@10", 0.25), row("0", value=None, n=0), row("1-2", value=None, n=3)]
    out = lines(capsys, [*rows, row("x", analysis="other", unit="targets")], ["a note"])
    assert out[0] == "test, lists: liked items in the context"
    assert out[1].split() == ["n", "auc", "ndcg@10"]
    assert out[3] == "all  1,234  0.512 (0.502 0.522)  0.250 (0.240 0.260)"
    assert out[4].split() == ["1-2", "3", "-", "-"], "what nothing is in is not shown; what has no value is"
    assert out[5] == "test, targets: other"
    assert out[-1] == "a note"


def test_several_runs_and_counts_that_differ(capsys):
    rows = [row("all"), row("all", run="b", n=5), row("all", "ndcg@10", 0.1, run="b", n=1005)]
    out = lines(capsys, rows)
    assert out[1].split()[:2] == ["run", "n"]
    assert out[3].split()[:3] == ["all", "a", "1,234"]
    assert out[4].split()[:3] == ["all", "b", "5-1,005"]


@pytest.mark.parametrize("name", ["[red]x[/red]", "a\x1b[31mb", "c\nd", "e\u202ef"])
def test_names_are_shown_literally(capsys, name):
    out = "\n".join(lines(capsys, [row("all", run=name), row("all", run="other")], [name]))
    assert "\x1b" not in out
    assert "\u202e" not in out
    if "[red]" in name:
        assert out.count("[red]x[/red]") == 2
