"""Text tables: two ways of reading give the same rows, a malformed row costs itself only, messages name settings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.data.raw import text_tables
from mllm_srec.data.raw.own_tables import read_tables
from mllm_srec.data.raw.table_files import read_table
from mllm_srec.data.raw.text_tables import ROW, Faults, TextFormat, read_text_table
from mllm_srec.data.settings import ColumnMapping, PrepareSettings
from mllm_srec.types import ConfigError, DataError

HEADER = "user_id,item_id,rating,timestamp,text\n"
COLUMNS = {name: name for name in ("user_id", "item_id", "rating", "timestamp", "text")}


def row(number: int, text: str = "ok") -> str:
    return f"u{number % 3},i{number},5,{1600000000 + number},{text}\n"


def read(path: Path, content: str | bytes, strict: bool = False, **mapping) -> tuple[list[tuple], PrepareReport]:
    """Rows, without their numbers, and the report."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    report = PrepareReport()
    frame = read_table(path, COLUMNS, report, "reviews", strict=strict, mapping=ColumnMapping(**mapping))
    return frame.drop(ROW).rows(), report


def texts(path: Path, content: str, **mapping) -> tuple[list[str], dict[str, int]]:
    rows, report = read(path, content, **mapping)
    return [found[-1] for found in rows], report.counts.get("reviews", {})


# --- two ways of reading ------------------------------------------------------------------------------------------

cells = st.text(alphabet="ab1 .é\t;'\u2028\x0b\x85", max_size=3)
quoted_cells = st.text(alphabet='a1 "|', max_size=4).map(lambda text: '"' + text.replace('"', '""') + '"')
lines = st.lists(st.lists(cells | quoted_cells, min_size=1, max_size=4).map("|".join), min_size=1, max_size=8)
full_lines = st.lists(st.tuples(*[cells | quoted_cells] * 3).map("|".join), min_size=1, max_size=8)


@settings(max_examples=600, deadline=None)
@given(lines | full_lines, st.booleans(), st.booleans(), st.sampled_from(["\n", "\r\n"]), st.sampled_from(["a", "abc"]))
def test_the_quick_way_and_the_exact_way_agree(tmp_path_factory, rows, has_header, ends, line_end, wanted):
    content = line_end.join(["a|b|c", *rows] if has_header else rows) + line_end * ends
    path = tmp_path_factory.mktemp("t") / "t.txt"
    path.write_bytes(content.encode())
    form = TextFormat("|", header=has_header)
    found = []
    for quick in (True, False):
        report = PrepareReport()
        with pytest.MonkeyPatch.context() as patch:
            if not quick:
                patch.setattr(text_tables, "_parse_whole", lambda data, form: None)
            try:
                columns = {f"column {name}": name if has_header else str("abc".index(name) + 1) for name in wanted}
                frame = read_text_table(path, columns, form, Faults(path, report, "reviews", False))
            except DataError as error:
                found.append(str(error))
            else:
                found.append((frame.rows(), report.counts))
    assert found[0] == found[1]


@pytest.mark.parametrize("text", ["ok", '"a ""b"", c"', '""'])
def test_an_orderly_table_goes_the_quick_way(tmp_path, monkeypatch, text):
    monkeypatch.setattr(text_tables, "_parse_lines", lambda *args: pytest.fail("the slow way"))
    rows, report = read(tmp_path / "t.csv", HEADER + "".join(row(n, text) for n in range(5)))
    assert [found[1] for found in rows] == ["i0", "i1", "i2", "i3", "i4"]
    assert {found[4] for found in rows} == {{"ok": "ok", '""': None}.get(text, 'a "b", c')}
    assert report.counts == {}


