"""The benchmark of scoring at a tiny size: what it writes, and that all ways score alike; no times."""

import importlib
import json
from pathlib import Path

import pytest
import torch

from mllm_srec.models.random_backbone import RandomBackboneSettings

ROOT = Path(__file__).resolve().parents[2]
TINY = RandomBackboneSettings(hidden_size=64, n_layers=2, n_heads=2, vision_width=32, vision_depth=2)
SIZES = {"context-tokens": 100, "candidates": 5, "groups": 2, "items": 12, "rounds": 2, "threads": 1}
WAYS = ("common_practice", "separate_rows", "packed", "cached", "lower_bound")


@pytest.fixture(scope="module")
def script():
    """The script, with its neighbours; torch's threads are as before afterwards."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "experiments")
        yield importlib.import_module("bench_scoring")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def result(script, tmp_path_factory):
    """What a run at the tiny size writes."""
    output = tmp_path_factory.mktemp("bench") / "new" / "bench.json"
    sizes = [part for name, value in SIZES.items() for part in (f"--{name}", str(value))]
    script.main([*sizes, "--lists", "1", "3", "--output", str(output)], TINY)
    return json.loads(output.read_text())


def test_what_is_written(result):
    assert {"speedup_vs_common_practice", "share_of_lower_bound", "commit", "hardware", "settings"} <= set(result)
    assert result["random_weights"] is True
    assert result["settings"]["context_tokens"] == 100
    assert set(result["variants"]) == {f"{way}_{served}" for way in WAYS for served in ("pixels", "features")}
    assert set(result["ways"]) == set(WAYS)
    for figures in result["variants"].values():
        assert figures["pairs_per_second"] == pytest.approx(10 / figures["median_seconds"], rel=0.05)
        assert figures["peak_memory_mb"] >= 0
    assert set(result["lists_from_features"]) == {"1", "3"}


def test_headline_figures_are_those_of_the_worse_of_pixels_and_features(result):
    seconds = {name: figures["median_seconds"] for name, figures in result["variants"].items()}
    for key, other in (("speedup_vs_common_practice", "common_practice"), ("share_of_lower_bound", "lower_bound")):
        ratios = [seconds[f"{other}_{served}"] / seconds[f"cached_{served}"] for served in ("pixels", "features")]
        assert result[key] == pytest.approx(min(ratios), rel=0.05)


def test_all_ways_score_alike_and_candidates_differ(result):
    differences = [result["variants"][name].get("score_difference") for name in result["variants"]]
    assert differences[0] == 0
    assert all(difference <= 1e-5 for difference in differences if difference is not None)
    assert [name for name, figures in result["variants"].items() if "score_difference" not in figures] == [
        "lower_bound_pixels",
        "lower_bound_features",
    ]
    assert result["standard_deviation_of_scores"] > 1e-3


def test_tokens_and_patches(result):
    """The cached way and the bound compute every token once; targets and pictures have different sizes."""
    tokens, variants = result["tokens"], result["variants"]
    assert tokens["context_tokens"] == {"min": 100, "mean": 100, "max": 100}
    assert tokens["target_tokens"]["min"] < tokens["target_tokens"]["max"]
    assert tokens["picture_tokens_of_a_target"]["min"] == 0
    assert tokens["tokens_of_separate_rows"] - tokens["tokens_needed_once"] == 2 * 4 * 100
    for served in ("pixels", "features"):
        computed = {way: variants[f"{way}_{served}"]["tokens_computed"] for way in WAYS}
        assert computed["cached"] == computed["lower_bound"] == tokens["tokens_needed_once"]
        assert computed["packed"] >= tokens["tokens_needed_once"]
        assert computed["common_practice"] >= tokens["tokens_of_separate_rows"]
    patches = {name: figures["patches_encoded"] for name, figures in variants.items()}
    assert all(patches[f"{way}_features"] == 0 for way in WAYS)
    assert patches["common_practice_pixels"] >= patches["cached_pixels"] >= patches["lower_bound_pixels"] > 0


def test_scores_that_differ_are_an_error(script, monkeypatch, tmp_path):
    variants = importlib.import_module("scoring_variants")
    run = variants.Ours.run
    monkeypatch.setattr(variants.Cached, "run", lambda self, batch: run(self, batch) + 2e-5)
    sizes = [part for name, value in SIZES.items() for part in (f"--{name}", str(value))]
    with pytest.raises(RuntimeError, match=r"Cached \(pixels\) differs by 2"):
        script.main([*sizes, "--output", str(tmp_path / "bench.json")], TINY)
    assert not (tmp_path / "bench.json").exists()


def test_a_context_that_cannot_be_is_refused(script, tmp_path):
    with pytest.raises(ValueError, match=r"context_tokens=20 with 6 items; give \d+ to \d+, or other items"):
        script.main(["--context-tokens", "20", "--items", "6", "--candidates", "2", "--threads", "1"], TINY)
