"""Scoring with every token computed once equals packed rows equals separate full rows through plain transformers."""

import itertools
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import lightning.pytorch as pl
import pytest
import torch

from mllm_srec.models import prefix_cache
from mllm_srec.models.backbone import BackboneSettings, LoraSettings, load_backbone
from mllm_srec.models.prefix_cache import answer_states
from mllm_srec.models.recommender import MLLMRecommender
from mllm_srec.models.scoring import score
from mllm_srec.prompts import builder
from mllm_srec.prompts.chain_of_thought import CotPrompts, cot_context, cot_target
from mllm_srec.prompts.packing import PromptGroup, PromptTarget
from mllm_srec.prompts.templates import PromptSettings
from mllm_srec.types import ConfigError
from tests.left_padding import pack_padded

GRIDS = {"small": (1, 4, 4), "wide": (1, 4, 8), "tall": (1, 10, 4), "large": (1, 8, 12)}
LISTS = {1: 23, 2: 5, 21: 37, 101: 12}
"""Candidates of each group, and tokens of its prefix."""
PATCH = 3 * 2 * 14 * 14


def random_ids(n, seed):
    return torch.randint(300, 400, (n,), generator=torch.Generator().manual_seed(seed)).tolist()


def picture_pixels(key):
    t, h, w = GRIDS[key]
    return torch.randn(t * h * w, PATCH, generator=torch.Generator().manual_seed(len(key) * 7 + h))


