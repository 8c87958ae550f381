"""Who may import whom: the rooms of the package form layers, and so do the sub-rooms of `data` and `pipeline`.

Walks the syntax tree of every file, so that imports inside functions and under `TYPE_CHECKING` count too.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "mllm_srec"
ALLOWED = {
    "types": set(),
    "files": {"types"},
    "metrics": {"types"},
    "families": {"types"},
    "prompts": {"types", "files", "metrics", "families"},
    "data": {"types", "files", "metrics", "families", "prompts"},
    "models": {"types", "files", "metrics", "families", "prompts"},
    "summaries": {"types", "files", "metrics", "families", "prompts", "data", "models"},
    "baselines": {"types", "files", "metrics", "families", "prompts", "models"},
    "reports": {"types", "files", "metrics"},
}
ALLOWED["pipeline"] = {*ALLOWED}
ALLOWED["serve"] = {*ALLOWED}
ALLOWED["cli"] = {*ALLOWED, "cli"}
ALLOWED[""] = {"types", "files"}  # `mllm_srec/__init__.py` hands public names on by name: importing it loads nothing
ALLOWED["__main__"] = {"cli", "files", "types"}
FLOORS = {
    "data": [
        {"settings", "prepare_report", "history"},
        {"raw", "pictures", "manifest", "ratings"},
        {"download", "tables", "demo", "dataset"},
        {"prepare", "stored_prompts"},
        {"loading"},
    ],
    "pipeline": [
        {"build", "runs"},
        {"features", "evaluation"},
        {"model_kinds"},
        {"analysis", "ranking", "export", "cost_estimate", "leftovers"},
        {"grid"},
        {"report"},
    ],
}
"""Floors of the rooms that have sub-rooms, from the ground: a sub-room or file imports from lower floors and itself."""
LEAVES = ("experiments", "tests", "notebooks")
VAGUE_NAMES = {"utils", "helpers", "common", "misc"}
QUANTISATION_LIBRARIES = {"bitsandbytes", "peft"}
ONLY_USER_OF_THEM = f"{PACKAGE}.models.backbone"


# --- the checker --------------------------------------------------------------------------------------------------


def module_names(root, folder=PACKAGE):
    """Dotted name -> file of every Python file of a folder."""
    names = {}
    for path in sorted((root / folder).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def written_imports(name, path):
    """Dotted names that a file imports, each as `a.b.c` with the imported name last, absolute."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [node.module] if node.module else []
            if node.level:
                parts = name.split(".")
                base = parts[: len(parts) - node.level + (path.name == "__init__.py")] + base
            yield from (".".join([*base, alias.name]) for alias in node.names)
        elif isinstance(node, ast.Call) and called(node) in {"import_module", "__import__"}:
            yield from (str(argument.value) for argument in node.args[:1] if isinstance(argument, ast.Constant))


def called(node):
    """Last part of the name of what a call calls."""
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def import_graph(root):
    """Module -> modules of the package that it imports."""
    files = module_names(root)
    graph = {}
    for name, path in files.items():
        graph[name] = set()
        for target in written_imports(name, path):
            while target and target not in files:
                target = target.rpartition(".")[0]
            graph[name] |= {target} - {"", name}
    return graph


def room(name):
    """First folder or file below the package; empty for the package itself."""
    return [*name.split("."), ""][1]


def against_the_table(root):
    """Imports that the table does not allow, and rooms that it does not know."""
    graph = import_graph(root)
    unknown = {f"{n}: room is not in the table" for n in graph if room(n) and room(n) not in ALLOWED}
    return unknown | {
        f"{name} -> {target}"
        for name, targets in graph.items()
        for target in targets
        if room(name) != room(target) and room(target) and room(target) not in ALLOWED.get(room(name), set())
    }


