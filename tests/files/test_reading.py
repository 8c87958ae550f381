"""Reading of our own files: every kind of damage becomes one error that names the file and the remedy."""

import errno
import json
import os
import re
from pathlib import Path

import polars as pl
import pytest

from mllm_srec.files.atomic import COLUMN_CHECKSUMS, write_json, write_table
from mllm_srec.files.hashing import column_hashes
from mllm_srec.files.reading import read_json, read_object, read_table, read_whole
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


@pytest.mark.parametrize(
    ("damage", "reason"),
    [("empty", "it is empty"), ("cut", ""), ("text", ""), ("header", ""), ("folder", "it is a folder"),
     ("missing", "it is missing")],
)  # fmt: skip
def test_a_damaged_table_is_named(tmp_path, damage, reason):
    path = table(tmp_path / "a.parquet")
    content = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        other = {"empty": b"", "cut": content[: len(content) // 2], "text": b"a,b\n1,2\n", "header": content[:-8]}
        path.write_bytes(other[damage])
    with pytest.raises(DataError, match=message(path, reason)):
        read_table(path, "the numbers", REMEDY)


def test_a_table_without_a_column_is_named(tmp_path):
    path = table(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=message(path, "it lacks the column c")):
        read_table(path, "the numbers", REMEDY, columns=["a", "c"])


MACHINE = [errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENETDOWN, errno.EHOSTDOWN]
MACHINE += [errno.ECONNRESET, errno.ENOTCONN, errno.EREMOTEIO, errno.EMFILE, errno.ENFILE, errno.EBUSY, errno.EUCLEAN]


@pytest.mark.parametrize(
    "error",
    [
        *(OSError(number, os.strerror(number), "a.json") for number in MACHINE),
        PermissionError("Permission denied (os error 13): a.parquet"),  # of polars, which gives no number
        RuntimeError("unable to open file <a.ckpt> in read-only mode: Too many open files (24)"),  # of torch
        TimeoutError("timed out"),
    ],
    ids=repr,
)
def test_a_file_that_the_machine_cannot_read_is_not_called_damaged(tmp_path, error):
    def refuse(path: Path) -> None:
        raise error

    path = tmp_path / "a.json"
    path.write_text("whole")
    with pytest.raises(DataError, match=r"a\.json: the numbers .*; see to the disk or the permissions") as caught:
        read_whole(path, refuse, "the numbers", REMEDY)
    assert "delete" not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("unable to mmap 12 bytes from file <a>: Cannot allocate memory (12)"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 80000 bytes."),
    ],
)
def test_a_file_that_does_not_fit_is_deleted_only_where_memory_was_free(tmp_path, error):
    def refuse(path: Path) -> None:
        raise error

    (tmp_path / "a.json").write_text("whole")
    expected = rf"\(memory ran out\); free some and start again; where that does not help, .* damaged: {REMEDY}"
    with pytest.raises(DataError, match=expected):
        read_whole(tmp_path / "a.json", refuse, "the numbers", REMEDY)


@pytest.mark.parametrize(
    "error",
    [
        OSError("Could not open Arrow file: invalid magic"),
        FileNotFoundError(errno.ENOENT, "No such file", "part-1"),
        OSError(errno.EINVAL, "Invalid argument"),
        EOFError("no more data"),
    ],
    ids=repr,
)
def test_other_errors_speak_of_the_content(tmp_path, error):
    def refuse(path: Path) -> None:
        raise error

    (tmp_path / "a.json").write_text("half")
    with pytest.raises(DataError, match=message(tmp_path / "a.json", "")):
        read_whole(tmp_path / "a.json", refuse, "the numbers", REMEDY)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (KeyError("rows"), r"it lacks 'rows'"),
        (ValueError("one\n two " + "x" * 300), "one two x{192}" + re.escape("...")),
        (RecursionError(), "RecursionError"),
    ],
)
def test_reasons_are_short_and_of_one_line(tmp_path, error, reason):
    def refuse(path: Path) -> None:
        raise error

    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(DataError) as caught:
        read_whole(tmp_path / "a.json", refuse, "the numbers", REMEDY)
    assert re.fullmatch(rf".*/a\.json: the numbers cannot be read \({reason}\); {REMEDY}", str(caught.value))


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


def flipped(content: bytes, place: int, bit: int = 0) -> bytes:
    changed = bytearray(content)
    changed[place] ^= 1 << bit
    return bytes(changed)


def test_no_flipped_bit_of_a_table_gives_other_numbers(tmp_path):
    path = tmp_path / "a.parquet"
    whole = pl.DataFrame(
        {
            "id": range(200),
            "score": [n * 0.37 for n in range(200)],
            "text": [f"t{n % 7}" if n % 5 else None for n in range(200)],
            "seen": [n % 3 == 0 for n in range(200)],
            "history": [[n, n + 1] for n in range(200)],
        }
    )
    write_table(whole, path)
    assert read_table(path, "the numbers", REMEDY).equals(whole)
    content = path.read_bytes()
    found = 0
    for place in range(0, len(content), 7):
        path.write_bytes(flipped(content, place, place % 8))
        try:
            assert read_table(path, "the numbers", REMEDY).equals(whole)
        except DataError as error:
            assert str(error).startswith(f"{path}: ")  # noqa: PT017  either outcome is right
            found += 1
    assert found > 100


def test_a_part_of_a_table_is_compared_too(tmp_path):
    path = tmp_path / "a.parquet"
    pl.DataFrame({"a": [1], "b": [2]}).write_parquet(
        path,
        metadata={COLUMN_CHECKSUMS: json.dumps({"a": "0" * 16, "b": column_hashes(pl.DataFrame({"b": [2]}))["b"]})},
    )
    assert read_table(path, "the numbers", REMEDY, columns=["b"])["b"].to_list() == [2]
    with pytest.raises(DataError, match="differs from its checksum in the column a"):
        read_table(path, "the numbers", REMEDY)


def test_the_type_of_a_column_is_checked(tmp_path):
    path = table(tmp_path / "a.parquet")
    assert read_table(path, "the numbers", REMEDY, schema={"a": pl.Int64}).height == 1000
    with pytest.raises(DataError, match=message(path, "its column a is Int64, not String")):
        read_table(path, "the numbers", REMEDY, schema={"a": pl.String})


def test_a_changed_number_in_a_json_file_is_noticed(tmp_path):
    path = tmp_path / "metrics.json"
    write_json({"test/auc": 0.59, "n": 7, "folder": tmp_path, "ä": [1, (2, None)], "x": "\udc80"}, path)
    assert read_json(path, "the numbers", REMEDY) == {
        "test/auc": 0.59, "n": 7, "folder": str(tmp_path), "ä": [1, [2, None]], "x": "\udc80",
    }  # fmt: skip
    path.write_text(path.read_text().replace("0.59", "0.95"))
    with pytest.raises(DataError, match=message(path, "its content differs from its checksum")):
        read_json(path, "the numbers", REMEDY)


def test_an_object_must_be_one_and_have_its_keys(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[1]")
    with pytest.raises(DataError, match=message(path, "it holds no JSON object")):
        read_object(path, "the numbers", REMEDY)
    path.write_text('{"a": 1}')
    with pytest.raises(DataError, match=message(path, "it lacks b")):
        read_object(path, "the numbers", REMEDY, keys=["a", "b"])
