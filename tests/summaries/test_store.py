"""The summary store against an oracle that reads its files as plain JSON lines; kills, torn ends, two processes."""

import io
import json
import random
import signal
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mllm_srec.files import folders
from mllm_srec.prompts.summaries import Summary
from mllm_srec.summaries import store as store_module
from mllm_srec.summaries.store import SummaryStore, content_key
from mllm_srec.types import ConfigError, DataError

HERE = Path(__file__).parent
RECORDS = [Summary(f"k{i}", text, "stop", i) for i, text in enumerate(["a", "é\u2028\n", "", "漢😀\ud800"])]
FIELDS = [{"key": r.key, "text": r.text, "finish_reason": "stop", "n_tokens": r.n_tokens} for r in RECORDS]
OLD_LINES = [json.dumps(fields).encode() + b"\n" for fields in FIELDS]  # of versions without checksums
LINES = [
    json.dumps({**fields, "crc32": zlib.crc32(json.dumps(list(fields.values())).encode())}).encode() + b"\n"
    for fields in FIELDS
]


def write(folder, data, rank=0):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"records-{rank}.jsonl").write_bytes(data)


def stored(folder):
    """What the files hold, read without the store: one dictionary a line."""
    return [json.loads(line) for path in folder.glob("*.jsonl") for line in path.read_bytes().split(b"\n")[:-1]]


# --- reading and writing ------------------------------------------------------------------------------------------


def test_records_are_there_at_once_and_after_opening_again(tmp_path):
    folder = tmp_path / "deep/image"
    with SummaryStore(folder) as store:
        store.append(RECORDS[:3])
        store.append([*RECORDS[1:], RECORDS[3]])
        seen = store
    assert (folder / "records-0.jsonl").read_bytes() == b"".join(LINES)
    for known in (seen, SummaryStore(folder), SummaryStore(folder, rank=7)):
        assert len(known) == 4
        assert [known[r.key] for r in RECORDS] == RECORDS
        assert "k9" not in known
        assert (known.notices, known.duplicates) == ([], 0)


def test_reading_leaves_no_trace(tmp_path):
    store = SummaryStore(tmp_path / "absent")
    assert (len(store), store.notices) == (0, [])
    assert not (tmp_path / "absent").exists()
    write(tmp_path, LINES[0] + LINES[1][:5])
    assert len(SummaryStore(tmp_path)) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"records-0.jsonl"}
    assert (tmp_path / "records-0.jsonl").read_bytes() == LINES[0] + LINES[1][:5]


def test_records_without_checksums_are_read(tmp_path):
    write(tmp_path, b"".join(OLD_LINES))
    known = SummaryStore(tmp_path)
    assert [known[r.key] for r in RECORDS] == RECORDS
    assert known.notices == []


def test_a_changed_text_is_no_record(tmp_path):
    changed = LINES[0].replace(b'"text": "a"', b'"text": "b"')
    assert changed != LINES[0]
    write(tmp_path, changed + LINES[1])
    known = SummaryStore(tmp_path)
    assert "k0" not in known
    assert known["k1"] == RECORDS[1]
    assert known.notices == [f"{tmp_path}/records-0.jsonl, line 1 is broken; its summary will be written again"]


