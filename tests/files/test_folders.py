"""Locks between processes, folders that appear complete or not at all, and permissions."""

import errno
import os
import re
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from filelock import FileLock

from mllm_srec.files import folders
from mllm_srec.files.folders import (
    atomic_folder,
    build_lock,
    lock_if_free,
    locked,
    make_writable,
    wait_for,
    why_not_writable,
)
from mllm_srec.types import ConfigError, DataError

HOLDER = """
import sys
from pathlib import Path
from mllm_srec.files.folders import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
print("released", flush=True)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds `tmp_path / "lock"` until a line is written to it."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "lock")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_lock_is_waited_for_and_the_wait_is_reported_once(tmp_path, holder, monkeypatch):
    monkeypatch.setattr(folders, "PATIENCE", 0.05)
    waits = []

    def on_wait():
        waits.append(1)
        holder.stdin.write("\n")
        holder.stdin.flush()

    with locked(tmp_path / "lock", on_wait):
        assert holder.stdout.readline() == "released\n"
    assert waits == [1]


def test_a_lock_ends_with_its_process(tmp_path, holder):
    assert lock_if_free(tmp_path / "lock") is None
    holder.kill()
    holder.wait()
    lock = lock_if_free(tmp_path / "lock")
    assert lock is not None
    lock.release()


def test_a_lock_is_released_when_the_block_raises(tmp_path):
    with pytest.raises(RuntimeError), locked(tmp_path / "new" / "lock"):
        raise RuntimeError
    lock = lock_if_free(tmp_path / "new" / "lock")
    assert lock is not None
    lock.release()


def test_threads_take_turns_and_a_thread_gets_its_own_lock_again(tmp_path):
    inside, most = [], []

    def work(_):
        with locked(tmp_path / "lock"), locked(tmp_path / "lock"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.002)
            inside.pop()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(40)))
    assert most == [1] * 40
    lock = lock_if_free(tmp_path / "lock")
    assert lock is not None
    lock.release()


def test_waiting_ends_with_an_error_that_names_the_lock(tmp_path, holder):
    waits = []
    with pytest.raises(ConfigError, match=r"lock=.*/lock': is held by another process or thread for 0 s; wait for it"):
        wait_for(FileLock(tmp_path / "lock"), lambda: waits.append(1), longest=0.2)
    assert waits == [1]


def test_threads_prove_at_once_that_a_folder_can_be_written(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(make_writable, [tmp_path / "new"] * 200))
    assert list((tmp_path / "new").iterdir()) == []


def test_a_folder_appears_complete(tmp_path):
    target = tmp_path / "store"
    with atomic_folder(target) as partial:
        (partial / "a").write_text("1")
        assert not target.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    assert (target / "a").read_text() == "1"


def break_off(target):
    with atomic_folder(target) as partial:
        (partial / "third").touch()
        raise KeyboardInterrupt


def test_an_earlier_folder_is_replaced_at_the_end_and_kept_on_failure(tmp_path):
    target = tmp_path / "store"
    for text in ("first", "second"):
        with atomic_folder(target) as partial:
            (partial / text).touch()
    assert [path.name for path in target.iterdir()] == ["second"]
    with pytest.raises(KeyboardInterrupt):
        break_off(target)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    assert [path.name for path in target.iterdir()] == ["second"]


def test_the_leftovers_of_a_killed_process_are_removed(tmp_path):
    left = tmp_path / ".store.partial"
    left.mkdir()
    (left / "half").touch()
    with atomic_folder(tmp_path / "store") as partial:
        (partial / "whole").touch()
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["whole"]


def test_reasons_why_a_folder_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    assert why_not_writable(tmp_path / "file" / "below") == f"{tmp_path / 'file'} is a file"
    assert why_not_writable(tmp_path / "new" / "below") is None
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    assert why_not_writable(tmp_path / "new") == f"no permission to write into {tmp_path}"


def test_a_probe_leaves_nothing(tmp_path):
    make_writable(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        make_writable(tmp_path / "file")


# --- building -----------------------------------------------------------------------------------------------------


def test_waiting_for_a_builder_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(folders, "PATIENCE", 0.05)
    code = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from mllm_srec.files.folders import build_lock
        with build_lock(Path(sys.argv[1])):
            print("held", flush=True)
            sys.stdin.readline()
        """
    )
    store = tmp_path / "data/shop"
    command, pipe = [sys.executable, "-c", code, str(store)], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as child:
        assert child.stdout.readline() == "held\n"

        def say(message):
            print(message)
            child.communicate("\n")  # which ends the other process

        monkeypatch.setattr(folders, "_say", say)
        with build_lock(store):
            pass
    assert capsys.readouterr().out == f"waiting for another process that builds {store}\n"


