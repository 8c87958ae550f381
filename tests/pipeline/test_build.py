"""What is missing is built once, whoever comes first, and what a kill left half done is done again."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.settings import CandidateSettings, DemoSettings, PrepareSettings
from mllm_srec.models.backbone_files import describe_backbone, foreign_note
from mllm_srec.pipeline import build
from mllm_srec.pipeline.build import DEMO_FOLDER, ensure_prepared, resolve_backbone, resolve_stages
from mllm_srec.summaries.settings import StageSettings, SummarySettings
from mllm_srec.types import ConfigError

DEMO = PrepareSettings(
    source="demo", k_core=1, demo=DemoSettings(n_users=12, n_items=30, n_interactions=6, image_size=28)
)
CANDIDATES = CandidateSettings(n_negatives=5)
CHILD = """
import runpy, sys
from pathlib import Path
from mllm_srec.pipeline.build import ensure_prepared, resolve_backbone
settings = runpy.run_path(sys.argv[1])
folder = Path("data/shop")
print(resolve_backbone("random", ensure_prepared(folder, settings["DEMO"], settings["CANDIDATES"], "")))
"""


def start(folder):
    command = [sys.executable, "-c", CHILD, __file__]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_processes_build_once(tmp_path):
    children = [start(tmp_path), start(tmp_path)]
    outs = [child.communicate(timeout=300) for child in children]
    assert [child.returncode for child in children] == [0, 0], outs
    assert outs[0][0] == outs[1][0]
    said = outs[0][1] + outs[1][1]
    assert said.count("preparing the demo shop") == 1
    assert said.count("making a small backbone") == 1


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["data/.shop.partial", "data/shop/backbones"])
def test_a_killed_build_is_done_again(tmp_path, moment):
    child = start(tmp_path)
    while not (tmp_path / moment).exists():
        assert child.poll() is None, child.communicate()
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert not list((tmp_path / "data/shop/backbones").glob("random-*/config.json"))
    again = start(tmp_path)
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert (tmp_path / out.strip() / "config.json").exists()
    made = [path for path in (tmp_path / "data/shop/backbones").iterdir() if path.is_dir()]
    assert [path.name for path in made] == [Path(out.strip()).name]


def test_a_real_data_set_is_not_prepared_by_itself(tmp_path):
    with pytest.raises(ConfigError, match=r"(?s)holds no prepared data set.*first run\n  python -m x prepare --c y"):
        ensure_prepared(tmp_path / "beauty", PrepareSettings(), CANDIDATES, "python -m x prepare --c y")
    assert list(tmp_path.iterdir()) == []


def test_other_settings_are_refused_by_name(shop_root):
    with pytest.raises(ConfigError, match=r'prepare.source: prepared with "tables", now "demo"'):
        ensure_prepared(shop_root / "shop", DEMO, CANDIDATES, "")


def test_a_named_backbone_is_left_alone(shop):
    assert resolve_backbone("Qwen/Qwen2-VL-2B-Instruct", shop) == "Qwen/Qwen2-VL-2B-Instruct"


def test_the_random_backbone_is_made_once_and_belongs_to_the_data(shop, tmp_path, monkeypatch, capsys):
    data = PreparedDataset(tmp_path, shop.manifest)
    object.__setattr__(data, "items", shop.items)
    object.__setattr__(data, "users", None)
    first = Path(resolve_backbone("random", data))
    assert first.parent == tmp_path / "backbones"
    stamp = (first / "config.json").stat().st_mtime_ns
    assert resolve_backbone("random", data) == str(first)
    assert (first / "config.json").stat().st_mtime_ns == stamp
    assert capsys.readouterr().err.count("making a small backbone of random weights") == 1
    tokenizer = (first / "tokenizer.json").read_text()
    assert '"mug"' in tokenizer or "mug" in tokenizer


def test_the_demo_backbone_comes_with_the_package(shop):
    folder = Path(resolve_backbone("demo", shop))
    assert folder == Path(build.__file__).parents[1] / "demo_backbone"


def test_a_backbone_for_other_data_is_named_before_anything_is_computed(shop, capsys):
    """The demo backbone speaks of the demo shop's products; on this shop, of tables, it would just go on."""
    build._warn_of_other_data.cache_clear()  # other tests may have heard it
    for _ in range(2):
        resolve_backbone("demo", shop)
    said = capsys.readouterr().err
    assert said.count("warning: the backbone demo_backbone was made for data of prepare.source=demo") == 1
    demo = SimpleNamespace(manifest={"prepare": {"source": "demo"}})
    assert resolve_backbone("demo", demo) == resolve_backbone("demo", shop)
    assert resolve_backbone("some/hub-name", shop) == "some/hub-name"
    assert capsys.readouterr().err == ""


def test_what_a_backbone_is_for_is_no_part_of_its_identity():
    """Published results name the demo backbone by this fingerprint."""
    info = describe_backbone(str(DEMO_FOLDER))
    assert (info.made_for, info.fingerprint) == ("demo", "9da20687a855e2cd")
    assert foreign_note(info, "demo") is None
    assert "mean nothing here" in foreign_note(info, "amazon2018")


def test_backbones_of_stages_have_the_same_names(shop):
    settings = SummarySettings(item=StageSettings(backbone="demo"), preference=StageSettings(backbone="Llama"))
    resolved = resolve_stages(settings, shop)
    assert resolved.image.backbone is None  # model.backbone
    assert resolved.item.backbone == resolve_backbone("demo", shop)
    assert resolved.preference == settings.preference
