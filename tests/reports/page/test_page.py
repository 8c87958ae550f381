"""The page: well-formed, nothing outside it, and no text that becomes markup, wherever it stands."""

import re
from pathlib import Path

import pytest
import yaml

from mllm_srec.reports.figures.charts import Point, row_chart
from mllm_srec.reports.figures.drawing import Drawing
from mllm_srec.reports.page.cases import Case, CaseItem, CaseStudies, CaseTarget
from mllm_srec.reports.page.page import CaseBlock, FigureBlock, NoteBlock, Section, TableBlock, render_page
from mllm_srec.reports.tables.metric_words import metric_family, metric_meaning
from mllm_srec.reports.tables.tables import Row, Table, TableCell
from tests.reports.page.page_reader import PageReader

HOSTILE = (
    "<script>alert(1)</script></style></title>\"'><img src=x onerror=alert(2)>{{ 7 * 7 }}{% raw %}"
    "|$x$&amp;\\input{x}\u202eevil javascript:alert(3)"
)
VISIBLE = HOSTILE.replace("\u202e", "")
JPEG = b"\xff\xd8\xff\xe0 not a real picture"


def case(text=HOSTILE, **changes):
    item = CaseItem(text, text, JPEG, text, text)
    targets = (CaseTarget(item, True, 1, 1, 2.5, 0.924), CaseTarget(CaseItem("i2", "two"), False, 2, 3, -0.5, None))
    values = {
        "user_id": text, "profile": text, "group_id": 7, "history": (item, CaseItem("i3", "three")), "n_history": 9,
        "n_since": 1, "preference": text, "targets": targets, "n_candidates": 21, "verdict": "right",
    }  # fmt: skip
    return Case(**{**values, **changes})


def section(text=HOSTILE, **changes):
    table = Table((text, "auc"), (Row(text, (TableCell(text=text), TableCell(0.5, 0.01, 2, 1, " †"))),), text)
    drawing = Drawing("figure", text, text, row_chart({text: Point(0.5)}, {}, text))
    blocks = (
        TableBlock("a", text, table, (text,)),
        TableBlock("b", text, table, (text,), folded=True),
        FigureBlock(text, drawing),
        NoteBlock(text, (text,)),
        CaseBlock(text, CaseStudies(text, text, (case(text),))),
    )
    values = {"anchor": "one", "title": text, "caption": text, "quick": True, "demo": True, "facts": ((text, text),)}
    return Section(**{**values, "blocks": blocks, "metrics": ("auc", "hr@5"), **changes})


@pytest.fixture(scope="module")
def page():
    return render_page(HOSTILE, [section()], HOSTILE)


def test_hostile_texts_become_no_element_and_no_attribute(page):
    harmless = PageReader(render_page("title", [section("text")], "made"))
    hostile = PageReader(page)
    assert hostile.tags == harmless.tags
    assert [(tag, name) for tag, name, _ in hostile.attributes] == [(t, n) for t, n, _ in harmless.attributes]
    assert hostile.text.count(VISIBLE) >= 20, "they are shown as they are"
    assert "49" not in hostile.text.replace(VISIBLE, ""), "no template runs in a text"
    assert "\u202e" not in page


def test_nothing_is_fetched_and_nothing_runs(page):
    found = PageReader(page)
    assert not {"script", "iframe", "link", "object", "embed", "form", "base"} & set(found.tags)
    assert not [name for _, name, _ in found.attributes if name.startswith("on")]
    for _, name, value in found.attributes:
        if name in ("src", "srcset", "href", "action", "data"):
            assert re.match(r"data:image/(svg\+xml|png|jpeg);base64,|#", value), value[:60]
    style = page[page.index("<style>") : page.index("</style>")]
    assert "@import" not in style
    assert "url(" not in style
    assert "&lt;" not in style
    (policy,) = [value for tag, name, value in found.attributes if name == "content" and "default-src" in value]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy, "none is allowed"


def test_a_page_is_light_and_dark_and_made_for_small_screens(page):
    assert "prefers-color-scheme: dark" in page
    assert ("meta", "content", "width=device-width, initial-scale=1") in PageReader(page).attributes
    sources = [value for tag, name, value in PageReader(page).attributes if tag == "source" and name == "media"]
    assert sources == ["(prefers-color-scheme: dark)"], "figures have a dark form"


def test_quick_and_demo_are_marked_only_where_they_are():
    marked = PageReader(render_page("t", [section("x")], "m"))
    plain = PageReader(render_page("t", [section("x", quick=False, demo=False)], "m"))
    assert marked.text.count("quick run") >= 6
    assert "generated" in marked.text
    for word in ("quick run", "demo shop", "oracle", "generated shop:"):
        assert word not in plain.text


def test_numbers_of_a_table():
    rows = PageReader(render_page("t", [section("x", blocks=(section("x").blocks[0],))], "m")).table("x")
    assert rows == {"x": {"x": ("x", ""), "AUC": ("0.5000 †", "± 0.0100")}}


def test_a_case_in_words():
    blocks = (CaseBlock("Cases", CaseStudies("run", "a stated rule", (case("x"),))),)
    text = " ".join(PageReader(render_page("t", [section("x", blocks=blocks)], "m")).text.split())
    for words in (
        "a stated rule", "Liked before, the latest 2 of 9 (oldest first)", "i3 · after the preference",
        "place 1, stated probability of a like 92.4 %", "Truth: liked later", "2 of 21 candidates",
        "place 2 (shared by 3), score -0.500", "no known like", "no picture",
    ):  # fmt: skip
        assert words in text


def test_a_person_without_history_and_an_item_that_was_missed():
    missed = CaseTarget(CaseItem("i", "t"), True, None, 0, None, None)
    none = case("x", history=(), n_history=0, preference=None, targets=(missed,))
    blocks = (CaseBlock("Cases", CaseStudies("run", "rule", (none,))),)
    text = PageReader(render_page("t", [section("x", blocks=blocks)], "m")).text
    assert "This person has no history yet." in text
    assert "not among the candidates" in text
    assert "after the preference" not in text


def test_every_metric_of_tables_has_words():
    grids = [yaml.safe_load(path.read_text()) for path in Path(__file__).parents[3].glob("experiments/*.yaml")]
    shown = [[*grid.get("metrics", []), *grid.get("report", {}).get("metrics", [])] for grid in grids]
    names = {"auc", "user_auc", "hr@5", "recall@10", "ndcg@20", "mrr@5"}.union(*shown)
    assert {"summaries/image/attribute_accuracy", "summaries/preference/current_taste_accuracy"} <= names
    assert [name for name in names if metric_meaning(metric_family(name)) is None] == []
    assert metric_meaning("unheard_of") is None