@settings(deadline=None)  # a busy machine is no fault
@given(texts=st.lists(st.text(st.sampled_from('a\n\r\v\f\0\x1c\x1d\x85\u2028\u2029"\\é漢😀\ud800{}')), max_size=5))
def test_every_text_is_one_line(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("store")
    records = [Summary(str(i), text, "length", 3) for i, text in enumerate(texts)]
    with SummaryStore(folder) as store:
        store.append(records)
    assert len((folder / "records-0.jsonl").read_text(encoding="ascii").splitlines()) == len(texts)
    again = SummaryStore(folder)
    assert [again[r.key] for r in records] == records


def test_refresh_reads_only_what_is_new(tmp_path, monkeypatch):
    reader, parsed = SummaryStore(tmp_path, rank=1), []
    real = store_module._parsed
    monkeypatch.setattr(store_module, "_parsed", lambda line: (parsed.append(line + b"\n"), real(line))[1])
    with SummaryStore(tmp_path) as writer:
        for record, line in zip(RECORDS, LINES, strict=True):
            writer.append([record])
            reader.refresh()
            reader.refresh()
            assert reader[record.key] == record
            assert parsed == [line]
            parsed.clear()


def test_a_line_still_being_written_is_left_for_later(tmp_path):
    write(tmp_path, LINES[0] + LINES[1][:7])
    reader = SummaryStore(tmp_path, rank=1)
    assert len(reader) == 1
    write(tmp_path, LINES[0] + LINES[1])
    reader.refresh()
    assert (reader["k1"], reader.notices, reader.duplicates) == (RECORDS[1], [], 0)


@pytest.mark.parametrize("low_first", [True, False])
def test_of_two_records_with_one_key_the_lowest_rank_wins(tmp_path, low_first):
    shards = {10: b'{"key": "k0", "text": "ten", "finish_reason": "stop", "n_tokens": 1}\n', 2: LINES[0] + LINES[1]}
    store = SummaryStore(tmp_path, rank=3)
    for rank in sorted(shards, reverse=not low_first):
        write(tmp_path, shards[rank], rank)
        store.refresh()
    for known in (store, SummaryStore(tmp_path)):
        assert (known["k0"], len(known), known.duplicates) == (RECORDS[0], 2, 1)


def test_a_run_with_fewer_ranks_goes_on_where_more_stopped(tmp_path):
    for rank, record in enumerate(RECORDS[:3]):
        with SummaryStore(tmp_path, rank) as store:
            store.append([record])
    with SummaryStore(tmp_path, rank=1) as store:
        store.append(RECORDS)
    assert sorted(r["key"] for r in stored(tmp_path)) == ["k0", "k1", "k2", "k3"]
    assert (tmp_path / "records-1.jsonl").read_bytes() == LINES[1] + LINES[3]


def test_a_negative_rank_and_an_unwritable_folder_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="rank=-1"):
        SummaryStore(tmp_path, rank=-1)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be written into .*file"):
        SummaryStore(tmp_path / "file").append(RECORDS)


# --- recovery -----------------------------------------------------------------------------------------------------

TORN = {
    "cut": lambda rest: b"",
    "zeros": lambda rest: b"\0" * len(rest),
    "zeros and a line end": lambda rest: b"\0" * len(rest) + b"\n",
    "half a character": lambda rest: "漢".encode()[:2],
    "garbage lines": lambda rest: b"\xff\n{}\n[1]\n{",
}


@pytest.mark.parametrize("kind", TORN)
def test_a_torn_end_is_cut_off_wherever_it_begins(tmp_path, kind):
    whole = b"".join(LINES)
    for cut in range(len(LINES[0] + LINES[1]), len(whole) + 1):
        n_whole = whole[:cut].count(b"\n")
        good = len(b"".join(LINES[:n_whole]))
        data = whole[:cut] + TORN[kind](whole[cut:])
        folder = tmp_path / str(cut)
        write(folder, data)
        reader = SummaryStore(folder, rank=1)
        with SummaryStore(folder) as store:
            assert {key for key in ("k0", "k1", "k2", "k3") if key in store} == {r.key for r in RECORDS[:n_whole]}
            torn = len(data) - good
            place = f"{folder / 'records-0.jsonl'}: cut off the last {torn} bytes"
            assert [notice[: len(place)] for notice in store.notices] == ([place] if torn else [])
            store.append(RECORDS)
        assert (folder / "records-0.jsonl").read_bytes() == whole
        reader.refresh()  # it was open when the end was cut off and written anew
        assert [reader[r.key] for r in RECORDS] == RECORDS
        assert (reader.notices, reader.duplicates) == ([], 0)


def test_a_torn_end_of_another_rank_is_not_touched(tmp_path):
    write(tmp_path, LINES[0] + LINES[1][:9], rank=1)
    with SummaryStore(tmp_path) as store:
        store.append(RECORDS)
        assert store.notices == []
    assert (tmp_path / "records-1.jsonl").read_bytes() == LINES[0] + LINES[1][:9]
    assert len(SummaryStore(tmp_path)) == 4


@pytest.mark.parametrize("broken", [b"", b"\0\0\0", b"{", LINES[1][:-3], b"\xff", b'{"key": 1}', b'"k"'])
def test_a_broken_line_in_the_middle_costs_one_record(tmp_path, broken):
    write(tmp_path, LINES[0])
    early = SummaryStore(tmp_path, rank=1)
    write(tmp_path, LINES[0] + broken + b"\n" + LINES[2])
    with SummaryStore(tmp_path) as store:
        assert [r.key in store for r in RECORDS] == [True, False, True, False]
        store.append(RECORDS)
    early.refresh()
    for known in (store, early, SummaryStore(tmp_path)):
        assert [notice.split(" is broken")[0] for notice in known.notices] == [f"{tmp_path}/records-0.jsonl, line 2"]
        assert [known[r.key] for r in RECORDS] == RECORDS


