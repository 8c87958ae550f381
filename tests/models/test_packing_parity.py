"""Packed rows equal separate rows equal plain transformers: logits and LoRA gradients (the core claim of packing)."""

import itertools

import pytest
import torch

from mllm_srec.models.losses import label_everything, response_loss
from mllm_srec.models.scoring import gather_answers, yes_no_logits
from mllm_srec.prompts.packing import PromptGroup, PromptTarget
from tests.left_padding import pack_padded

GRIDS = {"small": (1, 4, 4), "wide": (1, 4, 8), "tall": (1, 10, 4)}
PATCH = 3 * 2 * 14 * 14


def picture_pixels(key):
    t, h, w = GRIDS[key]
    return torch.randn(t * h * w, PATCH, generator=torch.Generator().manual_seed(len(key) * 7 + h))


def make_target(encoder, n_text, picture, label, seed, train=True):
    random = torch.Generator().manual_seed(seed)
    words = torch.randint(300, 400, (n_text,), generator=random).tolist()
    grid = GRIDS[picture] if picture else None
    n_tokens = grid[1] * grid[2] // 4 if grid else 0
    vision = [encoder._control_ids["<|vision_start|>"], *[encoder.image_token_id] * n_tokens]
    ids = ([*vision, encoder._control_ids["<|vision_end|>"]] if picture else []) + words
    return PromptTarget(ids, encoder.answer_ids[label] if train else [], grid, picture, relevance=label, kind=0)


def make_groups(encoder, pictures=True, train=True):
    """Three groups with contexts and targets of unequal lengths; one picture occurs twice, one target has none."""
    shapes = [(5, ["small", "wide"]), (17, ["tall", None, "small"]), (9, ["wide"])]
    groups = []
    for g, (n_prefix, shown) in enumerate(shapes):
        prefix = torch.randint(300, 400, (n_prefix,), generator=torch.Generator().manual_seed(g)).tolist()
        targets = [
            make_target(encoder, 3 + 2 * c, key if pictures else None, (g + c) % 2, seed=10 * g + c, train=train)
            for c, key in enumerate(shown)
        ]
        groups.append(PromptGroup(g, prefix, targets))
    return groups


def collate(encoder, groups, **packing):
    batch, pictures = pack_padded(groups, encoder, **packing)
    if pictures:
        distinct = list(dict.fromkeys(key for key, _ in pictures))
        batch["image_index"] = torch.tensor([distinct.index(key) for key, _ in pictures])
        batch["image_grid_thw"] = torch.tensor([GRIDS[key] for key in distinct])
        batch["pixel_values"] = torch.cat([picture_pixels(key) for key in distinct])
    return batch


def yes_no(backbone, encoder, batch):
    hidden = gather_answers(backbone(batch), batch["answer_index"])
    return yes_no_logits(hidden, backbone.lm_head, encoder.yes_id, encoder.no_id)


def plain_logits(backbone, encoder, group, target):
    """One prompt through the ordinary forward pass of transformers, with its own positions and causal mask."""
    ids = torch.tensor([[*group.prefix_ids, *target.input_ids]])
    pictures = {}
    if target.picture:
        pictures = {
            "pixel_values": picture_pixels(target.picture),
            "image_grid_thw": torch.tensor([target.grid]),
            "mm_token_type_ids": (ids == encoder.image_token_id).int(),
        }
    with torch.no_grad():
        logits = backbone.net(input_ids=ids, attention_mask=torch.ones_like(ids), **pictures).logits[0, -1]
    return logits[[encoder.yes_id, encoder.no_id]]


LAYOUTS = [
    {"packed": packed, "padding_side": side, "max_row_tokens": tokens}
    for packed, side, tokens in itertools.product([True, False], ["right", "left"], [4096, 60])
]


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("pictures", [True, False])
def test_every_layout_gives_the_logits_of_plain_transformers(load_tiny, encoder, pictures, quantization):
    backbone = load_tiny(quantization=quantization)
    groups = make_groups(encoder, pictures, train=False)
    expected = [plain_logits(backbone, encoder, group, target) for group in groups for target in group.targets]
    for layout in LAYOUTS:
        batch = collate(encoder, groups, **layout)
        with torch.no_grad():
            logits = yes_no(backbone, encoder, batch)[batch["candidate_mask"]]
        torch.testing.assert_close(logits, torch.stack(expected), atol=1e-5, rtol=0)
    assert (torch.stack(expected).diff(dim=0).abs() > 1e-3).all(), "all prompts score alike: the test shows nothing"


