import json

import polars as pl
import pytest

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.manifest import candidates_hash, read_manifest, write_manifest
from mllm_srec.data.settings import CandidateSettings, PrepareSettings
from mllm_srec.files.hashing import table_hash
from mllm_srec.types import ConfigError, DataError

TABLES = {
    "items": pl.DataFrame({"item_id": ["a", "b"], "title": ["A", "B"]}),
    "interactions": pl.DataFrame({"user_id": ["u", "u"], "item_id": ["a", "b"], "rating": [5.0, 4.0]}),
    "groups": pl.DataFrame({"group_id": [0, 1], "purpose": ["pair", "rank"]}),
    "samples": pl.DataFrame({"group_id": [0, 0], "item_id": ["b", "c"]}),
    "candidates": pl.DataFrame({"group_id": [1, 1], "position": [0, 1], "item_id": ["a", "b"], "label": [1, 0]}),
}
HASH = candidates_hash(TABLES["groups"], TABLES["candidates"])


def write(folder, tables=TABLES, digest=HASH):
    write_manifest(folder, PrepareSettings(), CandidateSettings(), {}, tables, digest)
    for name, table in tables.items():
        table.write_parquet(folder / f"{name}.parquet")
    return folder


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path)


def test_tables_are_read_once_and_only_when_asked_for(folder):
    data = PreparedDataset.open(str(folder))
    for name, table in TABLES.items():
        assert getattr(data, name).select(table.columns).equals(table)
    (folder / "groups.parquet").unlink()
    assert data.groups.equals(TABLES["groups"])
    assert data.groups is data.groups
    assert (data.folder, data.candidates_hash) == (folder, HASH)
    assert data.manifest["prepare"]["k_core"] == 5


def test_users_are_there_only_where_the_source_has_profiles(folder):
    assert PreparedDataset.open(folder).users is None
    users = pl.DataFrame({"user_id": ["u"], "profile": ["a cook"]})
    users.write_parquet(folder / "users.parquet")
    with pytest.raises(DataError, match=r"users\.parquet: manifest\.json knows no such table"):
        _ = PreparedDataset.open(folder).users
    write(folder, TABLES | {"users": users})
    assert PreparedDataset.open(folder).users.rows() == [("u", "a cook")]
    (folder / "users.parquet").unlink()
    with pytest.raises(ConfigError, match=r"users\.parquet: is missing although"):
        _ = PreparedDataset.open(folder).profiles


@pytest.mark.parametrize(
    "image", ["/etc/passwd", "../x.jpg", "images/../../x.jpg", "C:\\\\x.jpg", "\\\\\\\\host\\\\x.jpg"]
)
def test_a_picture_outside_the_data_set_is_refused(tmp_path, image):
    items = pl.DataFrame({"item_id": ["a", "b", "c"], "image": [None, "images/a..b.jpg", image]})
    data = PreparedDataset.open(write(tmp_path, TABLES | {"items": items}))
    with pytest.raises(DataError, match=r"items\.parquet: the picture of 1 items lies outside the data set, .* of 'c'"):
        _ = data.items
    inside = items.with_columns(image=pl.lit("images/a..b.jpg"))
    assert PreparedDataset.open(write(tmp_path, TABLES | {"items": inside})).items.equals(inside)


CHANGES = {
    "another label": pl.col("label").replace({1: 0, 0: 1}),
    "another item": pl.col("item_id").str.replace("b", "c"),
    "another type": pl.col("label").cast(pl.String).cast(pl.Binary),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_table_is_an_error_with_both_hashes(folder, change):
    before = PreparedDataset.open(folder).candidates  # of the same process, and remembered
    assert before.equals(TABLES["candidates"])
    TABLES["candidates"].with_columns(CHANGES[change]).write_parquet(folder / "candidates.parquet")
    stated = table_hash(TABLES["candidates"])[:12]
    found = r"none, since its columns are of other types" if change == "another type" else r"\w{12}"
    message = rf"candidates\.parquet: was changed .* says sha256 {stated}, the table has {found}; put a copy of it back"
    with pytest.raises(DataError, match=message):
        _ = PreparedDataset.open(folder).candidates_hash


def test_every_table_is_compared(folder):
    for name, table in TABLES.items():
        table.reverse().write_parquet(folder / f"{name}.parquet")
        with pytest.raises(DataError, match=rf"{name}\.parquet: was changed after it was prepared"):
            getattr(PreparedDataset.open(folder), name)


def test_the_hash_of_results_is_that_of_the_tables(folder):
    write(folder, digest="beef")
    with pytest.raises(DataError, match=rf"manifest\.json: says candidates_hash beef, but .* have {HASH[:12]}"):
        _ = PreparedDataset.open(folder).candidates_hash


def test_a_manifest_without_hashes_of_tables_is_refused(folder):
    content = read_manifest(folder)
    del content["tables"]
    (folder / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"the manifest cannot be read \(it lacks tables\); .* prepare it again"):
        PreparedDataset.open(folder)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"a,b\n1,2\n"])
def test_a_damaged_table_is_named(folder, content):
    (folder / "items.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"items\.parquet: the table of items cannot be read \(.*\); put a copy"):
        _ = PreparedDataset.open(folder).items


def test_a_folder_without_a_data_set_names_the_command(tmp_path):
    with pytest.raises(
        ConfigError, match=r"holds no prepared data set .*`python -m mllm_srec prepare --config \.\.\.`"
    ):
        PreparedDataset.open(tmp_path / "none")


def test_a_missing_table_is_an_error(folder):
    (folder / "samples.parquet").unlink()
    with pytest.raises(ConfigError, match=r"samples\.parquet: is missing although the data set has a manifest"):
        _ = PreparedDataset.open(folder).samples
