"""Lines of a training and an evaluation in a log file."""

import math
import re
from types import SimpleNamespace

import pytest
import torch

from mllm_srec.cli import progress_lines
from mllm_srec.cli.progress_lines import ProgressLines


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def trainer(**changes):
    values = {
        "global_step": 0, "is_global_zero": True, "current_epoch": 1, "max_epochs": 4, "sanity_checking": False,
        "estimated_stepping_batches": 400, "callback_metrics": {"train/loss": torch.tensor(0.69312)},
        "num_val_batches": [10, 30], "num_test_batches": [10, 30], "num_predict_batches": [40], "training": True,
        "state": SimpleNamespace(fn="fit"), **changes,
    }  # fmt: skip
    return SimpleNamespace(**values)


def test_a_line_of_training_every_half_minute(capsys):
    lines, clock = ProgressLines(clock := Clock()), clock
    fit = trainer(global_step=20)
    lines.on_train_start(fit, None)
    for second in range(1, 121):
        clock.now += 1
        fit.global_step = 20 + second // 2
        lines.on_train_batch_end(fit, None, None, None, 0)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 4
    assert said[0] == ("training: 35 of 400 steps (9 %), 30 a minute, 12 min 10 s left; epoch 2 of 4, loss 0.6931")


def test_a_validation_within_training_has_lines_of_its_own(capsys):
    lines = ProgressLines(clock := Clock())
    fit = trainer(global_step=20)
    lines.on_train_start(fit, None)
    lines.on_validation_start(fit, None)
    for _ in range(35):
        clock.now += 1
        lines.on_validation_batch_end(fit, None, None, None, 0)
    lines.on_validation_end(fit, None)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("validating: 30 of 40 batches (75 %)")
    clock.now += 26
    fit.global_step = 26
    lines.on_train_batch_end(fit, None, None, None, 0)
    assert capsys.readouterr().err.startswith("training: 26 of 400 steps (6 %), ")


@pytest.mark.parametrize(("stage", "word"), [("validation", "validating"), ("test", "testing"), ("predict", "scoring")])
def test_evaluations(stage, word, capsys):
    lines = ProgressLines(clock := Clock())
    run = trainer(state=SimpleNamespace(fn=stage), training=False)
    getattr(lines, f"on_{stage}_start")(run, None)
    for _ in range(35):
        clock.now += 1
        getattr(lines, f"on_{stage}_batch_end")(run, None, None, None, 0, 0)
    assert capsys.readouterr().err == f"{word}: 30 of 40 batches (75 %), 1.0 a second, 10 s left\n"


def test_only_the_first_process_speaks_and_training_may_be_endless(capsys):
    for first, expected in ((True, "training: 5 steps; epoch 2, loss"), (False, "")):
        lines = ProgressLines(clock := Clock())
        fit = trainer(is_global_zero=first, estimated_stepping_batches=math.inf, max_epochs=-1, global_step=5)
        lines.on_train_start(fit, None)
        clock.now += 31
        lines.on_train_batch_end(fit, None, None, None, 0)
        assert re.match(expected, capsys.readouterr().err)


def test_a_terminal_has_a_bar(monkeypatch):
    for answers, expected in (((True, True), True), ((True, False), False), ((False, True), False)):
        monkeypatch.setattr(progress_lines.sys, "stdout", SimpleNamespace(isatty=lambda a=answers: a[0]))
        monkeypatch.setattr(progress_lines.sys, "stderr", SimpleNamespace(isatty=lambda a=answers: a[1]))
        assert progress_lines.on_terminal() is expected
