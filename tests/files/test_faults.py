"""A full disk is one sentence that names the folder, whichever library met it."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from mllm_srec import __main__ as program
from mllm_srec.files import faults
from mllm_srec.files.atomic import write_table, write_text
from mllm_srec.files.faults import explain_full, explained, full_disk
from mllm_srec.types import ConfigError, DataError

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full on this system")


def chained(outer, inner):
    try:
        try:
            raise inner
        except Exception as error:
            raise outer from error
    except Exception as error:
        return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "x"), "No space left on device"),
        (OSError(errno.EDQUOT, "x"), "Disk quota exceeded"),
        (OSError("No space left on device (os error 28)"), "No space left on device"),
        (RuntimeError("I/O: os error 28"), "No space left on device"),
        (chained(RuntimeError("training failed"), OSError(errno.ENOSPC, "x")), "No space left on device"),
        (OSError(errno.EACCES, "x"), None),
        (RuntimeError("os error 280"), None),
    ],
)
def test_a_full_disk_is_recognised(error, reason):
    assert full_disk(error) == reason
    assert (explain_full(error) is None) == (reason is None)


def save_arrays():
    import numpy

    with FULL.open("wb") as file:
        numpy.save(file, numpy.arange(100_000))


def save_arrow():
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"a": list(range(100_000))}), str(FULL))


WRITES = {
    "text": lambda folder: write_text("x" * 100_000, folder / "a"),
    "table": lambda folder: write_table(pl.DataFrame({"a": range(100_000)}), folder / "a"),
    "numpy": lambda folder: save_arrays(),
    "arrow": lambda folder: save_arrow(),
}


@needs_full
@pytest.mark.parametrize("write", WRITES)
def test_real_libraries_on_a_real_full_device(tmp_path, write):
    """`/dev/full` refuses every byte, as a full disk does."""
    (tmp_path / ".a.partial").symlink_to(FULL)
    with pytest.raises(Exception, match="") as caught:  # noqa: PT011  of several kinds
        WRITES[write](tmp_path)
    assert full_disk(caught.value) == "No space left on device"


def test_the_sentence_names_the_folder_of_the_file(tmp_path):
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "a.parquet"))
    assert explain_full(error).startswith(f"{tmp_path}: cannot be written (No space left on device); free space there")


def test_without_a_file_it_is_the_folder_whose_disk_is_full(tmp_path, monkeypatch):
    write_text("x", tmp_path / "a")
    (tmp_path / "other").mkdir()
    write_text("x", tmp_path / "other/a")
    monkeypatch.setattr(faults, "_free", lambda folder: 0 if folder == tmp_path else 1 << 40)
    assert explain_full(OSError(errno.ENOSPC, "x")).startswith(f"{tmp_path}: cannot be written")


def test_a_block_says_what_was_kept(tmp_path):
    full = pytest.raises(DataError, match=r"data: cannot be written \(No space .*again: three of four are kept")
    with full, explained(tmp_path / "data", "three of four are kept"):
        raise OSError(errno.ENOSPC, "x")
    read_only = pytest.raises(ConfigError, match=r"data: is missing and cannot be made, .*\(Read-only file system\)")
    with read_only, explained(tmp_path / "data", ""):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))
    with pytest.raises(ZeroDivisionError), explained(tmp_path / "data", ""):
        _ = 1 / 0


def open_refused(path):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


@pytest.mark.parametrize("closed", ["raw/reviews.csv", "raw"])
def test_a_closed_file_that_a_block_reads_is_named_in_place_of_the_folder_that_it_writes(tmp_path, monkeypatch, closed):
    file = tmp_path / "raw/reviews.csv"
    file.parent.mkdir()
    file.write_text("a")
    allowed = os.access  # root may read anything
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path / closed and allowed(path, mode))
    expected = rf"^{tmp_path / closed}: cannot be read by this user \(Permission denied\); see to its permissions"
    with pytest.raises(DataError, match=expected), explained(tmp_path, "nothing was kept"):
        open_refused(file)


def test_a_folder_that_may_not_be_written_is_still_blamed_for_a_file_in_it(tmp_path):
    with pytest.raises(ConfigError, match="and cannot be made"), explained(tmp_path / "data", ""):
        open_refused(tmp_path / "data/.items.parquet.partial")


def test_every_command_ends_with_one_sentence(tmp_path, monkeypatch, capsys):
    def fill(command, arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "x"))

    monkeypatch.setattr(program, "_run", fill)
    for command in program.COMMANDS:
        assert program.main([command]) == 1
        said = capsys.readouterr().err
        assert said.startswith(f"mllm_srec {command}: error: {tmp_path}: cannot be written (No space left on device)")
        assert said.count("\n") == 1


@pytest.mark.slow
def test_prepare_on_a_disk_that_fills_up(tmp_path):
    """A limit of the size of files stands for the disk: nothing half prepared is left."""
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
        "from mllm_srec.__main__ import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    arguments = ["prepare", "--data.name", "shop", "--prepare.source", "demo", "--prepare.k_core", "1"]
    arguments += ["--prepare.demo.n_users", "12", "--prepare.demo.n_items", "30", "--prepare.demo.n_interactions", "6"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "data: cannot be written (File too large)" in done.stderr
    assert "nothing of it was kept" in done.stderr
    assert [path.name for path in (tmp_path / "data").iterdir() if not path.name.endswith(".lock")] == []
