"""Reads a page as a browser would: its elements, its tables as texts, and everything that it would fetch."""

from html.parser import HTMLParser

VOID = {"meta", "img", "source", "br", "link", "hr", "input"}


class PageReader(HTMLParser):
    """Collects what the tests ask for.

    Attributes:
        tags: Names of all elements.
        attributes: (element, name, value) of all attributes.
        tables: (title, rows) of every table: rows are lists of `(number, spread)`.
        text: All text.
    """

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.tables, self.texts, self.open = [], [], [], [], []
        self.feed(page)
        self.close()
        self.text = "".join(self.texts)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append((tag, dict(attrs)))
        if tag == "div" and dict(attrs).get("role") == "region":
            self.tables.append((dict(attrs)["aria-label"], []))
        elif tag == "tr":
            self.tables[-1][1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][1][-1].append(["", ""])

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> ends nothing"
        assert self.open.pop()[0] == tag, f"</{tag}> does not end the element that is open"

    def handle_data(self, data):
        names = [tag for tag, _ in self.open]
        if "style" in names:
            return
        self.texts.append(data)
        if self.open and ("td" in names or "th" in names):
            spread = any(attributes.get("class") == "sd" for _, attributes in self.open)
            self.tables[-1][1][-1][-1][spread] += data

    def table(self, title):
        """Rows of a table by their label: column -> `(number, spread)`."""
        (rows,) = [rows for name, rows in self.tables if name == title]
        header = [number for number, _ in rows[0][1:]]
        return {row[0][0]: dict(zip(header, map(tuple, row[1:]), strict=True)) for row in rows[1:]}
