"""Misspelt names on the command line and in files: refused, with the place and the nearest valid name."""

import pytest

from mllm_srec.__main__ import main
from mllm_srec.cli.parser import suggestion

KNOWN = [
    "config", "data", "data.batch_size", "data.name", "data.root", "data.seed", "model", "model.lora",
    "model.lora.alpha", "model.lora.r", "model.lr", "prepare.demo.seed", "prepare.seed", "trainer.max_epochs",
    "trainer.min_epochs",
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("modle.lr", ["model.lr"]),  # wrong section
        ("data.lr", ["model.lr"]),  # of another section, though `data.root` is spelt more alike
        ("batch_size", ["data.batch_size"]),  # no section
        ("model.lora.alhpa", ["model.lora.alpha"]),  # wrong nested key
        ("trainer.max_epoch", ["trainer.max_epochs"]),
        ("epochs", ["trainer.min_epochs", "trainer.max_epochs"]),  # last part alone
        ("confg", ["config"]),
        ("prepare.sede", ["prepare.seed"]),
        ("trainer.seed", ["prepare.seed", "data.seed"]),  # two at most
        ("qqqqq", []),
    ],
)
def test_suggestion(name, expected):
    hint = f"; did you mean {' or '.join(map(repr, expected))}?" if expected else ""
    assert suggestion(name, KNOWN) == f"{name!r} is not known{hint}"


def refused(arguments, capsys):
    """What stands on stderr after exit with status 2."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    out = capsys.readouterr()
    assert out.out == ""
    return out.err


FLAGS = [
    ("--modle.lr", "1", "'modle.lr' is not known; did you mean 'model.lr'?"),
    ("--model.lora.rr", "1", "'model.lora.rr' is not known; did you mean 'model.lora.r'?"),
    ("--trainer.max_epoch", "1", "'trainer.max_epoch' is not known; did you mean 'trainer.max_epochs'?"),
    ("--confg", "x.yaml", "'confg' is not known; did you mean 'config'?"),
    ("--prepare.demo.n_usrs", "1", "'prepare.demo.n_usrs' is not known; did you mean 'prepare.demo.n_users'?"),
]


@pytest.mark.parametrize("command", ["prepare", "run", "fit", "test"])
@pytest.mark.parametrize(("flag", "value", "answer"), FLAGS[:2])
def test_wrong_flags_for_every_kind_of_command(command, flag, value, answer, capsys):
    message = refused([command, flag, value], capsys)
    assert message.startswith(f"python -m mllm_srec {command}: error: unrecognized arguments: {flag} {value}\n{answer}")
    assert message.endswith(f"\nTry 'python -m mllm_srec {command} --help'.\n")


@pytest.mark.parametrize(("flag", "value", "answer"), FLAGS[2:])
def test_wrong_flags(flag, value, answer, capsys):
    assert answer in refused(["fit", flag, value], capsys)


FILES = {
    "section": ("modle:\n  lr: 0.1\n", "'modle' is not known; did you mean 'model'?"),
    "key": ("data:\n  nam: x\n", "'data.nam' is not known; did you mean 'data.name'?"),
    "nested": ("model:\n  lora:\n    alfa: 8\n", "'model.lora.alfa' is not known; did you mean 'model.lora.alpha'?"),
    "demo": ("prepare: {demo: {n_user: 4}}\n", "'prepare.demo.n_user' is not known; did you mean"),
    "of another section": ("trainer: {batch_size: 4}\n", "did you mean 'data.batch_size'"),
    "trainer": ("trainer: {max_epoch: 4}\n", "'trainer.max_epoch' is not known; did you mean 'trainer.max_epochs'?"),
}


@pytest.mark.parametrize("command", ["prepare", "fit"])
@pytest.mark.parametrize(("text", "answer"), FILES.values(), ids=FILES.keys())
def test_wrong_keys_in_a_file(command, text, answer, tmp_path, capsys):
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    message = refused([command, "--config", str(path)], capsys)
    assert message.startswith(f"python -m mllm_srec {command}: error: {path}: ")
    assert answer in message


def test_every_wrong_key_is_named_at_once_with_its_file(tmp_path, capsys):
    (tmp_path / "right.yaml").write_text("data: {name: x}\n")
    (tmp_path / "wrong.yaml").write_text("data: {nam: x}\nmodel: {lrr: 1}\n")
    message = refused(["prepare", "--config", str(tmp_path / "right.yaml"), "-c", str(tmp_path / "wrong.yaml")], capsys)
    assert "wrong.yaml: 'data.nam'" in message
    assert "wrong.yaml: 'model.lrr'" in message
    assert "right.yaml" not in message


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("model: [1\n", "line 2 is not valid YAML"),
        ("- a\n", "holds list ['a']; sections such as `data:` are expected"),
        ("just words\n", "holds str 'just words'"),
    ],
)
def test_files_that_are_no_configuration(text, answer, tmp_path, capsys):
    (tmp_path / "broken.yaml").write_text(text)
    message = refused(["prepare", "--config", str(tmp_path / "broken.yaml")], capsys)
    assert "broken.yaml" in message
    assert answer in message


def test_a_missing_file_is_named(tmp_path, capsys):
    assert "absent.yaml" in refused(["prepare", "--config", str(tmp_path / "absent.yaml")], capsys)


def test_a_value_of_the_wrong_type_names_its_key(capsys):
    message = refused(["prepare", "--prepare.k_core", "many"], capsys)
    assert "prepare.k_core" in message
    assert "many" in message


def test_free_content_below_a_known_key_is_not_checked(tmp_path):
    """Callbacks carry settings of their own."""
    from mllm_srec.cli.schema import full_parser

    path = tmp_path / "callback.yaml"
    path.write_text(
        "trainer:\n  callbacks:\n"
        "  - class_path: lightning.pytorch.callbacks.LearningRateMonitor\n    init_args: {logging_interval: step}\n"
    )
    config = full_parser("prepare", "").parse_args(["--config", str(path)])
    assert config.trainer.callbacks[0].init_args.logging_interval == "step"
