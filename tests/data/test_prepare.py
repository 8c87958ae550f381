import json
import multiprocessing
import os
import signal
import subprocess
import sys
from dataclasses import replace

import polars as pl
import pytest
from PIL import Image

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.manifest import candidates_hash
from mllm_srec.data.prepare import prepare_dataset
from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.data.raw.schema import ITEM_SCHEMA
from mllm_srec.data.settings import CandidateSettings, ColumnMapping, DemoSettings, PrepareSettings
from mllm_srec.types import ConfigError, DataError

CANDIDATES = CandidateSettings(n_negatives=3)
FILES = {
    "items.parquet", "interactions.parquet", "groups.parquet", "samples.parquet", "candidates.parquet",
    "prepare_report.json", "manifest.json", "images",
}  # fmt: skip


def write_raw(folder, n_users=12, n_items=10):
    """Every user rates six neighbouring items, one a day; user u00 rates i00 a second time; i09 has no metadata."""
    lines = ["user_id,item_id,rating,timestamp"]
    for user in range(n_users):
        for day in range(6):
            rating = 2 if day == 3 else 5
            lines.append(f"u{user:02},i{(user + day) % n_items:02},{rating},{86400 * day}")
    lines.append("u00,i00,1,999999")
    lines.append("lonely,i00,5,5")
    (folder / "ratings.csv").write_text("\n".join(lines) + "\n")
    items = ["item_id,title"] + [f"i{n:02},Item number {n}" for n in range(n_items - 1)] + ["unused,Nobody's"]
    (folder / "items.csv").write_text("\n".join(items) + "\n")
    (folder / "users.csv").write_text("user_id,profile\nu00,a teacher\nu01,a cook\n")
    (folder / "pictures").mkdir()
    Image.new("RGB", (8, 8), "red").save(folder / "pictures" / "i00.png")


