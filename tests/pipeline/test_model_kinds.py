"""What a kind of model asks of a data set, before anything is built from it."""

from pathlib import Path

import pytest

from mllm_srec.baselines.popularity import Popularity, RecencyPopularity
from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.pipeline import model_kinds
from mllm_srec.pipeline.model_kinds import ItemExperiment
from mllm_srec.types import ConfigError


class DataModule:
    """Of a data set with the given settings of preparation."""

    numbering = None
    seed = 0

    def __init__(self, prepare):
        self.data = PreparedDataset(Path("mine"), {"prepare": prepare})


@pytest.mark.parametrize("model", [Popularity, RecencyPopularity])
@pytest.mark.parametrize(
    ("prepare", "has_times"),
    [
        ({"source": "tables", "columns": {"timestamp": None}}, False),
        ({"source": "tables", "columns": {"timestamp": "when"}}, True),
        ({"source": "amazon2014"}, True),
    ],
)
def test_a_model_that_reads_times_needs_some(monkeypatch, model, prepare, has_times):
    attached = []
    monkeypatch.setattr(model_kinds, "train_data", lambda *args: "train")
    monkeypatch.setattr(model, "attach", lambda self, train, seed: attached.append(train))
    experiment = object.__new__(ItemExperiment)
    experiment.model, experiment.datamodule, experiment.score_label = model(), DataModule(prepare), model.__name__
    if model is RecencyPopularity and not has_times:
        with pytest.raises(
            ConfigError, match=r"=RecencyPopularity: reads times, .*columns\.timestamp: null\).*Popularity"
        ):
            experiment.use_inputs(training=True)
        assert attached == []
    else:
        experiment.use_inputs(training=True)
        assert attached == ["train"]