def test_a_full_disk_takes_no_whole_line(tmp_path):
    worker = [sys.executable, HERE / "disk_full_worker.py", tmp_path, "1000"]
    said = subprocess.run(worker, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "cannot be written" in said
    n_returned = int(said.split()[0])
    assert [r["key"] for r in stored(tmp_path)] == [f"key-{i}" for i in range(n_returned + 1)]
    assert n_returned > 5
    assert SummaryStore(tmp_path).notices == []


# --- several processes --------------------------------------------------------------------------------------------


def test_a_second_writer_of_the_same_rank_waits_says_so_and_knows_what_was_written(tmp_path, monkeypatch):
    held, said = threading.Event(), threading.Event()

    class Screen(io.StringIO):
        def write(self, text):
            said.set()
            return super().write(text)

    def write_slowly():
        with SummaryStore(tmp_path) as store:
            held.set()
            said.wait(30)
            time.sleep(0.2)  # time enough for a second writer that does not wait
            store.append(RECORDS[:2])

    monkeypatch.setattr(folders, "PATIENCE", 0.05)
    monkeypatch.setattr(sys, "stderr", Screen())
    second, first = SummaryStore(tmp_path), threading.Thread(target=write_slowly)
    first.start()
    held.wait()
    with second:
        assert [r.key in second for r in RECORDS] == [True, True, False, False]
        second.append(RECORDS)
    first.join()
    waiting = f"waiting for another process of rank 0 that writes summaries into {tmp_path}\n"
    assert sys.stderr.getvalue() == waiting
    assert (tmp_path / "records-0.jsonl").read_bytes() == b"".join(LINES)


def worker(folder, rank, n_ranks, n_records, seed=0):
    arguments = [sys.executable, HERE / "append_worker.py", folder, rank, n_ranks, n_records, seed]
    return subprocess.Popen([str(a) for a in arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def killed(folder, rank, n_ranks, seed):
    """Start a writer without an end, kill it at a random moment, and return the keys for which `append` returned."""
    draw = random.Random(seed)
    process = worker(folder, rank, n_ranks, 10**9, seed)
    keys = [process.stdout.readline() for _ in range(draw.randrange(15))]
    time.sleep(draw.uniform(0, 0.005))
    process.kill()
    rest, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (-signal.SIGKILL, "")
    return "".join([*keys, rest]).split()


@pytest.mark.parametrize("n_ranks", [1, 2])
@pytest.mark.parametrize("n_kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_lose_nothing_and_double_nothing(tmp_path, n_kills, n_ranks):
    folder, whole = tmp_path / "killed", tmp_path / "whole"

    def kill(rank):
        return [key for i in range(n_kills) for key in killed(folder, rank, n_ranks, seed=100 * rank + i)]

    with ThreadPoolExecutor(n_ranks) as pool:
        returned = [key for keys in pool.map(kill, range(n_ranks)) for key in keys]
    there = [r["key"] for r in stored(folder)]
    assert set(returned) <= set(there)
    assert len(returned) == len(set(returned)) > n_kills
    n_records = 20 + max(int(key.removeprefix("key-")) for key in there)
    finishing = [worker(folder, rank, n_ranks, n_records) for rank in range(n_ranks)]
    for process in [*finishing, worker(whole, 0, 1, n_records)]:
        _, errors = process.communicate(timeout=120)
        assert (process.returncode, errors) == (0, "")
    by_key = {r["key"]: r for r in stored(folder)}
    assert by_key == {r["key"]: r for r in stored(whole)}
    assert len(by_key) == n_records == len(stored(folder)) == len(SummaryStore(folder))


# --- keys ---------------------------------------------------------------------------------------------------------


def test_a_key_is_a_hash_of_canonical_json():
    # printf '{"a":[1,2.5,null],"b":"\\u00e9"}' | sha256sum
    assert content_key(b="é", a=[1, 2.5, None]) == content_key(a=(1, 2.5, None), b="é")
    assert content_key(b="é", a=[1, 2.5, None]) == "45584828a616e524473fb887d415f828"
    different = [{}, {"a": 1}, {"a": "1"}, {"a": True}, {"a": None}, {"b": 1}, {"a": [1]}, {"a": "\ud800"}]
    assert len({content_key(**parts) for parts in different}) == len(different)


@pytest.mark.parametrize("part", [float("nan"), float("inf"), Path("x"), {1, 2}, {"x": b"y"}])
def test_a_part_that_is_not_json_is_refused(part):
    with pytest.raises(DataError, match=r"content_key.*\['a', 'odd'\]"):
        content_key(odd=part, a=1)
