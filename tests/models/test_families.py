"""Qwen2.5-VL: the same packed rows and cached scoring as Qwen2-VL, against its own plain forward pass."""

import lightning.pytorch as pl
import pytest
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from mllm_srec.models.backbone import BackboneSettings, load_backbone
from mllm_srec.models.losses import response_loss
from mllm_srec.models.prefix_cache import answer_states
from mllm_srec.models.recommender import MLLMRecommender
from mllm_srec.models.scoring import gather_answers, yes_no_logits
from mllm_srec.prompts.encoding import load_encoder, load_tokenizer
from mllm_srec.prompts.packing import PackingSettings, PromptGroup, PromptTarget, pack


@pytest.fixture(scope="module")
def qwen2_5_vl(tiny_backbone, tmp_path_factory):
    """A tiny untrained Qwen2.5-VL with window attention in its tower."""
    folder = tmp_path_factory.mktemp("qwen2_5")
    tokenizer = load_tokenizer(str(tiny_backbone))
    ids = tokenizer.get_vocab()
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 64,
            "fullatt_block_indexes": [1],
            "window_size": 56,
        },
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
    )
    torch.manual_seed(0)
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_packed_rows_and_cached_scoring_equal_the_plain_forward_pass(qwen2_5_vl, quantization):
    backbone = load_backbone(BackboneSettings(str(qwen2_5_vl), quantization=quantization), torch.device("cpu")).eval()
    encoder = load_encoder(str(qwen2_5_vl))
    grid = (1, 8, 12)
    pixels = torch.randn(96, 1176, generator=torch.Generator().manual_seed(0))
    picture = [encoder.image_token_id] * 24
    targets = [
        PromptTarget([300, *picture, 301, 302 + c], encoder.answer_ids[c], grid, "p", relevance=c) for c in (1, 0)
    ]
    group = PromptGroup(0, [310, 311, 312], targets)
    batch, _ = pack([group], encoder, PackingSettings())
    batch |= {"pixel_values": pixels, "image_grid_thw": torch.tensor([grid]), "image_index": torch.tensor([0, 0])}
    hidden = backbone(batch)
    with torch.no_grad():
        ways = torch.stack([gather_answers(hidden, batch["answer_index"])[0], answer_states(backbone, batch)[0]], dim=1)
    ours = yes_no_logits(ways, backbone.lm_head, encoder.yes_id, encoder.no_id)  # (targets, packed and cached, 2)
    for target, found in zip(targets, ours, strict=True):
        ids = torch.tensor([[*group.prefix_ids, *target.input_ids]])
        plain = backbone.net(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=pixels,
            image_grid_thw=torch.tensor([grid]),
            mm_token_type_ids=(ids == encoder.image_token_id).int(),
        ).logits[0, -1, [encoder.yes_id, encoder.no_id]]
        torch.testing.assert_close(found, plain.expand(2, 2), atol=1e-5, rtol=0)
    response_loss(hidden, backbone.lm_head, batch)[0].backward()
    gradients = [p.grad for n, p in backbone.named_parameters() if "lora_B" in n]
    assert gradients
    assert all(gradient.abs().max() > 0 for gradient in gradients)


def test_fit_and_test(qwen2_5_vl, make_datamodule, tmp_path):
    data = make_datamodule()
    data.backbone = str(qwen2_5_vl)
    model = MLLMRecommender(str(qwen2_5_vl), lr=1e-2)
    options = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", default_root_dir=tmp_path, use_distributed_sampler=False, **options
    )
    trainer.fit(model, data)
    metrics = trainer.test(model, data, verbose=False)[-1]
    assert metrics["test/n_users"] > 0
    assert 0 <= metrics["test/ndcg@10"] <= 1
