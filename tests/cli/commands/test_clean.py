"""`clean` lists, asks, and removes what it listed, and nothing else."""

import shutil
from types import SimpleNamespace

import pytest
import yaml

from mllm_srec.__main__ import main
from mllm_srec.cli.commands import clean
from mllm_srec.data.dataset import PreparedDataset


@pytest.fixture
def shop(shop_root, tmp_path):
    ignored = shutil.ignore_patterns("features", "item_features", "image_store", "prompts", ".*")
    folder = shutil.copytree(shop_root / "shop", tmp_path / "shop", ignore=ignored)
    (folder / "summaries/item").mkdir(parents=True, exist_ok=True)
    (folder / "summaries/item/half.partial").write_text("costs hours")
    return folder


@pytest.fixture
def leftover(shop):
    """Prompts of tables that are there no more."""
    from mllm_srec.files.atomic import write_json

    folder = shop / "prompts/0123456789ab"
    folder.mkdir(parents=True)
    (folder / "contexts.arrow").write_bytes(bytes(1_500_000))
    write_json({"tables": "of yesterday", "pictures": None}, folder / "key.json")
    return folder


@pytest.fixture
def call(shop, capsys):
    def run(*words):
        status = main(["clean", "--data.root", str(shop.parent), "--data.name", "shop", *words])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def answer(monkeypatch, text):
    monkeypatch.setattr(clean.sys, "stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", lambda _: text)


def test_nothing_to_clean(call):
    status, out, _ = call()
    assert status == 0
    assert "nothing is left over" in out


@pytest.mark.parametrize(
    ("text", "gone"), [("y", True), ("YES", True), ("", False), ("n", False), ("yesterday", False)]
)
def test_it_asks(call, leftover, monkeypatch, text, gone):
    answer(monkeypatch, text)
    status, out, _ = call()
    assert status == 0
    assert "1.5 MB  prompts/0123456789ab: tables were changed since" in out
    assert leftover.exists() is not gone
    assert ("removed 1 of 1, 1.5 MB" in out) is gone
    assert ("nothing was removed" in out) is not gone
    assert (leftover.parents[1] / "summaries/item/half.partial").exists()
    PreparedDataset.open(leftover.parents[1]).items  # noqa: B018 - the tables are there


def test_without_a_terminal_nothing_goes_unless_told(call, leftover):
    assert "give --yes to remove them" in call()[1]
    assert leftover.exists()
    assert "removed 1 of 1" in call("--yes")[1]
    assert not leftover.exists()


def test_all_lists_what_is_in_use(call, shop):
    from mllm_srec.files.atomic import write_json

    used = shop / "prompts/0123456789ab"
    used.mkdir(parents=True)
    write_json({"tables": PreparedDataset.open(shop).content_hash, "pictures": None}, used / "key.json")
    assert "nothing is left over" in call()[1]
    assert "in use; made again when it is needed" in call("--all")[1]
    assert used.exists()


def test_a_data_set_that_is_not_there(call, tmp_path):
    status, _, err = call("--data.name", "shap")
    assert status == 1
    assert "holds no prepared data set" in err
    assert not (tmp_path / "shap").exists()


def test_settings_of_a_file(shop, leftover, tmp_path, capsys):
    config = tmp_path / "mine.yaml"
    config.write_text(yaml.safe_dump({"data": {"root": str(tmp_path), "name": "shop"}, "trainer": {"max_epochs": 3}}))
    assert main(["clean", "--config", str(config), "--yes"]) == 0
    assert "removed 1 of 1" in capsys.readouterr().out
    assert not leftover.exists()


@pytest.mark.parametrize(
    ("n_bytes", "words"), [(0, "0.0 kB"), (999_949, "999.9 kB"), (4.21e7, "42.1 MB"), (2e9, "2.0 GB")]
)
def test_sizes(n_bytes, words):
    assert clean.size_words(n_bytes) == words
