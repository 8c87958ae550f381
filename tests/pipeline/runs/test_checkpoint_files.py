"""Checkpoints on disk: whole whatever ends the process, and refused where a byte differs."""

import errno
import os
import random
import signal
import subprocess
import sys
import zipfile

import pytest
import torch

from mllm_srec.pipeline.runs.checkpoint_files import (
    WholeCheckpointIO,
    read_checkpoint,
    readable_to_continue,
    remove_partial,
    whole_checkpoints,
)
from mllm_srec.types import ConfigError, DataError

CONTENT = {"mllm_srec": {"lora.r": 4}, "global_step": 3, "state_dict": {"a": torch.arange(5000.0), "b": torch.ones(7)}}


@pytest.fixture
def path(tmp_path):
    """A checkpoint `last.ckpt`, with `best.ckpt` of an earlier step beside it."""
    folder = tmp_path / "runs/demo/a/checkpoints"
    WholeCheckpointIO().save_checkpoint(CONTENT, folder / "last.ckpt")
    WholeCheckpointIO().save_checkpoint({**CONTENT, "global_step": 2}, folder / "best.ckpt")
    return folder / "last.ckpt"


def test_a_checkpoint_of_ours_is_read(path):
    assert read_checkpoint(path)["global_step"] == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no checkpoint", r"b.ckpt: the checkpoint cannot be read \(it is cut off or is no checkpoint\); delete it"),
        (b"", r"cannot be read \(it is empty\)"),
        (b"PK\x03\x04 half a zip file", "it is cut off"),
        ({"state_dict": {}}, "was not written by mllm_srec"),
        ([1, 2], "was not written by mllm_srec"),
        ({"mllm_srec": {}, "hyper_parameters": {"lr": 1}}, "was not written by mllm_srec"),  # would override flags
    ],
)
def test_files_that_are_not_our_checkpoints(content, message, tmp_path):
    path = tmp_path / "b.ckpt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises((ConfigError, DataError), match=message):
        read_checkpoint(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"ckpt_path='.*none.ckpt': no such file"):
        read_checkpoint(tmp_path / "none.ckpt")


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Harm:
        def __reduce__(self):
            return (open, (str(tmp_path / "harm"), "w"))

    torch.save({"mllm_srec": Harm()}, tmp_path / "a.ckpt")
    with pytest.raises(DataError, match="it holds more than numbers and names, which could run code") as caught:
        read_checkpoint(tmp_path / "a.ckpt")
    assert "weights_only" not in str(caught.value)
    with pytest.raises(Exception, match="Weights only"):
        WholeCheckpointIO().load_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    assert not (tmp_path / "harm").exists()


def test_no_flipped_bit_changes_a_number(path):
    whole, draw, refused = path.read_bytes(), random.Random(0), []
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            found = read_checkpoint(path)
        except DataError as error:
            refused.append(str(error))
        else:  # between two records
            assert all(torch.equal(found["state_dict"][name], value) for name, value in CONTENT["state_dict"].items())
    assert len(refused) > 130
    assert all(message.startswith(f"{path}: ") for message in refused)


def test_a_kill_while_writing_leaves_the_earlier_checkpoint(path):
    code = (
        "import os, signal, sys, torch\n"
        "from mllm_srec.pipeline.runs.checkpoint_files import WholeCheckpointIO\n"
        "os.fsync = lambda number: os.kill(os.getpid(), signal.SIGKILL)\n"
        "WholeCheckpointIO().save_checkpoint({'state_dict': torch.zeros(10**6)}, sys.argv[1])\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert read_checkpoint(path)["global_step"] == 3
    left = path.with_name(".last.ckpt.partial")
    assert left.exists()
    remove_partial(path.parent)
    assert sorted(os.listdir(path.parent)) == ["best.ckpt", "last.ckpt"]


def test_a_full_disk_is_one_sentence(path, monkeypatch):
    def full(number):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=rf"No space left on device.*is whole; make room in {path.parent} and"):
        WholeCheckpointIO().save_checkpoint(CONTENT, path)
    assert read_checkpoint(path)["global_step"] == 3
    assert sorted(os.listdir(path.parent)) == ["best.ckpt", "last.ckpt"]
    with pytest.raises(DataError, match="there is none before it"):
        WholeCheckpointIO().save_checkpoint(CONTENT, path.with_name("new.ckpt"))


def test_only_the_default_writer_is_replaced():
    class Own(WholeCheckpointIO):
        pass

    own = Own()
    assert whole_checkpoints(own) is own
    from lightning.fabric.plugins import TorchCheckpointIO

    assert type(whole_checkpoints(TorchCheckpointIO())) is WholeCheckpointIO


def test_a_damaged_last_checkpoint_gives_way_to_the_best(path):
    assert readable_to_continue(path)[0] == path
    path.write_bytes(b"")
    chosen, content, reason = readable_to_continue(path)
    assert (chosen, content["global_step"]) == (path.with_name("best.ckpt"), 2)
    assert reason.startswith(f"{path}: the checkpoint cannot be read (it is empty); going on from {chosen} (step 2)")
    chosen.write_bytes(b"also damaged")
    with pytest.raises(
        DataError, match=rf"it is empty\), nor can best.ckpt beside it; delete {path.parent.parent}, or"
    ):
        readable_to_continue(path)
    with pytest.raises(DataError, match=r"best.ckpt: the checkpoint cannot be read \(.*\); delete it"):
        readable_to_continue(chosen)


def test_a_last_checkpoint_that_the_machine_cannot_read_now_is_not_given_up(path, monkeypatch):
    """Going on from the best one would replace it, though it is whole."""

    def refuse(*args, **kwargs):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(zipfile, "ZipFile", refuse)
    expected = r"last\.ckpt: the checkpoint cannot be read \(Stale file handle\); see to the disk or the permissions"
    with pytest.raises(DataError, match=expected):
        readable_to_continue(path)
