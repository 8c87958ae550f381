"""The dispatcher: which command runs, what help costs, and how errors end."""

import importlib
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from mllm_srec import __version__
from mllm_srec.__main__ import COMMANDS, main
from mllm_srec.types import ConfigError

HEAVY = ("torch", "lightning", "transformers", "polars", "PIL", "datasets")


def python(*arguments):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_help_lists_every_command(arguments, capsys):
    assert main(arguments) == 0
    out = capsys.readouterr().out
    for command, (_, text) in COMMANDS.items():
        assert re.search(rf"^  {command} +{re.escape(text)}$", out, re.MULTILINE)
    assert "--config configs/demo.yaml" in out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"mllm_srec {__version__}\n"


@pytest.mark.parametrize(
    ("command", "expected"),
    [("tset", "there is no command 'tset'; did you mean 'test'?"), ("qqqq", "there is no command 'qqqq'. Commands:")],
)
def test_an_unknown_command(command, expected, capsys):
    assert main([command, "--config", "x"]) == 2
    out = capsys.readouterr()
    assert out.out == ""
    assert expected in out.err
    assert ", ".join(COMMANDS) in out.err


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["prepare", "--help"], ["rank", "--help"], ["run", "--help"], ["compare", "--help"], ["nonsense"]],
)
def test_help_of_our_own_commands_loads_nothing_heavy(arguments):
    code = (
        "import sys; from mllm_srec.__main__ import main\n"
        f"try: main({arguments!r})\n"
        "except SystemExit: pass\n"
        f"print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    started = time.monotonic()
    done = python("-c", code)
    assert done.stdout.splitlines()[-1] == "LOADED []", done.stderr
    assert time.monotonic() - started < 3, "help took more than three seconds"


def test_help_of_prepare_explains_settings_and_defaults():
    out = " ".join(python("-m", "mllm_srec", "prepare", "--help").stdout.split())
    assert "usage: python -m mllm_srec prepare" in out
    assert "Least number of interactions of every user and item" in out
    assert "(type: int, default: 5)" in out


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_help_of_a_trainer_command(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    out = " ".join(capsys.readouterr().out.split())
    assert f"usage: python -m mllm_srec {command} [-c CONFIG]" in out
    for text in ("--model.lora.r R", "--data.n_negatives", "--tracking.wandb", "--trainer.max_epochs", "--ckpt_path"):
        assert text in out
    assert "Learning rate of AdamW" in out


def test_an_explained_error_ends_with_status_1_and_no_traceback(capsys, monkeypatch):
    import mllm_srec.cli.commands.prepare

    def fail(command, arguments):
        raise ConfigError("k_core=0; set it to 1 or more")

    monkeypatch.setattr(mllm_srec.cli.commands.prepare, "main", fail)
    assert main(["prepare"]) == 1
    assert capsys.readouterr().err.splitlines()[1:] == ["mllm_srec prepare: error: k_core=0; set it to 1 or more"]


def test_a_bug_keeps_its_traceback(monkeypatch):
    import mllm_srec.cli.commands.prepare

    monkeypatch.setattr(mllm_srec.cli.commands.prepare, "main", lambda command, arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["prepare"])


@pytest.mark.parametrize(("number", "status", "cause"), [(2, 130, "Ctrl-C"), (15, 143, "SIGTERM")])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_is_told_to_stop_says_how_to_go_on(capsys, monkeypatch, command, number, status, cause):
    module = importlib.import_module(f"mllm_srec.cli.commands.{COMMANDS[command][0]}")
    monkeypatch.setattr(module, "main", lambda command, arguments: os.kill(os.getpid(), number))
    before = [signal.getsignal(number) for number in (2, 15)]
    assert main([command]) == status
    err = capsys.readouterr().err.removeprefix(f"mllm_srec {command}: loading libraries\n")
    assert err.startswith(f"\nmllm_srec {command}: stopped by {cause}; ")
    assert "the same command" in err
    assert err.count("\n") == 2
    assert [signal.getsignal(number) for number in (2, 15)] == before


@pytest.mark.parametrize("inside", [KeyboardInterrupt, lambda: sys.exit(1)])
def test_an_interrupt_of_a_library_is_no_traceback(capsys, monkeypatch, inside):
    """Lightning's Trainer turns it into an exit with status 1."""
    import mllm_srec.cli.commands.prepare

    def interrupt(command, arguments):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            if inside is KeyboardInterrupt:
                raise
            inside()

    monkeypatch.setattr(mllm_srec.cli.commands.prepare, "main", interrupt)
    assert main(["prepare"]) == 130
    assert "stopped by Ctrl-C" in capsys.readouterr().err


def test_the_process_passes_the_status_on():
    done = python("-m", "mllm_srec", "fti")
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean 'fit'?" in done.stderr


WRONG_TOGETHER = [
    (["fit", "--trainer.precision", "bf16-true"], "trainer.precision='bf16-true': would silently cast LoRA weights"),
    (["test", "--trainer.precision", "16-true"], "use bf16-mixed on a GPU and 32-true on a CPU"),
    (["test", "--trainer.limit_test_batches", "2"], "trainer.limit_test_batches=2: would measure a part"),
    (["predict", "--trainer.limit_predict_batches", "0.5"], "set data.max_test_groups"),
    (["fit", "--trainer.limit_val_batches", "3"], "set data.max_eval_groups"),
    (["validate", "--trainer.limit_val_batches", "0"], "set data.max_test_groups"),
    (["fit", "--data.pictures.serve=features", "--model.finetune=full"], "set data.pictures.serve to pixels"),
    (["fit", "--name", "a/b"], "name='a/b': is not a folder name"),
    (["fit", "--data.name", "../elsewhere"], "data.name='../elsewhere': is not a folder name"),
    (["prepare", "--data.name", "a/b"], "data.name='a/b': is not a folder name"),
    (["test", "--ckpt_path", "absent.ckpt"], "ckpt_path='absent.ckpt': no such file"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG_TOGETHER, ids=lambda v: v[1] if isinstance(v, list) else "")
def test_settings_that_do_harm_are_refused_before_anything_is_made(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--prepare.source", "demo"]) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("precision", ["32-true", "32", "64-true", "bf16-mixed", "16-mixed", None])
def test_other_precisions_pass(precision):
    from mllm_srec.cli.checks import _check_precision

    _check_precision(precision)


@pytest.mark.parametrize("command", ["--help", "rank --help", "prepare --help", "compare --help", "--version"])
def test_a_reader_that_has_seen_enough_ends_a_command_quietly(command):
    """`| head` closes the pipe while more is to come, or before anything was written."""
    for reader in ("head -n 1", "true"):
        line = f"{sys.executable} -m mllm_srec {command} | {reader}; exit ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=120, check=False)
        assert done.stderr == ""
        assert done.returncode in (0, 141)  # 0: the pipe took all of it before it was closed


def test_report_says_what_it_does_before_it_loads_its_libraries(tmp_path):
    code = (
        "import builtins, sys; from mllm_srec.__main__ import main; say = print\n"
        f"def first(*a, **k): builtins.print = say; say(a[0], [name for name in {HEAVY!r} if name in sys.modules])\n"
        f"builtins.print = first\nmain(['report', 'nothing', '--output', {str(tmp_path / 'page')!r}])"
    )
    done = python("-c", code)
    assert done.stdout.splitlines()[0] == f"making the report in {tmp_path / 'page'} []", done.stderr
    assert "nothing" in done.stderr
