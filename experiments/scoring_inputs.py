"""What `bench_scoring.py` measures on: an untrained backbone, a small catalogue with pictures, and groups of prompts.

Everything goes through the code of a real run: tokenizer, wording, image store, feature store and collator. Only titles
and histories are made up, so that a context has an exact number of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from PIL import Image
from transformers import Qwen2VLForConditionalGeneration

from mllm_srec.data.loading.prompt_batches import PromptCollator, PromptStores
from mllm_srec.data.pictures.feature_store import FeatureStore
from mllm_srec.data.pictures.image_store import ImageStore, build_image_store, load_image_processor
from mllm_srec.data.settings import PictureSettings
from mllm_srec.models.backbone import BackboneSettings
from mllm_srec.models.random_backbone import RandomBackboneSettings, build_random_backbone
from mllm_srec.pipeline.features.pictures import extract_features
from mllm_srec.prompts import builder
from mllm_srec.prompts.encoding import PromptEncoder, load_encoder
from mllm_srec.prompts.packing import PackingSettings, PromptGroup, PromptTarget
from mllm_srec.prompts.templates import PromptSettings

BACKBONE = RandomBackboneSettings(hidden_size=256, n_layers=8, n_heads=4, vision_width=192, vision_depth=4)
SCALE = 2.0
"""Factor of the language layers' initial weights: as they come, all candidates of a list score almost alike."""
PICTURES = ((56, 56), (56, 84), None, (84, 84), (56, 168), (112, 112))  # 4, 6, none, 9, 12 and 16 tokens
WORDS = (
    "red blue green black white small large soft round striped dotted plain wool cotton steel glass oak lamp mug bag"
)
PROMPT = PromptSettings()


@dataclass(frozen=True)
class InputSettings:
    """Sizes of the prompts.

    Args:
        context_tokens: Tokens of every context.
        candidates: Targets of every group.
        groups: Number of groups.
        items: Items of the catalogue that candidates are drawn from.
        pictures: Height and width of the items' pictures, given to them in turn; None is no picture.
        seed: Of titles, pictures and draws.
    """

    context_tokens: int = 400
    candidates: int = 21
    groups: int = 8
    items: int = 120
    pictures: Sequence[tuple[int, int] | None] = PICTURES
    seed: int = 0


@dataclass
class Inputs:
    """A catalogue whose pictures are stored, as pixels and as features."""

    titles: Sequence[str]
    encoder: PromptEncoder
    images: ImageStore
    features: FeatureStore

    def collator(self, from_features: bool, packed: bool = True) -> PromptCollator:
        """The collator of a run that serves features, or pixels."""
        prompts: Any = None  # groups are made below, not read from a store
        stores = PromptStores(prompts, self.images, self.features if from_features else None, self.encoder)
        return PromptCollator(stores, PackingSettings(packed=packed))

    def make_groups(self, settings: InputSettings, seed: int = 0) -> list[PromptGroup]:
        """Groups with contexts of equal and candidates of unequal length."""
        random = np.random.default_rng([settings.seed, seed])
        groups = []
        for index in range(settings.groups):
            history = [str(title) for title in random.permutation(self.titles)]
            prefix = self._context(str(index), history, settings.context_tokens)
            chosen = random.choice(len(self.titles), settings.candidates, replace=False)
            targets = [self._target(int(item), int(position == 0)) for position, item in enumerate(chosen)]
            groups.append(PromptGroup(index, prefix, targets))
        return groups

    def _context(self, user_id: str, history: Sequence[str], n_tokens: int) -> list[int]:
        """System turn, question and as much history as makes `n_tokens`; the oldest line may begin in its middle."""
        head = self.encoder.encode(builder.context_head(user_id, None, PROMPT))
        tail = self.encoder.encode(builder.context_tail(user_id, PROMPT))
        lines = [token for title in history for token in self.encoder.encode_text(builder.history_line(title))]
        n_lines = n_tokens - len(head) - len(tail)
        if not 0 <= n_lines <= len(lines):
            limits = f"{len(head) + len(tail)} to {len(head) + len(tail) + len(lines)}"
            raise ValueError(f"context_tokens={n_tokens} with {len(history)} items; give {limits}, or other items")
        return [*head, *lines[len(lines) - n_lines :], *tail]

    def _target(self, item: int, relevance: int) -> PromptTarget:
        picture = self.images.picture_of(str(item))
        n_tokens = self.images.n_tokens(picture) if picture else 0
        ids = self.encoder.encode(builder.target(self.titles[item], picture is not None, PROMPT), n_tokens)
        grid = self.images.grid(picture) if picture else None
        return PromptTarget(ids, (), grid, picture, item, relevance, kind=0 if relevance else 2)


