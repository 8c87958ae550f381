"""Checksums of large files: compared where they were noted, and nothing is read where they were not."""

import errno
import os
from pathlib import Path

import pytest

from mllm_srec.files.checksums import CHECKSUMS, check_checksums, is_noted, note_checksum, note_checksums
from mllm_srec.types import DataError

ABOUT = {"what": "the rows", "remedy": "delete them"}


def test_a_changed_file_is_found_and_others_are_not_asked(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"abc")
    (tmp_path / "b.bin").write_bytes(b"def")
    note_checksums(tmp_path, "a.bin")
    note_checksum(tmp_path / "c.bin", tmp_path / "b.bin")
    assert [is_noted(tmp_path / name) for name in ("a.bin", "b.bin", "c.bin")] == [True, False, True]
    (tmp_path / "b.bin").rename(tmp_path / "c.bin")
    check_checksums(tmp_path, "a.bin", "c.bin", **ABOUT)
    (tmp_path / "c.bin").write_bytes(b"def?")
    with pytest.raises(DataError, match=r"c\.bin: the rows .*it has 4 bytes, and had 3 when it was written\); delete"):
        check_checksums(tmp_path, "a.bin", "c.bin", **ABOUT)
    (tmp_path / "a.bin").write_bytes(b"abd")
    with pytest.raises(DataError, match=r"a\.bin: the rows .*its content differs from its checksum"):
        check_checksums(tmp_path, "a.bin", **ABOUT)


def test_a_file_of_an_earlier_version_is_not_read_for_nothing(tmp_path, monkeypatch):
    (tmp_path / "a.bin").write_bytes(b"abc")

    def refuse(path, *arguments, **options):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as closed:
        closed.setattr(Path, "open", refuse)
        check_checksums(tmp_path, "a.bin", **ABOUT)
    assert not (tmp_path / CHECKSUMS).exists()
    with pytest.raises(DataError, match=r"b\.bin: the rows cannot be read \(it is missing\); delete them"):
        check_checksums(tmp_path, "b.bin", **ABOUT)
