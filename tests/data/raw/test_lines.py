from __future__ import annotations

import ast
import bz2
import gzip
import json
import re
import warnings
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.data.raw.blocks import read_content, read_lines
from mllm_srec.data.raw.lines import parse_line, read_records
from mllm_srec.types import DataError

RECORDS = [{"asin": f"000{i}", "title": "caf\u00e9 \u2028 line", "n": i, "list": ["a", None]} for i in range(5)]
JSON_LINES = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in RECORDS).encode()


def read(path: Path, report: PrepareReport | None = None, **kwargs) -> list:
    return list(read_records(path, PrepareReport() if report is None else report, "reviews", **kwargs))


@pytest.mark.parametrize("name", ["reviews.json", "reviews.json.gz", "no_suffix"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_gzip_is_told_by_content_not_by_name(tmp_path, name, pack):
    path = tmp_path / name
    path.write_bytes(pack(JSON_LINES))
    assert read(path) == list(enumerate(RECORDS))


def test_python_literals_mixed_with_json(tmp_path):
    path = tmp_path / "meta.json"
    path.write_text("{'a': \"it's\", 'b': None, 'c': [True, {'d': 1.5}]}\n{\"a\": null}\n{'a': 'say \"hi\"'}\n")
    assert read(path) == [
        (0, {"a": "it's", "b": None, "c": [True, {"d": 1.5}]}),
        (1, {"a": None}),
        (2, {"a": 'say "hi"'}),
    ]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.text(), values, max_size=5))
def test_any_record_comes_back_from_both_notations(record):
    text = repr(record)
    if "\n" not in text:
        assert parse_line(text.encode("utf-8", "replace")) == ast.literal_eval(text.encode("utf-8", "replace").decode())
    assert parse_line(json.dumps(record).encode()) == record


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="'\"\\{}[],: abn0", max_size=25).map(lambda text: "{'k': " + text + "}"))
def test_short_cut_of_the_literal_parser_takes_nothing_for_something_else(text):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError):
        with pytest.raises(ValueError, match="line is not"):
            parse_line(text.encode())
    else:
        assert parse_line(text.encode()) == expected


def test_code_is_never_run(tmp_path):
    path = tmp_path / "meta.json"
    flag = tmp_path / "flag"
    path.write_text("{'a': 1}\n{'a': open(" + repr(str(flag)) + ", 'w')}\n")
    report = PrepareReport()
    assert read(path, report) == [(0, {"a": 1})]
    assert not flag.exists()
    assert report.counts == {"reviews": {"line is not JSON": 1}}


def test_mark_blank_lines_line_ends_and_missing_last_one(tmp_path):
    path = tmp_path / "reviews.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n   \n{"a": 2}\n\r\n{"a": 3}')
    report = PrepareReport()
    assert read(path, report) == [(0, {"a": 1}), (3, {"a": 2}), (5, {"a": 3})]
    assert report.counts == {}


BAD = {
    b"<html>": "line is not JSON",
    b'{"a": 1': "line is not JSON",
    b"[1, 2]": "line is not a record",
    b"12": "line is not a record",
    b'{"a": "\xe9"}': "line is not UTF-8",
    b"[" * 100_000: "line is not JSON",
    b"\x00\x00": "line is not JSON",
}


@pytest.mark.parametrize(("line", "reason"), BAD.items(), ids=range(len(BAD)))
def test_malformed_line_is_counted_with_its_place(tmp_path, line, reason):
    path = tmp_path / "reviews.json"
    path.write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 2}\n')
    report = PrepareReport()
    assert read(path, report) == [(0, {"a": 1}), (2, {"a": 2})]
    assert report.counts == {"reviews": {reason: 1}}
    assert report.examples["reviews"][reason][0].startswith("reviews.json:2: ")


@pytest.mark.parametrize(("line", "reason"), BAD.items(), ids=range(len(BAD)))
def test_malformed_line_is_an_error_when_strict(tmp_path, line, reason):
    path = tmp_path / "reviews.json"
    path.write_bytes(b'{"a": 1}\n' + line + b"\n")
    with pytest.raises(DataError, match=re.escape(f"{path}:2: {reason}") + r".*prepare.strict: false"):
        read(path, strict=True)


