"""Write the section "Every file" of `docs/architecture.md` from the heads of the files, which a test compares with it.

python docs/list_files.py
"""

from __future__ import annotations

import ast
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/architecture.md"
TITLE = "## Every file"
INTRODUCTION = "The first sentence of each file, room by room (`python docs/list_files.py` writes this section)."


def heads() -> dict[str, str]:
    """Return the first sentence of every file of the package, by its path below `mllm_srec/`."""
    package = ROOT / "mllm_srec"
    found = {}
    for path in sorted(package.rglob("*.py")):
        head = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        if head:
            found[str(path.relative_to(package))] = " ".join(head.split("\n\n")[0].split())
    return found


def written() -> str:
    """Return the section, one list per folder."""
    parts = [f"{TITLE}\n\n{INTRODUCTION}\n"]
    entries = sorted(heads().items(), key=lambda entry: (str(Path(entry[0]).parent), entry[0]))
    for folder, files in groupby(entries, key=lambda entry: str(Path(entry[0]).parent)):
        title = "The package itself" if folder == "." else f"`{folder}/`"
        lines = "\n".join(f"- `{name}`: {head}" for name, head in files)
        parts.append(f"### {title}\n\n{lines}\n")
    return "\n".join(parts)


def main() -> None:
    """Replace the section, which is the last of the page."""
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(text.partition(f"\n{TITLE}\n")[0].rstrip() + f"\n\n{written()}", encoding="utf-8")


if __name__ == "__main__":
    main()
