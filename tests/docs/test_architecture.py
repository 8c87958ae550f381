"""The plan of the house is the house: tree, import tables, walks and places of changes name what is there."""

import ast
import re
from itertools import pairwise
from runpy import run_path

import pytest

from mllm_srec.__main__ import COMMANDS
from tests.docs.documents import PACKAGE, ROOT, blocks, existing, section
from tests.test_import_direction import ALLOWED, FLOORS

ARCHITECTURE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
WALKS = {"fit": (30, 9), "summarize": (18, 7), "test": (18, 7)}
"""Command -> most files and changes of room of its walk."""


def drawn_folders(tree):
    """Folders of a drawn tree, each as a path below its first line."""
    found, above = set(), []
    for line in tree.splitlines()[1:]:
        indent, name = re.match(r"( *)(\w+)/ ", line).groups()
        above = [*above[: len(indent) // 2 - 1], name]
        found.add("/".join(above))
    return found


def test_the_tree_names_every_folder_and_no_other():
    files = [path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    folders = {str(path.parent.relative_to(PACKAGE)) for path in files} - {"."}
    assert drawn_folders(blocks(ARCHITECTURE)[0]) == folders


def rooms_meant(words):
    """Rooms that a cell of the import table stands for."""
    leaves = {"types", "files", "metrics", "families"}
    named = set(re.findall(r"`(\w+)`", words))
    if words.startswith("all"):
        return {room for room in ALLOWED if room and room != "__main__"} - named
    return named | leaves if words.startswith("the leaves") else named


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_the_import_table_is_the_one_that_is_tested(page):
    text = section((ROOT / page).read_text(encoding="utf-8"), "Who may import whom")
    written = {}
    for rooms, allowed in re.findall(r"^\| (`.+?) \| (.+?) \|$", text, re.MULTILINE):
        for room in re.findall(r"`(\w+)`", rooms):
            written[room] = rooms_meant(allowed) - {room}
    assert written == {room: set(to) - {room} for room, to in ALLOWED.items() if room not in {"", "__main__"}}


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_the_floors_are_those_that_are_tested(page):
    text = section((ROOT / page).read_text(encoding="utf-8"), "Who may import whom")
    written = {
        room: [set(re.findall(r"`(\w+)`", floor)) for floor in floors.split(" < ")]
        for room, floors in re.findall(r"^- Inside `(\w+)`: (.+)$", text, re.MULTILINE)
    }
    assert written == FLOORS


def walk(command):
    """Files of a walk in order."""
    lines = re.findall(r"^(\d+)\. `([^`]+)`: .+$", section(ARCHITECTURE, command), re.MULTILINE)
    assert [int(number) for number, _ in lines] == list(range(1, len(lines) + 1))
    return [name for _, name in lines]


@pytest.mark.parametrize("command", WALKS)
def test_a_walk_is_short_and_leads_through_files_that_exist(command):
    files = walk(command)
    assert len(files) > 10
    assert [name for name in files if not (PACKAGE / name).is_file()] == []
    rooms = [name.split("/")[0] for name in files]
    changes = sum(before != after for before, after in pairwise(rooms))
    most_files, most_changes = WALKS[command]
    assert len(set(files)) == len(files) <= most_files
    assert changes <= most_changes
    assert f"cli/commands/{COMMANDS[command][0]}.py" in files


def names_defined(path):
    """Functions, classes, methods and constants of a file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def test_changes_go_into_places_that_exist():
    rows = re.findall(
        r"^\| (?!to change)(?!-)(.+?) \| (.+?) \|$", section(ARCHITECTURE, "Where a change goes"), re.MULTILINE
    )
    assert len(rows) >= 15
    for change, places in rows:
        paths = re.findall(r"`([\w./]+(?:/|\.py|\.css))`", places)
        assert paths or "class that uses it" in places, change
        assert [path for path in paths if not existing(path)] == []
        for path, names in re.findall(r"`([\w./]+\.py)` \(([^)]+)\)", places):
            assert set(re.findall(r"`(\w+)`", names)) <= names_defined(PACKAGE / path), path


@pytest.mark.parametrize(
    ("page", "folder"),
    [
        ("docs/index.md", "configs/ablation"),
        ("docs/baselines.md", "configs/baselines"),
        ("docs/experiments.md", "experiments"),
    ],
)
def test_every_overlay_and_grid_is_listed(page, folder):
    listed = set(re.findall(r"`(?:configs/\w+/)?(\w+\.yaml)`", (ROOT / page).read_text(encoding="utf-8")))
    assert {path.name for path in (ROOT / folder).glob("*.yaml")} <= listed


def test_every_file_is_listed_with_its_own_first_sentence():
    found = run_path(str(ROOT / "docs/list_files.py"))["written"]()
    assert ARCHITECTURE.endswith(found), "run `python docs/list_files.py`"