# --- quotation marks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [",", "\t", ";", "::"])
def test_an_unpaired_mark_costs_no_row(tmp_path, separator):
    rows = [row(n) for n in range(30)]
    rows[2], rows[18] = row(2, '"nice'), row(18, 'good"')
    content = (HEADER + "".join(rows)).replace(",", separator)
    found, counts = texts(tmp_path / "t.csv", content, separator=separator)
    assert found == ["ok"] * 2 + ['"nice'] + ["ok"] * 15 + ['good"'] + ["ok"] * 11
    assert counts == {"unpaired quotation mark around whole rows, read as text": 1}
    with pytest.raises(DataError, match=r"t\.csv:4: unpaired quotation mark .*: line 4-20: .*strict: false"):
        read(tmp_path / "t.csv", content, strict=True, separator=separator)


UNPAIRED = "unpaired quotation mark around whole rows, read as text"
ODD = ["u2,i9,5", "u2,i9,5,1600000009,too,many", "u2,i9,five,1600000009,ok", "u2,i9,5,,ok"]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("place", [3, 9, 17])
@pytest.mark.parametrize("header", [True, False])
def test_malformed_rows_do_not_help_a_mark_to_take_others(tmp_path, odd, place, header):
    rows = [row(n) for n in range(30)]
    rows[2], rows[18] = row(2, '"nice'), row(18, 'good"')
    rows[place] = odd + "\n"
    columns = {name: str(number) for number, name in enumerate(COLUMNS, 1)}
    path, report = tmp_path / "t.csv", PrepareReport()
    path.write_text(HEADER * header + "".join(rows))
    mapping = ColumnMapping(header=header)
    frame = read_table(path, COLUMNS if header else columns, report, "reviews", mapping=mapping)
    read_ids = set(frame[COLUMNS["item_id"] if header else "2"].to_list())
    assert read_ids >= {f"i{n}" for n in range(30) if n != place}
    assert report.counts["reviews"].get(UNPAIRED) == 1


def test_a_mark_that_closes_in_a_malformed_row_takes_none(tmp_path):
    content = HEADER + row(0) + row(1, '"nice') + row(2) + row(3) + row(4, 'well, good"') + row(5)
    rows, report = read(tmp_path / "t.csv", content)
    assert [found[1] for found in rows] == ["i0", "i1", "i2", "i3", "i5"]
    assert report.counts["reviews"] == {UNPAIRED: 1, "row has 6 fields, the header 5": 1}


def test_a_mark_between_two_columns_takes_no_row(tmp_path):
    middle = "user_id,text,item_id,rating,timestamp\n"
    rows = [f"u{n % 3},ok,i{n},5,{1600000000 + n}\n" for n in range(6)]
    rows[1], rows[4] = 'u1,"nice,i1,5,1600000001\n', 'u1,ok,"i4",5,1600000004\n'
    assert [found[1] for found in read(tmp_path / "t.csv", middle + "".join(rows))[0]] == [f"i{n}" for n in range(6)]
    rows[4] = 'u1,good",i4,5,1600000004\n'
    assert [found[1] for found in read(tmp_path / "t.csv", middle + "".join(rows))[0]] == [f"i{n}" for n in range(6)]


def test_rows_whose_only_numbers_are_dates_are_told_from_prose(tmp_path):
    days = "".join(f"u{n},i{n},2018-09-0{n},{text}\n" for n, text in enumerate(["ok", '"a', "b", "c", 'd"', "ok"], 1))
    path, report = tmp_path / "t.csv", PrepareReport()
    path.write_text("user_id,item_id,timestamp,text\n" + days)
    columns = {name: name for name in ("user_id", "item_id", "timestamp", "text")}
    assert read_table(path, columns, report, "reviews").height == 6
    assert report.counts == {"reviews": {UNPAIRED: 1}}


@pytest.mark.parametrize("header", [True, False])
def test_prose_stays_one_text_though_a_line_of_it_is_like_a_row(tmp_path, header):
    prose = "well\nit is, as they say, what, it, is\nmine: \n1,2,3,4,5\nand more\n"
    path, report = tmp_path / "t.csv", PrepareReport()
    path.write_text(HEADER * header + row(0) + row(1, f'"{prose}"') + row(2) + row(3))
    column = "text" if header else "5"
    frame = read_table(path, {"review": column}, report, "reviews", mapping=ColumnMapping(header=header))
    assert frame[column].to_list() == ["ok", prose, "ok", "ok"]
    (reason,) = report.counts["reviews"]
    assert "lines that look like rows" in reason


