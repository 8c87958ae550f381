"""Lists of all users in one file: equal to those one by one, written atomically, and no user is ranked twice."""

import polars as pl
import pytest
from filelock import FileLock
from polars.testing import assert_frame_equal

from mllm_srec.files import progress
from mllm_srec.pipeline.ranking import all_users as list_files
from mllm_srec.pipeline.ranking.all_users import check_output, write_lists
from mllm_srec.pipeline.ranking.new_items import NewItem
from mllm_srec.pipeline.ranking.ranker import LIST_SCHEMA, Ranker
from mllm_srec.types import ConfigError

NEW = [NewItem("violet mug")]


@pytest.fixture(scope="module")
def run(write_run, told_root, tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run") / "run", told_root)


@pytest.fixture
def ranker(run):
    return Ranker.open(run)


@pytest.fixture
def ranked(monkeypatch, ranker):
    """Record the ranked users; the users in it at first end the command when their turn comes."""
    found, deadly, rank_all = [], [], ranker.rank_all

    def told(user_ids, *args):
        for one in rank_all(user_ids, *args):
            if one.person.user_id in deadly:
                raise KeyboardInterrupt
            found.append(one.person.user_id)
            yield one

    monkeypatch.setattr(ranker, "rank_all", told)
    monkeypatch.setattr(list_files, "USERS_PER_PART", 3)
    return found, deadly


def test_a_killed_command_continues(ranker, ranked, tmp_path):
    found, deadly = ranked
    path = tmp_path / "deep/lists.parquet"
    path.parent.mkdir()
    path.write_text("of before")
    users = ranker.user_ids
    deadly.append(users[7])
    with pytest.raises(KeyboardInterrupt):
        write_lists(ranker, path, users, NEW, 4)
    assert path.read_text() == "of before"
    assert found == users[:7]
    deadly.clear()
    found.clear()
    table = write_lists(ranker, path, users, NEW, 4)
    assert found == users[6:]
    assert [entry.name for entry in path.parent.iterdir()] == ["lists.parquet"]
    assert pl.read_parquet(path).equals(table)
    assert dict(table.schema) == LIST_SCHEMA
    expected = pl.concat([ranker.rank(user, new_items=NEW, top_k=4).table for user in users])
    assert table.equals(expected)


def test_other_settings_start_again(ranker, ranked, tmp_path):
    found, deadly = ranked
    path, users = tmp_path / "lists.parquet", ranker.user_ids[:6]
    deadly.append(users[5])
    for arguments in ((NEW, 4), ([], 4), ([], 5)):
        found.clear()
        with pytest.raises(KeyboardInterrupt):
            write_lists(ranker, path, users, *arguments)
        assert found == users[:5]
    deadly.clear()
    write_lists(ranker, path, users, [], 5)
    assert found == [*users[:5], *users[3:]]
    assert [entry.name for entry in tmp_path.iterdir()] == ["lists.parquet"]


def test_a_csv_file_holds_the_same_table(ranker, tmp_path):
    named = [NewItem('violet, "large" mug')]
    for name in ("lists.csv", "lists.CSV"):
        write_lists(ranker, tmp_path / name, ranker.user_ids[:3], named, 20)
        text = (tmp_path / name).read_text()
        assert text.splitlines()[0] == ",".join(LIST_SCHEMA)
        found = pl.read_csv(tmp_path / name, schema=LIST_SCHEMA)
        expected = write_lists(ranker, tmp_path / "lists.parquet", ranker.user_ids[:3], named, 20)
        assert_frame_equal(found, expected, abs_tol=1e-6)
        assert 'violet, ""large"" mug' in text


@pytest.mark.parametrize("name", ["lists", "lists.json", "lists.xlsx", "lists.csv.gz", ".csv"])
def test_a_name_that_does_not_say_the_format(name, tmp_path):
    with pytest.raises(ConfigError, match=r"does not say .* a name that ends in \.parquet or \.csv"):
        check_output(tmp_path / name)


def test_progress_in_a_log_file(ranker, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    write_lists(ranker, tmp_path / "lists.parquet", ranker.user_ids[:2], [], 4)
    assert capsys.readouterr().err.startswith("ranking: 1 of 2 users (50 %), ")


def test_no_users(ranker, tmp_path):
    table = write_lists(ranker, tmp_path / "lists.parquet", [], [], 4)
    assert (table.height, dict(table.schema)) == (0, LIST_SCHEMA)


def test_where_nothing_can_be_written(ranker, tmp_path):
    with pytest.raises(ConfigError, match="is a folder; give the name of a file"):
        check_output(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"lists.parquet': cannot be written"):
        check_output(tmp_path / "file/lists.parquet")
    check_output(tmp_path / "a/b/lists.parquet")
    assert list((tmp_path / "a/b").iterdir()) == []


def test_two_commands_do_not_write_one_file(ranker, tmp_path, monkeypatch):
    monkeypatch.setattr(list_files, "_key", lambda *args: "k")
    (tmp_path / ".lists.parquet.k.parts").mkdir()
    with (
        FileLock(tmp_path / ".lists.parquet.k.parts/.lock"),
        pytest.raises(ConfigError, match="another process is writing"),
    ):
        write_lists(ranker, tmp_path / "lists.parquet", ranker.user_ids, [], 4)
