"""Settings that would do nothing beside the others, and those that do something."""

import inspect

import pytest

from mllm_srec.cli.parser import known_names, plain
from mllm_srec.cli.schema import full_parser
from mllm_srec.data.loading.prompt_datamodule import PromptDataModule
from mllm_srec.data.loading.ranking_datamodule import RankingDataModule
from mllm_srec.data.settings import PictureSettings
from mllm_srec.pipeline.runs.effects import OF_ANY_MODEL, PROMPT_DATA, ineffective, without_effect
from mllm_srec.prompts.templates import PromptSettings

SASREC = {"class_path": "mllm_srec.baselines.sasrec.SASRec", "init_args": {"lr": 1e-3, "loss": "ce"}}


def settings(baseline=SASREC, source="tables", finetune="lora", variant="full", **others):
    return {
        "baseline": baseline,
        "prepare": {"source": source},
        "model": {**dict.fromkeys(("lr", "warmup_steps", "lora", "backbone")), "finetune": finetune},
        "summaries": {"variant": variant},
        **others,
    }


def loss_settings(loss, finetune="lora", n_train_negatives=4, **added):
    of_model = {"loss": loss, "finetune": finetune, "added_losses": added}
    return {**settings(None), "model": of_model, "data": {"n_train_negatives": n_train_negatives}}


@pytest.mark.parametrize(
    ("name", "about", "words"),
    [
        ("model.activation_checkpointing", settings(None, finetune="none"), "trains nothing"),
        ("model.scoring_tokens", settings(None), "set model.scoring to cached"),
        ("data.prompt.list_size", settings(None), "set data.prompt.layout to listwise"),
        ("data.prompt.cot_order", settings(None), "set data.prompt.cot to true"),
        (
            "data.pictures.max_pixels",
            settings(None, data={"pictures": PictureSettings("none")}, variant="none"),
            "serve=none shows none",
        ),
        ("data.retriever", settings(None), "set data.evaluator to rerank"),
        ("summaries.window", settings(None, variant="none"), "summaries.variant=none does without"),
        ("summaries.item.prompt", settings(None, variant="vst"), "summaries.variant=vst does without"),
        ("summaries.image.backbone", settings(None, summaries={"modality": "text"}), "does without"),
        ("prepare.corruption.share", settings(None), "set prepare.corruption.kind"),
        ("prepare.seed", settings(None, prepare={"split": "global_time"}), "prepare.split=global_time draws nothing"),
        ("prepare.columns.rating", {}, "it is amazon2014"),
        ("tracking.project", settings(None), "set tracking.wandb to true"),
        ("summaries.variant", settings(), "is about summaries"),
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
        ("model.loss", settings(None, finetune="none"), "trains nothing"),
        ("model.added_losses.dpo", settings(None, finetune="none"), "trains nothing"),
        ("data.n_train_negatives", settings(None, finetune="none"), "trains nothing"),
        ("data.n_train_negatives", settings(), "is about prompts"),
        ("data.negatives_from", loss_settings("response", n_train_negatives=1), "set data.n_train_negatives"),
        ("model.loss_on", loss_settings("listwise"), "model.loss=listwise does not train it"),
        ("model.loss_on", loss_settings("response", finetune="none"), "trains nothing"),
        ("model.dpo_beta", loss_settings("pairwise", response=1.0), "set it to dpo or softmax_dpo"),
    ],
)
def test_what_does_nothing_is_told_why(name, about, words):
    found = without_effect([name, "trainer.max_epochs"], about, True)
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
        (["model.loss_on", "model.loss", "data.negatives_from"], loss_settings("response")),
        (["model.loss_on"], loss_settings("listwise", response=0.5)),
        (["model.dpo_beta"], loss_settings("response", softmax_dpo=0.5)),
        (["model.dpo_beta", "model.added_losses"], loss_settings("dpo", finetune="full")),
        (["model.lr", "x", "model", ""], {}),
        (["data.retriever", "data.n_retrieved"], {"data": {"evaluator": "rerank"}}),
        (["data.retriever", "data.n_retrieved"], {"data": {"n_train_negatives": 2, "negatives_from": "hard"}}),
        (
            ["data.prompt.list_size", "model.scoring_tokens"],
            {
                "data": {"prompt": PromptSettings(wording="rec_gpt4v", layout="listwise")},
                "model": {"scoring": "cached"},
            },
        ),
        (["data.pictures.max_pixels"], {"data": {"pictures": {"serve": "none"}}}),
        (["summaries.window", "summaries.max_windows", "summaries.item"], settings(None, variant="base")),
        (["tracking.project", "tracking.tags"], {"tracking": {"wandb": True}}),
        (["prepare.corruption.share"], {"prepare": {"corruption": {"kind": "blur"}}}),
    ],
)
def test_what_does_something_passes(names, about):
    assert without_effect(names, about, True) == {}


@pytest.mark.parametrize("name", [*sorted(OF_ANY_MODEL), "item_features.text", "data.pictures.max_pixels"])
def test_baselines_without_features_read_no_pictures_and_texts(name):
    assert "SASRec reads neither" in without_effect([name], settings(), False)[name]
    assert without_effect([name], settings(), True) == {}
    assert ("SASRec reads neither" in without_effect([name], settings(None), False).get(name, "")) is False


def test_what_says_that_there_is_nothing_may_be_typed():
    names = ["data.pictures.serve"]
    assert without_effect(names, settings(data={"pictures": {"serve": "none"}}), False) == {}
    assert without_effect(names, settings(data={"pictures": {"serve": "pixels"}}), False).keys() == set(names)


def test_the_names_of_the_table_exist():
    """A setting that is renamed must be renamed there, too."""
    parser = full_parser("run", "")
    known = set(known_names(parser))
    stated = plain(parser.parse_args([]))
    for about in ({}, {"baseline": SASREC}, {"model": {**stated["model"], "finetune": "none"}}):
        for variant in ("none", "vst"):
            for source in ("demo", "amazon2018", "tables"):
                changed = {"summaries": {"variant": variant}, "prepare": {"source": source, "split": "global_time"}}
                names = ineffective({**stated, **about, **changed}, False)
                assert {name for name in names if name not in known} <= {"data.backbone", "data.revision"}
                assert len(names) > 10


def test_the_settings_of_prompts_are_those_that_no_baseline_reads():
    """A new setting of the prompts' data module belongs to the list, or to what every model reads."""
    prompts = inspect.signature(PromptDataModule).parameters.keys() - inspect.signature(RankingDataModule).parameters
    assert prompts - {"shared", "backbone", "revision", "pictures"} == set(PROMPT_DATA)
