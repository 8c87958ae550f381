"""Reading of our own files: every kind of damage becomes one error that names the file and the remedy."""

import errno
import json
import re
from pathlib import Path

import polars as pl
import pytest

from mllm_srec.files.reading import read_json, read_table, read_whole
from mllm_srec.types import ConfigError, DataError

REMEDY = "delete it and run `test` again"


def table(path: Path) -> Path:
    pl.DataFrame({"a": range(1000), "b": [f"text {n}" for n in range(1000)]}).write_parquet(path)
    return path


def message(path: Path, reason: str) -> str:
    return rf"^{re.escape(str(path))}: the numbers cannot be read \({reason}.*\); delete it and run `test` again$"


def test_whole_files_are_read(tmp_path):
    json_file = tmp_path / "a.json"
    json_file.write_text(json.dumps({"ä": 1}), encoding="utf-8")
    assert read_json(json_file, "the numbers", REMEDY) == {"ä": 1}
    parquet = table(tmp_path / "[a].parquet")
    assert read_table(parquet, "the numbers", REMEDY).shape == (1000, 2)
    assert read_table(parquet, "the numbers", REMEDY, columns=["b"]).columns == ["b"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b'{"a": 1', "it is not JSON: "),
        (b'{"a": "\xff"}', "it is not UTF-8 text"),
        (b"[" * 100_000, ""),
    ],
)
def test_a_damaged_json_file_is_named(tmp_path, content, reason):
    path = tmp_path / "metrics.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message(path, reason)):
        read_json(path, "the numbers", REMEDY)


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "header", "folder", "missing"])
def test_a_damaged_table_is_named(tmp_path, damage):
    path = table(tmp_path / "a.parquet")
    content = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        other = {"empty": b"", "cut": content[: len(content) // 2], "text": b"a,b\n1,2\n", "header": content[:-8]}
        path.write_bytes(other[damage])
    with pytest.raises(DataError, match=message(path, "")):
        read_table(path, "the numbers", REMEDY)


def test_a_table_without_a_column_is_named(tmp_path):
    path = table(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=message(path, "it lacks the column c")):
        read_table(path, "the numbers", REMEDY, columns=["a", "c"])


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_file_that_cannot_be_opened_is_not_called_damaged(tmp_path, number):
    def refuse(path: Path) -> None:
        raise OSError(number, "no entry", str(path))

    with pytest.raises(DataError, match="see to the disk or the permissions") as caught:
        read_whole(tmp_path / "a.json", refuse, "the numbers", REMEDY)
    assert "delete" not in str(caught.value)


def test_what_the_reader_says_itself_is_kept(tmp_path):
    def refuse(path: Path) -> None:
        raise ConfigError("another sentence")

    with pytest.raises(ConfigError, match=r"^another sentence$"):
        read_whole(tmp_path / "a.json", refuse, "the numbers", REMEDY)


def test_a_panic_of_the_parser_is_an_error_and_an_interruption_is_not(tmp_path):
    class PanicException(BaseException):
        pass

    def panic(path: Path) -> None:
        raise PanicException("range end index 7 out of range\n  stack")

    path = tmp_path / "a.parquet"
    path.touch()
    path.write_bytes(b"x")
    with pytest.raises(DataError, match=message(path, "range end index 7 out of range")):
        read_whole(path, panic, "the numbers", REMEDY)

    def interrupt(path: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_whole(path, interrupt, "the numbers", REMEDY)
