"""One ranker in many threads, and other processes beside it: the scores of one thread, and nobody waits for ever."""

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import polars as pl
import pytest

from mllm_srec.models import summarizer as summarizer_module
from mllm_srec.pipeline.ranking import scorer as scorer_module
from mllm_srec.pipeline.ranking.new_items import NewItem
from mllm_srec.pipeline.ranking.people import History
from mllm_srec.pipeline.ranking.ranker import Ranker
from mllm_srec.summaries import on_arrival
from mllm_srec.summaries.store import SummaryStore
from mllm_srec.types import ConfigError
from tests.conftest import write_picture

N_THREADS, N_CALLS = 8, 640
PATIENCE = 300.0
"""Seconds after which a thread or process counts as hanging."""


@pytest.fixture(scope="module")
def run(write_run, told_root, tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run") / "run", told_root, variant="full")


@pytest.fixture
def root(told_root, tmp_path):
    return shutil.copytree(told_root, tmp_path / "data")


@pytest.fixture(scope="module")
def new_items(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    return [
        NewItem(
            f"violet mug {n}", image=write_picture(folder / f"{n}.png", 50 + n, 90, seed=70 + n), item_id=f"mug-{n}"
        )
        for n in range(4)
    ]


def questions(new):
    """Arguments of `rank`: known people with and without new items, named items, and new people."""
    known = [{"who": f"u{n:02d}"} for n in range(6)]
    with_new = [{"who": f"u{n:02d}", "new_items": [new[n % 4], new[(n + 1) % 4]]} for n in range(6, 10)]
    named = [{"who": "u10", "items": ["i03", new[n], "i07"]} for n in range(2)]
    people = [{"who": History(["i01", new[n], "i08"])} for n in range(4)]
    return known + with_new + named + people


def answer(ranker, question):
    return dict(ranker.rank(**question, top_k=None).table.select("item_id", "score").iter_rows())


def in_threads(functions):
    """Run functions in daemon threads; a thread that hangs fails the test and not the whole session."""
    failures = []

    def guarded(function):
        try:
            function()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(function,), daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    assert failures == []


def stores(root):
    return {stage: SummaryStore(root / "shop/summaries" / stage) for stage in ("image", "item", "preference")}


def test_eight_threads_get_the_scores_of_one(run, root, new_items, told_root, tmp_path, monkeypatch):
    """Every thread asks everything, each in an order of its own, of a ranker that has loaded and written nothing."""
    asked = questions(new_items)
    alone = Ranker.open(run, data_root=shutil.copytree(told_root, tmp_path / "alone"))
    expected = [answer(alone, question) for question in asked]
    assert len({tuple(scores.values()) for scores in expected}) == len(asked)
    loads = []
    for module, name in ((scorer_module, "load_backbone"), (summarizer_module, "load_writer")):
        load = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, load=load, name=name: loads.append(name) or load(*args))
    ranker, wrong = Ranker.open(run, data_root=root), []

    def ask(number):
        for call in range(N_CALLS // N_THREADS):
            n = (number * 3 + call) % len(asked)
            if answer(ranker, asked[n]) != expected[n]:
                wrong.append(n)

    in_threads([lambda number=number: ask(number) for number in range(N_THREADS)])
    assert wrong == []
    assert sorted(loads) == ["load_backbone", *["load_writer"] * 3], "each model is loaded once"
    assert sorted(ranker.prompts._added) == [f"mug-{n}" for n in range(4)]
    for stage, store in stores(root).items():
        assert store.duplicates == 0
        assert len(store) == len(stores(tmp_path / "alone")[stage])


WORKER = """
import json, sys, threading
from mllm_srec import History, NewItem, Ranker
run, root, out, pictures = sys.argv[1:5]
ranker, found = Ranker.open(run, data_root=root), {}
items = [NewItem(f"green thing {n}", image=path, item_id=f"thing-{n}") for n, path in enumerate(pictures.split(","))]
def ask(n):
    for who in ("u00", "u01", History(["i03", items[n], "i07"])):
        ranked = ranker.rank(who, new_items=[items[n], items[n - 1]], top_k=None)
        found[f"{n} {ranked.person.user_id}"] = dict(ranked.table.select("item_id", "score").iter_rows())
print("ready", flush=True)
sys.stdin.readline()
threads = [threading.Thread(target=ask, args=(n % len(items),)) for n in range(6)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
json.dump(found, open(out, "w"))
"""


def test_two_processes_with_threads_write_the_same_new_items(run, root, tmp_path):
    pictures = [write_picture(tmp_path / f"{n}.png", 60, 60 + 10 * n, seed=40 + n) for n in range(3)]
    outputs = [tmp_path / "one.json", tmp_path / "two.json"]
    before = {stage: len(store) for stage, store in stores(root).items()}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(run), str(root), str(out), ",".join(map(str, pictures))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for out in outputs
    ]
    try:
        for worker in workers:
            assert worker.stdout.readline() == "ready\n"
        for worker in workers:
            worker.stdin.write("go\n")
            worker.stdin.flush()
        for worker in workers:
            assert worker.wait(PATIENCE) == 0
    finally:
        for worker in workers:
            worker.kill()
    one, two = (json.loads(out.read_text()) for out in outputs)
    assert one == two
    assert len(one) == 9
    found = stores(root)
    assert {stage: len(store) - before[stage] for stage, store in found.items()} == {
        "image": 3,
        "item": 3,
        "preference": 6,
    }
    assert [store.duplicates for store in found.values()] == [0, 0, 0]


def test_two_rankers_of_one_process_write_the_same_new_items(run, root, tmp_path):
    """Two instances know nothing of each other: only the lock file keeps them apart."""
    items = [NewItem(f"grey thing {n}", image=write_picture(tmp_path / f"{n}.png", 60, 60, seed=n)) for n in range(2)]
    rankers = [Ranker.open(run, data_root=root) for _ in range(2)]
    found = [{}, {}]

    def ask(n):
        for item in items:
            found[n][item] = answer(rankers[n], {"who": "u00", "new_items": [item]})

    in_threads([lambda n=n: ask(n) for n in range(2)])
    assert found[0] == found[1]
    assert [store.duplicates for store in stores(root).values()] == [0, 0, 0]


def test_rankers_are_opened_in_threads(run, root):
    found = []
    in_threads([lambda: found.append(answer(Ranker.open(run, data_root=root), {"who": "u00"}))] * 4)
    assert len(found) == 4
    assert all(scores == found[0] for scores in found)


def test_a_writer_that_never_ends_is_named_and_the_item_may_come_again(run, root, monkeypatch, tmp_path):
    monkeypatch.setattr(on_arrival, "LONGEST_WAIT", 0.3)
    ranker = Ranker.open(run, data_root=root)
    mug = NewItem("violet mug", image=write_picture(tmp_path / "mug.png", 60, 60, seed=5), item_id="mug")
    seen = []

    def ask():
        with pytest.raises(ConfigError, match=r"records-0.lock.*: is held by another process or thread for 0 s; wait"):
            ranker.rank("u00", new_items=[mug])
        seen.append(ranker.rank("u00", top_k=None).table.height)  # what needs no writing does not wait

    with SummaryStore(root / "shop/summaries/image"):
        in_threads([ask] * 2)
    assert seen == [ranker.rank("u00", top_k=None).table.height] * 2
    assert "mug" in ranker.rank("u00", new_items=[mug], top_k=None).table.filter(pl.col("new"))["item_id"]
    assert Path(root / "shop/summaries/image/records-0.lock").exists()
