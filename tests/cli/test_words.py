"""What was typed, cut into settings: with a value behind a blank or a sign, in braces, or with none."""

import doctest

import pytest

from mllm_srec.cli import words
from mllm_srec.cli.words import flags, mapping, typed_names, without_flags


def test_the_examples_are_right():
    found = doctest.testmod(words)
    assert found.attempted >= 3
    assert found.failed == 0


@pytest.mark.parametrize(
    ("typed", "cut"),
    [
        (["--x", "-1"], [("x", "-1")]),
        (["--x", "-.5"], [("x", "-.5")]),
        (["--x", "--y", "z"], [("x", ""), ("y", "z")]),
        (["a", "-c", "f.yaml", "b"], [("c", "f.yaml")]),
        (["--x=a=b", "--y="], [("x", "a=b"), ("y", "")]),
        (["--x+=3"], [("x+", "3")]),
        (["--"], []),
    ],
)
def test_a_flag_has_the_value_that_argparse_gives_it(typed, cut):
    assert [(name, value) for name, value, _ in flags(typed)] == cut


def test_what_is_left_out_takes_its_value_along():
    typed = ["--ckpt_path", "a", "--ckpt_path=b", "--name", "--ckpt_path", "--model.lr", "-1", "rest"]
    assert without_flags(typed, ["ckpt_path"]) == ["--name", "--model.lr", "-1", "rest"]
    assert without_flags(typed, ["model", "name", "ckpt_path"]) == ["rest"]
    assert without_flags(["--names", "x", "--name.y", "z"], ["name"]) == ["--names", "x"]


def test_names_of_a_section_in_braces():
    assert typed_names(["--model={lr: 1, lora: {r: 2}}"]) == ["model.lr", "model.lora.r"]
    assert typed_names(["--model", "{lr: ["]) == ["model"], "the parser says what is wrong"
    assert (mapping("[1]"), mapping("x"), mapping("{a}")) == (None, None, {"a": None})
