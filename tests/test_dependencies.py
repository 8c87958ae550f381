"""Every library that the package imports is declared in `pyproject.toml`, with a reason."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from tests.test_import_direction import PACKAGE, ROOT, module_names, written_imports

PROJECT = Path(ROOT / "pyproject.toml").read_text(encoding="utf-8")


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def imported_libraries():
    """Top-level names that files of the package import, without the standard library and ourselves."""
    found = {
        target.split(".")[0] for name, path in module_names(ROOT).items() for target in written_imports(name, path)
    }
    return found - set(sys.stdlib_module_names) - {PACKAGE, "_typeshed"}  # types of the standard library


def test_every_imported_library_is_declared():
    declared = {
        canonical(re.match(r"[\w.-]+", requirement).group())
        for requirement in tomllib.loads(PROJECT)["project"]["dependencies"]
    }
    distributions = packages_distributions()
    libraries = imported_libraries()
    assert {"torch", "yaml", "PIL"} <= libraries
    missing = {name for name in libraries if not {canonical(d) for d in distributions.get(name, [name])} & declared}
    assert missing == set()


def test_every_dependency_has_its_reason():
    block = PROJECT.split("dependencies = [", 1)[1].split("\n]", 1)[0]
    assert [line for line in block.splitlines() if line.strip() and "#" not in line] == []


def test_what_tests_and_experiments_import_is_declared():
    project = tomllib.loads(PROJECT)["project"]
    requirements = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    declared = {canonical(re.match(r"[\w.-]+", requirement).group()) for requirement in requirements}
    distributions = packages_distributions()
    missing = set()
    for room in ("tests", "experiments"):
        files = sorted((ROOT / room).rglob("*.py"))
        own = {"mllm_srec", "tests", "experiments", *(path.stem for path in files)} | set(sys.stdlib_module_names)
        for path in files:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
                for name in {name.split(".")[0] for name in names} - own:
                    if not {canonical(d) for d in distributions.get(name, [name])} & declared:
                        missing.add(name)
    assert missing == set()


def test_libraries_with_known_holes_are_too_old():
    """CVE-2025-68146 and CVE-2026-22701 (filelock), memory errors of Pillow before 13."""
    floors = {"filelock": (3, 20, 3), "pillow": (13,)}
    for requirement in tomllib.loads(PROJECT)["project"]["dependencies"]:
        name, _, floor = requirement.partition(">=")
        if name in floors:
            assert tuple(map(int, floor.split(",")[0].split("."))) >= floors.pop(name)
    assert floors == {}