def test_two_stores_are_built_side_by_side(tmp_path):
    with build_lock(tmp_path / "a"), build_lock(tmp_path / "b"):
        assert lock_if_free(tmp_path / ".a.build.lock") is None


def test_a_builder_under_a_file_is_refused(tmp_path):
    (tmp_path / "data").write_text("")
    with (
        pytest.raises(ConfigError, match=r"data: cannot be written .*; set data.root"),
        build_lock(tmp_path / "data/x"),
    ):
        pass


def test_another_error_inside_keeps_its_kind_and_frees_the_lock(tmp_path):
    with pytest.raises(FileNotFoundError), build_lock(tmp_path / "shop"):
        (tmp_path / "absent").read_text()
    lock = lock_if_free(tmp_path / ".shop.build.lock")
    assert lock is not None
    lock.release()


def test_a_disk_that_is_full_already_when_the_lock_is_made_is_told_as_such(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(folders.FileLock, "acquire", refuse)
    expected = r"store: cannot be written \(No space left on device\); free space there"
    with pytest.raises(DataError, match=expected), build_lock(tmp_path / "store"):
        pass


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_nothing_is_locked_where_nothing_can_be_written(tmp_path, monkeypatch, number):
    def refuse(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(folders.FileLock, "acquire", refuse)
    monkeypatch.setattr(os, "access", lambda path, mode: mode & os.W_OK == 0)  # root may write anywhere
    with build_lock(tmp_path / "store"):
        pass
    expected = (
        rf"store: is missing and cannot be made, .*\({os.strerror(number)}\); .* copy the data set and set data.root"
    )
    with pytest.raises(ConfigError, match=expected), build_lock(tmp_path / "store"):
        refuse()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_a_lock_of_another_user_is_not_passed_over_where_this_one_could_build(tmp_path, monkeypatch, number):
    def refuse(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    lock_file = tmp_path / ".store.build.lock"
    lock_file.touch()
    monkeypatch.setattr(folders.FileLock, "acquire", refuse)
    foreign = rf"lock='{lock_file}': belongs to another user .*; have its owner run `chmod a\+w`"
    with pytest.raises(ConfigError, match=foreign), build_lock(tmp_path / "store"):
        pass
    with pytest.raises(ConfigError, match=foreign):
        lock_if_free(lock_file)
    with pytest.raises(ConfigError, match=foreign), locked(lock_file, setting="data.root"):
        pass


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError("No space left on device (os error 28)"),  # as polars raises it
        RuntimeError("I/O error: Disk quota exceeded"),
    ],
)
def test_a_full_disk_while_building_is_one_sentence(tmp_path, error):
    with pytest.raises(DataError) as caught, build_lock(tmp_path / "store"):
        raise error
    assert re.fullmatch(
        rf"{tmp_path}/store: cannot be written \((No space left on device|Disk quota exceeded)\); free space there, or "
        "put data.root on another disk, and start again: what is complete is kept, .*",
        str(caught.value),
    )


# --- rights and names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_files_of_a_folder_follow_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        with atomic_folder(tmp_path / "store") as partial:
            (partial / "deep").mkdir()
            for name, mode in (("private", 0o600), ("deep/usual", 0o666 & ~mask), ("program", 0o700)):
                (partial / name).write_text("")
                (partial / name).chmod(mode)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "store").rglob("*") if path.is_file()}
    usual = 0o666 & ~mask
    assert modes == {"private": usual, "usual": usual, "program": 0o700 | usual}


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "/a", "a/", "a\0b"])
def test_a_path_is_no_folder_name(name):
    with pytest.raises(ConfigError, match=r"data\.name=.*: is not a folder name; give one without slashes, .*'beauty'"):
        folders.check_folder_name("data.name", name, "beauty")


@pytest.mark.parametrize("name", ["beauty", "Beauty 5-core", ".hidden", "ünï", "a.b", "..."])
def test_names_that_stay_below_their_root(name):
    folders.check_folder_name("data.name", name, "beauty")
