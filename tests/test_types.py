"""Checks that every room shares: values of `Literal` settings, and hints for unknown names."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field, replace
from typing import Literal

import pytest

from mllm_srec.types import ConfigError, check_literals, did_you_mean

Colour = Literal["red", "green"]


@dataclass(frozen=True)
class Inner:
    size: Literal["small", "large"] = "small"
    label: str = "anything"


@dataclass(frozen=True)
class Outer:
    colour: Colour = "red"
    count: Literal[1, 2] = 1
    inner: Inner = field(default_factory=Inner)


def test_accepted_values_pass():
    check_literals(Outer())
    check_literals(Outer(colour="green", count=2, inner=Inner("large", "whatever")), "shop")


@pytest.mark.parametrize(
    ("changes", "section", "message"),
    [
        ({"colour": "gren"}, "", "colour='gren': not one of red, green; did you mean 'green'?"),
        ({"colour": "blue"}, "shop", "shop.colour='blue': not one of red, green; choose one of these"),
        ({"colour": None}, "", "colour=None: not one of red, green; choose one of these"),
        ({"colour": ["red"]}, "", "colour=['red']: not one of red, green; did you mean 'red'?"),
        ({"count": 3}, "", "count=3: not one of 1, 2; choose one of these"),
        ({"inner": Inner("larg")}, "", "inner.size='larg': not one of small, large; did you mean 'large'?"),
        ({"inner": Inner("larg")}, "a.b", "a.b.inner.size='larg': not one of small, large; did you mean 'large'?"),
    ],
)
def test_another_value_is_refused(changes, section, message):
    with pytest.raises(ConfigError) as caught:
        check_literals(replace(Outer(), **changes), section)
    assert str(caught.value) == message


def test_the_class_of_the_error_can_be_chosen():
    with pytest.raises(ValueError, match=r"inner\.size='tiny'"):
        check_literals(Outer(inner=Inner("tiny")), error=ValueError)


@pytest.mark.parametrize(
    ("name", "known", "options", "hint"),
    [
        ("tset", ["fit", "test"], {}, "; did you mean 'test'?"),
        ("qqqq", ["fit", "test"], {}, ""),
        ("tset", [], {}, ""),
        ("epochs", ["min_epochs", "max_epochs", "lr"], {"n": 2}, "; did you mean 'min_epochs' or 'max_epochs'?"),
        ("u1", ["u10", "u1x", "b"], {"n": 3, "cutoff": 0.0}, "; did you mean 'u1x' or 'u10' or 'b'?"),
        ("user", {"user id": "User ID", "item": "Item"}, {}, "; did you mean 'User ID'?"),
        ("x", iter(["xs"]), {}, "; did you mean 'xs'?"),
    ],
)
def test_did_you_mean(name, known, options, hint):
    assert did_you_mean(name, known, **options) == hint


def test_the_file_loads_without_the_libraries_that_only_its_checks_need():
    code = "import sys, mllm_srec.types; print([name for name in ('difflib', 'torch') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
