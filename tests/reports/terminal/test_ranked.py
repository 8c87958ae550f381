"""What the terminal shows of a list, whatever titles hold."""

from mllm_srec.reports.terminal.ranked import print_list, print_person

EVIL = "[bold red]mug[/] \x1b[31m\n[link=http://x]" + "x" * 100


def row(rank, item_id, title, held_out=False, new=False):
    values = {"rank": rank, "item_id": item_id, "title": title, "probability": 0.25, "score": -1.0986}
    return {**values, "held_out": held_out, "new": new}


def test_a_list(capsys):
    print_list([row(1, "i1", "red mug", held_out=True), row(2, "n", EVIL, new=True)], "the whole catalogue", 300)
    out = capsys.readouterr().out
    assert "the best 2 of 300 ranked items (the whole catalogue; nothing that the user met before)" in out
    lines = [line.split() for line in out.splitlines()]
    assert ["1", "*", "i1", "red", "mug", "0.2500", "-1.099"] in lines
    assert "[bold red]mug[/] [31m [link=http://x]xxx" in out
    assert "\x1b" not in out
    assert "* the user did like it" in out
    assert "+ a new item" in out


def test_a_new_item_from_further_below_follows(capsys):
    print_list([row(1, "i1", "red mug"), row(2, "i2", "lamp"), row(77, "n", "my own", new=True)], "s", 300)
    out = capsys.readouterr().out
    assert "the best 2 of 300 ranked items (s; nothing that the user met before), and the new ones" in out
    assert ["77", "+", "n", "my", "own", "0.2500", "-1.099"] in [line.split() for line in out.splitlines()]


def test_marks_are_explained_where_they_occur(capsys):
    print_list([row(1, "i1", "red mug")], "s", 1)
    out = capsys.readouterr().out
    assert "*" not in out
    assert "+" not in out


def test_a_person(capsys):
    history = [(f"i{n}", f"thing {n}") for n in range(12)]
    print_person("u[1]", history, "likes [b]red[/b]", 2, 3)
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "user u[1]: 12 liked items, the latest 10, oldest first"
    assert [line.split() for line in out[1:11]] == [
        *([f"i{n}", "thing", str(n)] for n in range(2, 10)), ["since", "i10", "thing", "10"],
        ["since", "i11", "thing", "11"],
    ]  # fmt: skip
    assert out[11] == "preference, without the items marked since: likes [b]red[/b]"
    assert out[12].startswith("3 of the oldest items did not fit into the prompt")


def test_a_person_without_history(capsys):
    print_person("u1", [], None, 0, 0)
    assert capsys.readouterr().out == "user u1: no history\n"
