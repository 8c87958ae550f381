"""The examples in the docstrings of `mllm_srec.metrics` run, and every public function has one."""

import doctest
import importlib
import inspect
import pkgutil
import types

import pytest

from mllm_srec import metrics

MODULES = [
    importlib.import_module(f"{metrics.__name__}.{info.name}") for info in pkgutil.iter_modules(metrics.__path__)
]
FINDER = doctest.DocTestFinder(exclude_empty=True)


def public_functions(module):
    """Names of the public functions that a module defines."""
    functions = inspect.getmembers(module, inspect.isfunction)
    return [name for name, function in functions if function.__module__ == module.__name__ and name[0] != "_"]


def without_example(module):
    """Public functions of a module whose docstring has no example."""
    with_example = {test.name for test in FINDER.find(module) if test.examples}
    return [name for name in public_functions(module) if f"{module.__name__}.{name}" not in with_example]


def failures(module):
    """Number of examples of a module that do not give what they show."""
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
    for test in FINDER.find(module):
        runner.run(test)
    return runner.summarize(verbose=False).failed


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_examples_run(module):
    assert failures(module) == 0


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_every_public_function_has_an_example(module):
    assert without_example(module) == []


def test_the_functions_are_found():
    found = {name for module in MODULES for name in public_functions(module)}
    assert {"auc", "user_auc", "hit_rate", "recall", "ndcg", "mrr", "ranking_metrics", "holm"} <= found


def module_with(source):
    module = types.ModuleType("made_up")
    exec(source, module.__dict__)
    return module


def test_a_function_without_an_example_and_a_wrong_example_are_found(capsys):
    right = 'def one():\n    """\n    >>> one()\n    1\n    """\n    return 1\n'
    module = module_with(right + 'def two():\n    """No example."""\n\ndef _three(): ...\n')
    assert (without_example(module), failures(module)) == (["two"], 0)
    assert failures(module_with(right.replace("return 1", "return 2"))) == 1
    assert "Expected:" in capsys.readouterr().out
