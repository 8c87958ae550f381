"""Lines of raw files: a limit of length, little memory, arrays in place of lines."""

from __future__ import annotations

import errno
import gzip
import json
import os
import re
import tarfile
import tracemalloc
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mllm_srec.data.manifest import raw_files
from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.data.raw import blocks
from mllm_srec.data.raw.blocks import TOO_LONG, read_content, read_lines
from mllm_srec.data.raw.lines import read_records
from mllm_srec.data.raw.table_files import read_table
from mllm_srec.data.settings import ColumnMapping, PrepareSettings
from mllm_srec.types import DataError


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=9), st.booleans(), st.integers(1, 9), st.integers(4, 9))
def test_lines_of_any_length_in_blocks_of_any_size(tmp_path_factory, lengths, ends, block_size, limit):
    lines = [b"x" * length for length in lengths]
    content = b"\n".join(lines) + b"\n" * ends
    if not content:
        return
    path = tmp_path_factory.mktemp("b") / "t"
    path.write_bytes(content)
    expected = lines if ends or lines[-1] else lines[:-1]  # a line end ends a line, it begins none
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_SIZE", block_size)
        assert [line for _, line in read_lines(path)] == expected
        patch.setattr(blocks, "MAX_LINE", limit)
        found = list(read_lines(path))
        kept = read_content(path)
    assert [index for index, _ in found] == list(range(len(expected)))
    for line, (_, read) in zip(expected, found, strict=True):
        assert read == line or (read is None and len(line) > limit)
        assert read is None or len(line) <= limit + block_size
    assert len(kept.data.split(b"\n")) == len(content.split(b"\n")) + (
        not content.endswith(b"\n") and found[-1][1] is None
    )
    assert list(kept.too_long) == [index for index, line in found if line is None]


@pytest.fixture
def short_lines(monkeypatch):
    """A limit of 100 bytes a line."""
    monkeypatch.setattr(blocks, "MAX_LINE", 100)
    monkeypatch.setattr(blocks, "BLOCK_SIZE", 64)


@pytest.mark.usefixtures("short_lines")
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_line_beyond_the_limit_costs_itself_only(tmp_path, pack):
    path, report = tmp_path / "t.json", PrepareReport()
    path.write_bytes(pack(b'{"a": 1}\n{"a": "' + b"x" * 1000 + b'"}\n{"a": 2}\n'))
    assert list(read_records(path, report, "reviews")) == [(0, {"a": 1}), (2, {"a": 2})]
    assert report.counts == {"reviews": {TOO_LONG: 1}}
    with pytest.raises(DataError, match=r"t\.json:2: line is longer than"):
        list(read_records(path, PrepareReport(), "reviews", strict=True))


@pytest.mark.usefixtures("short_lines")
def test_a_line_of_a_table_beyond_the_limit(tmp_path):
    path, report = tmp_path / "t.csv", PrepareReport()
    path.write_text("a,b\n1,2\n3," + "x" * 1000 + "\n5,6\n")
    frame = read_table(path, {"user_id": "a"}, report, "reviews")
    assert frame.rows() == [(0, "1"), (2, "5")]
    assert report.counts == {"reviews": {TOO_LONG: 1}}
    path.write_text("a" * 1000 + ",b\n1,2\n")
    with pytest.raises(DataError, match="is no table: its first line is longer than"):
        read_table(path, {"user_id": "a"}, PrepareReport(), "reviews")


