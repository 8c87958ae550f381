"""What is typed and would do nothing is refused; what stands in a file may be meant for another model."""

import pytest

from mllm_srec.__main__ import main
from mllm_srec.cli.checks import check_typed, unread_settings
from mllm_srec.cli.parser import plain
from mllm_srec.cli.schema import full_parser
from mllm_srec.pipeline.runs.effects import without_effect
from mllm_srec.types import ConfigError

SASREC = ["--baseline", "mllm_srec.baselines.sasrec.SASRec"]


def checked(arguments):
    check_typed(arguments, full_parser("run", "").parse_args(arguments))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model.lr", "1e30"], r"model.lr: would have no effect: .* SASRec .* set baseline.init_args.lr"),
        (["--model.lr=1e30"], "set baseline.init_args.lr"),
        (["--model", "{lr: 0.5}"], "set baseline.init_args.lr"),
        (["--data.prompt.cot=true"], "data.prompt.cot: would have no effect"),
    ],
)
def test_settings_of_the_recommender_beside_a_baseline(arguments, words):
    with pytest.raises(ConfigError, match=words):
        checked([*SASREC, *arguments])


def test_a_file_serves_models_of_every_kind(tmp_path):
    (tmp_path / "all.yaml").write_text("model: {lr: 0.5}\ndata: {prompt: {cot: true}}\nprepare: {source: demo}\n")
    checked(["--config", str(tmp_path / "all.yaml"), *SASREC, "--baseline.init_args.lr", "0.1"])
    checked(["--config", str(tmp_path / "all.yaml"), "--model.lr", "0.1"])


def test_nothing_typed_is_nothing_refused():
    """`run` checks the settings of its stages so, for which nothing was typed."""
    check_typed((), full_parser("run", "").parse_args([]))


@pytest.mark.parametrize("command", ["prepare", "summarize", "fit", "validate", "test", "predict", "rank", "run"])
def test_every_command_refuses_what_is_typed_and_does_nothing(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = ["--user", "u1"] if command == "rank" else []
    assert main([command, *flags, "--prepare.source", "demo", "--prepare.columns.rating", "stars"]) == 1
    assert "prepare.columns.rating: would have no effect: it is about raw files" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_summaries_are_written_whatever_baseline_the_file_chooses(monkeypatch, capsys):
    monkeypatch.setattr("mllm_srec.cli.devices.check_devices", lambda _: pytest.fail("passed"))
    with pytest.raises(BaseException, match="passed"):
        main(["summarize", *SASREC, "--summaries.window", "4"])
    assert main(["summarize", "--summaries.variant", "vst", "--summaries.window", "4"]) == 1
    assert "summaries.window: would have no effect" in capsys.readouterr().err


def test_a_backbone_beside_a_baseline_without_features():
    with pytest.raises(ConfigError, match=r"model\.backbone: would have no effect: .*SASRec reads neither"):
        checked([*SASREC, "--model.backbone", "demo"])
    checked(["--baseline", "mllm_srec.baselines.vbpr.VBPR", "--model.backbone", "demo"])


def test_what_a_run_does_not_read_is_what_may_not_be_typed():
    """One table: a setting is compared between runs if, and only if, it may be typed."""
    config = full_parser("run", "").parse_args(["--model.finetune", "none"])
    assert {"model.lr", "item_features", "data.retriever"} <= set(unread_settings(config))
    for name in unread_settings(config):
        assert without_effect([name], plain(config), False)
