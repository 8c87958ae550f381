"""Settings that would do nothing beside the others, and those that do something."""

import inspect

import pytest

from mllm_srec.data.loading.prompt_datamodule import PromptDataModule
from mllm_srec.data.loading.ranking_datamodule import RankingDataModule
from mllm_srec.pipeline.runs.effects import OF_ANY_MODEL, PROMPT_DATA, without_effect

SASREC = {"class_path": "mllm_srec.baselines.sasrec.SASRec", "init_args": {"lr": 1e-3, "loss": "ce"}}


def settings(baseline=SASREC, source="tables", finetune="lora", variant="full"):
    return {
        "baseline": baseline,
        "prepare": {"source": source},
        "model": {"finetune": finetune},
        "summaries": {"variant": variant},
    }


@pytest.mark.parametrize(
    ("name", "about", "words"),
    [
        ("model.lr", settings(), "set baseline.init_args.lr"),
        ("model.warmup_steps", settings(), "SASRec has nothing of the kind"),
        ("model.lora.r", settings(), "SASRec has nothing of the kind"),
        ("data.prompt.cot", settings(), "is about prompts"),
        ("data.negatives", settings(), "is about prompts"),
        ("summaries.window", settings(), "is about summaries"),
        ("item_features.center", settings(None), "only baselines read"),
        ("prepare.columns.rating", settings(source="amazon2014"), "prepare.source=tables only"),
        ("prepare.users", settings(source="amazon2023"), "prepare.source=tables only"),
        ("prepare.demo.n_users", settings(), "prepare.source is tables"),
        ("prepare.reviews", settings(source="demo"), "prepare.source=demo has none"),
        ("prepare.columns.title", settings(source="demo"), "prepare.source=demo has none"),
        ("model.lora.r", settings(None, finetune="full"), "set model.finetune to lora"),
        ("model.lr", settings(None, finetune="none"), "trains nothing"),
    ],
)
def test_what_does_nothing_is_told_why(name, about, words):
    found = without_effect([name, "trainer.max_epochs"], about)
    assert list(found) == [name]
    assert words in found[name]


@pytest.mark.parametrize(
    ("names", "about"),
    [
        ([*OF_ANY_MODEL, "baseline.init_args.lr", "data.batch_size", "data.pictures.max_pixels"], settings()),
        (["item_features.text", "prepare.columns.rating", "prepare.users", "prepare.reviews"], settings()),
        (["summaries.variant"], settings(variant="none")),
        (["model.lr", "model.lora.r", "data.prompt.cot", "summaries.window"], settings(None)),
        (["model.lr", "model.warmup_steps"], settings(None, finetune="full")),
        (["prepare.demo.n_users", "prepare.k_core"], settings(source="demo")),
        (["model.lr", "x", "model", ""], {}),
    ],
)
def test_what_does_something_passes(names, about):
    assert without_effect(names, about) == {}


def test_the_settings_of_prompts_are_those_that_no_baseline_reads():
    """A new setting of the prompts' data module belongs to the list, or to what every model reads."""
    prompts = inspect.signature(PromptDataModule).parameters.keys() - inspect.signature(RankingDataModule).parameters
    assert prompts - {"shared", "backbone", "revision", "pictures"} == set(PROMPT_DATA)