@pytest.mark.parametrize(
    ("text", "read_as", "reason"),
    [
        ('"never closed', '"never closed', "quotation mark is not closed, read as text"),
        ('"a"b', "ab", "quotation mark inside a field"),
        ('"said "no" twice"', 'said no" twice"', "quotation mark inside a field"),
        (r'"said \"no\" twice"', 'said "no" twice', "quotation mark inside a field"),
        ('5" disk', '5" disk', None),
        ('""', None, None),
        ('"a ""b"" c"', 'a "b" c', None),
        ('"a, b"', "a, b", None),
        (' "a, b"', "a, b", None),
        ('"a, b" ', "a, b", "quotation mark inside a field"),
        ("'single", "'single", None),
    ],
)
@pytest.mark.parametrize("place", [0, 3, 7])
def test_marks_in_one_row_leave_the_others_alone(tmp_path, text, read_as, reason, place):
    rows = [row(n) for n in range(8)]
    rows[place] = row(place, text)
    found, counts = texts(tmp_path / "t.csv", HEADER + "".join(rows))
    assert found == ["ok"] * place + [read_as] + ["ok"] * (7 - place)
    assert counts == ({reason: 1} if reason else {})


def test_two_marks_that_open_and_none_that_closes(tmp_path):
    found, counts = texts(tmp_path / "t.csv", HEADER + row(0, '"one') + row(1) + row(2, '"two') + row(3))
    assert found == ['"one', "ok", '"two', "ok"]
    assert counts == {"quotation mark is not closed, read as text": 2}


def test_a_mark_left_open_before_very_many_rows(tmp_path):
    found, counts = texts(tmp_path / "t.csv", HEADER + row(0, '"one') + "".join(map(row, range(1, 3000))))
    assert (len(found), counts) == (3000, {"quotation mark is not closed, read as text": 1})


def test_a_text_with_line_breaks_is_one_text_and_counted(tmp_path):
    content = HEADER + row(0) + row(1, '"two\n\nlines, and a comma"') + row(2)
    found, counts = texts(tmp_path / "t.csv", content)
    assert found == ["ok", "two\n\nlines, and a comma", "ok"]
    assert counts == {"field spans several lines": 1}
    _, report = read(tmp_path / "t.csv", content)
    assert report.examples["reviews"]["field spans several lines"] == ["t.csv, line 3-5"]
    assert read(tmp_path / "t.csv", content, strict=True)[0][1][-1] == "two\n\nlines, and a comma"


@pytest.mark.parametrize("text", ['"a\n1,2,3,4,5\nb\nc"', '"never closed', '"said "no" twice"'])
def test_strict_refuses_what_is_not_certain(tmp_path, text):
    with pytest.raises(DataError, match=r"t\.csv:3: .*line 3.*prepare\.strict: false"):
        read(tmp_path / "t.csv", HEADER + row(0) + row(1, text) + row(2), strict=True)


@pytest.mark.parametrize("text", ["x\nb,y\nc,z", "x\nb,y", "x\nthen\nb,y"])
def test_lines_inside_a_text_that_look_like_rows_are_pointed_out(tmp_path, text):
    path, report = tmp_path / "t.csv", PrepareReport()
    path.write_text(f'item_id,title\na,"{text}"\nd,w\n')
    frame = read_table(path, {"item_key": "item_id", "title": "title"}, report, "metadata")
    assert frame["title"].to_list() == [text, "w"]
    (reason,) = report.counts["metadata"]
    assert "prepare.columns.quote: null" in reason


def test_without_quoting_marks_are_text(tmp_path):
    content = HEADER + row(0, '"nice') + row(1) + row(2, 'good"')
    assert texts(tmp_path / "t.csv", content, quote=None) == (['"nice', "ok", 'good"'], {})
    assert texts(tmp_path / "t.csv", HEADER + row(0, "'a, b'"), quote="'") == (["a, b"], {})
    per_table = {"metadata": None}  # of another table
    assert texts(tmp_path / "t.csv", HEADER + row(0, '"a, b"'), quote=per_table) == (["a, b"], {})


