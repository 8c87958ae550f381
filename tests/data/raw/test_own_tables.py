from __future__ import annotations

import csv
import gzip
import io
import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import polars as pl
import pytest

from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.data.raw.own_tables import read_tables
from mllm_srec.data.raw.schema import INTERACTION_SCHEMA, ITEM_SCHEMA, USER_SCHEMA, RawData
from mllm_srec.data.raw.times import NO_TIME
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
        ("2001-02-03 04:05:06 UTC", "s", milliseconds(2001, 2, 3, 4, 5, 6)),
        ("2001/02/03 04:05:06", "s", milliseconds(2001, 2, 3, 4, 5, 6)),
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
    ({"when": "yesterday"}, NO_TIME),
    ({"when": "2001-02-30"}, NO_TIME),
    ({"when": ""}, NO_TIME),
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
    with pytest.raises(DataError, match=rf"no item id in row {5 if kind is as_csv else 4}"):
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


# --- tables of other people -----------------------------------------------------------------------------------------

CSV = "user_id,item_id,rating,timestamp\n"


def written(tmp_path: Path, content: str, name: str = "t.csv") -> Path:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    return path


def test_blanks_around_ids_ratings_and_times(tmp_path):
    path = written(tmp_path, " user_id , item_id,rating ,timestamp\n u , i,  5 , 978307200 \n")
    assert read(path, ColumnMapping())[0].interactions.rows() == [("u", "i", 5.0, 978307200000, 0, "")]


def test_without_times_the_order_of_the_file_is_the_time(tmp_path):
    path = written(tmp_path, "user_id,item_id,rating\nu,b,5\n\nu,a,5\n")
    raw, report = read(path, ColumnMapping(timestamp=None))
    assert raw.interactions.select("item_id", "timestamp", "order").rows() == [("b", 0, 0), ("a", 2, 2)]
    assert report.facts == {"time": "the order of the file"}


def test_the_report_says_when_it_began_and_ended(tmp_path):
    path = written(tmp_path, CSV + "u,a,5,20180901\nu,b,5,20180903\n")
    raw, report = read(path, ColumnMapping())
    assert report.facts == {"first time": "2018-09-01", "last time": "2018-09-03"}
    assert raw.interactions["timestamp"][0] == milliseconds(2018, 9, 1)


def test_the_unit_that_fits_is_named_and_never_the_one_that_is_set(tmp_path):
    path = written(tmp_path, CSV + "u,a,5,1600000000000000\n")
    for unit in ("s", "ms"):
        match = r"none of the 1 rows is usable \(time is out of range.*timestamp_unit: us\): 1, e\.g\. row 1: \{"
        with pytest.raises(DataError, match=match):
            read(path, ColumnMapping(timestamp_unit=unit))
    assert read(path, ColumnMapping(timestamp_unit="us"))[0].interactions["timestamp"].to_list() == [1600000000000]


@pytest.mark.parametrize("kind", [as_csv, as_parquet, as_json_lines])
def test_ids_written_as_floats_meet_whole_ones(tmp_path, kind):
    rows = [{"user_id": "u", "item_id": number, "rating": 5, "timestamp": 978307200} for number in (7.0, 8.0)]
    path = tmp_path / "t.csv"
    path = path.with_suffix({as_csv: ".csv", as_parquet: ".parquet", as_json_lines: ".jsonl"}[kind])
    path.write_bytes(kind(rows))
    items = written(tmp_path, "item_id,title\n7,A\n8,B\n", "items.csv")
    raw, _ = read(path, ColumnMapping(), metadata=str(items))
    assert raw.interactions["item_id"].to_list() == ["7", "8"]


def test_lost_leading_zeros_are_the_named_cause(tmp_path):
    path = written(tmp_path, CSV + "".join(f"u,00{n},5,978307200\n" for n in range(1, 9)))
    with pytest.raises(DataError, match=r"no item in common .*'001' and '1' differ in leading zeros only; export ids"):
        read(path, ColumnMapping(), metadata=str(written(tmp_path, "item_id,title\n1,A\n2,B\n", "items.csv")))
    items = written(tmp_path, "item_id,title\n008,H\n" + "".join(f"{n},A\n" for n in range(1, 8)), "items.csv")
    _, report = read(path, ColumnMapping(), metadata=str(items))
    ((reason, n),) = report.counts["metadata"].items()
    assert (n, "leading zeros" in reason) == (7, True)
    assert report.examples["metadata"][reason] == ["'001' and '1'"]
    users = written(tmp_path, "user_id,profile\nU,a spy\nv,b\n", "users.csv")
    _, report = read(path, ColumnMapping(), users=str(users))
    assert [n for reason, n in report.counts["users"].items() if "upper and lower case" in reason] == [1]


