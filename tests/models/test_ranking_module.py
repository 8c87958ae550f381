"""What every model shares: a model is nothing but `score_candidates`."""

import math

import lightning.pytorch as lightning
import pytest
import torch

from mllm_srec.baselines.base import ItemRecommender
from mllm_srec.metrics.pair_auc import PairAUC
from mllm_srec.metrics.ranking import RankingMetrics
from mllm_srec.models.ranking_module import RankingModule
from mllm_srec.types import DataError


class Summing(RankingModule):
    """Scores an item by its index."""

    def score_candidates(self, batch):
        return batch["item_index"].float()


def batch_of(item_index, relevance, kind=None, n_missed=None):
    items, labels = torch.tensor(item_index), torch.tensor(relevance)
    return {
        "group_id": torch.arange(len(items)), "item_index": items, "relevance": labels,
        "kind": torch.where(labels == 1, 0, 2) if kind is None else torch.tensor(kind),
        "candidate_mask": items >= 0, "n_missed": torch.zeros(len(items), dtype=torch.long) if n_missed is None
        else torch.tensor(n_missed),
    }  # fmt: skip


EMPTY = {key: value[:0] for key, value in batch_of([[1, 2]], [[1, 0]]).items()}
PAIRS = [batch_of([[5, 2], [1, 3]], [[1, 0], [1, 0]]), EMPTY]
LISTS = [EMPTY, batch_of([[5, 2, 9], [1, 3, -1]], [[1, 0, 0], [1, 0, 0]], n_missed=[1, 0])]


def loaders():
    return [torch.utils.data.DataLoader(part, batch_size=None) for part in (PAIRS, LISTS)]


@pytest.mark.parametrize("stage", ["val", "test"])
def test_a_stage_is_measured_with_the_shared_metrics(tmp_path, stage):
    module = Summing()
    run = lightning.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    (run.test if stage == "test" else run.validate)(module, loaders(), verbose=False)
    auc, ranking = PairAUC(), RankingMetrics()
    batch = PAIRS[0]
    auc.update(batch["item_index"].float(), batch["relevance"], batch["kind"], batch["candidate_mask"])
    ranking.update(
        torch.tensor([[5.0, 2, 9, -torch.inf], [1, 3, -1, 0]]), torch.tensor([[1, 0, 0, 1], [1, 0, 0, 0]]),
        torch.tensor([[True] * 4, [True, True, False, False]]),
    )  # fmt: skip
    expected = {f"{stage}/{k}": float(v) for k, v in {**auc.compute(), **ranking.compute()}.items()}
    assert {k: v for k, v in module.results.items() if v == v} == {k: v for k, v in expected.items() if v == v}
    assert module.results[f"{stage}/recall@5"] == pytest.approx((1 / 2 + 1) / 2)
    assert set(module.results) == set(expected)


def test_nothing_is_said_of_no_groups():
    module = Summing()
    assert module.test_step(EMPTY, 0, 1) is None
    assert module.predict_step(EMPTY, 0) is None
    assert module.predict_step(PAIRS[0], 0)["scores"].tolist() == [[5, 2], [1, 3]]


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_scores_that_are_no_numbers_are_refused(value):
    class Overflowing(Summing):
        def score_candidates(self, batch):
            return torch.where(batch["item_index"] == 3, value, 0.0)

    for step in (Overflowing().test_step, Overflowing().validation_step, Overflowing().predict_step):
        with pytest.raises(DataError, match="1 of 4 scores of a batch are infinite or NaN, the first of item number 3"):
            step(PAIRS[0], 0)


@pytest.mark.parametrize(
    ("model", "setting"), [(RankingModule, "model.lr"), (ItemRecommender, "baseline.init_args.lr")]
)
def test_the_advice_names_the_setting_that_the_model_has(model, setting):
    class Overflowing(model):
        def score_candidates(self, batch):
            return torch.full(batch["item_index"].shape, math.nan)

    with pytest.raises(DataError, match=f"a lower {setting}, or trainer.gradient_clip_val"):
        Overflowing().test_step(PAIRS[0], 0)


def test_a_model_without_scores_says_what_is_missing():
    with pytest.raises(NotImplementedError, match=r"RankingModule: has no score_candidates\(batch\)"):
        RankingModule().scored(PAIRS[0])
