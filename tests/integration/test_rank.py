"""From a fit on the demo shop to recommendations: real checkpoints, summaries, and the chain of thought."""

import polars as pl
import pytest

from mllm_srec.__main__ import main
from mllm_srec.pipeline.ranking.ranker import NewItem, Ranker
from mllm_srec.summaries.settings import STAGES
from tests.conftest import write_picture

SIZES = {"n_users": 8, "n_items": 20, "n_interactions": 8, "image_size": 28}
RUN = "runs/demo/d"
CHECKPOINT = ["--ckpt_path", f"{RUN}/checkpoints/best.ckpt"]


@pytest.mark.slow
@pytest.mark.parametrize("order", ["user_first", "article"])
def test_a_demo_run_with_a_chain_of_thought(tmp_path, monkeypatch, capsys, order):
    monkeypatch.chdir(tmp_path)
    arguments = [f"--prepare.demo.{name}={value}" for name, value in SIZES.items()]
    arguments += ["--prepare.source=demo", "--prepare.k_core=1", "--prepare.split=leave_one_out"]
    arguments += ["--model.backbone=random", "--model.lr=1e-2", "--name=d", "--data.max_train_groups=4"]
    arguments += ["--data.max_eval_groups=2", "--data.max_length=2048", "--data.pictures.serve=features"]
    arguments += ["--data.prompt.cot=true", f"--data.prompt.cot_order={order}"]
    arguments += ["--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    arguments += ["--summaries.window=1", "--summaries.step=1"]  # a preference after every like
    drawn = {"max_new_tokens": 6, "sample": "true", "temperature": 1.0, "top_p": 1.0}  # greedily it writes nothing
    arguments += [f"--summaries.{stage}.generation.{name}={value}" for stage in STAGES for name, value in drawn.items()]
    assert main(["fit", *arguments]) == 0
    assert main(["test", "--config", f"{RUN}/config.yaml", *CHECKPOINT]) == 0
    tested = pl.read_parquet(f"{RUN}/predictions/test.parquet")
    written = {stage: pl.read_parquet(f"data/demo/summaries/{stage}/summaries.parquet")["text"] for stage in STAGES}
    assert all(texts.str.strip_chars().n_unique() > 5 for texts in written.values())
    assert main(["rank", *CHECKPOINT, "--output", "lists.parquet", "--top_k", "30"]) == 0
    lists = pl.read_parquet("lists.parquet")
    both = tested.join(lists, on=["user_id", "item_id"])
    # Positives are behind everything that is visible; the negatives were met by nobody.
    assert both.height == tested.height > 20
    assert (both["score"] - both["score_right"]).abs().max() < 1e-4
    assert both.filter(pl.col("label") == 1)["held_out"].all()
    capsys.readouterr()
    picture = write_picture(tmp_path / "mug.png", 60, 60, seed=9)
    ranker = Ranker.open(RUN)
    user = next(user for user in ranker.user_ids if ranker.person(user).body.preference is not None)
    new = f'{{"title": "violet mug", "image": "{picture}"}}'
    assert main(["rank", *CHECKPOINT, "--user", user, "--new_item", new, "--top_k", "30"]) == 0
    out = capsys.readouterr().out
    assert "violet mug" in out
    assert "preference, without the items marked since: " in out
    ranked = ranker.rank(user, new_items=[NewItem("violet mug", image=picture)], top_k=None)
    assert ranked.n_ranked == 1 + lists.filter(pl.col("user_id") == user).height
