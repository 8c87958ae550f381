"""Identity of backbones: two models are never taken for one, and a folder that is not whole is refused by file."""

import errno
import hashlib
import json
import os
import shutil
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file

from mllm_srec.baselines.parts.vip5_model import load_t5
from mllm_srec.families import config_file
from mllm_srec.families.config_file import read_config
from mllm_srec.families.lookup import family_of
from mllm_srec.models import clip, weight_files
from mllm_srec.models.backbone import BackboneSettings, load_backbone
from mllm_srec.models.backbone_files import describe_backbone, describe_text_encoder, describe_writer
from mllm_srec.models.checkpoint import check_identity, identity
from mllm_srec.models.text_encoder import SentenceEncoder
from mllm_srec.pipeline.build import DEMO_FOLDER
from mllm_srec.prompts.encoding import load_encoder
from mllm_srec.types import ConfigError

CPU = torch.device("cpu")
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
COMMITS = {"main": "a" * 40, "v1": "b" * 40}


def shift(folder, name, by=0.5):
    """Change one tensor of a folder's weights."""
    weights = load_file(folder / "model.safetensors")
    weights[name] += by
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture
def copy(tiny_backbone, tmp_path):
    return Path(shutil.copytree(tiny_backbone, tmp_path / "copy"))


# --- models of the hub --------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tiny_backbone, tmp_path, monkeypatch):
    """A hub's cache with two revisions of org/model, as `hf download` leaves them: links to blobs."""
    model = tmp_path / "hub/models--org--model"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    other = Path(shutil.copytree(tiny_backbone, tmp_path / "other"))
    shift(other, "model.layers.1.mlp.up_proj.weight")
    for (revision, commit), source in zip(COMMITS.items(), (tiny_backbone, other), strict=True):
        (model / "refs").mkdir(parents=True, exist_ok=True)
        (model / "refs" / revision).write_text(commit)
        (model / "snapshots" / commit).mkdir(parents=True)
        (model / "blobs").mkdir(exist_ok=True)
        for path in source.iterdir():
            blob = model / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
            shutil.copyfile(path, blob)
            (model / "snapshots" / commit / path.name).symlink_to(blob)
    return model


def test_revisions_of_a_hub_model_are_different_models(hub):
    main, v1 = describe_backbone("org/model"), describe_backbone("org/model", "v1")
    assert main.fingerprint != v1.fingerprint
    assert (main.commit, v1.commit) == (COMMITS["main"], COMMITS["v1"])
    assert describe_backbone("org/model", "main") == main
    assert describe_backbone("org/model", COMMITS["main"]) == main
    assert describe_writer("org/model", "v1").fingerprint == v1.fingerprint


def test_a_branch_that_moved_is_another_model(hub):
    before = describe_backbone("org/model").fingerprint
    (hub / "refs/main").write_text(COMMITS["v1"])
    assert describe_backbone("org/model").fingerprint == describe_backbone("org/model", "v1").fingerprint != before


def test_weights_are_those_of_the_revision(hub):
    def weight(revision):
        backbone = load_backbone(BackboneSettings("org/model", revision, "none", quantization="none"), CPU)
        assert backbone.info.commit == COMMITS[revision or "main"]
        return backbone.language_model.layers[1].mlp.up_proj.weight

    assert torch.allclose(weight("v1"), weight(None) + 0.5)
    assert len(load_encoder("org/model", "v1").tokenizer) == len(load_encoder("org/model").tokenizer)


def test_a_checkpoint_of_one_revision_is_refused_by_another(hub):
    v1, main = (BackboneSettings("org/model", revision) for revision in ("v1", None))
    stored = identity(v1, describe_backbone("org/model", "v1"))
    message = r"'org/model' at commit b+, now 'org/model' at commit a+\):\n  fingerprint[\s\S]*--model.revision b{40}"
    with pytest.raises(ConfigError, match=message):
        check_identity(stored, identity(main, describe_backbone("org/model")))


def test_a_checkpoint_of_a_version_without_commits_is_accepted_with_a_warning(hub):
    settings, info = BackboneSettings("org/model"), describe_backbone("org/model")
    stored = {**identity(settings, info), "fingerprint": info.earlier_fingerprint}
    stored.pop("commit")
    assert info.earlier_fingerprint == describe_backbone("org/model", "v1").earlier_fingerprint, "not told apart then"
    with pytest.warns(UserWarning, match="earlier version, on 'org/model'; see to it that 'org/model' at commit a+ is"):
        check_identity(stored, identity(settings, info), info.earlier_fingerprint)
    with pytest.raises(ConfigError, match=r"lora\.r: checkpoint 9"), pytest.warns(UserWarning, match="earlier"):
        check_identity({**stored, "lora.r": 9}, identity(settings, info), info.earlier_fingerprint)


