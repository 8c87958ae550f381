"""Documents of the repository as tests read them: headings, links, commands and code of Markdown files."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "mllm_srec"
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "notebooks/README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]
CALL = "python -m mllm_srec"
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")


def name_of(path):
    """A document as test ids show it."""
    return str(path.relative_to(ROOT))


def blocks(text, *languages):
    """Content of the fenced blocks of some languages; of all, without any."""
    return [body for _, language, body in _FENCE.findall(text) if not languages or language in languages]


def prose(text):
    """The text without its fenced blocks."""
    return _FENCE.sub("", text)


def spans(text):
    """Inline code, on one line each."""
    return [" ".join(code.split()) for code in _CODE.findall(prose(text))]


def links(text):
    """Targets of all links and pictures, fenced blocks apart."""
    return re.findall(r"\]\(([^)\s]+)\)", _CODE.sub("", prose(text)))


def anchors(text):
    """Fragments of all headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def section(text, title):
    """What stands below a heading, up to the next one of its height."""
    found = re.search(rf"^(#+) {re.escape(title)}$(.*?)(?=^#{{1,2}} |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"there is no heading {title!r}"
    deeper = re.split(rf"^{found[1]} ", found[2], flags=re.MULTILINE)
    return deeper[0]


def command_lines(text):
    """Shell lines of a document, continued ones joined."""
    return [line for body in blocks(text) for line in body.replace("\\\n", " ").splitlines()]


def commands(text):
    """Arguments of every call of the package, from blocks and inline code; placeholders are given a value."""
    lines = [line for line in [*command_lines(text), *spans(text)] if CALL in line and not line.startswith("$")]
    found = [line[line.index(CALL) + len(CALL) :] for line in lines]
    filled = [line.replace("configs/<name>.yaml", "configs/demo.yaml") for line in found]
    return [shlex.split(re.sub(r"<(\w+)>", r"\1", line), comments=True) for line in filled]


def existing(name, *, folders=(ROOT, PACKAGE)):
    """Files that a path in a document means, as below the repository or the package; `<...>` stands for any name."""
    pattern = re.sub(r"<[^>]+>", "*", name).rstrip("/")
    return [path for folder in folders for path in folder.glob(pattern)]
