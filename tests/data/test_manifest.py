import hashlib
import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from mllm_srec import __version__
from mllm_srec.data.manifest import check_manifest, raw_files, read_manifest, write_manifest
from mllm_srec.data.settings import CandidateSettings, ColumnMapping, DemoSettings, PrepareSettings
from mllm_srec.files.atomic import write_json
from mllm_srec.types import ConfigError, DataError


@pytest.fixture
def prepared(tmp_path):
    """A raw file, its settings, and a folder whose manifest says that it was prepared from them."""
    (tmp_path / "raw.csv").write_text("u,a,5\n")
    settings = PrepareSettings(source="tables", reviews=str(tmp_path / "raw.csv"), k_core=3)
    folder = tmp_path / "data"
    folder.mkdir()
    tables = {"items": pl.DataFrame({"item_id": ["a"]})}
    write_manifest(folder, settings, CandidateSettings(), raw_files(settings), tables, "beef")
    return folder, settings


def test_the_manifest_says_what_was_used(prepared):
    folder, _ = prepared
    content = read_manifest(folder)
    assert content["version"] == __version__
    assert content["prepare"]["k_core"] == 3
    assert content["candidates"] == {"n_negatives": 100, "unit": "user", "max_users": None, "seed": 0}
    digest = hashlib.sha256(b"u,a,5\n").hexdigest()
    assert content["raw"] == {"reviews": {"name": "raw.csv", "size": 6, "sha256": digest}}
    assert content["tables"]["items"]["rows"] == 1
    assert len(content["tables"]["items"]["sha256"]) == 64
    assert content["candidates_hash"] == "beef"


def test_the_same_settings_are_done_already(prepared):
    folder, settings = prepared
    assert check_manifest(folder, settings, CandidateSettings()) is True


def test_a_prepared_data_set_needs_no_right_to_read_raw_files(prepared, monkeypatch):
    folder, settings = prepared
    opened, raw = Path.open, Path(settings.reviews)

    def refuse(self, *args, **kwargs):
        if self == raw:
            raise PermissionError(13, "Permission denied")
        return opened(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    assert check_manifest(folder, settings, CandidateSettings()) is True
    with pytest.raises(DataError, match=r"raw\.csv: cannot be read \(Permission denied\); change its permissions"):
        raw_files(settings)


def test_an_absent_or_empty_folder_is_not_prepared(tmp_path):
    assert check_manifest(tmp_path / "none", PrepareSettings(), CandidateSettings()) is False
    assert check_manifest(tmp_path, PrepareSettings(), CandidateSettings()) is False


def test_every_differing_key_is_named_with_both_values(prepared):
    folder, settings = prepared
    other = replace(settings, k_core=5, split="leave_one_out", columns=ColumnMapping(rating=None))
    with pytest.raises(ConfigError) as caught:
        check_manifest(folder, other, CandidateSettings(max_users=9))
    assert str(caught.value).splitlines()[1:-1] == [
        '  prepare.columns.rating: prepared with "rating", now null',
        "  prepare.k_core: prepared with 3, now 5",
        '  prepare.split: prepared with "random", now "leave_one_out"',
        "  candidates.max_users: prepared with null, now 9",
    ]
    assert "choose another data.name" in str(caught.value).splitlines()[-1]


def test_settings_of_other_sources_have_no_influence(prepared):
    folder, settings = prepared
    assert check_manifest(folder, replace(settings, demo=DemoSettings(n_users=7)), CandidateSettings())


def test_a_setting_younger_than_the_data_set_counts_as_its_default(prepared):
    folder, settings = prepared
    content = read_manifest(folder)
    del content["prepare"]["columns"]["separator"], content["prepare"]["columns"]["quote"]
    write_json(content, folder / "manifest.json")
    assert check_manifest(folder, settings, CandidateSettings())
    with pytest.raises(ConfigError, match=r"prepare\.columns\.quote: prepared with .*, now null"):
        check_manifest(folder, replace(settings, columns=ColumnMapping(quote=None)), CandidateSettings())


def test_a_setting_per_table_is_compared(prepared):
    folder, settings = prepared
    per_table = replace(settings, columns=ColumnMapping(separator={"reviews": ";"}))
    with pytest.raises(ConfigError, match=r"prepare\.columns\.separator"):
        check_manifest(folder, per_table, CandidateSettings())
    write_manifest(folder, per_table, CandidateSettings(), raw_files(per_table), {}, "beef")
    assert check_manifest(folder, per_table, CandidateSettings())


def test_a_changed_raw_file_of_the_same_size_differs(prepared, tmp_path):
    folder, settings = prepared
    (tmp_path / "raw.csv").write_text("u,a,4\n")
    with pytest.raises(
        ConfigError, match=r"prepare\.reviews: prepared from raw\.csv \(6 bytes, sha256 \w{12}\), now raw"
    ):
        check_manifest(folder, settings, CandidateSettings())


def test_moved_or_deleted_raw_files_do_not_matter(prepared, tmp_path):
    folder, settings = prepared
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "raw.csv").rename(tmp_path / "elsewhere" / "other.csv")
    assert check_manifest(folder, replace(settings, reviews=str(moved)), CandidateSettings())
    assert check_manifest(folder, settings, CandidateSettings())
    with pytest.raises(ConfigError, match=r"now else\.csv \(not there\)"):
        check_manifest(folder, replace(settings, reviews="else.csv"), CandidateSettings())


def test_another_set_of_raw_files_differs(prepared, tmp_path):
    folder, settings = prepared
    with pytest.raises(ConfigError, match=r"prepare\.reviews: prepared from raw\.csv .*, now null"):
        check_manifest(folder, replace(settings, reviews=None), CandidateSettings())
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "a.png").write_bytes(b"12")
    with pytest.raises(ConfigError, match=r"prepare\.images: prepared from null, now pictures \(2 bytes"):
        check_manifest(folder, replace(settings, images=str(pictures)), CandidateSettings())


def test_a_folder_of_pictures_counts_with_names_and_sizes(tmp_path):
    settings = PrepareSettings(images=str(tmp_path))
    before = raw_files(settings)
    (tmp_path / "a.png").write_bytes(b"12")
    one = raw_files(settings)
    (tmp_path / "a.png").rename(tmp_path / "b.png")
    assert before != one != raw_files(settings)


def test_the_demo_reads_no_raw_files(tmp_path):
    assert raw_files(PrepareSettings(source="demo", images=str(tmp_path))) == {}


def test_a_changed_manifest_is_noticed(prepared):
    folder, settings = prepared
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"k_core": 3', '"k_core": 2'))
    with pytest.raises(DataError, match=r"manifest\.json: .* differs from its checksum"):
        check_manifest(folder, settings, CandidateSettings())


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"prepare": {}})])
def test_a_broken_manifest_is_an_error(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"the manifest cannot be read \(it .*\); put a copy of it back, or delete .*"):
        check_manifest(tmp_path, PrepareSettings(), CandidateSettings())
