"""Atomic writes: complete or not there; and results that never replace something else."""

import json

import polars as pl
import pytest

from mllm_srec.files.atomic import (
    atomic_file,
    check_output_file,
    check_seal,
    sealed,
    write_output_file,
    write_table,
    write_text,
)
from mllm_srec.types import ConfigError, DataError


def test_a_table_and_a_text_are_read_back(tmp_path):
    table = pl.DataFrame({"a": [1, 2]})
    write_table(table, tmp_path / "t.parquet")
    write_text("ü\n", tmp_path / "t.txt")
    assert pl.read_parquet(tmp_path / "t.parquet").equals(table)
    assert (tmp_path / "t.txt").read_bytes() == "ü\n".encode()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.parquet", "t.txt"]


def break_off(path):
    with atomic_file(path) as file:
        file.write(b"half of the ne")
        raise RuntimeError


def test_an_earlier_file_survives_a_failed_write(tmp_path):
    path = tmp_path / "results.json"
    write_text("old", path)
    with pytest.raises(RuntimeError):
        break_off(path)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"], "half a file would keep a full disk full"


def test_what_a_killed_process_left_is_in_nobodys_way(tmp_path):
    (tmp_path / ".results.json.partial").write_text("half of the")
    write_text("new", tmp_path / "results.json")
    assert (tmp_path / "results.json").read_text() == "new"
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def test_a_file_that_cannot_take_its_name_leaves_nothing(tmp_path):
    (tmp_path / "results.json").mkdir()
    with pytest.raises(IsADirectoryError):
        write_text("new", tmp_path / "results.json")
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def is_result(text):
    return isinstance(json.loads(text)["comparison"], dict)


@pytest.mark.parametrize("content", ["", "no JSON", "[]", '{"other": 1}', '{"comparison": 3}', b"\xff\xfe"])
def test_a_file_of_something_else_is_not_replaced(tmp_path, content):
    path = tmp_path / "mine.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=r"output='.*mine.json': the file exists and is no result of `compare`"):
        check_output_file(path, "compare", is_result)


def test_a_result_of_the_command_may_be_replaced(tmp_path):
    path = tmp_path / "result.json"
    check_output_file(path, "compare", is_result)
    write_output_file('{"comparison": {}}', path)
    check_output_file(path, "compare", is_result)


def test_a_missing_folder_is_named(tmp_path):
    path = tmp_path / "none" / "result.json"
    with pytest.raises(ConfigError, match=r"output='.*result.json': '.*none' is no folder; make it first"):
        check_output_file(path, "compare", is_result)
    with pytest.raises(DataError, match=r"output='.*result.json': the file cannot be written \(No such file"):
        write_output_file("x", path)


def test_a_sealed_text_is_compared_and_its_seal_may_be_removed():
    text = "# about\na: 1\nb: ü\n"
    check_seal(text)
    check_seal(sealed(text))
    for changed in (sealed(text).replace("a: 1", "a: 2"), sealed(text)[:-3], sealed(text) + "c: 3\n"):
        with pytest.raises(ValueError, match="if you changed it on purpose, remove its first line"):
            check_seal(changed)
        check_seal(changed.partition("\n")[2])