def make_inputs(folder: Path, backbone: Path, settings: InputSettings) -> Inputs:
    """Draw the catalogue and store its pictures and their features below `folder`."""
    random = np.random.default_rng(settings.seed)
    titles = [" ".join(random.choice(WORDS.split(), 3 + index % 14)) for index in range(settings.items)]
    names = [_draw(folder, index, settings, random) for index in range(settings.items)]
    items = pl.DataFrame({"item_id": [str(index) for index in range(settings.items)], "image": names})
    images = build_image_store(folder, load_image_processor(str(backbone), None, PictureSettings()), items)
    tower = BackboneSettings(str(backbone), finetune="none", quantization="none", dtype="float32")
    features = FeatureStore(extract_features(images, tower))
    return Inputs(titles, load_encoder(str(backbone)), images, features)


def _draw(folder: Path, index: int, settings: InputSettings, random: np.random.Generator) -> str | None:
    """Write one picture of noise; its name below `folder`."""
    size = settings.pictures[index % len(settings.pictures)]
    if size is None:
        return None
    Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return f"{index}.png"


def make_backbone(folder: Path, settings: RandomBackboneSettings) -> dict[str, int]:
    """Write an untrained backbone whose scores differ between candidates; its parameters by place."""
    context = [*builder.context_head("0", None, PROMPT), *builder.context_tail("0", PROMPT)]
    pieces = [*context, *builder.target(WORDS, False, PROMPT)]
    texts = [piece for piece in pieces if isinstance(piece, str)]
    build_random_backbone(folder, [*texts, *map(builder.history_line, WORDS.split())] * 20, settings)
    net: Any = Qwen2VLForConditionalGeneration.from_pretrained(str(folder))
    with torch.no_grad():
        for parameter in net.model.language_model.layers.parameters():
            parameter.mul_(SCALE if parameter.ndim > 1 else 1)
    net.save_pretrained(str(folder))
    parts = {"language_layers": net.model.language_model.layers, "vision_tower": net.model.visual}
    counts = {name: sum(parameter.numel() for parameter in part.parameters()) for name, part in parts.items()}
    return {**counts, "embeddings": net.lm_head.weight.numel()}


def count_tokens(groups: Sequence[PromptGroup], images: ImageStore) -> dict[str, Any]:
    """Tokens of the prompts, computed once and in rows of their own."""
    targets = [target for group in groups for target in group.targets]
    lengths = [len(target.input_ids) for target in targets]
    pictures = [images.n_tokens(target.picture) if target.picture else 0 for target in targets]
    contexts = [len(group.prefix_ids) for group in groups]
    separate = sum(len(group.prefix_ids) * len(group.targets) for group in groups)
    return {
        "groups": len(groups),
        "candidates": len(groups[0].targets),
        "context_tokens": _spread(contexts),
        "target_tokens": _spread(lengths),
        "picture_tokens_of_a_target": _spread(pictures),
        "distinct_pictures": len({target.picture for target in targets if target.picture}),
        "tokens_needed_once": sum(contexts) + sum(lengths),
        "tokens_of_separate_rows": separate + sum(lengths),
    }


def _spread(numbers: Sequence[int]) -> dict[str, float]:
    return {"min": min(numbers), "mean": round(float(np.mean(numbers)), 1), "max": max(numbers)}