def test_a_field_longer_than_the_csv_module_allows(tmp_path):
    found, counts = texts(tmp_path / "t.csv", HEADER + row(0, '"' + "x" * 200_000 + '"') + row(1))
    assert ([len(text) for text in found], counts) == ([200_000, 2], {})


# --- rows with another number of fields, and bytes that are no text -----------------------------------------------


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("u2,i3,5,1600000000,a,b", "row has 6 fields, the header 5"),
        ("u2,i3", "row has 2 fields, the header 5"),
        ("oops", "row has 1 field, the header 5"),
    ],
)
@pytest.mark.parametrize("quoted", [False, True])
def test_a_row_of_another_length_costs_itself_only(tmp_path, line, reason, quoted):
    content = HEADER + row(0, '"q"' if quoted else "q") + line + "\n" + row(1)
    rows, report = read(tmp_path / "t.csv", content)
    assert [found[1] for found in rows] == ["i0", "i1"]
    assert report.counts == {"reviews": {reason: 1}}
    assert report.examples["reviews"][reason][0].startswith("t.csv, line 3: ")
    with pytest.raises(DataError, match=re.escape(f"t.csv:3: {reason}: line 3: ")):
        read(tmp_path / "t.csv", content, strict=True)


def test_fields_that_are_not_needed_may_be_missing(tmp_path):
    path, report = tmp_path / "t.csv", PrepareReport()
    path.write_text(HEADER + "u0,i0,5,1600000000\n" + row(1))
    required = frozenset({"user_id", "item_id", "rating", "timestamp"})
    frame = read_text_table(path, COLUMNS, TextFormat(","), Faults(path, report, "reviews", False), required)
    assert frame["text"].to_list() == [None, "ok"]
    assert report.counts == {"reviews": {"row has 4 fields, the header 5; the rest is read as empty": 1}}


def test_separators_at_the_end_of_rows_hold_nothing(tmp_path):
    rows, report = read(tmp_path / "t.csv", HEADER + "".join(row(n).replace("\n", ",,\n") for n in range(3)))
    assert (len(rows), report.counts) == (3, {})


def test_rows_of_many_lengths_are_not_counted_apart(tmp_path):
    good = "".join(map(row, range(60)))
    _, report = read(tmp_path / "t.csv", HEADER + good + "".join("," * n + "x\n" for n in range(6, 26)))
    assert len(report.counts["reviews"]) == 6
    assert report.counts["reviews"]["row has another number of fields, the header 5"] == 15


def test_a_table_of_which_most_rows_are_lost_is_refused(tmp_path):
    sequences = "".join(f"u{n}," + ",".join(f"i{k}" for k in range(n + 3)) + "\n" for n in range(12))
    with pytest.raises(DataError, match=r"rows with 5 fields, but .*one row for each interaction is needed"):
        read(tmp_path / "t.csv", HEADER + sequences)
    with pytest.raises(
        DataError, match=r"rows with 5 fields, but .*; check prepare\.columns\.separator, quote and header"
    ):
        read_table(tmp_path / "t.csv", {"item_key": "item_id"}, PrepareReport(), "metadata")


@pytest.mark.parametrize(
    ("setting", "stage"), [("item_key", "metadata"), ("user_key", "users"), ("user_id", "reviews")]
)
def test_advice_names_a_setting_of_the_table(tmp_path, setting, stage):
    (tmp_path / "t.csv").write_text("7,Toy,3\n")
    (tmp_path / "t.dat").write_text("7;Toy;3\n")
    for name in ("t.csv", "t.dat"):
        with pytest.raises(DataError, match=rf"header: false, with columns by number \({setting}: 1\)"):
            read_table(tmp_path / name, {setting: "id", "title": "title"}, PrepareReport(), stage)