def test_missing_folder_and_empty_files(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.json: does not exist"):
        read(tmp_path / "nowhere.json")
    with pytest.raises(DataError, match="is not a file"):
        read(tmp_path)
    (tmp_path / "empty").touch()
    with pytest.raises(DataError, match=r"empty \(0 bytes\)"):
        read(tmp_path / "empty")
    (tmp_path / "empty.gz").write_bytes(gzip.compress(b""))
    with pytest.raises(DataError, match="empty once decompressed"):
        read(tmp_path / "empty.gz")
    (tmp_path / "blank").write_text("\n\n")
    with pytest.raises(DataError, match="holds no record: 0 lines"):
        read(tmp_path / "blank")


def test_file_without_any_record_is_an_error_that_counts(tmp_path):
    path = tmp_path / "ratings.csv"
    path.write_text("A39H,0205616461,5.0,1369699200\n" * 3)
    with pytest.raises(DataError, match=r"holds no record: 3 lines.*source: tables"):
        read(path)


@pytest.mark.parametrize(
    ("content", "what"),
    [(bz2.compress(b"x"), "bzip2"), (b"PK\x03\x04rest", "zip archive"), ('{"a": 1}'.encode("utf-16"), "UTF-16")],
)
def test_foreign_formats_are_named(tmp_path, content, what):
    path = tmp_path / "reviews.json.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=what):
        read(path)


def many_lines() -> bytes:
    digits = [zlib.crc32(str(i).encode()) for i in range(20_000)]  # hard to compress: several blocks
    return b"".join(json.dumps({"line": i, "noise": noise}).encode() + b"\n" for i, noise in enumerate(digits))


@pytest.mark.parametrize("share", [0.0005, 0.3, 0.999])
def test_truncated_gzip_gives_all_that_is_before_the_break_and_then_an_error(tmp_path, share):
    content = gzip.compress(many_lines())
    cut = content[: int(len(content) * share)]
    path = tmp_path / "reviews.json.gz"
    path.write_bytes(cut)
    expected = zlib.decompressobj(31).decompress(cut).count(b"\n")  # complete lines before the break
    match = rf"cannot be read to its end.*Complete lines before the break: {expected}[,;] .*download the file again"
    with pytest.raises(DataError, match=match) as caught:
        read(path)
    if expected:
        assert f'the last is line {expected}: {{"line": {expected - 1}, ' in str(caught.value)
    with pytest.raises(DataError, match=f"Complete lines before the break: {expected}[,;] "):
        read_content(path)


def test_lines_before_the_break_are_handed_out(tmp_path):
    content = gzip.compress(many_lines())
    path = tmp_path / "reviews.json.gz"
    path.write_bytes(content[: len(content) // 2])
    got: list[tuple[int, bytes]] = []
    with pytest.raises(DataError, match="Complete lines before the break: ") as caught:
        got.extend(read_lines(path))
    assert f"break: {len(got)}, " in str(caught.value)
    assert len(got) > 5_000
    assert [json.loads(line)["line"] for _, line in got] == [index for index, _ in got] == list(range(len(got)))


def test_flipped_bytes_in_gzip_are_an_error(tmp_path):
    content = bytearray(gzip.compress(many_lines()))
    content[len(content) // 2] ^= 0xFF
    path = tmp_path / "reviews.json.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read to its end"):
        for _ in read_lines(path):
            pass


def test_gzip_of_several_members_and_padding(tmp_path):
    path = tmp_path / "reviews.json.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n{"a"') + bytes(7) + gzip.compress(b": 2}\n") + bytes(512))
    assert read(path) == [(0, {"a": 1}), (1, {"a": 2})]


def test_lines_longer_than_a_block(tmp_path):
    records = [{"text": "x" * 200_000}, {"text": "y"}, {"text": "z" * 70_000}]
    path = tmp_path / "reviews.json"
    path.write_text("\n".join(map(json.dumps, records)))
    assert [record for _, record in read(path)] == records
