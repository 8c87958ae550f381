"""The table of a comparison: what stands where, and that no name of a run can break it."""

import re

import pytest

from mllm_srec.metrics.comparison import Compared
from mllm_srec.metrics.significance import PairedDifference
from mllm_srec.reports.terminal.comparison import print_comparison


def row(run, metric="ndcg@10", mean=0.5, seed_sd=None, p=0.0123, holm_p=0.0246, gain=0.1):
    found = None if p is None else PairedDifference(gain, gain - 0.05, gain + 0.05, p, 100, 90)
    return Compared(run, metric, mean, seed_sd, 1, 100, found, None if p is None else holm_p)


def base(name="base", **changes):
    return row(name, p=None, **changes)


def printed(capsys, rows, title="test", notes=()):
    print_comparison(title, rows, notes)
    return capsys.readouterr().out


def cells(out, *names):
    """The lines that hold a name, as lists of cells."""
    return [line.split() for line in out.splitlines() if any(name in line.split() for name in names)]


def test_every_number_has_its_column(capsys):
    out = printed(capsys, [base(seed_sd=0.01), row("other", mean=0.6, seed_sd=0.002), row("third", gain=-0.2)])
    assert cells(out, "metric") == [["metric", "run", "mean", "sd", "gain", "from", "to", "p", "Holm", "p"]]
    assert cells(out, "base") == [["ndcg@10", "base", "0.5000", "0.0100", "-", "-", "-", "-", "-"]]
    assert cells(out, "other", "third") == [
        ["ndcg@10", "other", "0.6000", "0.0020", "+0.1000", "+0.0500", "+0.1500", "0.0123", "0.0246"],
        ["ndcg@10", "third", "0.5000", "-", "-0.2000", "-0.2500", "-0.1500", "0.0123", "0.0246"],
    ]


def test_without_seeds_there_is_no_spread(capsys):
    out = printed(capsys, [base(), row("other")])
    assert cells(out, "metric") == [["metric", "run", "mean", "gain", "from", "to", "p", "Holm", "p"]]
    assert cells(out, "base") == [["ndcg@10", "base", "0.5000", "-", "-", "-", "-", "-"]]


@pytest.mark.parametrize(("p", "shown"), [(1.0, "1.0000"), (0.0002, "0.0002"), (0.00002, "2e-05")])
def test_small_chances_are_never_shown_as_none(capsys, p, shown):
    assert cells(printed(capsys, [row("other", p=p, holm_p=p)]), "other")[0][-2:] == [shown, shown]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("[red]a[/red]", "[red]a[/red]"),
        ("a\x1b[31mb\x07", "a[31mb"),
        ("a\nb\tc", "a b c"),
        ("grün\u202etxt", "grüntxt"),
        ("\udcff\u200b", "?"),
        ("日本", "日本"),
        (":smile:", ":smile:"),
    ],
)
def test_names_are_shown_as_they_are_but_steer_nothing(capsys, name, shown):
    out = printed(capsys, [base(name), row("other")], title=name, notes=[f"note on {name}"])
    assert out.splitlines()[0].strip() == shown
    assert f" {shown} " in next(line for line in out.splitlines() if line.startswith(" ndcg@10"))
    assert out.splitlines()[-1].startswith("note on")
    assert len(cells(out, "other")) == 1
    out.encode()


def test_it_fits_into_80_characters_with_seeds_and_a_long_name(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    rows = [base(seed_sd=0.1), row("a-very-long-name-of-a-run-that-somebody-made-up", seed_sd=0.01, metric="user_auc")]
    out = printed(capsys, rows)
    out = re.sub(r"\x1b\[\d*m", "", out)  # bold
    assert max(map(len, out.splitlines())) <= 80
    for number in ("0.5000", "0.0100", "+0.1000", "+0.0500", "+0.1500", "0.0123", "0.0246", "user_auc"):
        assert number in out


def test_a_pipe_breaks_no_line(capsys):
    note = "x" * 300
    long = "name-" * 15
    out = printed(capsys, [base(long), row("other")], notes=[note])
    assert note in out.splitlines()
    assert cells(out, long)[0][:3] == ["ndcg@10", long, "0.5000"]
