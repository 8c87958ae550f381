"""How the package reads: sizes of files and functions, docstrings, types, and no bare assert."""

import ast
import statistics
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "mllm_srec"
MAX_FILE, MEDIAN_FILE = 350, 200
MAX_FUNCTION, P90_FUNCTION, MEDIAN_FUNCTION = 80, 45, 15
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Source:
    """A file of the package, read and parsed."""

    name: str
    text: str

    @property
    def tree(self):
        return ast.parse(self.text)

    @property
    def n_lines(self):
        return len(self.text.splitlines())


def read(folder):
    return [
        Source(str(path.relative_to(folder)), path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.py"))
    ]


def function_sizes(sources):
    """Place -> lines of every function, from `def` to its end, docstring included."""
    return {
        f"{source.name}:{node.lineno} {node.name}": node.end_lineno - node.lineno + 1
        for source in sources
        for node in ast.walk(source.tree)
        if isinstance(node, FUNCTIONS)
    }


def share(sizes, quantile):
    """The size that at least this share of functions does not exceed."""
    ordered = sorted(sizes)
    return ordered[max(0, -(-int(quantile * 100) * len(ordered) // 100) - 1)]


def size_faults(sources):
    """What breaks the norms of size, each with its number."""
    files = {source.name: source.n_lines for source in sources if source.n_lines}
    functions = function_sizes(sources)
    faults = [f"{name} has {n} lines" for name, n in files.items() if n > MAX_FILE]
    faults += [f"{name} has {n} lines" for name, n in functions.items() if n > MAX_FUNCTION]
    totals = [
        ("median file", statistics.median(files.values()), MEDIAN_FILE),
        ("median function", statistics.median(functions.values()), MEDIAN_FUNCTION),
        ("90 % of functions", share(functions.values(), 0.9), P90_FUNCTION),
    ]
    return faults + [f"{name}: {n} lines, at most {limit}" for name, n, limit in totals if n > limit]


def without_docstring(sources):
    """Public files, classes, functions and methods without a docstring; overrides speak through what they override."""
    missing = []
    for source in sources:
        if source.n_lines and not ast.get_docstring(source.tree):
            missing.append(source.name)
        nodes = list(source.tree.body)
        nodes += [child for node in nodes if isinstance(node, ast.ClassDef) and public(node) for child in node.body]
        missing += [
            f"{source.name}:{node.lineno} {node.name}"
            for node in nodes
            if isinstance(node, (*FUNCTIONS, ast.ClassDef)) and public(node) and not ast.get_docstring(node)
        ]
    return missing


def public(node):
    decorators = {getattr(d, "id", getattr(d, "attr", "")) for d in node.decorator_list}
    return not node.name.startswith("_") and not decorators & {"override", "overload"}


def untyped(sources):
    """Functions without a return type or with an argument without a type."""
    missing = []
    for source in sources:
        for node in ast.walk(source.tree):
            if isinstance(node, FUNCTIONS):
                a = node.args
                arguments = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
                bare = [x.arg for x in arguments if x.annotation is None and x.arg not in {"self", "cls"}]
                if node.returns is None or bare:
                    missing.append(f"{source.name}:{node.lineno} {node.name}({', '.join(bare)})")
    return missing


def asserts(sources):
    """Bare asserts, which `python -O` removes and which say nothing to a user."""
    return [f"{s.name}:{node.lineno}" for s in sources for node in ast.walk(s.tree) if isinstance(node, ast.Assert)]


@pytest.mark.parametrize("check", [size_faults, without_docstring, untyped, asserts])
def test_the_package(check):
    assert check(read(PACKAGE)) == []


# --- the checks can fail ------------------------------------------------------------------------------------------


def function(n_lines, name="f"):
    return f"def {name}() -> None:\n" + "    pass\n" * (n_lines - 1)


def test_long_files_and_functions_are_found():
    sources = [
        Source("a.py", function(81)),
        Source("b.py", "x = 1\n" * 351),
        Source("c.py", ""),
        Source("d.py", function(3)),
    ]
    assert size_faults(sources) == [
        "b.py has 351 lines",
        "a.py:1 f has 81 lines",
        "median function: 42.0 lines, at most 15",
        "90 % of functions: 81 lines, at most 45",
    ]


def test_sizes_at_the_limits_pass():
    short = [Source(f"{i}.py", function(15)) for i in range(18)]
    assert size_faults([*short, Source("x.py", function(80) + "x = 1\n" * 270), Source("y.py", function(45))]) == []


@pytest.mark.parametrize(("n_long", "faults"), [(1, []), (2, ["90 % of functions: 46 lines, at most 45"])])
def test_one_function_in_ten_may_be_longer(n_long, faults):
    sizes = [46] * n_long + [10] * (10 - n_long)
    assert size_faults([Source(f"{i}.py", function(n)) for i, n in enumerate(sizes)]) == faults


def test_missing_docstrings_are_found():
    methods = "    def g(self): ...\n    def _h(self): ...\n    @override\n    def i(self): ...\n"
    text = '"""Head."""\ndef f(): ...\nclass A:\n' + methods
    assert without_docstring([Source("a.py", text), Source("b.py", "x = 1\n"), Source("__init__.py", "")]) == [
        "a.py:2 f", "a.py:3 A", "a.py:4 g", "b.py",
    ]  # fmt: skip


def test_missing_types_are_found():
    text = "def f(x: int): ...\ndef g(x, *y: int) -> int:\n    def h(): ...\ndef i(self, *, k: int) -> None: ...\n"
    assert untyped([Source("a.py", text)]) == ["a.py:1 f()", "a.py:2 g(x)", "a.py:3 h()"]


def test_asserts_are_found():
    assert asserts([Source("a.py", "def f(x: int) -> None:\n    assert x\n")]) == ["a.py:2"]
