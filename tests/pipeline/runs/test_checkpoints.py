"""The best checkpoint of a run that was moved, and the number of processes that trained."""

import pytest
import torch

from mllm_srec.pipeline.runs.checkpoints import N_PROCESSES, RunCheckpoint, check_processes
from mllm_srec.types import ConfigError

# --- the best checkpoint of a run that was moved ------------------------------------------------------------------


def state_of(folder):
    """State of a callback that kept a checkpoint with an AUC of 0.9 in `folder`."""
    callback = RunCheckpoint(folder, "best", monitor="val/auc")
    path = f"{callback.dirpath}/best.ckpt"
    callback.best_model_score = callback.current_score = callback.kth_value = torch.tensor(0.9)
    callback.best_k_models, callback.best_model_path, callback.kth_best_model_path = (
        {path: torch.tensor(0.9)},
        path,
        path,
    )
    return callback.state_dict()


def test_a_moved_run_still_knows_its_best(tmp_path):
    state = state_of(tmp_path / "old")
    (tmp_path / "new").mkdir()
    (tmp_path / "new/best.ckpt").touch()
    callback = RunCheckpoint(tmp_path / "new", "best", monitor="val/auc")
    callback.load_state_dict(state)
    path = str(tmp_path / "new/best.ckpt")
    assert (callback.best_model_path, callback.kth_best_model_path) == (path, path)
    assert callback.best_k_models == {path: torch.tensor(0.9)}
    assert callback.best_model_score == torch.tensor(0.9)


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_another_run_begins_without_a_best(tmp_path):
    callback = RunCheckpoint(tmp_path / "fork", "best", monitor="val/auc")
    callback.load_state_dict(state_of(tmp_path / "old"))
    assert callback.best_k_models == {}
    assert callback.best_model_score is None


def test_another_number_of_processes_does_not_resume():
    check_processes({N_PROCESSES: 2}, 2)
    check_processes({}, 2)  # of an earlier version
    with pytest.raises(ConfigError, match=r"trainer\.devices, .* trained by 2 processes, now there are 1"):
        check_processes({N_PROCESSES: 2}, 1)