@pytest.fixture
def settings(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    write_raw(raw)
    return PrepareSettings(
        source="tables",
        reviews=str(raw / "ratings.csv"),
        metadata=str(raw / "items.csv"),
        images=str(raw / "pictures"),
        columns=ColumnMapping(),
        k_core=3,
    )


def content(folder):
    """Bytes of every file, by relative path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_data_set_from_csv(tmp_path, settings):
    folder = tmp_path / "data" / "mine"
    report = prepare_dataset(folder, settings, CANDIDATES)
    assert {path.name for path in folder.iterdir()} == FILES
    assert {path.name for path in folder.parent.iterdir()} == {"mine", ".mine.lock"}
    data = PreparedDataset.open(folder)
    assert dict(data.items.schema) == ITEM_SCHEMA
    assert data.items["item_id"].to_list() == [f"i{n:02}" for n in range(10)]
    assert data.items["title"].to_list() == [f"Item number {n}" for n in range(9)] + [""]
    assert (folder / data.items["image"][0]).is_file()
    assert data.items["image"].null_count() == 9
    stored = ["user_id", "item_id", "rating", "timestamp", "order", "review", "split"]
    assert pl.read_parquet(folder / "interactions.parquet").columns == stored
    assert data.interactions.columns == [*stored, "liked"]
    assert data.interactions.row(0)[:6] == ("u00", "i00", 5.0, 0, 0, "")
    likes = data.interactions.filter(pl.col("rating") >= 4)["split"].value_counts().sort("split")
    assert likes.rows() == [("test", 12), ("train", 36), ("val", 12)]
    assert data.users is None
    assert report.counts["interactions"] == {"repeat of a (user, item), the earliest stays": 1}
    assert report.counts["k-core"] == {
        "users with too few interactions": 1,
        "interactions of dropped users and items": 1,
    }
    assert report.counts["items"] == {
        "no metadata, kept with an empty title": 1,
        "metadata of an item without kept interactions, left out": 1,
        "item without title": 1,
        "item without text": 1,
    }
    expected = {"users": 12, "items": 10, "interactions": 72, "likes": 60, "sparsity": 0.4, "items with picture": 1,
                "groups, rank test": 12, "users ranked, test": 12,
                "lists with fewer than 3 negatives, test": 0}  # fmt: skip
    assert {name: report.facts[name] for name in expected} == expected
    assert report.facts["candidates_hash"] == data.candidates_hash == candidates_hash(data.groups, data.candidates)
    saved = json.loads((folder / "prepare_report.json").read_text())
    assert (saved["counts"], saved["facts"]) == (report.counts, report.facts)


def test_two_preparations_give_the_same_bytes(tmp_path, settings):
    prepare_dataset(tmp_path / "one", settings, CANDIDATES)
    prepare_dataset(tmp_path / "two", settings, CANDIDATES)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_the_second_call_does_nothing_and_says_so(tmp_path, settings):
    first = prepare_dataset(tmp_path / "mine", settings, CANDIDATES)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "mine").rglob("*")}
    second = prepare_dataset(tmp_path / "mine", settings, CANDIDATES)
    assert second.facts == first.facts | {"already prepared": True}
    assert second.counts == first.counts
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "mine").rglob("*")} == before


def test_other_settings_on_a_prepared_folder_are_refused(tmp_path, settings):
    prepare_dataset(tmp_path / "mine", settings, CANDIDATES)
    before = content(tmp_path / "mine")
    with pytest.raises(ConfigError, match=r"candidates\.n_negatives: prepared with 3, now 4"):
        prepare_dataset(tmp_path / "mine", settings, CandidateSettings(n_negatives=4))
    assert content(tmp_path / "mine") == before


def test_profiles_become_a_table(tmp_path, settings):
    users = str(tmp_path / "raw" / "users.csv")
    report = prepare_dataset(tmp_path / "mine", replace(settings, users=users), CANDIDATES)
    assert PreparedDataset.open(tmp_path / "mine").users.rows() == [("u00", "a teacher"), ("u01", "a cook")]
    assert report.counts["users"]["user without profile"] == 10


def test_the_smallest_data_set(tmp_path):
    (tmp_path / "raw.csv").write_text("user_id,item_id,rating,timestamp\nu,a,5,1\nw,b,1,2\n")
    settings = PrepareSettings(source="tables", reviews=str(tmp_path / "raw.csv"), k_core=1)
    report = prepare_dataset(tmp_path / "mine", settings, CandidateSettings())
    data = PreparedDataset.open(tmp_path / "mine")
    assert data.samples.filter(pl.col("user_id") == "u").select("item_id", "kind").rows() == [
        ("a", "liked"), ("b", "sampled"),
    ]  # fmt: skip
    assert data.candidates.height == 0
    assert report.facts["items with picture"] == 0
    assert (tmp_path / "mine" / "images").is_dir()


def test_nothing_left_is_an_error_with_the_counts(tmp_path, settings):
    with pytest.raises(DataError, match=r"k_core=7: leaves nothing of 73 interactions of 13 users with 10 items \(74 "):
        prepare_dataset(tmp_path / "mine", replace(settings, k_core=7), CANDIDATES)
    assert not (tmp_path / "mine").exists()
    assert not (tmp_path / ".mine.partial").exists()


@pytest.mark.parametrize(
    ("changes", "candidates", "message"),
    [
        ({"k_core": 0}, {}, r"prepare\.k_core=0: too small; set it to 1 or more"),
        ({"max_history": 0}, {}, r"prepare\.max_history=0: too small"),
        ({"seed": -1}, {}, r"prepare\.seed=-1: too small; set it to 0 or more"),
        ({"split": "time"}, {}, r"prepare\.split='time': not one of random, leave_one_out, global_time"),
        ({}, {"n_negatives": 0}, r"candidates\.n_negatives=0: too small"),
        ({}, {"max_users": 0}, r"candidates\.max_users=0: too small"),
        ({}, {"unit": "list"}, r"candidates\.unit='list': not one of user, instance"),
        ({"source": "demos"}, {}, r"prepare\.source='demos': not one of amazon2014, .*; did you mean 'demo'\?"),
        ({"columns": ColumnMapping(timestamp_unit="h")}, {}, r"prepare\.columns\.timestamp_unit='h': not one of s, ms"),
        (
            {"source": "tables", "columns": ColumnMapping(timestamp=None), "split": "global_time"},
            {},
            r"prepare\.split='global_time': needs times, and prepare\.columns\.timestamp is null",
        ),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path, changes, candidates, message):
    with pytest.raises(ConfigError, match=message):
        prepare_dataset(tmp_path / "mine", replace(PrepareSettings(), **changes), CandidateSettings(**candidates))


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path, settings):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match="exists but holds no prepared data set"):
        prepare_dataset(tmp_path / "mine", settings, CANDIDATES)
    assert content(tmp_path / "mine") == {"thesis.txt": b"precious"}


def test_an_empty_folder_is_filled(tmp_path, settings):
    (tmp_path / "mine").mkdir()
    prepare_dataset(tmp_path / "mine", settings, CANDIDATES)
    assert {path.name for path in (tmp_path / "mine").iterdir()} == FILES


def test_a_place_that_cannot_be_written_is_an_error(tmp_path, settings):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ConfigError, match=r"data\.root: .*file.* cannot be written \(.*\); set it to a folder of yours"
    ):
        prepare_dataset(tmp_path / "file" / "mine", settings, CANDIDATES)


def test_leftovers_of_a_killed_run_are_removed(tmp_path, settings):
    leftover = tmp_path / ".mine.partial"
    (leftover / "images").mkdir(parents=True)
    (leftover / "images" / "old.png").write_text("old")
    prepare_dataset(tmp_path / "mine", settings, CANDIDATES)
    assert not leftover.exists()
    assert "images/old.png" not in content(tmp_path / "mine")


STOPS = """
import sys, time
from pathlib import Path
from mllm_srec.data import prepare
from mllm_srec.data.settings import CandidateSettings, PrepareSettings

def stop(*arguments):
    print("here", flush=True)
    time.sleep(60)

prepare.write_manifest = stop  # everything is written but the last file
prepare.prepare_dataset(
    Path(sys.argv[1]), PrepareSettings(source="tables", reviews=sys.argv[2], k_core=3), CandidateSettings()
)
"""


def test_a_run_killed_at_its_last_step_leaves_nothing_half_done(tmp_path, settings):
    arguments = [sys.executable, "-c", STOPS, str(tmp_path / "mine"), settings.reviews]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "here\n"
        os.kill(process.pid, signal.SIGKILL)
    assert (tmp_path / ".mine.partial" / "candidates.parquet").exists()
    assert not (tmp_path / "mine").exists()
    prepare_dataset(tmp_path / "mine", settings, CANDIDATES)
    assert {path.name for path in (tmp_path / "mine").iterdir()} == FILES
    assert not (tmp_path / ".mine.partial").exists()


def prepare_and_tell(folder, settings, queue):
    report = prepare_dataset(folder, settings, CANDIDATES)
    queue.put("already prepared" in report.facts)


def test_processes_started_side_by_side_prepare_once(tmp_path, settings):
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    processes = [context.Process(target=prepare_and_tell, args=(tmp_path / "m", settings, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert sorted([queue.get(), queue.get()]) == [False, True]


def test_the_demo_shop(tmp_path):
    demo = DemoSettings(n_users=20, n_items=40, n_interactions=10)
    settings = PrepareSettings(source="demo", demo=demo, k_core=1)
    report = prepare_dataset(tmp_path / "demo", settings, CANDIDATES)
    data = PreparedDataset.open(tmp_path / "demo")
    assert isinstance(report, PrepareReport)
    assert data.users["user_id"].to_list() == data.interactions["user_id"].unique().sort().to_list()
    assert data.items["image"].null_count() == 0
    assert all((data.folder / path).is_file() for path in data.items["image"])
    extra = {path.name for path in data.folder.iterdir()} - FILES - {"users.parquet"}
    assert extra == {"ceilings.parquet"}