def test_a_line_that_is_not_utf8_costs_itself_only(tmp_path):
    content = (HEADER + row(0)).encode() + row(1, "é").encode("latin-1") + row(2, "é").encode()
    rows, report = read(tmp_path / "t.csv", content)
    assert [found[1] for found in rows] == ["i0", "i2"]
    (reason,) = report.counts["reviews"]
    assert "set prepare.columns.encoding: latin-1" in reason
    with pytest.raises(DataError, match=r"t\.csv:3: line is not UTF-8"):
        read(tmp_path / "t.csv", content, strict=True)


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-16-le", "utf-8-sig"])
def test_encodings(tmp_path, encoding):
    content = (HEADER + row(0, "café")).encode(encoding)
    rows, report = read(tmp_path / "t.csv", content, encoding=encoding)
    assert (rows[0][-1], report.counts) == ("café", {})
    if encoding.startswith("utf-16"):
        with pytest.raises(DataError, match=r"is UTF-16 text; set prepare\.columns\.encoding: utf-16"):
            read(tmp_path / "t.csv", content)


def test_encodings_that_do_not_fit(tmp_path):
    content = (HEADER + row(0) + row(1, "a\x81") + row(2)).encode("latin-1")  # 0x81 is nothing in cp1252
    rows, report = read(tmp_path / "t.csv", content, encoding="cp1252")
    assert ([found[1] for found in rows], sum(report.counts["reviews"].values())) == (["i0", "i2"], 1)
    for name in ("no-such", "zip", ""):
        with pytest.raises(ConfigError, match=r"prepare\.columns\.encoding="):
            read(tmp_path / "t.csv", content, encoding=name)
    with pytest.raises(DataError, match=r"is not utf-32 .*correct prepare\.columns\.encoding"):
        read(tmp_path / "t.csv", content, encoding="utf-32")


def test_line_ends(tmp_path):
    content = HEADER + row(0) + row(1, '"a"')
    expected, _ = read(tmp_path / "t.csv", content)
    assert read(tmp_path / "t.csv", content.replace("\n", "\r\n"))[0] == expected
    rows, report = read(tmp_path / "t.csv", content.replace("\n", "\r"))
    assert (rows, list(report.counts["reviews"])) == (expected, ["file whose lines end in CR only, read as line ends"])
    blank = "\n \n" + content.replace("\n", "\n\n")
    assert read(tmp_path / "t.csv", blank)[0] == expected
    assert read(tmp_path / "t.csv", HEADER + row(0, "a\rb"))[0][0][-1] == "a b"