def against_the_floors(root):
    """Imports between the sub-rooms of a room that lead upwards or along a floor, and sub-rooms on no floor."""
    found = set()
    for room_name, floors in FLOORS.items():
        floor_of = {name: number for number, floor in enumerate(floors) for name in floor}
        inside = {name: sub_room(name) for name in import_graph(root) if room(name) == room_name and sub_room(name)}
        found |= {f"{name}: sub-room is on no floor" for name, sub in inside.items() if sub not in floor_of}
        known = {name: sub for name, sub in inside.items() if sub in floor_of}
        found |= {
            f"{name} -> {target}"
            for name, targets in import_graph(root).items()
            for target in targets
            if name in known and target in known and known[name] != known[target]
            if floor_of[known[target]] >= floor_of[known[name]]
        }
    return found


def sub_room(name):
    """Second folder or file below the package; empty for a room itself."""
    return [*name.split("."), "", ""][2]


def import_cycles(root):
    """Modules that import themselves through others."""
    graph = import_graph(root)
    reach = {name: set(targets) for name, targets in graph.items()}
    for middle in reach:  # transitive closure
        for targets in reach.values():
            if middle in targets:
                targets |= reach[middle]
    return {name for name, targets in reach.items() if name in targets}


def imports_of_leaves(root):
    """Imports of experiments, tests or notebooks, by anything but the tests themselves."""
    files = module_names(root) | module_names(root, "experiments")
    return {
        f"{name} -> {target}"
        for name, path in files.items()
        for target in written_imports(name, path)
        if target.split(".")[0] in LEAVES
    }


def vague_files(root):
    """Files or folders named after nothing in particular."""
    names = module_names(root) | module_names(root, "experiments")
    return {name for name in names if VAGUE_NAMES & set(name.split("."))}


def users_of_quantisation(root):
    """Modules of the package that import bitsandbytes or peft."""
    return {
        name
        for name, path in module_names(root).items()
        if any(target.split(".")[0] in QUANTISATION_LIBRARIES for target in written_imports(name, path))
    }


def trusting_remote_code(root):
    """Places that set `trust_remote_code` to anything but False, in Python or YAML."""
    found = set()
    for folder in (PACKAGE, "experiments", "tests"):
        for name, path in module_names(root, folder).items():
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if any(not (isinstance(v, ast.Constant) and v.value is False) for v in remote_code_values(node)):
                    found.add(f"{name}:{node.lineno}")
    for path in sorted((root / "configs").rglob("*.yaml")):
        if "trust_remote_code: true" in path.read_text(encoding="utf-8").lower():
            found.add(path.name)
    return found


def remote_code_values(node):
    """Values given to `trust_remote_code` by a call, a dict display, or an assignment to such a key."""
    key = "trust_remote_code"
    if isinstance(node, ast.Call):
        return [k.value for k in node.keywords if k.arg == key]
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return [v for k, v in pairs if isinstance(k, ast.Constant) and k.value == key]
    if isinstance(node, ast.Assign):
        slices = [t.slice for t in node.targets if isinstance(t, ast.Subscript)]
        return [node.value for s in slices if isinstance(s, ast.Constant) and s.value == key]
    return []


# --- this repository ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "check",
    [against_the_table, against_the_floors, import_cycles, imports_of_leaves, vague_files, trusting_remote_code],
)
def test_this_repository(check):
    assert sorted(check(ROOT)) == []


def test_only_the_backbone_imports_quantisation_and_adapters():
    assert users_of_quantisation(ROOT) <= {ONLY_USER_OF_THEM}


def test_the_table_has_no_circle():
    """Every room comes after all rooms that it may import."""
    rooms = [*ALLOWED]
    assert all(rooms.index(target) <= rooms.index(name) for name, targets in ALLOWED.items() for target in targets)


# --- the checker can fail -----------------------------------------------------------------------------------------


