"""Documents lead somewhere: links to files and headings, paths in backticks, make targets, pages of the site."""

import re

import pytest
import yaml

from tests.docs.documents import DOCUMENTS, ROOT, anchors, command_lines, existing, links, name_of, spans

PATH = re.compile(r"(configs|docs|examples|experiments|mllm_srec|notebooks|tests)/[\w./<>*-]*")


def broken_links(path):
    """Links of a document that lead nowhere."""
    broken = []
    for link in links(path.read_text(encoding="utf-8")):
        if re.match(r"https?://", link):
            continue
        file, _, fragment = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.exists() or (fragment and fragment not in anchors(target.read_text(encoding="utf-8"))):
            broken.append(link)
    return broken


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_hold(path):
    assert broken_links(path) == []


def test_a_broken_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A title, really\n[a](#a-title-really) [b](#other) [c](gone.md) `[d](code)` [e](https://x.org)\n")
    assert broken_links(page) == ["#other", "gone.md"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_paths_in_backticks_exist(path):
    named = [code for code in spans(path.read_text(encoding="utf-8")) if PATH.fullmatch(code)]
    assert [code for code in named if not existing(code, folders=(ROOT,))] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_make_targets_exist(path):
    text = path.read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = [found for line in [*command_lines(text), *spans(text)] for found in re.findall(r"^make ([a-z-]+)", line)]
    assert [name for name in named if not re.search(rf"^{name}:", makefile, re.MULTILINE)] == []


def test_the_site_has_every_page_once():
    def pages(entries):
        for entry in entries:
            for value in entry.values():
                yield from pages(value) if isinstance(value, list) else [value]

    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    docs = ROOT / "docs"
    assert sorted(pages(config["nav"])) == sorted(str(path.relative_to(docs)) for path in docs.rglob("*.md"))


def test_the_readme_is_read_in_minutes():
    assert (ROOT / "README.md").stat().st_size <= 7000
