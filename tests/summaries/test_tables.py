"""Views: columns of the contract, texts of the store, written whole or not at all."""

import random
import signal
import subprocess
import sys
import time

import polars as pl
import pyarrow.parquet as pq
import pytest

from mllm_srec.prompts.summaries import Summary
from mllm_srec.summaries.preference_chains import Chain
from mllm_srec.summaries.store import SummaryStore
from mllm_srec.summaries.tables import item_view, preference_view, read_view, write_view
from mllm_srec.types import DataError


@pytest.fixture
def store(tmp_path):
    with SummaryStore(tmp_path / "stage") as store:
        store.append([Summary("k0", "a\nred mug", "stop", 4), Summary("k1", "漢\ud800", "length", 200)])
    return store


def test_item_view(store):
    assert item_view(["i2", "i0", "i1"], ["k1", "k0", "k1"], store).rows() == [
        ("i2", "漢?", "length", 200, "k1"),
        ("i0", "a\nred mug", "stop", 4, "k0"),
        ("i1", "漢?", "length", 200, "k1"),
    ]


def test_preference_view(store):
    chain = Chain("u", "train_val", tuple("abcd"), ((7, 1), (7, 2), (8, 0), (9, 3)), ("",) * 4)
    steps = [(chain, step) for step in chain.steps(2, 2, refined=True)]
    assert preference_view(steps, ["k0", "k1"], store).rows() == [
        ("u", "train_val", 0, 7, 2, "a\nred mug", "stop", 4, "k0"),
        ("u", "train_val", 1, 9, 3, "漢?", "length", 200, "k1"),
    ]


@pytest.mark.parametrize("empty", [False, True])
def test_columns_on_disk_are_those_of_the_contract(store, tmp_path, empty):
    chain = Chain("u", "train", ("a",), ((7, 1),), ("",))
    keys = [] if empty else ["k0"]
    write_view(tmp_path, "items", item_view(["i"] * len(keys), keys, store))
    write_view(tmp_path, "users", preference_view([(chain, chain.steps(1, 1, True)[0])] * len(keys), keys, store))
    shared = {"text": "large_string", "finish_reason": "large_string", "n_tokens": "int64", "key": "large_string"}
    columns = {
        "items": {"item_id": "large_string"},
        "users": {
            "user_id": "large_string", "visible": "large_string", "step": "int64", "timestamp": "int64",
            "order": "int64",
        },
    }  # fmt: skip
    for name, first in columns.items():
        schema = pq.read_schema(tmp_path / f"views/{name}.parquet")
        assert list(zip(schema.names, map(str, schema.types), strict=True)) == list((first | shared).items())


def test_a_missing_summary_is_an_error_that_names_it(store):
    with pytest.raises(DataError, match=r"stage: 2 of 3 summaries are missing, the first has the key k7"):
        item_view(["a", "b", "c"], ["k0", "k7", "k8"], store)
    with pytest.raises(DataError, match="1 of 1"):
        preference_view([], ["k9"], store)


def test_views_stay_beside_each_other_and_the_latest_is_named(store, tmp_path):
    first, second = item_view(["i0"], ["k0"], store), item_view(["i1"], ["k1"], store)
    assert read_view(tmp_path, "one") is None
    for name, table in (("one", first), ("two", second), ("one", second), ("three", first)):
        write_view(tmp_path, name, table)
    assert [read_view(tmp_path, name).equals(second) for name in ("one", "two", "three")] == [True, True, False]
    assert pl.read_parquet(tmp_path / "summaries.parquet").equals(first)
    assert not [path for path in tmp_path.rglob("*") if "partial" in path.name]


WRITER = """
import pathlib, sys
import polars as pl
from mllm_srec.summaries.tables import write_view
for n in range(10**9):
    texts = {name: ["x"] * 20000 for name in ("text", "finish_reason", "key")}
    write_view(pathlib.Path(sys.argv[1]), "v", pl.DataFrame({**texts, "n_tokens": [n] * 20000}))
    print(n, flush=True)
"""


@pytest.mark.slow
def test_a_view_is_whole_whenever_its_writers_are_killed(tmp_path):
    """Two writers at once, killed at random moments, while this process reads."""
    draw = random.Random(0)
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    for _ in range(5):
        writers = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
        for writer in writers:
            writer.stdout.readline()  # it has written its first
        until = time.monotonic() + draw.uniform(0, 0.3)
        while time.monotonic() < until:
            check_whole(tmp_path)
        for writer in writers:
            writer.kill()
            writer.communicate(timeout=60)
            assert writer.returncode == -signal.SIGKILL
        check_whole(tmp_path)


def check_whole(folder):
    for table in (read_view(folder, "v"), pl.read_parquet(folder / "summaries.parquet")):
        assert (table.height, table["n_tokens"].n_unique()) == (20000, 1)