@pytest.fixture
def fake(tmp_path):
    """Writes files of a small package and returns its root."""

    def write(**files):
        for name, text in {"__init__": "", "types": "", **files}.items():
            folder = "" if name.startswith(("experiments__", "configs__")) else PACKAGE
            path = tmp_path / folder / (name.replace("__", "/") if name != "__init__" else name)
            path = path.with_suffix(".yaml" if name.startswith("configs__") else ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


@pytest.mark.parametrize(
    "line",
    [
        "import mllm_srec.models.scoring",
        "from mllm_srec.models.scoring import score",
        "from mllm_srec.models import scoring",
        "from ..models import scoring",
        "from ..models.scoring import score",
        "def f():\n    from mllm_srec.models.scoring import score",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from mllm_srec.models.scoring import score",
        "import importlib\nimportlib.import_module('mllm_srec.models.scoring')",
    ],
)
def test_an_import_upwards_is_found_however_it_is_written(fake, line):
    root = fake(metrics__ranking=line, models__scoring="score = 1")
    assert against_the_table(root) == {"mllm_srec.metrics.ranking -> mllm_srec.models.scoring"}


def test_imports_that_the_table_allows_pass(fake):
    root = fake(
        data__raw="from mllm_srec import __version__\nfrom mllm_srec.types import KINDS",
        models__scoring="from mllm_srec.metrics import ranking\nfrom . import other\nimport torch",
        models__other="from mllm_srec.types import KINDS",
        metrics__ranking="",
        cli__fit="def main():\n    from mllm_srec.pipeline.build import build",
        pipeline__build="from mllm_srec.models.scoring import score",
    )
    assert against_the_table(root) == set()
    assert import_cycles(root) == set()


def test_a_room_that_the_table_does_not_know_is_found(fake):
    assert against_the_table(fake(tools__x="")) == {"mllm_srec.tools.x: room is not in the table"}


def test_an_import_along_or_up_the_floors_is_found(fake):
    root = fake(
        data__tables__splits="from mllm_srec.data.raw import lines\nfrom mllm_srec.data.loading.sampler import x",
        data__raw__lines="from mllm_srec.data.pictures import files\nfrom mllm_srec.data.settings import x",
        data__pictures__files="",
        data__settings="",
        data__loading__sampler="",
        data__attic__box="",
    )
    assert against_the_floors(root) == {
        "mllm_srec.data.tables.splits -> mllm_srec.data.loading.sampler",
        "mllm_srec.data.raw.lines -> mllm_srec.data.pictures.files",
        "mllm_srec.data.attic.box: sub-room is on no floor",
    }


def test_nothing_imports_the_command_line(fake):
    assert against_the_table(fake(pipeline__build="from mllm_srec.cli.fit import main", cli__fit="")) == {
        "mllm_srec.pipeline.build -> mllm_srec.cli.fit"
    }


def test_a_cycle_of_three_files_in_one_room_is_found(fake):
    root = fake(
        data__a="from mllm_srec.data import b",
        data__b="def f():\n    from .c import x",
        data__c="from mllm_srec.data.a import y",
        data__d="from mllm_srec.data import a",
    )
    assert import_cycles(root) == {"mllm_srec.data.a", "mllm_srec.data.b", "mllm_srec.data.c"}


def test_imports_of_leaves_are_found(fake):
    root = fake(
        data__raw="from tests.metrics import oracle", experiments__one="import experiments.two", experiments__two=""
    )
    assert imports_of_leaves(root) == {
        "mllm_srec.data.raw -> tests.metrics.oracle",
        "experiments.one -> experiments.two",
    }


def test_vague_files_are_found(fake):
    assert vague_files(fake(data__utils="", common__x="")) == {"mllm_srec.data.utils", "mllm_srec.common.x"}


def test_users_of_quantisation_are_found(fake):
    root = fake(
        models__backbone="import peft",
        models__scoring="def f():\n    from bitsandbytes.nn import Linear4bit",
        models__other="from transformers import BitsAndBytesConfig",
    )
    assert users_of_quantisation(root) == {ONLY_USER_OF_THEM, "mllm_srec.models.scoring"}


@pytest.mark.parametrize(
    "text",
    ["load('x', trust_remote_code=True)", "load(**{'trust_remote_code': True})", "a = {}\na['trust_remote_code'] = b"],
)
def test_trusted_remote_code_is_found(fake, text):
    assert {x.split(":")[0] for x in trusting_remote_code(fake(models__x=text))} == {"mllm_srec.models.x"}


def test_trusted_remote_code_is_found_in_yaml_and_false_is_fine(fake):
    root = fake(configs__demo="model:\n  trust_remote_code: True\n", models__x="load(trust_remote_code=False)")
    assert trusting_remote_code(root) == {"demo.yaml"}
