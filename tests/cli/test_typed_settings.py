"""What is typed and would do nothing is refused; what stands in a file may be meant for another model."""

import pytest

from mllm_srec.cli.checks import check_typed
from mllm_srec.cli.schema import full_parser
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
