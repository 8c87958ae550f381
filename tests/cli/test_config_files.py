"""Configuration files that include others, the files for own data and for Amazon, and `~` in paths."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from mllm_srec.cli.schema import light_parser
from mllm_srec.data.settings import ColumnMapping, PrepareSettings
from mllm_srec.pipeline.grid.plan import merged_settings
from mllm_srec.pipeline.runs.settings import with_included
from mllm_srec.types import ConfigError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
AMAZON = ("baby", "beauty", "sports", "toys")


@pytest.fixture
def parse():
    return light_parser("prepare", "").parse_args


def write(path: Path, content: dict) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(content))
    return str(path)


def test_settings_of_an_included_file_hold_where_the_file_states_none(tmp_path, parse):
    write(tmp_path / "base.yaml", {"prepare": {"k_core": 3, "columns": {"title": "a", "brand": "b"}}})
    middle = write(tmp_path / "sub/middle.yaml", {"include": "../base.yaml", "prepare": {"columns": {"title": "c"}}})
    top = write(tmp_path / "top.yaml", {"include": "sub/middle.yaml", "prepare": {"seed": 7}})
    config = parse(["--config", top, "--prepare.seed", "8"])
    columns = config.prepare.columns
    assert (config.prepare.k_core, config.prepare.seed, columns.title, columns.brand) == (3, 8, "c", "b")
    assert merged_settings([top], {})["prepare"] == {"k_core": 3, "seed": 7, "columns": {"title": "c", "brand": "b"}}
    assert merged_settings([middle], {})["prepare"]["k_core"] == 3


@pytest.mark.parametrize(
    ("name", "words"),
    [("gone.yaml", "does not exist"), (["a.yaml"], "names no file"), ("a.yaml", "include each other")],
)
def test_an_include_that_leads_nowhere_is_named(tmp_path, parse, capsys, name, words):
    path = write(tmp_path / "a.yaml", {"include": name})
    with pytest.raises(SystemExit):
        parse(["--config", path])
    assert words in capsys.readouterr().err
    with pytest.raises(ConfigError, match=words):
        merged_settings([path], {})


def test_a_misspelt_name_in_an_included_file_is_refused(tmp_path, parse, capsys):
    write(tmp_path / "base.yaml", {"prepare": {"k_cor": 3}})
    with pytest.raises(SystemExit):
        parse(["--config", write(tmp_path / "top.yaml", {"include": "base.yaml"})])
    assert "did you mean 'prepare.k_core'?" in capsys.readouterr().err


def read(path: Path) -> dict:
    return yaml.safe_load(path.read_text())


def test_the_amazon_files_state_only_what_differs():
    whole = {name: with_included(read(CONFIGS / f"{name}.yaml"), CONFIGS / f"{name}.yaml", read) for name in AMAZON}
    for name in AMAZON:
        own = read(CONFIGS / f"{name}.yaml")
        assert set(own) == {"include", "data", "prepare"}
        assert own["data"] == {"name": name}
        assert set(own["prepare"]) == {"reviews", "metadata", "images"}
    assert len({str(content["trainer"]) for content in whole.values()}) == 1
    for stage in ("item", "preference"):
        writer = whole["beauty"]["summaries"][stage]["backbone"]
        assert "llama" not in writer.lower(), "a licence that must be accepted stops people on the first day"
    article = read(CONFIGS / "writers/llama.yaml")["summaries"]
    assert {stage["backbone"] for stage in article.values()} == {"meta-llama/Llama-3.1-8B-Instruct"}


def test_the_file_for_own_data_has_every_column_at_its_default(parse):
    path = CONFIGS / "own_data.yaml"
    columns = read(path)["prepare"]["columns"]
    assert set(columns) == {field.name for field in fields(ColumnMapping)}
    assert ColumnMapping(**columns) == ColumnMapping()


def test_the_home_folder_in_paths(tmp_path, parse, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = write(
        tmp_path / "c.yaml",
        {
            "data": {"root": "~/data"},
            "prepare": {"reviews": "~/r.csv", "columns": {"separator": {"reviews": "~"}, "title": "~x"}},
        },
    )
    config = parse(["--config", path, "--prepare.metadata=~/m.csv", "--prepare.images", "~/p"])
    assert config.data.root == str(tmp_path / "data")
    assert config.prepare.reviews == str(tmp_path / "r.csv")
    assert config.prepare.metadata == str(tmp_path / "m.csv")
    assert config.prepare.images == str(tmp_path / "p")
    assert (config.prepare.columns.separator, config.prepare.columns.title) == ({"reviews": "~"}, "~x")
    assert PrepareSettings(reviews="~/r.csv").reviews == str(tmp_path / "r.csv")
