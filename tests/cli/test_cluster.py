"""Under Slurm no run may get the state of another."""

import pytest
from lightning.pytorch.plugins.environments import SLURMEnvironment

from mllm_srec.cli.cluster import cluster_plugins
from mllm_srec.types import ConfigError

LAUNCHERS = ("SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_JOB_NAME", "TORCHELASTIC_RUN_ID")


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def slurm(monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "2")


def test_without_a_cluster_the_trainer_chooses(tmp_path):
    assert cluster_plugins(tmp_path) is None


def test_slurm_without_requeueing(slurm, tmp_path):
    (plugin,) = cluster_plugins(tmp_path / "not/there")
    assert isinstance(plugin, SLURMEnvironment)
    assert not plugin.auto_requeue


def test_torchrun_under_slurm_keeps_its_own_way(slurm, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    assert cluster_plugins(tmp_path) is None


def test_an_interactive_job_starts_its_processes_itself(slurm, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
    assert cluster_plugins(tmp_path) is None


@pytest.mark.parametrize("torchrun", [False, True])
def test_a_checkpoint_that_any_run_would_load_is_refused(slurm, tmp_path, monkeypatch, torchrun):
    if torchrun:  # Lightning looks for it all the same
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    (tmp_path / "hpc_ckpt_3.ckpt").touch()
    with pytest.raises(ConfigError, match=r"hpc_ckpt_3\.ckpt: left by Lightning.*move it away"):
        cluster_plugins(tmp_path)
