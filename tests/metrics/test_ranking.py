"""The accumulating metrics: batches and processes must not matter, and what is undefined must say so."""

import itertools
import json
import math
import subprocess
import sys
import warnings
from pathlib import Path

import lightning
import pytest
import torch
from sklearn.metrics import roc_auc_score

from mllm_srec.metrics.functional import ranking_metrics, user_auc
from mllm_srec.metrics.pair_auc import PairAUC
from mllm_srec.metrics.ranking import RankingMetrics, list_values
from mllm_srec.types import EVAL_TOP_K, KINDS

WORKER = Path(__file__).with_name("gloo_worker.py")


def rank_lists(n, seed=0, n_candidates=30):
    """Scores with ties, labels and padding of n lists; some lists have no relevant candidate."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 9, (n, n_candidates), generator=generator).float()
    relevance = (torch.rand(n, n_candidates, generator=generator) < 0.05).long()
    mask = torch.rand(n, n_candidates, generator=generator) < 0.9
    return scores, relevance * mask, mask


def pair_groups(n, seed=0):
    """Scores with ties, labels, kinds and mask of n pair groups: liked + sampled, or disliked alone."""
    generator = torch.Generator().manual_seed(seed)
    is_liked = torch.rand(n, generator=generator) < 0.7
    first = torch.where(is_liked, KINDS.index("liked"), KINDS.index("disliked"))
    second = torch.where(is_liked, KINDS.index("sampled"), -1)
    kind = torch.stack([first, second], dim=1)
    relevance = (kind == KINDS.index("liked")).long()
    scores = torch.randint(0, 12, (n, 2), generator=generator) + 2.0 * relevance
    return scores, relevance, kind, kind >= 0


def result_of(metric, *batches):
    for batch in batches:
        metric.update(*batch)
    return {key: value.item() for key, value in metric.compute().items()}


# --- ranking ------------------------------------------------------------------------------------------------------


def test_means_over_lists_written_out():
    scores = torch.tensor([[3, 2, 1, 0], [1, 1, 1, 1], [4, 3, 2, 1], [2, 1, 0, 0]]).float()
    relevance = torch.tensor([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    discount = 1 / math.log2(3)
    assert result_of(RankingMetrics(top_k=(2,)), (scores, relevance, mask)) == pytest.approx(
        {
            "hr@2": (1 + 0.5) / 2,
            "recall@2": (1 + 0.5) / 2,
            "ndcg@2": (discount + (1 + discount) / 4) / 2,
            "mrr@2": (0.5 + (1 + 0.5) / 4) / 2,
            "hr_worst@2": (1 + 0) / 2,
            "recall_worst@2": (1 + 0) / 2,
            "ndcg_worst@2": (discount + 0) / 2,
            "mrr_worst@2": (0.5 + 0) / 2,
            "user_auc": (2 / 3 + 0.5) / 2,  # the third list has no positive, the last no negative
            "n_users": 2,
            "n_skipped": 1,
            "n_without_negatives": 1,
        }
    )


def test_a_list_without_negatives_lifts_no_mean():
    """Every model would score 1 in it: a hundred of them would hide what the one other list says."""
    few, many = torch.tensor([[2.0, 1.0]]), torch.rand(100, 3)
    metric = RankingMetrics(top_k=(1,))
    metric.update(few, torch.tensor([[0, 1]]))
    metric.update(many, torch.ones(100, 3).long())
    found = {name: value.item() for name, value in metric.compute().items()}
    assert (found["hr@1"], found["ndcg@1"], found["user_auc"]) == (0, 0, 0)
    assert (found["n_users"], found["n_without_negatives"], found["n_skipped"]) == (1, 100, 0)
    values = list_values(many, torch.ones(100, 3).long(), top_k=(1, 5))
    assert all(value.isnan().all() for value in values.values())


def test_batches_of_any_size_give_the_mean_over_lists():
    scores, relevance, mask = rank_lists(50)
    whole = result_of(RankingMetrics(), (scores, relevance, mask))
    batched = result_of(
        RankingMetrics(), *((scores[i : i + 7], relevance[i : i + 7], mask[i : i + 7]) for i in range(0, 50, 7))
    )
    assert batched == pytest.approx(whole, abs=1e-12)
    lists = ranking_metrics(scores, relevance, mask, policies=("expected", "worst"))
    lists["user_auc"] = user_auc(scores, relevance, mask)
    assert (relevance.bool() | ~mask).all(dim=1).sum() == 0, "no list is without negatives"
    assert {k: whole[k] for k in lists} == pytest.approx({k: v.nanmean().item() for k, v in lists.items()}, abs=1e-12)
    n_users = int(relevance.any(dim=1).sum())
    assert (whole["n_users"], whole["n_skipped"]) == (n_users, 50 - n_users)
    assert 0 < n_users < 50


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_cut_offs_are_those_of_the_evaluation_by_default():
    keys = list(RankingMetrics().compute())
    assert RankingMetrics().top_k == EVAL_TOP_K
    names = [f"{name}{tie}" for name in ("hr", "recall", "ndcg", "mrr") for tie in ("", "_worst")]
    assert set(keys) == {f"{name}@{k}" for name in names for k in (5, 10, 20)} | {
        "user_auc", "n_users", "n_skipped", "n_without_negatives",
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_seen_is_nan_and_not_zero():
    result = result_of(RankingMetrics(top_k=(5,)))
    assert {k for k, v in result.items() if math.isnan(v)} == set(result) - {
        "n_users",
        "n_skipped",
        "n_without_negatives",
    }
    assert result["n_users"] == result["n_skipped"] == result["n_without_negatives"] == 0


def test_a_bad_cut_off_and_a_nan_score_are_refused():
    with pytest.raises(ValueError, match="top_k=0"):
        RankingMetrics(top_k=(5, 0))
    metric = RankingMetrics()
    with pytest.raises(ValueError, match="scores=nan: 1 of 2 candidates"):
        metric.update(torch.tensor([[math.nan, 0.0]]), torch.tensor([[1, 0]]))


def test_reset_forgets():
    metric = RankingMetrics()
    metric.update(*rank_lists(5))
    metric.reset()
    assert result_of(metric, rank_lists(9, seed=2)) == result_of(RankingMetrics(), rank_lists(9, seed=2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_precision_of_a_module_does_not_touch_the_sums(dtype):
    module = torch.nn.ModuleDict({"metric": RankingMetrics()})
    module["metric"].update(*rank_lists(40))
    module.to(dtype).half()
    assert module["metric"].sums.dtype == torch.float64
    assert result_of(module["metric"]) == result_of(RankingMetrics(), rank_lists(40))


# --- pairs --------------------------------------------------------------------------------------------------------


def test_kinds_are_numbered_as_in_the_batches():
    assert KINDS == ("liked", "disliked", "sampled")


def test_pair_auc_equals_scikit_learn_by_kind_of_negative():
    scores, relevance, kind, mask = pair_groups(300)
    result = result_of(PairAUC(), *((scores[i::4], relevance[i::4], kind[i::4], mask[i::4]) for i in range(4)))
    for key, negative in (("auc", "sampled"), ("auc_disliked", "disliked")):
        chosen = (kind == 0) | (kind == KINDS.index(negative))
        assert result[key] == pytest.approx(roc_auc_score(relevance[chosen], scores[chosen]), abs=1e-12)
    counts = {name: int((kind == index).sum()) for index, name in enumerate(KINDS)}
    assert {name: result[f"n_{name}"] for name in KINDS} == counts
    assert result["n_pairs"] == sum(counts.values()) == int(mask.sum())


def test_pair_auc_written_out():
    scores = torch.tensor([[2.0, 1.0], [1.0, 1.0], [1.5, math.nan]])
    kind = torch.tensor([[0, 2], [0, 2], [1, -1]])
    relevance = torch.tensor([[1, 0], [1, 0], [0, 0]])
    mask = torch.tensor([[True, True], [True, True], [True, False]])
    assert result_of(PairAUC(), (scores, relevance, kind, mask)) == {
        "auc": 0.75,  # 2 > 1, 2 > 1, 1 = 1, 1 = 1
        "auc_disliked": 0.5,  # 2 > 1.5, 1 < 1.5
        "n_pairs": 5,
        "n_liked": 2,
        "n_disliked": 1,
        "n_sampled": 2,
    }


def test_a_missing_class_is_nan_and_its_count_says_why():
    result = result_of(PairAUC(), (torch.tensor([[2.0, 1.0]]), torch.tensor([[1, 0]]), torch.tensor([[0, 2]])))
    assert result["auc"] == 1.0
    assert math.isnan(result["auc_disliked"])
    assert result["n_disliked"] == 0


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_no_pairs_at_all_is_nan():
    result = result_of(PairAUC())
    assert {key for key, value in result.items() if math.isnan(value)} == {"auc", "auc_disliked"}
    assert [result[f"n_{name}"] for name in (*KINDS, "pairs")] == [0, 0, 0, 0]


def test_scores_that_differ_in_float32_are_not_tied():
    scores = torch.tensor([[20.000002, 20.0]])  # one step of float32 apart; bfloat16 steps are 0.125 here
    assert result_of(PairAUC(), (scores, torch.tensor([[1, 0]]), torch.tensor([[0, 2]])))["auc"] == 1.0
    assert result_of(RankingMetrics(top_k=(1,)), (scores, torch.tensor([[1, 0]])))["hr_worst@1"] == 1.0


def test_wrong_pairs_are_refused():
    scores, relevance, kind = torch.tensor([[2.0, 1.0]]), torch.tensor([[1, 0]]), torch.tensor([[0, 2]])
    with pytest.raises(ValueError, match="scores=nan: 1 of 2 candidates"):
        PairAUC().update(torch.tensor([[2.0, math.nan]]), relevance, kind)
    with pytest.raises(ValueError, match="kind=-1: unknown; give 0 to 2 for liked, disliked, sampled"):
        PairAUC().update(scores, relevance, torch.tensor([[0, -1]]))
    with pytest.raises(ValueError, match="relevance=0: contradicts kind 'liked'; give 1 for liked"):
        PairAUC().update(scores, 1 - relevance, kind)
    with pytest.raises(ValueError, match="give all four the same shape"):
        PairAUC().update(scores, relevance, kind[:, :1])


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float32])
def test_a_mask_of_numbers_is_refused(dtype):
    """A mask of 0 and 1 in int64 would pick the first two targets, again and again, and give a plausible AUC."""
    scores, kind = torch.tensor([2.0, 1.0, 0.5, 3.0]), torch.tensor([0, 2, 0, 2])
    mask = torch.tensor([1, 1, 0, 1])
    for batch in ((scores, (kind == 0).long(), kind), tuple(x[None] for x in (scores, (kind == 0).long(), kind))):
        with pytest.raises(ValueError, match=rf"mask: dtype {dtype} is not torch.bool"):
            PairAUC().update(*batch, mask.reshape(batch[0].shape).to(dtype))


def test_a_kind_between_two_kinds_is_refused():
    """It would be counted nowhere."""
    scores, relevance, kind = torch.tensor([2.0, 1.0]), torch.tensor([1, 0]), torch.tensor([0.0, 1.5])
    with pytest.raises(ValueError, match=r"kind=1.5: unknown; give 0 to 2"):
        PairAUC().update(scores, relevance, kind)


def test_scores_that_float32_cannot_hold_are_refused():
    """As infinities they would all be tied; what is infinite already is kept."""
    wide = torch.tensor([1e300, 1e200], dtype=torch.float64)
    relevance, kind = torch.tensor([1, 0]), torch.tensor([0, 2])
    with pytest.raises(ValueError, match=r"scores=1e\+300: too large for float32"):
        PairAUC().update(wide, relevance, kind)
    assert result_of(PairAUC(), (torch.tensor([math.inf, -math.inf]), relevance, kind))["auc"] == 1.0
    assert result_of(RankingMetrics(top_k=(1,)), (wide[None], relevance[None]))["hr_worst@1"] == 1.0


# --- in use -------------------------------------------------------------------------------------------------------


class Evaluated(lightning.LightningModule):
    """Updates in each validation step, computes and logs at the end, as the recommender does."""

    def __init__(self):
        super().__init__()
        self.ranking, self.pairs = RankingMetrics(), PairAUC()

    def validation_step(self, batch, batch_idx):
        self.ranking.update(*rank_lists(5, seed=batch_idx))
        self.pairs.update(*pair_groups(5, seed=batch_idx))

    def on_validation_epoch_end(self):
        for metric in (self.ranking, self.pairs):
            self.log_dict({f"val/{key}": value for key, value in metric.compute().items()})
            metric.reset()


def test_log_dict_in_a_trainer(tmp_path):
    trainer = lightning.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    data = torch.utils.data.DataLoader(torch.arange(3))
    module = Evaluated()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.validate(module, data, verbose=False)
        (logged,) = trainer.validate(module, data, verbose=False)
    assert [str(w.message) for w in caught if "floating" in str(w.message)] == []
    expected = result_of(RankingMetrics(), *(rank_lists(5, seed=i) for i in range(3)))
    expected |= result_of(PairAUC(), *(pair_groups(5, seed=i) for i in range(3)))
    assert logged == pytest.approx({f"val/{k}": v for k, v in expected.items()}, abs=1e-6)


def run_processes(folder, world_size, scenarios):
    """What every process says after each was fed its own batches, scenario by scenario."""
    torch.save(scenarios, folder / "scenarios.pt")
    processes = [
        subprocess.Popen([sys.executable, str(WORKER), str(folder), str(rank), str(world_size)])
        for rank in range(world_size)
    ]
    try:
        assert [process.wait(timeout=300) for process in processes] == [0] * world_size
    finally:
        for process in processes:
            process.kill()
    return [json.loads((folder / f"result_{rank}.json").read_text()) for rank in range(world_size)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize("scenarios", [[(3, 1), (4, 0), (0, 2), (0, 0)], [(0, 2, 1), (1, 0, 0)]], ids=["two", "three"])
def test_processes_agree_with_one_process(tmp_path, scenarios):
    """Each scenario is a number of batches per process: uneven, and some with nothing."""
    shares, expected = {}, {}
    for updates in scenarios:
        ranking = [rank_lists(3 + 2 * i, seed=i, n_candidates=10 + i) for i in range(sum(updates))]
        pairs = [pair_groups(4 + 3 * i, seed=i) for i in range(sum(updates))]
        cuts = itertools.pairwise(itertools.accumulate(updates, initial=0))
        shares[str(updates)] = [{"ranking": ranking[a:b], "pairs": pairs[a:b]} for a, b in cuts]
        expected[str(updates)] = result_of(RankingMetrics(), *ranking) | result_of(PairAUC(), *pairs)
    for result in run_processes(tmp_path, len(scenarios[0]), shares):
        assert list(result) == [str(updates) for updates in scenarios]
        for name, values in result.items():
            for dtype, value in zip(("float32", "bfloat16"), values, strict=True):
                assert value == pytest.approx(expected[name], abs=1e-12, nan_ok=True), (name, dtype)
