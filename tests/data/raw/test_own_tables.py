from __future__ import annotations

import csv
import gzip
import io
import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.data.raw.own_tables import read_tables
from mllm_srec.data.raw.schema import INTERACTION_SCHEMA, ITEM_SCHEMA, USER_SCHEMA, RawData
from mllm_srec.data.settings import ColumnMapping, PrepareSettings
from mllm_srec.types import ConfigError, DataError

ROWS = [
    {"user": "007", "movie": "a/b", "stars": 4.5, "when": 978307200, "words": "Good &amp; long"},
    {"user": "007", "movie": "0010", "stars": 2.0, "when": 978307201, "words": 'said "no", twice'},
    {"user": "8", "movie": "a/b", "stars": 5.0, "when": 978307202, "words": ""},
]
EXPECTED = [
    ("007", "a/b", 4.5, 978307200000, 0, "Good & long"),
    ("007", "0010", 2.0, 978307201000, 1, 'said "no", twice'),
    ("8", "a/b", 5.0, 978307202000, 2, ""),
]
COLUMNS = ColumnMapping(user_id="user", item_id="movie", rating="stars", timestamp="when", review="words")


def as_csv(rows: list[dict], separator: str = ",") -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), delimiter=separator)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_parquet(rows: list[dict]) -> bytes:
    content = io.BytesIO()
    pd.DataFrame(rows).to_parquet(content)
    return content.getvalue()