def test_most_items_without_metadata_are_pointed_out_without_a_cause(tmp_path):
    path = written(tmp_path, CSV + "u,a,5,978307200\nu,b,5,978307200\nu,c,5,978307200\n")
    _, report = read(path, ColumnMapping(), metadata=str(written(tmp_path, "item_id,title\na,A\n", "items.csv")))
    ((reason, n),) = report.counts["metadata"].items()
    assert (n, "does the file belong" in reason) == (2, True)
    _, report = read(path, ColumnMapping(), metadata=str(written(tmp_path, "item_id,title\na,A\nb,B\n", "items.csv")))
    assert report.counts == {}


def test_the_id_may_have_another_name_in_the_other_tables(tmp_path):
    path = written(tmp_path, CSV + "u,a,5,978307200\n")
    items, users = (
        written(tmp_path, "sku,title\na,A\n", "items.csv"),
        written(tmp_path, "who,profile\nu,spy\n", "w.csv"),
    )
    with pytest.raises(DataError, match=r"items\.csv: no column 'item_id' .*set prepare\.columns\.item_key"):
        read(path, ColumnMapping(), metadata=str(items))
    with pytest.raises(DataError, match=r"w\.csv: no column 'user_id' .*set prepare\.columns\.user_key"):
        read(path, ColumnMapping(), users=str(users))
    raw, _ = read(path, ColumnMapping(item_key="sku", user_key="who"), metadata=str(items), users=str(users))
    assert (raw.items["title"].to_list(), raw.users.rows()) == (["A"], [("u", "spy")])


def test_texts_that_are_words_for_nothing_are_empty_and_counted(tmp_path):
    path = written(tmp_path, "user_id,item_id,rating,timestamp,text\nu,a,5,978307200,nan\nu,b,5,978307200,nan bread\n")
    items = written(
        tmp_path,
        "item_id,title,brand,kinds,about,price,image\n"
        "a,nan,None,nan|Food,NULL,nan,nan\nb,Nan bread,none such,None,<NA>,NULL,b.jpg\n",
        "items.csv",
    )
    columns = ColumnMapping(
        review="text", brand="brand", categories="kinds", description="about", price="price", image="image"
    )
    users = written(tmp_path, "user_id,profile\nu,None\n", "users.csv")
    raw, report = read(path, columns, metadata=str(items), users=str(users))
    assert raw.interactions["review"].to_list() == ["", "nan bread"]
    assert raw.items.rows() == [
        ("a", "", None, ["Food"], "", None, None, []),
        ("b", "Nan bread", "none such", [], "", None, "b.jpg", []),
    ]
    assert raw.users.rows() == [("u", "")]
    word = "is a word such as nan or NULL, emptied"
    assert report.counts["metadata"] == {
        f"title {word}": 1, f"brand {word}": 1, f"category {word}": 2, f"description {word}": 2
    }  # fmt: skip
    assert (report.counts["reviews"], report.counts["users"]) == ({f"review {word}": 1}, {f"profile {word}": 1})


def test_control_characters_are_in_no_text(tmp_path):
    text = "So\0ap \x1b[31mred\u202e\x9b \ufeff\x07x"
    rows = [{"user_id": "u", "item_id": "a", "rating": 5, "timestamp": 978307200, "text": text}]
    path, items, users = tmp_path / "t.jsonl", tmp_path / "i.jsonl", tmp_path / "u.jsonl"
    path.write_bytes(as_json_lines(rows))
    items.write_bytes(as_json_lines([{"item_id": "a", "title": text, "brand": text, "kinds": [text], "about": text}]))
    users.write_bytes(as_json_lines([{"user_id": "u", "profile": text}]))
    columns = ColumnMapping(review="text", brand="brand", categories="kinds", description="about")
    raw, _ = read(path, columns, metadata=str(items), users=str(users))
    found = [
        raw.interactions["review"][0],
        raw.users["profile"][0],
        *raw.items.row(0)[1:3],
        *raw.items["categories"][0],
    ]
    assert found == ["Soap red x"] * 5