def gradients(backbone, batch):
    backbone.zero_grad()
    loss, _ = response_loss(backbone(batch), backbone.lm_head, batch)
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in backbone.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("pictures", [True, False])
def test_loss_and_lora_gradients_do_not_depend_on_the_layout(load_tiny, encoder, pictures):
    backbone = load_tiny(quantization="none")
    groups = make_groups(encoder, pictures)
    loss, expected = gradients(backbone, collate(encoder, groups, packed=False))
    assert expected
    assert all(gradient.abs().max() > 1e-4 for gradient in expected.values())
    for layout in LAYOUTS:
        other_loss, found = gradients(backbone, collate(encoder, groups, **layout))
        torch.testing.assert_close(other_loss, loss, atol=1e-5, rtol=0)
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def test_loss_equals_the_loss_of_plain_transformers(load_tiny, encoder):
    backbone = load_tiny(quantization="none")
    groups = make_groups(encoder, pictures=False)
    total, n_tokens = 0.0, 0
    for group in groups:
        for target in group.targets:
            ids = torch.tensor([[*group.prefix_ids, *target.input_ids, *target.answer_ids]])
            labels = ids.clone()
            labels[:, : len(group.prefix_ids) + len(target.input_ids)] = -100
            total += backbone.net(input_ids=ids, labels=labels).loss.item() * len(target.answer_ids)
            n_tokens += len(target.answer_ids)
    batch = collate(encoder, groups)
    loss, _ = response_loss(backbone(batch), backbone.lm_head, batch)
    assert loss.item() == pytest.approx(total / n_tokens, abs=1e-5)


@pytest.mark.parametrize("padding_side", ["right", "left"])
def test_literal_equation_3_trains_on_prompt_tokens_too(load_tiny, encoder, padding_side):
    backbone = load_tiny(quantization="none")
    total, n_tokens = 0.0, 0
    groups = [make_groups(encoder, pictures=False)[index] for index in (0, 2)]
    groups[0] = PromptGroup(0, groups[0].prefix_ids, groups[0].targets[:1])
    for group in groups:
        ids = torch.tensor([[*group.prefix_ids, *group.targets[0].input_ids, *group.targets[0].answer_ids]])
        total += backbone.net(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1)
        n_tokens += ids.shape[1] - 1
    batch = collate(encoder, groups, padding_side=padding_side)
    loss, _ = response_loss(backbone(batch), backbone.lm_head, label_everything(batch, encoder.image_token_id))
    assert loss.item() == pytest.approx(total / n_tokens, abs=1e-5)


def test_activation_checkpointing_changes_nothing(load_tiny, encoder):
    batch = collate(encoder, make_groups(encoder))
    loss, expected = gradients(load_tiny(quantization="nf4").train(), batch)
    other_loss, found = gradients(load_tiny(quantization="nf4", activation_checkpointing=True).train(), batch)
    torch.testing.assert_close(other_loss, loss, atol=1e-6, rtol=0)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=0)


def test_a_batch_equals_its_groups_alone(load_tiny, encoder):
    backbone = load_tiny(quantization="none")
    groups = make_groups(encoder, train=False)
    batch = collate(encoder, groups)
    together = yes_no(backbone, encoder, batch)
    for b, group in enumerate(groups):
        alone = yes_no(backbone, encoder, collate(encoder, [group]))
        torch.testing.assert_close(together[b, : len(group.targets)], alone[0], atol=1e-5, rtol=0)


def test_swapped_pictures_change_the_answer(load_tiny, encoder):
    """Two pictures of the same size in the wrong order are no error anywhere: only the scores can tell."""
    backbone = load_tiny(quantization="none")
    groups = make_groups(encoder, train=False)
    batch = collate(encoder, groups)
    before = yes_no(backbone, encoder, batch)
    pixels = {key: picture_pixels(key) for key in GRIDS}
    n_small, n_wide = len(pixels["small"]), len(pixels["wide"])
    swapped = batch["pixel_values"].clone()
    swapped[:n_small] = batch["pixel_values"][n_small : n_small + n_wide][:n_small]
    after = yes_no(backbone, encoder, {**batch, "pixel_values": swapped})
    changed = (before - after).abs().amax(dim=-1) > 1e-4
    assert changed.tolist() == [[True, False, False], [False, False, True], [False, False, False]]


def test_features_equal_pixels(load_tiny, encoder):
    backbone = load_tiny(quantization="nf4")
    batch = collate(encoder, make_groups(encoder, train=False))
    features = torch.cat(backbone.image_features(batch["pixel_values"], batch["image_grid_thw"]))
    served = {key: value for key, value in batch.items() if key != "pixel_values"} | {"image_features": features}
    torch.testing.assert_close(yes_no(backbone, encoder, served), yes_no(backbone, encoder, batch), atol=0, rtol=0)
