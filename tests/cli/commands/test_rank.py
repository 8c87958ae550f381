"""`rank` as a person types it, on a small shop with a tiny model."""

import json

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from mllm_srec.__main__ import main
from mllm_srec.pipeline.ranking.new_items import NewItem
from mllm_srec.pipeline.ranking.ranker import Ranker
from mllm_srec.summaries.settings import STAGES
from tests.conftest import write_picture
from tests.pipeline.conftest import run_settings, told_root, write_run  # noqa: F401 - fixtures


@pytest.fixture(scope="module")
def run(write_run, told_root, tmp_path_factory):  # noqa: F811
    return write_run(tmp_path_factory.mktemp("runs") / "run", told_root, variant="full")


@pytest.fixture
def checkpoint(run):
    return ["--ckpt_path", str(run / "checkpoints/best.ckpt")]


def refused(arguments, capsys):
    """The error of a command that ends with status 1."""
    assert main(["rank", *arguments]) == 1
    return capsys.readouterr().err


def test_one_user(run, checkpoint, capsys):
    assert main(["rank", *checkpoint, "--user", "u03", "--top_k", "4"]) == 0
    out = capsys.readouterr().out
    ranker = Ranker.open(run)
    ranked = ranker.rank("u03", top_k=4)
    person = ranked.person
    assert out.startswith(f"user u03: {len(person.history)} liked items")
    for item_id in person.history:
        assert item_id in out
    assert f"preference, without the items marked since: {person.body.preference}" in out
    lines = [line.split() for line in out.splitlines()]
    for row in ranked.table.to_dicts():
        (line,) = [line for line in lines if line[:1] == [str(row["rank"])] and row["item_id"] in line]
        assert line[-2:] == [f"{row['probability']:.4f}", f"{row['score']:.3f}"]
        assert ("*" in line) == row["held_out"]
    assert f"the best 4 of {ranked.n_ranked} ranked items (the whole catalogue of 15 items" in out
    assert "began with random weights" in out


def test_settings_from_a_file_are_those_of_the_run(run, checkpoint, capsys):
    arguments = [*checkpoint, "--user", "u03", "--top_k", "4"]
    assert main(["rank", *arguments]) == 0
    found = capsys.readouterr().out
    assert main(["rank", "--config", str(run / "config.yaml"), *arguments]) == 0
    assert capsys.readouterr().out == found


def test_all_users_and_new_items(run, checkpoint, told_root, tmp_path, capsys):  # noqa: F811
    picture = write_picture(tmp_path / "mug.png", 60, 60, seed=40)
    (tmp_path / "new.jsonl").write_text(json.dumps({"title": "[bold]lamp[/]", "item_id": "lamp"}))
    new = ["--new_item", json.dumps({"title": "violet mug", "image": str(picture)})]
    new += ["--new_item", str(tmp_path / "new.jsonl")]
    arguments = [*checkpoint, *new, "--top_k", "20", "--data.root", str(told_root)]
    path = tmp_path / "out/lists.parquet"
    assert main(["rank", *arguments, "--output", str(path)]) == 0
    assert "ranking for 12 users: the whole catalogue of 15 items\n" in capsys.readouterr().out
    table = pl.read_parquet(path)
    ranker = Ranker.open(run)
    items = [NewItem("violet mug", image=picture), NewItem("[bold]lamp[/]", item_id="lamp")]
    expected = [ranker.rank(user, new_items=items, top_k=20).table for user in ranker.user_ids]
    assert_frame_equal(table, pl.concat(expected), abs_tol=1e-5)
    assert set(table.filter(pl.col("new"))["item_id"]) == {"new-1", "lamp"}
    assert main(["rank", *arguments, "--output", str(path), "--user", "u05"]) == 0
    out = capsys.readouterr().out
    assert "[bold]lamp[/]" in out
    assert "+ a new item" in out
    assert_frame_equal(pl.read_parquet(path), table.filter(pl.col("user_id") == "u05"), abs_tol=1e-5)


def test_a_retriever_without_lists_for_all(checkpoint, tmp_path, capsys):
    pl.DataFrame({"user_id": ["u02"], "item_id": ["i00"], "rank": [1]}).write_parquet(tmp_path / "found.parquet")
    arguments = [*checkpoint, "--retriever", str(tmp_path / "found.parquet"), "--max_items", "3"]
    assert main(["rank", *arguments, "--output", str(tmp_path / "lists.parquet")]) == 0
    out = capsys.readouterr().out
    assert "ranking for 1 users: the items that " in out
    assert "found.parquet retrieved, at most 3 of 15" in out
    assert "11 users are left out: the retriever has no list for them" in out


def test_what_cannot_be_done(run, checkpoint, capsys, tmp_path):
    assert "set --user ID for one person, or --output FILE" in refused(checkpoint, capsys)
    assert "user='u99': is not among the 12 users" in refused([*checkpoint, "--user", "u99"], capsys)
    assert "top_k=0: must be at least 1" in refused([*checkpoint, "--user", "u01", "--top_k", "0"], capsys)
    assert "max_items=-1: must be at least 1" in refused([*checkpoint, "--user", "u01", "--max_items", "-1"], capsys)
    new = ["--new_item", '{"title": "mug", "colour": "red"}']
    assert "unknown field 'colour'" in refused([*checkpoint, "--user", "u01", *new], capsys)
    assert "is a folder" in refused([*checkpoint, "--output", str(tmp_path)], capsys)
    found = refused([*checkpoint, "--output", str(tmp_path / "lists.json")], capsys)
    assert "does not say whether to write Parquet or CSV; give a name that ends in .parquet or .csv" in found
    config = ["--config", str(run / "config.yaml")]
    assert "needs fine-tuned weights; give a run's checkpoint" in refused([*config, "--user", "u01"], capsys)
    assert "nothing.ckpt': no such file" in refused([*config, "--user", "u01", "--ckpt_path", "nothing.ckpt"], capsys)
    plain = [f"--summaries.{stage}.prompt=Other?" for stage in STAGES]
    assert "python -m mllm_srec summarize" in refused([*checkpoint, "--user", "u01", *plain], capsys)
    other = ["--prepare.split", "random"]
    assert "was prepared differently" in refused([*checkpoint, "--user", "u01", *other], capsys)


def test_a_misspelt_flag(checkpoint, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["rank", *checkpoint, "--usr", "u01"])
    assert ended.value.code == 2
    assert "did you mean 'user'?" in capsys.readouterr().err