@pytest.mark.parametrize(
    "content",
    [
        CSV + 'u,"[1, 2]",5,978307200\nv,"[3, 4]",5,978307200\n',
        CSV + "u,1 2 3,5,978307200\nv,3 4 5 6,5,978307200\n",
        CSV + 'u,"a,b,c",5,978307200\nv,"c,d,e",5,978307200\n',
    ],
)
def test_a_row_for_each_sequence_is_refused(tmp_path, content):
    match = "holds several items, such as .*; one row for each interaction is needed"
    with pytest.raises(DataError, match=match):
        read(written(tmp_path, content), ColumnMapping())
    path = tmp_path / "t.jsonl"
    path.write_bytes(as_json_lines([{"user_id": "u", "item_id": ["a", "b"], "rating": 5, "timestamp": 1}]))
    with pytest.raises(DataError, match=match):
        read(path, ColumnMapping())


def test_a_rating_with_a_decimal_comma(tmp_path):
    path = written(tmp_path, CSV.replace(",", ";") + "u;a;4,5;978307200\nu;b;1,000;978307200\n")
    raw, report = read(path, ColumnMapping(separator=";"))
    assert raw.interactions["rating"].to_list() == [4.5]
    assert report.counts["reviews"] == {
        "rating with a decimal comma, read as a point": 1, "rating does not parse": 1
    }  # fmt: skip


@pytest.mark.parametrize(
    ("column", "dtype", "words"),
    [
        ("timestamp", pl.Duration("ms"), "which is no moment"),
        ("timestamp", pl.Time(), "which is no moment"),
        ("rating", pl.Date(), "give one of numbers"),
        ("user_id", pl.List(pl.Int64()), "one value per row"),
    ],
)
def test_a_column_of_a_type_that_cannot_be_meant_is_named(tmp_path, column, dtype, words):
    table = pl.DataFrame({"user_id": ["u"], "item_id": ["a"], "rating": [5], "timestamp": [978307200]})
    table.with_columns(pl.lit(None, dtype=dtype).alias(column)).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match=rf"column '{column}' holds .*{words}"):
        read(tmp_path / "t.parquet", ColumnMapping())


def test_ids_and_ratings_of_other_types(tmp_path):
    table = pl.DataFrame({"user_id": ["u"], "item_id": ["a"], "rating": [4.5], "timestamp": [978307200]})
    for column, dtype in (("user_id", pl.Categorical), ("rating", pl.Decimal(5, 2)), ("item_id", pl.Binary)):
        table.with_columns(pl.col(column).cast(dtype)).write_parquet(tmp_path / "t.parquet")
        assert read(tmp_path / "t.parquet", ColumnMapping())[0].interactions.rows()[0][:3] == ("u", "a", 4.5)


@pytest.mark.parametrize("dtype", [pl.Categorical(), pl.Enum(["7", "4.5", "978307200", "978307201"]), pl.Binary()])
def test_categories_and_bytes_mean_what_they_show(tmp_path, dtype):
    texts = pl.DataFrame({"rating": ["7", "4.5"], "timestamp": ["978307200", "978307201"]}).cast(dtype)
    ids = pl.DataFrame({"user_id": ["u", "v"], "item_id": ["a", "b"]})
    pl.concat([ids, texts], how="horizontal").write_parquet(tmp_path / "t.parquet")
    rows = read(tmp_path / "t.parquet", ColumnMapping())[0].interactions.rows()
    assert [row[2:4] for row in rows] == [(7.0, 978307200000), (4.5, 978307201000)]