def make_target(encoder, c, seed, pictures, train):
    picture = [*GRIDS, None][c % 5] if pictures else None
    grid = GRIDS[picture] if picture else None
    vision = []
    if grid:
        begin, end = (encoder._control_ids[f"<|vision_{side}|>"] for side in ("start", "end"))
        vision = [begin, *[encoder.image_token_id] * (grid[1] * grid[2] // 4), end]
    ids = [*vision, *random_ids(2 + c * 7 % 9, seed)]
    return PromptTarget(ids, encoder.answer_ids[c % 2] if train else [], grid, picture, relevance=c % 2, kind=0)


def make_groups(encoder, lists=LISTS, pictures=True, train=False):
    """Groups of 1, 2, 21 and 101 candidates, with pictures of four sizes and candidates without one."""
    return [
        PromptGroup(
            n, random_ids(n_prefix, n), [make_target(encoder, c, 1000 * n + c, pictures, train) for c in range(n)]
        )
        for n, n_prefix in lists.items()
    ]


def collate(encoder, groups, **packing):
    batch, pictures = pack_padded(groups, encoder, **packing)
    if pictures:
        distinct = list(dict.fromkeys(key for key, _ in pictures))
        batch["image_index"] = torch.tensor([distinct.index(key) for key, _ in pictures])
        batch["image_grid_thw"] = torch.tensor([GRIDS[key] for key in distinct])
        batch["pixel_values"] = torch.cat([picture_pixels(key) for key in distinct])
    return batch


def naive_scores(backbone, encoder, groups):
    """Every prompt as a full row of its own through transformers: its positions, its mask, its whole head."""
    scores = []
    for group in groups:
        for target in group.targets:
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
            scores.append(logits[encoder.yes_id] - logits[encoder.no_id])
    return torch.stack(scores)


def recommender(tiny_backbone, backbone, scoring="cached", tokens=None):
    model = MLLMRecommender(str(tiny_backbone), scoring=scoring, scoring_tokens=tokens)
    model.attach(backbone)
    return model.eval()


def with_features(backbone, batch):
    """The batch as the feature store serves it."""
    features = torch.cat(backbone.image_features(batch["pixel_values"], batch["image_grid_thw"]))
    return {key: value for key, value in batch.items() if key != "pixel_values"} | {"image_features": features}


def load(tiny_backbone, kind, dtype="float32"):
    """A backbone as `kind` says, quantised or not, with and without adapters; those have non-zero weights."""
    settings = BackboneSettings(
        str(tiny_backbone),
        quantization="nf4" if "nf4" in kind else "none",
        finetune="lora" if "lora" in kind else "none",
        lora=LoraSettings(dropout=0.0),
        dtype=dtype,
    )
    backbone = load_backbone(settings, torch.device("cpu")).eval()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in backbone.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.2, generator=generator)
    return backbone


@pytest.fixture(scope="module", params=["float32", "nf4", "lora", "nf4 + lora"])
def known(request, tiny_backbone, encoder):
    """A backbone of each kind, and the naive scores of all lists."""
    backbone, groups = load(tiny_backbone, request.param), make_groups(encoder)
    expected = naive_scores(backbone, encoder, groups)
    assert expected.unique().numel() == expected.numel(), "prompts score alike: the test shows nothing"
    return backbone, groups, expected


@pytest.mark.parametrize("served", ["pixels", "features"])
@pytest.mark.parametrize(("scoring", "tokens"), [("packed", None), ("cached", None), ("cached", 150), ("cached", 1)])
@torch.no_grad()
def test_scores_equal_separate_rows_of_plain_transformers(known, tiny_backbone, encoder, scoring, tokens, served):
    """The tolerance holds for 4-bit weights too: they are dequantised alike, whoever shares a row."""
    backbone, groups, expected = known
    batch = collate(encoder, groups)
    if served == "features":
        batch = with_features(backbone, batch)
    found = recommender(tiny_backbone, backbone, scoring, tokens).score_candidates(batch)
    assert found.dtype == torch.float32
    assert found.shape == (len(LISTS), max(LISTS))
    torch.testing.assert_close(found[batch["candidate_mask"]], expected, atol=1e-5, rtol=0)


WAYS = [("packed", None), ("cached", None), ("cached", 150)]


@torch.no_grad()
def test_all_lists_in_one_batch_of_every_layout(tiny_backbone, encoder):
    """Lists of 1, 2, 21 and 101 share a batch: padded on either side, in one row each or several, from both stores."""
    backbone, groups = load(tiny_backbone, "lora"), make_groups(encoder)
    expected = naive_scores(backbone, encoder, groups)
    for side, tokens, served in itertools.product(["right", "left"], [4096, 120], ["pixels", "features"]):
        batch = collate(encoder, groups, padding_side=side, max_row_tokens=tokens)
        assert (len(batch["input_ids"]) == len(groups)) == (tokens == 4096)
        assert batch["candidate_mask"].sum(dim=1).tolist() == list(LISTS)
        if served == "features":
            batch = with_features(backbone, batch)
        for way in WAYS:
            found = recommender(tiny_backbone, backbone, *way).score_candidates(batch)
            torch.testing.assert_close(found[batch["candidate_mask"]], expected, atol=1e-5, rtol=0)


def make_chain_groups(encoder, settings, lists):
    """Chain-of-thought prompts: the preference, or the question, stands within every target, behind its picture."""
    groups = []
    for n, n_words in lists.items():
        frame = cot_context(CotPrompts(), f"A{n}", None, settings)
        body = [*frame.head, builder.preference_line("likes a red mug " * n_words, False), *frame.tail]
        prefix, middle = (body, frame.apart) if frame.body_first else (frame.apart, body)
        targets = []
        for c in range(n):
            picture, name = [*GRIDS, None][c % 5], f"a blue lamp {c} " * (1 + c % 3)
            grid = GRIDS[picture] if picture else None
            before = cot_target(CotPrompts(), grid is not None, f"stripes {c * n}", name, "a blue lamp")
            pieces = [*before, *middle, *builder.target(name, None, settings)]
            ids = encoder.encode(pieces, grid[1] * grid[2] // 4 if grid else 0)
            targets.append(PromptTarget(ids, [], grid, picture, kind=0))
        groups.append(PromptGroup(n, encoder.encode(prefix), targets))
    return groups


@pytest.mark.parametrize("order", ["user_first", "article"])
@torch.no_grad()
def test_chain_of_thought_prompts(load_tiny, tiny_backbone, encoder, order):
    backbone = load_tiny(quantization="none")
    groups = make_chain_groups(encoder, PromptSettings(cot=True, cot_order=order), {1: 1, 2: 4, 7: 2})
    expected = naive_scores(backbone, encoder, groups)
    assert expected.unique().numel() == expected.numel()
    for side, way in itertools.product(["right", "left"], [*WAYS, ("cached", 1000)]):
        batch = collate(encoder, groups, padding_side=side, max_row_tokens=700)
        for served in (batch, with_features(backbone, batch)):
            found = recommender(tiny_backbone, backbone, *way).score_candidates(served)
            torch.testing.assert_close(found[batch["candidate_mask"]], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("padding_side", ["right", "left"])
@pytest.mark.parametrize("max_row_tokens", [4096, 100])
@pytest.mark.parametrize("train", [True, False])
@torch.no_grad()
def test_the_layout_of_the_batch_does_not_matter(
    load_tiny, tiny_backbone, encoder, packed, padding_side, max_row_tokens, train
):
    backbone = load_tiny(quantization="none")
    groups = make_groups(encoder, {2: 5, 1: 23, 6: 17})
    expected = naive_scores(backbone, encoder, groups)
    groups = make_groups(encoder, {2: 5, 1: 23, 6: 17}, train=train)
    batch = collate(encoder, groups, packed=packed, padding_side=padding_side, max_row_tokens=max_row_tokens)
    found = recommender(tiny_backbone, backbone).score_candidates(batch)
    torch.testing.assert_close(found[batch["candidate_mask"]], expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_texts_alone_and_an_empty_context(load_tiny, tiny_backbone, encoder):
    backbone = load_tiny(quantization="none")
    groups = make_groups(encoder, {3: 0, 2: 9, 4: 1}, pictures=False)
    batch = collate(encoder, groups)
    for tokens in (None, 7):
        found = recommender(tiny_backbone, backbone, "cached", tokens).score_candidates(batch)
        expected = naive_scores(backbone, encoder, groups)
        torch.testing.assert_close(found[batch["candidate_mask"]], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("tokens", [None, 200])
@torch.no_grad()
def test_every_token_enters_the_layers_once(load_tiny, encoder, tokens):
    backbone = load_tiny(quantization="none")
    groups = make_groups(encoder, {21: 30, 5: 12}, train=True)
    seen = [[], []]
    handles = [
        layer.mlp.register_forward_pre_hook(lambda _, args, into=into: into.append(args[0].shape[-2]))
        for layer, into in zip(backbone.base.model.language_model.layers, seen, strict=True)
    ]
    answer_states(backbone, collate(encoder, groups, max_row_tokens=100), tokens)
    for handle in handles:
        handle.remove()
    needed = sum(len(group.prefix_ids) + sum(len(t.input_ids) for t in group.targets) for group in groups)
    assert sum(seen[0]) == needed
    assert sum(seen[1]) == 26, "the last layer's feed-forward part runs on one token per candidate"
    assert tokens is None or max(seen[0]) <= tokens


@torch.no_grad()
def test_no_context_is_kept_longer_than_its_list_lasts(load_tiny, encoder, monkeypatch):
    caches = defaultdict(dict)
    monkeypatch.setattr(prefix_cache, "defaultdict", lambda factory: caches)
    kept = []
    backbone = load_tiny(quantization="none")
    backbone.base.model.language_model.norm.register_forward_hook(
        lambda *args: kept.append(sum(len(cache) > 0 for cache in caches.values()))
    )
    answer_states(backbone, collate(encoder, make_groups(encoder, {7: 30, 5: 12, 9: 8})), 100)
    assert max(kept) == 2  # within a pass: that of a list which ends there, and of one which goes on
    assert caches == {}


@torch.no_grad()
def test_the_models_settings_and_packed_rows_stay_as_they_are(load_tiny, encoder):
    backbone = load_tiny(quantization="none")
    batch = collate(encoder, make_groups(encoder, {2: 5}))
    before, settings = backbone(batch), backbone.base.config.to_json_string()
    answer_states(backbone, batch)
    assert backbone.base.model.language_model.config._attn_implementation == "sdpa"
    assert backbone.base.config.to_json_string() == settings, "they are saved with the weights"
    torch.testing.assert_close(backbone(batch), before, atol=0, rtol=0)


def test_passes_of_both_kinds_at_once(load_tiny, encoder):
    """Eight threads share a model that was never asked before; every pass gives what it gives alone."""
    batches = [collate(encoder, make_groups(encoder, lists)) for lists in ({2: 5}, {7: 30, 1: 4}, {3: 9})]
    with torch.no_grad():
        alone = load_tiny(quantization="none")
        expected = [(answer_states(alone, batch, 60), alone(batch)) for batch in batches]
    shared = load_tiny(quantization="none")

    @torch.inference_mode()
    def ask(n):
        batch, (cached, packed) = batches[n % 3], expected[n % 3]
        if n // 3 % 2:
            return torch.equal(answer_states(shared, batch, 60), cached)
        return torch.equal(shared(batch), packed)

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(ask, range(240))) == 240


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["float32", "nf4 + lora"])
@torch.no_grad()
def test_under_autocast_both_ways_round_alike(tiny_backbone, encoder, kind, dtype):
    """bfloat16 has 8 bits: neither way is exact, and they differ by no more than each from float32."""
    batch = collate(encoder, make_groups(encoder))
    mask = batch["candidate_mask"]
    exact = recommender(tiny_backbone, load(tiny_backbone, kind)).score_candidates(batch)[mask]
    backbone, errors = load(tiny_backbone, kind, dtype), {}
    for way in WAYS:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = recommender(tiny_backbone, backbone, *way).score_candidates(batch)
        assert found.dtype == torch.float32
        errors[way] = (found[mask] - exact).abs().mean().item()
    for way in WAYS[1:]:
        assert 0 < errors[way] < 1.5 * errors[WAYS[0]]


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_trainer_in_mixed_precision_scores_with_either_way(tiny_backbone, make_datamodule, tmp_path, quantization):
    """As on a GPU: weights and autocast in bfloat16, evaluation in inference mode, lists and pairs of a data set."""
    scores = {}
    for scoring in ("packed", "cached"):
        model = MLLMRecommender(str(tiny_backbone), quantization=quantization, dtype="bfloat16", scoring=scoring)
        trainer = pl.Trainer(
            precision="bf16-mixed",
            accelerator="cpu",
            default_root_dir=tmp_path,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        scores[scoring] = torch.cat([rows["scores"].flatten() for rows in trainer.predict(model, make_datamodule())])
    assert scores["cached"].isfinite().all()
    spread = scores["packed"].std().item()
    torch.testing.assert_close(scores["cached"], scores["packed"], atol=0.5 * spread, rtol=0)


def test_masked_candidates_score_zero(load_tiny, tiny_backbone, encoder):
    batch = collate(encoder, make_groups(encoder, {1: 4, 3: 5}))
    with torch.no_grad():
        logits = recommender(tiny_backbone, load_tiny(quantization="none")).yes_no(batch)
    assert (logits[0, 1:] == 0).all()
    assert (score(logits)[batch["candidate_mask"]] != 0).all()


def test_a_budget_of_nothing_is_refused(tiny_backbone):
    with pytest.raises(ConfigError, match="scoring_tokens=0: must be at least 1; give more, or null"):
        MLLMRecommender(str(tiny_backbone), scoring_tokens=0)
