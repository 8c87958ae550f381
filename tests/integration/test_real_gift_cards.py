"""Real Amazon files with pictures through the commands, in 4 bits with LoRA, on the real Qwen2 vocabulary."""

import json

import polars as pl
import pytest
import torch
from sklearn.metrics import roc_auc_score
from transformers import AutoTokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from mllm_srec.__main__ import main
from mllm_srec.models.random_backbone import RandomBackboneSettings, build_model


@pytest.fixture(scope="module")
def real_vocabulary(shared_data, tmp_path_factory):
    """A tiny untrained Qwen2-VL with the real vocabulary of 151,657 tokens."""
    folder = tmp_path_factory.mktemp("qwen")
    tokenizer = AutoTokenizer.from_pretrained(str(shared_data / "qwen2_tokenizer"))
    settings = RandomBackboneSettings(hidden_size=64, n_layers=2, n_heads=2, vision_width=32, vision_depth=2)
    build_model(tokenizer, settings).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil().save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_from_raw_files_to_metrics(shared_data, real_vocabulary, tmp_path, capsys):
    raw = shared_data / "amazon2018_gift_cards"
    config = tmp_path / "gift_cards.yaml"
    config.write_text(
        json.dumps(
            {
                "data": {
                    "root": str(tmp_path / "data"),
                    "name": "gift_cards",
                    "batch_size": 4,
                    "max_length": 640,
                    "max_train_groups": 24,
                    "max_eval_groups": 8,
                    "pictures": {"max_pixels": 16 * 784, "serve": "features"},
                },
                "prepare": {
                    "source": "amazon2018",
                    "reviews": str(raw / "Gift_Cards_5.json.gz"),
                    "metadata": str(raw / "meta_Gift_Cards.json.gz"),
                    "images": str(raw / "images"),
                },
                "candidates": {"max_users": 40},
                "summaries": {"variant": "none"},
                "model": {"backbone": str(real_vocabulary), "lr": 1e-3},
                "trainer": {
                    "default_root_dir": str(tmp_path / "runs"),
                    "accelerator": "cpu",
                    "max_epochs": 1,
                    "enable_progress_bar": False,
                },
            }
        )
    )
    assert main(["prepare", "--config", str(config)]) == 0
    assert main(["fit", "--config", str(config), "--name", "real"]) == 0
    run = tmp_path / "runs/gift_cards/real"
    stored = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    assert all("lora_" in name for name in stored["state_dict"])
    assert stored["mllm_srec"]["quantization"] == "nf4"
    assert (run / "adapter/adapter_model.safetensors").exists()
    assert main(["test", "--config", str(config), "--ckpt_path", str(run / "checkpoints/best.ckpt")]) == 0
    assert "began with random weights" in capsys.readouterr().out

    data = tmp_path / "data/gift_cards"
    user = pl.read_parquet(data / "groups.parquet").filter(pl.col("purpose") == "rank")["user_id"][0]
    likes = pl.read_parquet(data / "interactions.parquet").filter(pl.col("split") != "test", pl.col("rating") >= 4)
    single = likes.group_by("user_id").len().filter(pl.col("len") == 1)["user_id"].min()
    picture = next(path for path in sorted((data / "images").rglob("*")) if path.is_file())
    new = json.dumps({"title": "Gift card for a tea house", "image": str(picture)})
    ranking = ["rank", "--ckpt_path", str(run / "checkpoints/best.ckpt"), "--max_items", "30"]
    for person, told in ((user, "liked items"), (single, "1 liked items")):
        assert main([*ranking, "--user", person, "--new_item", new]) == 0
        out = capsys.readouterr().out
        assert "the most popular items, at most 30 of" in out
        assert out.startswith(f"user {person}: ")
        assert told in out
        assert "Gift card for a tea house" in out
    assert main([*ranking, "--user", "nobody"]) == 1
    assert "user='nobody': is not among the 453 users" in capsys.readouterr().err

    samples = pl.read_parquet(data / "samples.parquet").filter(pl.col("split") == "test")
    candidates = pl.read_parquet(data / "candidates.parquet").filter(
        (pl.col("split") == "test") & (pl.col("position") <= 20)
    )
    pairs, lists = (pl.read_parquet(run / "predictions" / f"{name}.parquet") for name in ("test_pairs", "test"))
    keys = ["group_id", "user_id", "item_id", "label", "kind"]
    assert pairs.select(keys).sort(keys).equals(samples.select(keys).sort(keys))
    assert lists.select(keys).sort(keys).equals(candidates.select(keys).sort(keys))
    assert lists.schema["score"] == pl.Float32
    assert lists["score"].null_count() == 0
    assert lists["score"].n_unique() > lists.height // 2, (
        "scores hardly differ: pictures and titles do not reach the model"
    )

    metrics = json.loads((run / "metrics.json").read_text())
    easy = pairs.filter(pl.col("kind") != "disliked")
    assert metrics["test/auc"] == pytest.approx(roc_auc_score(easy["label"], easy["score"]), abs=1e-6)
    hard = pairs.filter(pl.col("kind") != "sampled")
    assert metrics["test/auc_disliked"] == pytest.approx(roc_auc_score(hard["label"], hard["score"]), abs=1e-6)
    per_user = [
        roc_auc_score(rows["label"], rows["score"])
        for _, rows in lists.group_by("group_id")
        if rows["label"].n_unique() == 2
    ]
    assert metrics["test/user_auc"] == pytest.approx(sum(per_user) / len(per_user), abs=1e-6)
    assert metrics["test/n_users"] == candidates["group_id"].n_unique() == 40
    assert {"test/hr@10", "test/recall@5", "test/ndcg@20", "test/mrr@10", "test/candidates_hash", "val/auc"} <= set(
        metrics
    )
