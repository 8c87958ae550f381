import polars as pl
import pytest

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.manifest import write_manifest
from mllm_srec.data.settings import CandidateSettings, PrepareSettings
from mllm_srec.types import ConfigError


@pytest.fixture
def folder(tmp_path):
    write_manifest(tmp_path, PrepareSettings(), CandidateSettings(), {}, {}, "beef")
    for name in ("items", "interactions", "groups", "samples", "candidates"):
        pl.DataFrame({"of": [name]}).write_parquet(tmp_path / f"{name}.parquet")
    return tmp_path


def test_tables_are_read_once_and_only_when_asked_for(folder):
    data = PreparedDataset.open(str(folder))
    for name in ("items", "interactions", "groups", "samples", "candidates"):
        assert getattr(data, name)["of"].to_list() == [name]
    (folder / "groups.parquet").unlink()
    assert data.groups["of"].to_list() == ["groups"]
    assert data.groups is data.groups
    assert (data.folder, data.candidates_hash) == (folder, "beef")
    assert data.manifest["prepare"]["k_core"] == 5


def test_users_are_there_only_where_the_source_has_profiles(folder):
    assert PreparedDataset.open(folder).users is None
    pl.DataFrame({"user_id": ["u"], "profile": ["a cook"]}).write_parquet(folder / "users.parquet")
    assert PreparedDataset.open(folder).users.rows() == [("u", "a cook")]


def test_a_folder_without_a_data_set_names_the_command(tmp_path):
    with pytest.raises(
        ConfigError, match=r"holds no prepared data set .*`python -m mllm_srec prepare --config \.\.\.`"
    ):
        PreparedDataset.open(tmp_path / "none")


def test_a_missing_table_is_an_error(folder):
    (folder / "samples.parquet").unlink()
    with pytest.raises(ConfigError, match=r"samples\.parquet: is missing although the data set has a manifest"):
        _ = PreparedDataset.open(folder).samples