def test_titles_and_lists_of_categories_or_bytes(tmp_path):
    (tmp_path / "t.csv").write_text(CSV + "u,a,5,978307200\nu,b,5,978307201\n")
    titles = pl.Series("title", [b"Caf\xc3\xa9", b"Caf\xe9"])
    groups = pl.Series("group", [["x", "y"], []], pl.List(pl.Categorical))
    pl.DataFrame([pl.Series("item_id", ["a", "b"]), titles, groups]).write_parquet(tmp_path / "i.parquet")
    columns = ColumnMapping(categories="group")
    raw, report = read(tmp_path / "t.csv", columns, metadata=str(tmp_path / "i.parquet"))
    assert raw.items.select("title", "categories").rows() == [("Café", ["x", "y"]), ("", [])]
    assert report.counts["metadata"] == {"title holds bytes that are no UTF-8 text, left out": 1}


@pytest.mark.parametrize("name", ["position", "fault", "raw_row", "raw_item_id", "order", "number", "index"])
@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_a_column_may_have_any_name(tmp_path, name, kind):
    def write(stem: str, table: pl.DataFrame) -> str:
        path = tmp_path / f"{stem}.{kind}"
        {"csv": table.write_csv, "parquet": table.write_parquet, "jsonl": table.write_ndjson}[kind](path)
        return str(path)

    rows = pl.DataFrame(
        {"user_id": ["u", "v", ""], "item_id": ["a", "b", "a"], name: [5, 4, 3], "timestamp": [1, 2, 3]}
    )
    rows = rows.with_columns(pl.col("timestamp") + 978307200)
    items = pl.DataFrame({"item_id": ["a", "b", ""], "title": ["A", "B", "C"], name: ["x", "y", "z"]})
    users = pl.DataFrame({"user_id": ["u", "v", ""], name: ["a cook", "a judge", "nobody"]})
    files = {"metadata": write("items", items), "users": write("users", users)}
    columns = ColumnMapping(rating=name, brand=name, profile=name)
    raw, report = read(Path(write("rows", rows)), columns, **files)
    assert raw.interactions["rating"].to_list() == [5.0, 4.0]
    assert raw.items.select("item_id", "title", "brand").rows() == [("a", "A", "x"), ("b", "B", "y")]
    assert raw.users is not None
    assert raw.users.rows() == [("u", "a cook"), ("v", "a judge")]
    assert report.counts == {"reviews": {"no user id": 1}, "users": {"no user id": 1}, "metadata": {"no item id": 1}}
    assert report.examples["metadata"]["no item id"][0].startswith(f"items.{kind}, row 3: {{'item_id': ")


@pytest.mark.parametrize("column", ["review", "brand", "price"])
def test_lists_where_a_text_is_expected_are_not_dropped_in_silence(tmp_path, column):
    (tmp_path / "t.csv").write_text(CSV + "u,a,5,978307200\n")
    record = {"user_id": "u", "item_id": "a", "rating": 5, "timestamp": 978307200, "title": "A", "words": ["x"]}
    (tmp_path / "t.jsonl").write_text(json.dumps(record) + "\n")
    reviews = tmp_path / ("t.jsonl" if column == "review" else "t.csv")
    with pytest.raises(DataError, match=r"column 'words' holds List.*one value per row"):
        read(reviews, ColumnMapping(**{column: "words"}), metadata=str(tmp_path / "t.jsonl"))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.csv", "<!DOCTYPE html>\n<html>\n", "a page of the web"),
        ("t.jsonl", CSV + "u,a,5,978307200\n", "name a CSV file .csv"),
        ("t.csv", "user_id,item_id,rating,timestamp\n1,u,a,5,978307200\n", r"the first column has no name"),
    ],
)
def test_files_that_are_something_else_are_named(tmp_path, name, content, words):
    with pytest.raises(DataError, match=words.replace(".", r"\.")):
        read(written(tmp_path, content, name), ColumnMapping())


@pytest.mark.parametrize("kind", [pl.List(pl.String), pl.Struct({"id": pl.String})])
def test_an_empty_column_of_lists(tmp_path, kind):
    kinds = {"user_id": pl.String, "item_id": kind, "rating": pl.Float64, "timestamp": pl.Int64}
    for table in (pl.DataFrame(schema=kinds), pl.DataFrame({name: [None] for name in kinds}, schema=kinds)):
        table.write_parquet(tmp_path / "t.parquet")
        with pytest.raises(DataError, match=r"column 'item_id' holds (List|Struct).*one value per row"):
            read(tmp_path / "t.parquet", ColumnMapping())
