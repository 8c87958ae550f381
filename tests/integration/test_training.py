"""Training through Lightning: what moves, what is stored, and that a resumed run equals an uninterrupted one."""

import lightning.pytorch as pl
import peft
import pytest
import torch
import transformers
from lightning.pytorch.callbacks import ModelCheckpoint

from mllm_srec.data.loading.prompt_batches import PromptCollator, PromptDataset
from mllm_srec.models.backbone import LoraSettings
from mllm_srec.models.recommender import MLLMRecommender
from mllm_srec.prompts.templates import PromptSettings
from mllm_srec.types import ConfigError


@pytest.fixture
def make_model(tiny_backbone):
    def make(**changes):
        values = {"lr": 5e-3, "lora": LoraSettings(r=4, dropout=0.1), **changes}
        return MLLMRecommender(str(tiny_backbone), **values)

    return make


def make_trainer(folder, epochs, **changes):
    options = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, **changes}
    return pl.Trainer(
        max_epochs=epochs, accelerator="cpu", default_root_dir=folder, use_distributed_sampler=False, **options
    )


def trained_state(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def assert_equal_states(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("quantization", ["nf4", "none"])
def test_adapters_move_and_the_base_does_not(make_model, make_datamodule, tmp_path, quantization):
    model, data = make_model(quantization=quantization), make_datamodule()
    model.configure_model()
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    before = trained_state(model)
    make_trainer(tmp_path, 1, enable_checkpointing=False).fit(model, data)
    for name, parameter in model.named_parameters():
        if name in frozen:
            assert torch.equal(parameter.view(torch.uint8), frozen[name].view(torch.uint8)), f"{name} moved"
        else:
            assert not torch.equal(parameter, before[name]), f"{name} did not move"
    assert len(before) == 28


def test_dropout_is_on_in_training_and_off_in_the_frozen_tower(make_model):
    model = make_model()
    model.configure_model()
    model.train()
    assert any(isinstance(m, torch.nn.Dropout) and m.training for m in model.modules())
    assert not model.loaded.base.model.visual.training
    model.eval()
    assert not any(m.training for m in model.modules())


def test_checkpoints_hold_adapters_only_and_change_the_answer(make_model, make_datamodule, tmp_path):
    data = make_datamodule()
    trainer = make_trainer(tmp_path, 1)
    model = make_model()
    trainer.fit(model, data)
    path = tmp_path / "last.ckpt"
    trainer.save_checkpoint(path)
    stored = torch.load(path, weights_only=True)
    assert set(stored["state_dict"]) == set(trained_state(model))
    assert "hyper_parameters" not in stored
    assert stored["mllm_srec"]["lora.r"] == 4
    assert stored["mllm_srec"]["quantization"] == "nf4"

    def scores(ckpt_path):
        fresh = make_model()
        out = make_trainer(tmp_path, 1).predict(fresh, data, ckpt_path=ckpt_path, weights_only=True)
        return torch.cat([batch["scores"].flatten() for batch in out])

    after = scores(path)
    assert (after - scores(None)).abs().max() > 1e-2
    batches = iter(data.predict_dataloader())
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(after, torch.cat([model.score_candidates(b).flatten() for b in batches]))


@pytest.mark.parametrize(
    ("changes", "match"),
    [({"lora": LoraSettings(r=2)}, "lora.r: checkpoint 4, now 2"), ({"quantization": "none"}, "nf4")],
)
def test_a_checkpoint_of_other_settings_is_refused(make_model, make_datamodule, tmp_path, changes, match):
    data, trainer = make_datamodule(max_train_groups=3), make_trainer(tmp_path, 1, limit_val_batches=0)
    trainer.fit(make_model(), data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(ConfigError, match=match):
        make_trainer(tmp_path, 1).predict(make_model(**changes), data, ckpt_path=tmp_path / "last.ckpt")


def test_a_renamed_module_is_an_error(make_model, make_datamodule, tmp_path):
    data, trainer = make_datamodule(max_train_groups=3), make_trainer(tmp_path, 1, limit_val_batches=0)
    trainer.fit(make_model(), data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    stored = torch.load(tmp_path / "last.ckpt", weights_only=True)
    stored["state_dict"] = {name.replace("q_proj", "query"): value for name, value in stored["state_dict"].items()}
    torch.save(stored, tmp_path / "renamed.ckpt")
    with pytest.raises(ConfigError, match="4 trained weights are missing"):
        make_trainer(tmp_path, 1).predict(make_model(), data, ckpt_path=tmp_path / "renamed.ckpt")


RESUMES = {
    "end of validation": {"every_n_epochs": 1, "monitor": "val/auc"},
    "end of an epoch": {"every_n_epochs": 1, "save_on_train_epoch_end": True},
    "mid-epoch": {"every_n_train_steps": 3},
}


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("every", RESUMES.values(), ids=RESUMES.keys())
def test_a_resumed_run_equals_an_uninterrupted_one(make_model, make_datamodule, tmp_path, every, num_workers):
    """Shuffled, packed, LoRA dropout 0.1; stopped as a kill would, continued from the checkpoint of that moment."""

    class KilledError(Exception):
        pass

    class Kill(pl.Callback):
        def __init__(self, batches):
            self.batches = batches

        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if trainer.global_step == self.batches:
                raise KilledError

    def data():
        return make_datamodule(num_workers=num_workers)

    whole = make_model(quantization="none")
    make_trainer(tmp_path, 3, enable_checkpointing=False).fit(whole, data())
    n_batches = len(data().train_examples()) // 3
    keep = ModelCheckpoint(tmp_path / "ckpt", filename="{step}", save_top_k=-1, **every)
    kill_at = n_batches + 3 if "every_n_epochs" in every else 4
    with pytest.raises(KilledError):
        make_trainer(tmp_path, 3, callbacks=[keep, Kill(kill_at)]).fit(make_model(quantization="none"), data())
    checkpoints = sorted((tmp_path / "ckpt").glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    resumed = make_model(quantization="none")
    steps = []

    class Count(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            steps.append((trainer.current_epoch, batch_idx))

    trainer = make_trainer(tmp_path, 3, enable_checkpointing=False, callbacks=[Count()])
    trainer.fit(resumed, data(), ckpt_path=checkpoints[-1])
    assert steps[0] == ((1, 0) if "every_n_epochs" in every else (0, 3))
    assert_equal_states(trained_state(resumed), trained_state(whole))


def test_32_samples_can_be_learnt_by_heart(make_model, make_datamodule, tmp_path):
    """Every family must reach AUC 1.0 on its own training pairs, or something between picture and loss is broken."""
    data = make_datamodule(max_train_groups=16, batch_size=16)
    data.setup("fit")
    model = make_model(quantization="none", finetune="full", lr=2e-3)
    make_trainer(tmp_path, 150, enable_checkpointing=False, limit_val_batches=0).fit(model, data)
    dataset = PromptDataset(data.train_examples(), data.stores, train=False)
    batch = PromptCollator(data.stores)([dataset[i] for i in range(len(dataset))])
    model.eval()
    with torch.no_grad():
        scores = model.score_candidates(batch)
    mask, liked = batch["candidate_mask"], batch["relevance"] == 1
    assert mask.sum() == 32
    assert scores[mask & liked].min() > scores[mask & ~liked].max(), "AUC below 1.0"


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_plain_transformers_and_peft_give_the_same_logits(
    make_model, make_datamodule, tiny_backbone, same_layout, tmp_path, quantization
):
    """The exported adapter, loaded without a line of ours, on the same tokens."""
    data, model = make_datamodule(), make_model(quantization=quantization)
    make_trainer(tmp_path, 2, enable_checkpointing=False, limit_val_batches=0).fit(model, data)
    model.save_adapter(tmp_path / "adapter")
    four_bit = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
        llm_int8_skip_modules=["model.visual", "lm_head"],
    )
    base = transformers.Qwen2VLForConditionalGeneration.from_pretrained(
        tiny_backbone, dtype=torch.float32, quantization_config=four_bit if quantization == "nf4" else None
    )
    plain = peft.PeftModel.from_pretrained(same_layout(base), tmp_path / "adapter").eval()
    yes, no = (transformers.AutoTokenizer.from_pretrained(tiny_backbone)(word).input_ids[0] for word in ("Yes", "No"))
    model.eval()
    dataset = PromptDataset(data.eval_examples("test")[1], data.stores, train=False)
    collate = PromptCollator(data.stores)
    for index in range(3):
        group = dataset[index]
        with torch.no_grad():
            ours = model.yes_no(collate([group]))[0]
        for target, expected in zip(group.targets, ours, strict=True):
            ids = torch.tensor([[*group.prefix_ids, *target.input_ids]])
            pictures = {}
            if target.picture:
                values, grid = data.stores.images.pixel_values([target.picture])
                types = (ids == data.stores.encoder.image_token_id).int()
                pictures = {"pixel_values": values, "image_grid_thw": grid, "mm_token_type_ids": types}
            with torch.no_grad():
                logits = plain(input_ids=ids, attention_mask=torch.ones_like(ids), **pictures).logits[0, -1]
            torch.testing.assert_close(logits[[yes, no]], expected, atol=1e-4, rtol=0)


def test_nothing_to_train_is_said(make_model, make_datamodule, tmp_path):
    with pytest.raises(ConfigError, match="finetune='none': leaves nothing to train"):
        make_trainer(tmp_path, 1).fit(make_model(finetune="none"), make_datamodule())


def test_a_checkpoint_says_when_the_prompts_are_others(make_model, make_datamodule, tmp_path):
    data, trainer = make_datamodule(max_train_groups=3), make_trainer(tmp_path, 1, limit_val_batches=0)
    trainer.fit(make_model(), data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    other = make_datamodule(prompt=PromptSettings(wording="neutral"))
    with pytest.warns(UserWarning, match="trained on other prompts: table1-article-v1 .* now table1-neutral-v1"):
        make_trainer(tmp_path, 1).predict(make_model(), other, ckpt_path=tmp_path / "last.ckpt")
    stored = torch.load(tmp_path / "last.ckpt", weights_only=True)
    stored["PromptDataModule"]["tokenizer"] = "another"
    torch.save(stored, tmp_path / "other.ckpt")
    with pytest.raises(ConfigError, match="another tokenizer"):
        make_trainer(tmp_path, 1).predict(make_model(), make_datamodule(), ckpt_path=tmp_path / "other.ckpt")
