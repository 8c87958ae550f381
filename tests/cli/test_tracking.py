"""A run that could not be tracked is refused before anything is built, and no other."""

from pathlib import Path

import pytest

from mllm_srec.__main__ import main
from mllm_srec.cli.schema import TrackingSettings
from mllm_srec.cli.tracking import check_tracking
from mllm_srec.types import ConfigError

WANTED = TrackingSettings(wandb=True)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    return tmp_path


def test_no_key():
    with pytest.raises(ConfigError, match=r"tracking.wandb=True: no key for api.wandb.ai .*; run `wandb login`, or"):
        check_tracking(WANTED, {})
    with pytest.raises(ConfigError, match=r"no key for wandb.example.org"):
        check_tracking(WANTED, {"WANDB_BASE_URL": "https://wandb.example.org", "WANDB_MODE": "online"})


@pytest.mark.parametrize(
    "variables",
    [{"WANDB_API_KEY": "k"}, {"WANDB_IDENTITY_TOKEN_FILE": "f"}, {"WANDB_MODE": "offline"}, {"WANDB_MODE": "disabled"}],
)
def test_what_needs_no_entry(variables):
    check_tracking(WANTED, variables)


@pytest.mark.parametrize("settings", [TrackingSettings(), TrackingSettings(wandb=True, offline=True)])
def test_what_needs_no_key(settings):
    check_tracking(settings, {})


def test_a_key_of_the_right_server(home):
    (home / ".netrc").write_text("machine api.wandb.ai login user password secret\n")
    check_tracking(WANTED, {})
    (home / ".config/wandb").mkdir(parents=True)
    (home / ".config/wandb/settings").write_text("[default]\nbase_url = https://wandb.example.org\n")
    with pytest.raises(ConfigError, match=r"wandb.example.org"):
        check_tracking(WANTED, {})
    (home / "elsewhere").write_text("machine wandb.example.org login user password secret\n")
    check_tracking(WANTED, {"NETRC": str(home / "elsewhere")})


def test_files_that_cannot_be_read_hold_no_key(home):
    (home / ".netrc").write_text("machine\n")
    (home / ".config/wandb").mkdir(parents=True)
    (home / ".config/wandb/settings").write_bytes(b"\xff[")
    with pytest.raises(ConfigError, match=r"api.wandb.ai"):
        check_tracking(WANTED, {})


@pytest.mark.parametrize("command", ["fit", "run", "test"])
def test_it_is_said_before_anything_is_built(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert main([command, "--tracking.wandb", "true", "--prepare.source", "demo"]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"mllm_srec {command}: error: tracking.wandb=True: no key")
    assert list(tmp_path.iterdir()) == []
