"""The public Python interface: every name is there, and asking for none of them loads no heavy library."""

import subprocess
import sys
from importlib.metadata import version

import pytest

import mllm_srec

HEAVY = ["torch", "lightning", "transformers", "polars", "pandas", "matplotlib"]


@pytest.mark.parametrize("name", mllm_srec.__all__)
def test_every_public_name_is_what_it_is_called(name):
    value = getattr(mllm_srec, name)
    assert name == "__version__" or value.__name__ == name
    assert name in dir(mllm_srec)


def test_an_unknown_name_is_refused_with_the_public_ones():
    with pytest.raises(AttributeError, match=r"no attribute 'Rankr'; public names are .*Ranker"):
        _ = mllm_srec.Rankr


def test_the_version_is_that_of_the_distribution():
    assert mllm_srec.__version__ == version("mllm_srec")


def test_importing_the_package_loads_nothing_heavy():
    code = f"import sys, mllm_srec; print([name for name in {HEAVY} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
