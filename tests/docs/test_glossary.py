"""One word, one meaning."""

import re

from tests.docs.documents import ROOT


def test_every_word_has_one_meaning_and_stands_in_order():
    text = (ROOT / "docs/glossary.md").read_text(encoding="utf-8")
    words = [word for word in re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE) if word not in {"word", "---"}]
    assert len(words) > 40
    assert words == sorted(set(words), key=str.lower)