def test_damage_in_the_cache_is_named(hub):
    blob = (hub / "snapshots" / COMMITS["v1"] / "model.safetensors").resolve()
    blob.write_bytes(blob.read_bytes()[:-1000])
    with pytest.raises(ConfigError, match=r"'org/model': model.safetensors is not whole: .* where its header promises"):
        describe_backbone("org/model", "v1")


def test_a_model_that_is_not_cached_is_said_to_be_out_of_reach(hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        ConfigError,
        match=r"'org/absent'.* cannot be read: .*the hub is out of reach, or switched off by HF_HUB_OFFLINE",
    ):
        describe_backbone("org/absent")
    with pytest.raises(ConfigError, match=r"'org/model' \(revision v2\): cannot be read"):
        describe_backbone("org/model", "v2")


@pytest.fixture
def silent_hub(monkeypatch):
    """An address that takes connections and never answers, in place of the hub."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_ETAG_TIMEOUT", 1)
        monkeypatch.setattr(config_file, "_asked", {})
        yield server


def test_a_hub_that_cannot_be_reached_is_given_up_after_seconds(hub, silent_hub, capsys):
    started = time.monotonic()
    with pytest.raises(ConfigError, match=r"'org/absent': cannot be read: .* the hub is out of reach"):
        describe_backbone("org/absent")
    assert describe_backbone("org/model", "v1").commit == COMMITS["v1"], "cached models still work"
    assert time.monotonic() - started < 60
    assert capsys.readouterr().err.count("cannot be reached (timed out): only files that are cached here are used") == 1
    assert not huggingface_hub.constants.HF_HUB_OFFLINE, "other code of this process may use the hub"


def test_every_file_of_a_model_is_read_without_waiting_for_the_hub(hub, silent_hub):
    started = time.monotonic()
    settings = BackboneSettings("org/model", "v1", "none", quantization="none")
    assert load_backbone(settings, CPU).info.commit == COMMITS["v1"]
    load_encoder("org/model", "v1")
    family_of(read_config("org/model"), "org/model").load_image_processor("org/model", "v1", 784, 7840)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_t5("org/absent", 0.0)
    with pytest.raises(ConfigError, match="cannot be used"):
        clip._load("org/absent", None)
    assert time.monotonic() - started < 60


def test_a_hub_is_asked_again_after_a_while(silent_hub, monkeypatch, capsys):
    answers = ["timed out", "timed out", ""]
    monkeypatch.setattr(config_file, "_unreachable", lambda endpoint: answers.pop(0))

    def is_offline():
        with config_file.hub_given_up_early("org/model"), config_file.hub_given_up_early("org/other"):
            return huggingface_hub.constants.HF_HUB_OFFLINE

    assert [is_offline(), is_offline(), len(answers)] == [True, True, 2], "asked once"
    monkeypatch.setattr(config_file, "BELIEVED", 0.0)
    assert [is_offline(), is_offline(), is_offline(), answers] == [True, False, False, []]
    assert capsys.readouterr().err.count("cannot be reached") == 1


def test_threads_share_the_switch_and_the_users_own_stays(silent_hub, monkeypatch):
    monkeypatch.setattr(config_file, "_unreachable", lambda endpoint: "timed out")
    states = []

    def read(_):
        with config_file.hub_given_up_early("org/model"):
            states.append(huggingface_hub.constants.HF_HUB_OFFLINE)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, range(200)))
    assert states == [True] * 200
    assert not huggingface_hub.constants.HF_HUB_OFFLINE
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    read(0)
    assert huggingface_hub.constants.HF_HUB_OFFLINE


# --- folders ------------------------------------------------------------------------------------------------------


def test_the_shipped_backbone_keeps_the_name_that_results_know_it_by():
    assert describe_backbone(str(DEMO_FOLDER)).fingerprint == "9da20687a855e2cd"
    assert describe_backbone(str(DEMO_FOLDER)).earlier_fingerprint is None


def test_a_change_in_the_middle_of_a_file_is_noticed(tmp_path):
    """A merged adapter changes layers only: both ends of the file, the vocabulary and the tower, stay as they are."""
    folder = Path(shutil.copytree(DEMO_FOLDER, tmp_path / "demo"))
    size = (folder / "model.safetensors").stat().st_size
    assert size > 2 * weight_files.END_BYTES
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\x01")
    info = describe_backbone(str(folder))
    assert info.fingerprint != "9da20687a855e2cd"
    assert info.earlier_fingerprint == "9da20687a855e2cd"


def test_a_change_at_the_end_of_a_file_is_noticed(tmp_path):
    folder = Path(shutil.copytree(DEMO_FOLDER, tmp_path / "demo"))
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    info = describe_backbone(str(folder))
    assert info.fingerprint != "9da20687a855e2cd" != info.earlier_fingerprint is not None


def test_every_tensor_of_a_very_large_file_is_sampled(copy, monkeypatch):
    monkeypatch.setattr(weight_files, "END_BYTES", 64)
    monkeypatch.setattr(weight_files, "HASHED_WHOLE", 1000)
    weight_files._hash_middle.cache_clear()
    names = [name for name, tensor in load_file(copy / "model.safetensors").items() if tensor.ndim == 2]
    found = {describe_backbone(str(copy)).fingerprint}
    for name in names[:6]:
        shift(copy, name)
        found.add(describe_backbone(str(copy)).fingerprint)
    assert len(found) == 7


BROKEN = {
    "cannot be read: config.json is missing; give a folder": ("config.json", None),
    "config.json is a pointer of git-lfs": ("config.json", POINTER),
    "cannot be read: .*config.json.* copy config.json from": ("config.json", '{"model_type": "qwen2'),
    "model.safetensors is missing": ("model.safetensors", None),
    "model.safetensors is a pointer of git-lfs, .* run `git lfs pull`": ("model.safetensors", POINTER),
    "model.safetensors is not whole: [0-9,]+ bytes where its header promises": ("model.safetensors", 0.5),
    "model.safetensors is not whole, or is no file of weights": ("model.safetensors", "x" * 500),
    "model.safetensors is not whole, or is no file .*": ("model.safetensors", ""),
    "tokenizer.json is missing; copy the tokenizer's files": ("tokenizer.json", None),
    "tokenizer.json is a pointer of git-lfs": ("tokenizer.json", POINTER),
    "preprocessor_config.json is missing": ("preprocessor_config.json", None),
    "preprocessor_config.json is a pointer of git-lfs": ("preprocessor_config.json", POINTER),
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_folder_that_is_not_whole_is_refused_by_file(copy, message):
    file, content = BROKEN[message]
    path = copy / file
    if content is None:
        path.unlink()
    elif isinstance(content, float):
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * content)])
    else:
        path.write_text(content)
    with pytest.raises(ConfigError, match=rf"backbone='{copy}': {message}"):
        describe_backbone(str(copy))


def test_a_missing_shard_of_older_files_is_named(copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model-00001-of-00002.bin")
    shards = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
    (copy / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(
        ConfigError, match=r"pytorch_model-00002-of-00002\.bin is missing, which pytorch_model\.bin\.index"
    ):
        describe_backbone(str(copy))


TOKENIZERS = ["tokenizer.model", "tokenizer.model.v3", "spm.model", "sentencepiece.bpe.model", "tiktoken.model"]
TOKENIZERS += ["qwen.tiktoken", "vocab.txt", "vocab.json", "source.spm", "tekken.json", "prophetnet.tokenizer"]


@pytest.mark.parametrize("file", TOKENIZERS)
def test_files_of_every_kind_of_tokenizer_are_known(copy, file):
    (copy / "tokenizer.json").unlink()
    for other in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"):
        (copy / other).write_text("{}")  # which say something about a tokenizer, and are none
    with pytest.raises(ConfigError, match=r"tokenizer\.json is missing"):
        weight_files.check_files(copy, "copy", pictures=True)
    (copy / file).touch()
    weight_files.check_files(copy, "copy", pictures=True)


def test_a_tokenizer_of_bytes_needs_no_file(copy):
    (copy / "tokenizer.json").unlink()
    (copy / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    weight_files.check_files(copy, "copy", pictures=True)


def test_what_a_trainer_leaves_is_not_taken_for_weights(copy):
    (copy / "model.safetensors").unlink()
    (copy / "training_args.bin").touch()
    with pytest.raises(ConfigError, match=r"model\.safetensors is missing \(and no shard"):
        describe_backbone(str(copy))
    (copy / "pytorch_model.bin").touch()
    weight_files.check_files(copy, "copy", pictures=True)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "preprocessor_config.json"])
def test_a_file_that_may_not_be_read_is_named(copy, file, monkeypatch):
    def refuse(path, *arguments, **options):
        if path == copy / file:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return whole(path, *arguments, **options)

    whole = Path.open
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(
        ConfigError, match=rf"copy': {file} cannot be read \(Permission denied\); see to its permissions"
    ):
        describe_backbone(str(copy))


def test_a_missing_shard_is_named(copy):
    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    names, shards = sorted(weights), ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    for shard, half in zip(shards, (names[::2], names[1::2]), strict=True):
        save_file({name: weights[name] for name in half}, copy / shard, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: shards[place % 2] for place, name in enumerate(names)}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    whole = describe_backbone(str(copy)).fingerprint
    assert load_backbone(BackboneSettings(str(copy)), CPU).info.fingerprint == whole
    (copy / shards[1]).unlink()
    with pytest.raises(
        ConfigError, match=r"model-00002-of-00002.safetensors is missing, which model.safetensors.index"
    ):
        describe_backbone(str(copy))
    (copy / "model.safetensors.index.json").write_text("{")
    with pytest.raises(ConfigError, match=r"model.safetensors.index.json is damaged"):
        describe_backbone(str(copy))


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_weights_that_a_file_lacks_are_not_drawn_at_random(copy, quantization):
    weights = load_file(copy / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lack 1 weights, such as model.language_model.layers.0.mlp.up_proj.weight"):
        load_backbone(BackboneSettings(str(copy), quantization=quantization), CPU)


def test_weights_of_another_shape_are_refused(copy):
    weights = load_file(copy / "model.safetensors")
    weights["model.norm.weight"] = torch.ones(3)
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"copy': its weights cannot be loaded \(.*download or copy the folder again"):
        load_backbone(BackboneSettings(str(copy)), CPU)


@pytest.mark.parametrize("content", ["{", POINTER])
def test_a_damaged_tokenizer_is_refused(copy, content):
    (copy / "tokenizer.json").write_text(content)
    with pytest.raises(ConfigError, match=r"copy': its tokenizer cannot be loaded .*tokenizer.json"):
        load_encoder(str(copy))


def test_a_text_encoder_needs_no_image_processor_and_all_weights(tmp_path):
    from transformers import BertConfig, BertModel

    folder = tmp_path / "bert"
    config = BertConfig(vocab_size=30, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    BertModel(config).save_pretrained(folder)
    with pytest.raises(ConfigError, match=r"tokenizer\.json is missing"):
        describe_text_encoder(str(folder))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "mug"]
    (folder / "vocab.txt").write_text("\n".join(words))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    SentenceEncoder(str(folder)).load(CPU)
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.0.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ConfigError, match=r"text_encoder=.* lack 1 weights, such as encoder.layer.0.output.dense.weight"
    ):
        SentenceEncoder(str(folder)).load(CPU)


# --- what is no model ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [False, True])
def test_an_adapter_says_which_model_to_give(copy, whole):
    about = {"base_model_name_or_path": "Qwen/Qwen2-VL-2B-Instruct", "revision": "c0ffee"}
    (copy / "adapter_config.json").write_text(json.dumps(about))
    if not whole:
        (copy / "config.json").unlink()
    message = (
        r"is a LoRA adapter, not a model; give .* Qwen/Qwen2-VL-2B-Instruct \(model.revision c0ffee\), .*--ckpt_path"
    )
    with pytest.raises(ConfigError, match=message):
        describe_backbone(str(copy))


def test_an_adapter_whose_base_was_moved_says_so(copy, tmp_path):
    (copy / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path / "gone")}))
    with pytest.raises(ConfigError, match=rf"give the folder that was at {tmp_path}/gone when it was trained"):
        describe_backbone(str(copy))
    (tmp_path / "gone").mkdir()
    with pytest.raises(ConfigError, match=rf"give the model that it names, {tmp_path}/gone, and test"):
        describe_backbone(str(copy))


def test_run_folders_files_and_wrong_paths_are_told_apart(tmp_path):
    (tmp_path / "run/adapter").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"is a run folder; give .*run/adapter if the run trained every weight"):
        describe_backbone(str(tmp_path / "run"))
    (tmp_path / "last.ckpt").write_text("x")
    with pytest.raises(ConfigError, match=r"last.ckpt': is a file; give a folder"):
        describe_backbone(str(tmp_path / "last.ckpt"))
    with pytest.raises(ConfigError, match=r"absent': cannot be read: there is no such folder"):
        describe_backbone(str(tmp_path / "absent"))