def test_one_huge_line_takes_little_memory(tmp_path):
    path = tmp_path / "t.json.gz"
    with gzip.open(path, "wb") as file:
        for _ in range(128):
            file.write(b"x" * (1 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"holds no record: 1 lines.*longer than 16 MiB"):
            list(read_records(path, PrepareReport(), "reviews"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40 << 20


RECORDS = [{"user_id": "u", "n": n} for n in range(3)]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_json_array_is_read_as_its_records(tmp_path, indent, pack):
    path = tmp_path / "t.json"
    path.write_bytes(pack(b"\xef\xbb\xbf \n" + json.dumps(RECORDS, indent=indent).encode()))
    assert list(read_records(path, PrepareReport(), "reviews")) == list(enumerate(RECORDS))


def test_what_begins_like_an_array(tmp_path):
    path, report = tmp_path / "t.json", PrepareReport()
    path.write_text(json.dumps([RECORDS[0], 7, RECORDS[1]]))
    assert [index for index, _ in read_records(path, report, "reviews")] == [0, 2]
    assert report.counts == {"reviews": {"element is not a record": 1}}
    path.write_text('[oops\n{"a": 1}\n')  # lines, the first of them broken
    assert list(read_records(path, PrepareReport(), "reviews")) == [(1, {"a": 1})]
    path.write_text("[1, 2]\n" + '{"a": 1}\n')
    assert list(read_records(path, PrepareReport(), "reviews")) == [(1, {"a": 1})]
    path.write_text(json.dumps(RECORDS)[:-9])
    with pytest.raises(DataError, match=r"begins as one JSON array but is none \(.*one object a line is read"):
        list(read_records(path, PrepareReport(), "reviews"))


@pytest.mark.parametrize(
    "content", [{"user_id": {"0": "u"}, "n": {"0": 1}}, {"7": {"title": "a"}, "8": {"title": "b"}}]
)
def test_one_object_of_columns_or_by_id_is_refused_by_its_cause(tmp_path, content):
    path = tmp_path / "t.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"is one JSON object, .*one object a line is read"):
        read_table(path, {"user_id": "user_id"}, PrepareReport(), "reviews")
    path.write_text(json.dumps(content, indent=1))
    with pytest.raises(DataError, match=r"objects span several lines; one object a line is read"):
        list(read_records(path, PrepareReport(), "reviews"))


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"PK\x03\x04", "an .xlsx workbook is one"),
        (b"(\xb5/\xfd", "unzstd"),
        (b"SQLite format 3\0", "export its tables as CSV"),
        (b"ARROW1\0\0", "write it as Parquet"),
        (b"\xfd7zXZ\0", "unxz"),
        (b"\x89HDF\r\n", "HDF5"),
    ],
)
def test_other_formats_are_named_with_what_to_do(tmp_path, start, words):
    path: Path = tmp_path / "t.csv"
    path.write_bytes(start + bytes(50))
    with pytest.raises(DataError, match=words.replace(".", r"\.")):
        read_table(path, {"user_id": "a"}, PrepareReport(), "reviews")


@pytest.mark.parametrize(
    ("number", "words"), [(errno.EACCES, "change its permissions"), (errno.ESTALE, "see to the disk")]
)
@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet", "t.dat"])
def test_a_file_that_the_system_does_not_hand_out_is_named(tmp_path, monkeypatch, number, words, name):
    path, opened = tmp_path / name, Path.open
    path.write_text('{"a": 1}\n')

    def refuse(self, *args, **kwargs):
        if self == path:
            raise OSError(number, os.strerror(number), str(path))
        return opened(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    for read in (
        lambda: read_table(path, {"user_id": "a"}, PrepareReport(), "reviews"),
        lambda: list(read_records(path, PrepareReport(), "reviews")),
        lambda: raw_files(PrepareSettings(source="tables", reviews=str(path))),
    ):
        with pytest.raises(DataError, match=re.escape(f"{name}: cannot be read ({os.strerror(number)}); {words}")):
            read()


def test_a_disk_that_fails_midway_is_no_incomplete_download(tmp_path, monkeypatch):
    path = tmp_path / "t.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n'))

    def fail(self, size):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(gzip.GzipFile, "read1", fail)
    with pytest.raises(DataError, match=r"t\.jsonl\.gz: cannot be read \(Input/output error\); see to the disk"):
        list(read_lines(path))


@pytest.mark.parametrize("name", ["t.parquet.gz", "t.csv.gz", "t.jsonl.gz", "t.parquet"])
def test_a_packed_parquet_file_is_named(tmp_path, name):
    path = tmp_path / name
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "plain")
    path.write_bytes(gzip.compress((tmp_path / "plain").read_bytes()))
    with pytest.raises(DataError, match=r"holds, packed with gzip, a Parquet file; unpack it first"):
        read_table(path, {"user_id": "a"}, PrepareReport(), "reviews")


@pytest.mark.parametrize(("name", "mode"), [("t.csv.gz", "w:gz"), ("t.tar.gz", "w:gz"), ("t.csv", "w")])
def test_a_tar_archive_is_named(tmp_path, name, mode):
    (tmp_path / "inside.csv").write_text("a\n1\n")
    with tarfile.open(tmp_path / name, mode) as archive:
        archive.add(tmp_path / "inside.csv", "inside.csv")
    with pytest.raises(DataError, match=r"a tar archive; unpack it"):
        read_table(tmp_path / name, {"user_id": "a"}, PrepareReport(), "reviews", mapping=ColumnMapping(separator=","))


def test_a_disk_that_fails_under_parquet_is_no_broken_file(tmp_path, monkeypatch):
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "t.parquet")

    def fail(*args, **options):
        raise pl.exceptions.ComputeError("Stale file handle (os error 116)")

    monkeypatch.setattr(pl, "read_parquet", fail)
    with pytest.raises(DataError, match=r"t\.parquet: cannot be read \(Stale file handle\); see to the disk"):
        read_table(tmp_path / "t.parquet", {"user_id": "a"}, PrepareReport(), "reviews")
