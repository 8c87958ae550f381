"""Configuration files that include others, the files for own data and for Amazon, and `~` in paths."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from mllm_srec.cli.schema import full_parser, light_parser
from mllm_srec.data.settings import ColumnMapping, PrepareSettings
from mllm_srec.pipeline.grid.plan import merged_settings
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


def test_to_include_a_file_is_to_give_it_before(tmp_path, parse):
    """Sections that are empty, dotted names, and a setting of which one file has the old name."""
    base = {"prepare": {"k_core": 3, "columns": {"title": "a"}}, "data": {"packing": {"loss_on": "all"}}}
    top = {
        "prepare.k_core": 2,
        "prepare": {"seed": 4},
        "model": {"loss_on": "answers"},
        "candidates": {"n_negatives": 7},
    }
    files = [write(tmp_path / "base.yaml", base), write(tmp_path / "top.yaml", top)]
    including = write(tmp_path / "all.yaml", {"include": "base.yaml", **top})
    assert merged_settings([including], {}) == merged_settings(files, {})
    assert merged_settings([including], {})["model"] == {"loss_on": "answers"}
    for content in (base, top):
        content.pop("data", None)
        content.pop("model", None)
    files = [write(tmp_path / "base.yaml", base), write(tmp_path / "top.yaml", top)]
    including = write(tmp_path / "all.yaml", {"include": "base.yaml", **top})
    one, other = parse(["--config", including]), parse(["--config", files[0], "--config", files[1]])
    assert one.prepare == other.prepare
    assert (one.prepare.k_core, one.prepare.seed, one.prepare.columns.title) == (2, 4, "a")


def test_another_class_has_none_of_the_arguments_of_the_first(tmp_path):
    parser = full_parser("fit", "")
    first = {"class_path": "mllm_srec.baselines.sasrec.SASRec", "init_args": {"lr": 0.5, "patience": 3}}
    write(tmp_path / "base.yaml", {"baseline": first})
    for content, lr, patience in (
        ({"class_path": "mllm_srec.baselines.gru4rec.GRU4Rec", "init_args": {"patience": 4}}, 1e-3, 4),
        ({"class_path": "SASRec", "init_args": {"patience": 4}}, 0.5, 4),
        ({"init_args": {"patience": 4}}, 0.5, 4),
    ):
        top = write(tmp_path / "top.yaml", {"include": "base.yaml", "baseline": content})
        both = write(tmp_path / "alone.yaml", {"baseline": content})
        for files in ([top], [str(tmp_path / "base.yaml"), both]):
            chosen = parser.parse_args([word for file in files for word in ("--config", file)]).baseline
            assert (chosen.init_args.lr, chosen.init_args.patience) == (lr, patience)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"prepare": {"k_cor": 3}}, "'prepare.k_cor' is not known"),
        ({"data": {"packing": {"padding_side": "left"}}}, "this setting no longer exists"),
        ({"prepare": {"k_core": "${K}"}}, "${K}"),
    ],
)
def test_an_error_names_the_file_that_has_it(tmp_path, parse, capsys, content, words):
    base = write(tmp_path / "base.yaml", content)
    with pytest.raises(SystemExit):
        parse(["--config", write(tmp_path / "top.yaml", {"include": "base.yaml"})])
    shown = capsys.readouterr().err
    assert base in shown
    assert words in shown
    assert "top.yaml" not in shown


def read(path: Path) -> dict:
    return yaml.safe_load(path.read_text())


def test_the_amazon_files_state_only_what_differs():
    whole = {name: merged_settings([str(CONFIGS / f"{name}.yaml")], {}) for name in AMAZON}
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
    prepare = read(path)["prepare"]
    columns = prepare["columns"]
    assert {name: prepare[name] for name in ("liked_from", "no_rating", "k_core", "strict")} == {
        "liked_from": PrepareSettings().liked_from, "no_rating": [], "k_core": 5, "strict": False
    }  # fmt: skip
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