def test_a_row_keeps_the_number_of_its_line(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(HEADER + row(0) + "\n" + "oops\n" + row(3, '"a\nb"') + row(5))
    frame = read_table(path, COLUMNS, PrepareReport(), "reviews")
    assert frame[ROW].to_list() == [0, 3, 5]


# --- separators and headers ---------------------------------------------------------------------------------------

NUMBERS = {"user_id": 1, "item_id": 2, "rating": 3, "timestamp": 4}


def interactions(path: Path, **mapping) -> list[tuple]:
    settings = PrepareSettings(source="tables", reviews=str(path), columns=ColumnMapping(**mapping))
    return read_tables(settings, PrepareReport()).interactions.select("user_id", "item_id", "rating").rows()


@pytest.mark.parametrize("separator", [";", "|", "\t", "::", " ", "||"])
@pytest.mark.parametrize("name", ["t.csv", "t.dat", "t.txt", "t", "u.data"])
@pytest.mark.parametrize("header", [True, False])
def test_any_separator_and_suffix(tmp_path, separator, name, header):
    rows = ["u0,i0,5,1600000000", "u1,i1,4,1600000001"]
    path = tmp_path / name
    path.write_text(
        "".join(f"{line}\n" for line in ["user_id,item_id,rating,timestamp"] * header + rows).replace(",", separator)
    )
    columns = {} if header else {"header": False, **NUMBERS}
    expected = [("u0", "i0", 5.0), ("u1", "i1", 4.0)]
    assert interactions(path, separator=separator, **columns) == expected
    assert interactions(path, separator={"reviews": separator}, **columns) == expected
    if separator == "\t":
        assert interactions(path, separator="\\t", **columns) == expected


@pytest.mark.parametrize("separator", [";", "|", "\t", "::"])
def test_another_separator_is_named(tmp_path, separator):
    path = tmp_path / "t.csv"
    path.write_text((HEADER + row(0)).replace(",", separator))
    with pytest.raises(DataError, match=re.escape(f"set prepare.columns.separator: {separator!r}") + "$"):
        interactions(path)
    path = tmp_path / "t.dat"
    path.write_text(row(0).replace(",", separator))
    match = re.escape(f"set prepare.columns.separator: {separator!r}, and prepare.columns.header: false")
    with pytest.raises(DataError, match=r"suffix '\.dat' names no known format.*" + match):
        interactions(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("u0,i0,5,1600000000\n", "the first line looks like a row"),
        ("sep=;\nuser_id;item_id\n", "prepare.columns.separator: ';'"),
        ('{"user_id": 1}\n', "seems to hold JSON"),
        ("user_id,item_id,rating,rating,timestamp\n1,2,3,4,5\n", "2 columns are called 'rating'"),
        ("User,item_id,rating,timestamp\n1,2,3,4\n", "set prepare.columns.user_id to one of these"),
        (",".join(f"c{n}" for n in range(100)) + "\n", "'c11' and 88 more;"),
    ],
)
def test_a_header_that_does_not_fit(tmp_path, content, words):
    path = tmp_path / "t.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=re.escape(words)):
        interactions(path)


def test_columns_by_number(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("x\n" + row(0) + row(1))  # the first line is malformed, and most decide
    assert interactions(path, header=False, **NUMBERS) == [("u0", "i0", 5.0), ("u1", "i1", 5.0)]
    with pytest.raises(DataError, match=r"no column '9'.*set prepare\.columns\.rating to a number from 1 to 5"):
        interactions(path, header=False, **NUMBERS | {"rating": 9})
    with pytest.raises(DataError, match=r"no column 'user_id'.*set prepare\.columns\.user_id to a number from 1 to 5"):
        interactions(path, header=False)


@pytest.mark.parametrize(
    ("mapping", "name"),
    [
        ({"separator": ""}, "separator"),
        ({"separator": "\n"}, "separator"),
        ({"quote": ""}, "quote"),
        ({"quote": "ab"}, "quote"),
        ({"quote": ","}, "quote"),
        ({"user_id": None}, "user_id"),
        ({"item_id": None}, "item_id"),
        ({"item_id": ""}, "item_id"),
        ({"timestamp": ""}, "timestamp"),
        ({"categories_separator": ""}, "categories_separator"),
    ],
)
def test_a_setting_that_is_none_is_named(tmp_path, mapping, name):
    path = tmp_path / "t.csv"
    path.write_text(HEADER + row(0))
    with pytest.raises(ConfigError, match=rf"prepare\.columns\.{name}="):
        interactions(path, **mapping)


def test_a_mark_left_open_beside_fields_in_order(tmp_path):
    rows, report = read(tmp_path / "t.csv", HEADER + '"u0","i0","5","1600000000","open\n' + row(1))
    assert [found[:3] for found in rows] == [("u0", "i0", "5"), ("u1", "i1", "5")]
    assert report.counts == {"reviews": {"quotation mark is not closed, read as text": 1}}


@pytest.mark.parametrize("name", ["separator", "quote", "header", "encoding"])
@pytest.mark.parametrize(
    ("table", "hint"), [("review", "did you mean 'reviews'?"), ("interactions", "reviews, metadata, users")]
)
def test_a_table_that_does_not_exist_is_named(tmp_path, name, table, hint):
    path = tmp_path / "t.csv"
    path.write_text(HEADER + row(0))
    with pytest.raises(ConfigError, match=rf"prepare\.columns\.{name}=.*'{table}' is no table.*{re.escape(hint)}"):
        interactions(path, **{name: {table: True if name == "header" else ","}})
