"""Figure 7 as files: case studies in Markdown for readers and in JSON for `report`, and their pictures."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mllm_srec.files.reading import read_object, read_whole
from mllm_srec.reports.page.cases import Case, CaseItem, CaseStudies, CaseTarget
from mllm_srec.reports.tables.table_text import markdown_escaped

TITLE = "Figure 7: case studies"

FILE = "figure7.json"
"""File that `report` reads."""

PICTURES = "pictures"
"""Folder of the pictures, each named after the hash of its content."""

NAME = re.compile(r"[0-9a-f]{12}\.(jpg|png)")
"""Pattern of the names of these pictures."""

COLUMNS = ("picture", "title", "place", "probability", "truth", "picture in the model's words", "item summary")
"""Columns of the candidates in Markdown; the model itself states the probability of a like."""


def write_cases(studies: CaseStudies, demo: bool, folder: Path) -> list[Path]:
    """Write `figure7.md`, `figure7.json` and the pictures; those of earlier cases are removed.

    Args:
        studies: Cases.
        demo: True if they are of the generated shop.
        folder: Folder, which is made if it does not exist.

    Returns:
        Paths of the Markdown and the JSON file.

    Raises:
        OSError: A file cannot be written.
    """
    pictures = folder / PICTURES
    pictures.mkdir(parents=True, exist_ok=True)
    before = {path for path in pictures.iterdir() if NAME.fullmatch(path.name)}
    kept = set[Path]()

    def as_file(value: object) -> str:
        if not isinstance(value, bytes):
            raise TypeError(f"a case holds a {type(value).__name__}")
        path = folder / _picture_name(value)
        path.write_bytes(value)
        kept.add(path)
        return _picture_name(value)

    about = {"title": TITLE, "demo": demo, **asdict(studies)}
    contents = {
        "md": _markdown_text(studies, demo),
        "json": json.dumps(about, indent=2, ensure_ascii=False, default=as_file) + "\n",
    }
    paths = [folder / f"figure7.{ending}" for ending in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        path.write_text(content, encoding="utf-8")
    for path in before - kept:
        path.unlink()
    return paths


def read_cases(folder: Path) -> tuple[CaseStudies, bool]:
    """Read the files of `write_cases`.

    Returns:
        The cases, and True if they are of the generated shop.

    Raises:
        DataError: A file is damaged or missing.
    """
    what, remedy = "the case studies", "make them again with experiments/figure7.py"
    about = read_object(folder / FILE, what, remedy, ("cases", "run", "rule", "demo"))

    def parse(path: Path) -> tuple[Case, ...]:
        return tuple(_case(folder, case) for case in about["cases"])

    cases = read_whole(folder / FILE, parse, what, remedy)
    return CaseStudies(str(about["run"]), str(about["rule"]), cases), bool(about["demo"])


def _case(folder: Path, case: Mapping[str, Any]) -> Case:
    targets = (CaseTarget(**{**target, "item": _item(folder, target["item"])}) for target in case["targets"])
    history = tuple(_item(folder, item) for item in case["history"])
    return Case(**{**case, "history": history, "targets": tuple(targets)})


def _item(folder: Path, item: Mapping[str, Any]) -> CaseItem:
    name = item["picture"]
    content = None if name is None else (folder / PICTURES / Path(name).name).read_bytes()
    return CaseItem(**{**item, "picture": content})


def _picture_name(content: bytes) -> str:
    ending = "png" if content.startswith(b"\x89PNG") else "jpg"
    return f"{PICTURES}/{hashlib.sha256(content).hexdigest()[:12]}.{ending}"


# --- for readers -----------------------------------------------------------------------------------------------------


def _markdown_text(studies: CaseStudies, demo: bool) -> str:
    shop = "The people, items and pictures are of the generated demo shop.\n\n" if demo else ""
    head = f"# {TITLE}\n\n{shop}Run {markdown_escaped(studies.run)}. {markdown_escaped(studies.rule)}\n"
    return "\n".join([head, *("\n".join(_case_lines(number, case)) for number, case in enumerate(studies.cases, 1))])


def _case_lines(number: int, case: Case) -> Iterator[str]:
    """Yield the lines of a case: history, preference, candidates."""
    who = case.user_id if case.profile is None else f"{case.user_id}, {case.profile}"
    yield f"## {number}. {case.verdict}: person {markdown_escaped(who)}\n"
    if case.history:
        yield f"Liked before, the latest {len(case.history)} of {case.n_history}, oldest first:\n"
        titles = [markdown_escaped(item.title) for item in case.history]
        yield from map(_line, (map(_picture_text, case.history), ["---"] * len(titles), titles))
        yield ""
    else:
        yield "This person has no history yet.\n"
    if case.preference is not None:
        yield f"Preference that the model wrote, as part of the prompt:\n\n> {markdown_escaped(case.preference)}\n"
    yield f"{len(case.targets)} of {case.n_candidates} candidates that the model scored:\n"
    yield from map(_line, (COLUMNS, ["---"] * len(COLUMNS), *map(_target_cells, case.targets)))
    yield ""


def _target_cells(target: CaseTarget) -> Iterator[str]:
    """Yield the table cells of a candidate, as `COLUMNS` names them."""
    item = target.item
    yield _picture_text(item)
    yield markdown_escaped(item.title)
    yield "missed" if target.place is None else f"{target.place}" + (f", {target.tied} tied" if target.tied > 1 else "")
    stated, score = target.probability, target.score
    yield f"{stated:.1%}" if stated is not None else "-" if score is None else f"{score:.3f} (score)"
    yield "liked later" if target.liked else "no known like"
    yield from (markdown_escaped(text or "-") for text in (item.image_summary, item.item_summary))


def _picture_text(item: CaseItem) -> str:
    return "no picture" if item.picture is None else f"![]({_picture_name(item.picture)})"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