def as_json_lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def read(path: Path, columns: ColumnMapping = COLUMNS, **kwargs) -> tuple[RawData, PrepareReport]:
    report = PrepareReport()
    return read_tables(PrepareSettings(source="tables", reviews=str(path), columns=columns, **kwargs), report), report


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", as_csv(ROWS)),
        ("t.CSV", b"\xef\xbb\xbf" + as_csv(ROWS)),
        ("t.csv.gz", gzip.compress(as_csv(ROWS))),
        ("t.tsv", as_csv(ROWS, "\t")),
        ("t.parquet", as_parquet(ROWS)),
        ("t.csv", as_parquet(ROWS)),
        ("t.csv", as_csv(ROWS).replace(b",", b" , ").replace(b'no"" ,', b'no"",')),
        ("t.jsonl", as_json_lines(ROWS)),
        ("t.json", json.dumps(ROWS).encode()),
        ("t.json.gz", gzip.compress(json.dumps(ROWS, indent=1).encode())),
        ("t", as_json_lines(ROWS)),
        ("t.v2.jsonl.gz", gzip.compress(as_json_lines(ROWS))),
    ],
)
def test_all_kinds_of_file_give_the_same_table(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    raw, report = read(path)
    assert raw.interactions.schema == INTERACTION_SCHEMA
    assert raw.interactions.rows() == EXPECTED
    assert raw.items["item_id"].to_list() == ["a/b", "0010"]
    assert raw.users is None
    assert report.counts == {"metadata": {"no metadata file, title left empty": 2}}


def test_recbole_atomic_file(tmp_path):
    path = tmp_path / "ml.inter"
    path.write_text('user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t"2\t3\t8.5e8\n')
    columns = ColumnMapping("user_id:token", "item_id:token", "rating:float", "timestamp:float")
    assert read(path, columns)[0].interactions.rows() == [("1", '"2', 3.0, 850000000000, 0, "")]


def test_without_rating_everything_is_liked_and_without_review_it_is_empty(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(as_csv(ROWS))
    columns = ColumnMapping(user_id="user", item_id="movie", rating=None, timestamp="when")
    interactions = read(path, columns)[0].interactions
    assert interactions["rating"].to_list() == [5.0, 5.0, 5.0]
    assert interactions["review"].to_list() == ["", "", ""]


def milliseconds(*parts: int) -> int:
    return int(datetime(*parts, tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("text", "unit", "expected"),
    [
        ("978307200", "s", milliseconds(2001, 1, 1)),
        ("978307200.25", "s", milliseconds(2001, 1, 1) + 250),
        ("978307200000", "ms", milliseconds(2001, 1, 1)),
        ("-1", "s", -1000),
        ("2001-01-01", "s", milliseconds(2001, 1, 1)),
        ("2001-02-03 04:05", "ms", milliseconds(2001, 2, 3, 4, 5)),
        ("2001-02-03T04:05:06", "s", milliseconds(2001, 2, 3, 4, 5, 6)),
        ("2001-02-03T04:05:06.789123Z", "s", milliseconds(2001, 2, 3, 4, 5, 6) + 789),
        ("2001-02-03T04:05:06+01:30", "s", milliseconds(2001, 2, 3, 2, 35, 6)),
        ("2001-02-03 04:05:06-0800", "s", milliseconds(2001, 2, 3, 12, 5, 6)),
        (" 1969-12-31 ", "s", -86400000),
    ],
)
def test_times(tmp_path, text, unit, expected):
    path = tmp_path / "t.csv"
    path.write_bytes(as_csv([{**ROWS[0], "when": text}]))
    columns = ColumnMapping("user", "movie", "stars", "when", unit)
    assert read(path, columns)[0].interactions["timestamp"].to_list() == [expected]


def test_parquet_dates_floats_and_gaps(tmp_path):
    times = pd.to_datetime(["2001-01-01 00:00", "2001-01-02 00:00", "2001-01-03 00:00"])
    table = pd.DataFrame({"user": [1.0, 2.0, None], "movie": [10, 11, 12], "stars": [1, 2, 3], "words": list("abc")})
    for number, when in enumerate((times, times.tz_localize("Europe/Berlin"), times.date)):
        path = tmp_path / f"{number}.parquet"
        table.assign(when=when).to_parquet(path)
        raw, report = read(path)
        hour_shift = 3600000 if number == 1 else 0
        assert raw.interactions.rows() == [
            ("1", "10", 1.0, milliseconds(2001, 1, 1) - hour_shift, 0, "a"),
            ("2", "11", 2.0, milliseconds(2001, 1, 2) - hour_shift, 1, "b"),
        ]
        assert report.counts["reviews"] == {"no user id": 1}


BAD_ROWS = [
    ({"user": ""}, "no user id"),
    ({"movie": "  "}, "no item id"),
    ({"stars": "many"}, "rating does not parse"),
    ({"stars": "nan"}, "rating does not parse"),
    ({"stars": ""}, "rating does not parse"),
    ({"when": "yesterday"}, "time does not parse"),
    ({"when": "2001-02-30"}, "time does not parse"),
    ({"when": ""}, "time does not parse"),
    (
        {"when": "978307200000"},
        "time is out of range in seconds (in milliseconds? set prepare.columns.timestamp_unit: ms)",
    ),
    ({"when": "1e300"}, "time is out of range in seconds"),
    ({"user": "nan"}, "no user id"),
    ({"movie": "<NA>"}, "no item id"),
]


@pytest.mark.parametrize(("change", "reason"), BAD_ROWS)
def test_unusable_row_is_counted_or_an_error(tmp_path, change, reason):
    path = tmp_path / "t.csv"
    path.write_bytes(as_csv([ROWS[0], {**ROWS[1], **change}, ROWS[2]]))
    raw, report = read(path)
    assert raw.interactions.rows() == [EXPECTED[0], EXPECTED[2]]
    assert report.counts["reviews"] == {reason: 1}
    assert report.examples["reviews"][reason][0].startswith("t.csv, row 2: {'user': ")
    with pytest.raises(DataError, match=re.escape(f"t.csv: {reason} in row 2: {{'user': ")):
        read(path, strict=True)


def test_no_usable_row(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(as_csv([{**row, "when": row["when"] * 1000} for row in ROWS]))
    with pytest.raises(DataError, match=r"none of the 3 rows is usable.*timestamp_unit: ms"):
        read(path)
    path.write_text("user,movie,stars,when,words\n")
    with pytest.raises(DataError, match=r"none of the 0 rows is usable"):
        read(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [("t.csv", as_csv(ROWS)), ("t.parquet", as_parquet(ROWS)), ("t.jsonl", as_json_lines(ROWS))],
)
def test_unknown_column_names_the_nearest(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    columns = ColumnMapping(user_id="User", item_id="movie", rating="stars", timestamp="when")
    message = rf"{name}: no column 'User' among 'user', .*set prepare.columns.user_id .*; did you mean 'user'\?"
    with pytest.raises(DataError, match=message):
        read(path, columns)


def test_broken_files(tmp_path):
    def error_of(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError) as caught:
            read(tmp_path / name)
        return str(caught.value)

    assert "cannot be read as Parquet" in error_of("t.parquet", as_parquet(ROWS)[:200])
    assert "is no Parquet file, whatever its name; it begins with 'user,movie" in error_of("t.parquet", as_csv(ROWS))
    assert "Complete lines before the break" in error_of("t.csv.gz", gzip.compress(as_csv(ROWS))[:-10])
    assert "suffix '.xlsx' names no known format; use one of .csv, " in error_of("t.xlsx", b"x")
    assert "is empty (0 bytes)" in error_of("t.csv", b"")
    with pytest.raises(DataError, match="does not exist"):
        read(tmp_path / "gone.csv")
    with pytest.raises(ConfigError, match=r"prepare\.reviews=null: prepare\.source=tables needs"):
        read_tables(PrepareSettings(source="tables"), PrepareReport())


def test_malformed_json_line_is_counted_and_order_is_the_line(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_bytes(b"oops\n" + as_json_lines(ROWS[:2]))
    raw, report = read(path)
    assert raw.interactions["order"].to_list() == [1, 2]
    assert report.counts["reviews"] == {"line is not JSON": 1}
    with pytest.raises(DataError, match=r"t\.jsonl:1: line is not JSON"):
        read(path, strict=True)


def test_column_of_lists_where_one_value_is_expected(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_bytes(as_json_lines([{**ROWS[0], "user": ["a"]}]))
    with pytest.raises(DataError, match=r"column 'user' holds List\(String\)"):
        read(path)


ITEMS = [
    {"movie": "a/b", "name": " Toy &amp; Story\n(1995) ", "kinds": "Comedy|Drama|Comedy", "cost": "$1,000.50",
     "maker": "Pixar", "about": "Fun.", "poster": "p/1.jpg", "urls": "https://i/1.jpg"},
    {"movie": "0010", "name": None, "kinds": None, "cost": "cheap", "maker": "", "about": None, "poster": None,
     "urls": "1.jpg"},
    {"movie": "a/b", "name": "again", "kinds": "", "cost": None, "maker": None, "about": None, "poster": None,
     "urls": None},
    {"movie": None, "name": "nameless", "kinds": "", "cost": None, "maker": None, "about": None, "poster": None,
     "urls": None},
]  # fmt: skip
ITEM_COLUMNS = ColumnMapping(
    **{name: getattr(COLUMNS, name) for name in ("user_id", "item_id", "rating", "timestamp", "review")},
    title="name", brand="maker", categories="kinds", description="about", price="cost", image="poster",
    image_urls="urls",
)  # fmt: skip


@pytest.mark.parametrize("kind", [as_csv, as_parquet, as_json_lines])
def test_items(tmp_path, kind):
    path, items = tmp_path / "t.csv", tmp_path / f"items.{kind.__name__.removeprefix('as_').replace('_lines', 'l')}"
    path.write_bytes(as_csv(ROWS))
    items.write_bytes(kind(ITEMS))
    raw, report = read(path, ITEM_COLUMNS, metadata=str(items))
    assert raw.items.schema == ITEM_SCHEMA
    assert raw.items.rows() == [
        ("a/b", "Toy & Story (1995)", "Pixar", ["Comedy", "Drama"], "Fun.", 1000.5, "p/1.jpg", ["https://i/1.jpg"]),
        ("0010", "", None, [], "", None, None, []),
    ]
    counts = report.counts["metadata"]
    assert counts.pop("field spans several lines", 0) == (kind is as_csv)
    assert counts == {
        "no item id": 1,
        "item repeated, first kept": 1,
        "price does not parse, left empty": 1,
        "no usable picture address": 1,
    }
    match = r"items\.csv:2: field spans several lines: line 2-3" if kind is as_csv else "no item id in row 4"
    with pytest.raises(DataError, match=match):
        read(path, ITEM_COLUMNS, metadata=str(items), strict=True)


def test_items_with_lists_and_a_title_column_called_item_id(tmp_path):
    path, items = tmp_path / "t.csv", tmp_path / "items.jsonl"
    path.write_bytes(as_csv(ROWS))
    rows = [
        {"movie": "a/b", "item_id": "Title", "kinds": ["A|B", ["C"], None], "urls": ["https://i/1", "https://i/2"]},
        {"movie": "0010", "item_id": 7, "kinds": "D", "urls": "https://i/3"},
    ]
    items.write_bytes(as_json_lines(rows))
    columns = ColumnMapping("user", "movie", "stars", "when", title="item_id", categories="kinds", image_urls="urls")
    raw, _ = read(path, columns, metadata=str(items))
    assert raw.items.select("item_id", "title", "image_urls").rows() == [
        ("a/b", "Title", ["https://i/1", "https://i/2"]),
        ("0010", "7", ["https://i/3"]),
    ]
    assert raw.items["categories"].to_list() == [["A|B"], ["D"]]


def test_items_that_do_not_belong_to_the_interactions(tmp_path):
    path, items = tmp_path / "t.csv", tmp_path / "items.csv"
    path.write_bytes(as_csv(ROWS))
    items.write_text("movie,title\nx,y\n")
    with pytest.raises(DataError, match=r"no item in common .*'a/b' and 'x'"):
        read(path, ColumnMapping("user", "movie", "stars", "when"), metadata=str(items))


def test_users(tmp_path):
    path, users = tmp_path / "t.csv", tmp_path / "users.csv"
    path.write_bytes(as_csv(ROWS))
    users.write_text("user,profile\n007,a  spy\n8,\n007,again\n,nobody\n")
    raw, report = read(path, users=str(users))
    assert raw.users is not None
    assert raw.users.schema == USER_SCHEMA
    assert raw.users.rows() == [("007", "a spy"), ("8", "")]
    assert report.counts["users"] == {"no user id": 1, "user repeated, first kept": 1}
