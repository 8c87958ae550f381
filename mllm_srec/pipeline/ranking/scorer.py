"""The run's model on any prompts: scores and probabilities within a bounded memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device

from mllm_srec.data.loading.prompt_batches import PromptCollator
from mllm_srec.data.pictures.feature_store import FeatureStore
from mllm_srec.data.pictures.image_store import ImageStore
from mllm_srec.models.backbone import Backbone, load_backbone
from mllm_srec.models.scoring import score
from mllm_srec.pipeline.features.pictures import feature_folder, frozen
from mllm_srec.pipeline.ranking.loaded_run import LoadedRun
from mllm_srec.prompts.packing import PromptGroup, PromptTarget
from mllm_srec.types import MllmSrecError, PackedBatch

MAX_TOKENS = 16_384
"""Tokens of the targets that are laid out together; the model's own passes are smaller."""


class Scorer:
    """A loaded recommender with the weights of a checkpoint.

    Args:
        run: Settings, data and the model without its weights.
        checkpoint: Content of a checkpoint; None for a model that was not fine-tuned.
        device: Where to compute; None is a GPU where there is one, unless the run was told to use the CPU.

    Raises:
        ConfigError: The checkpoint belongs to another model or another tokenizer.
    """

    def __init__(self, run: LoadedRun, checkpoint: Mapping[str, Any] | None, device: str | None = None) -> None:
        self.model, self.device = run.model, torch.device(device or _device(run.accelerator))
        self.model.attach(load_backbone(self.model.settings, self.device))
        if checkpoint is not None:
            self.model.on_load_checkpoint(dict(checkpoint))
            self.model.load_state_dict(checkpoint["state_dict"], strict=False)  # the keys were compared
            run.datamodule.load_state_dict(checkpoint["PromptDataModule"])
        self.model.eval()
        self.model.scoring = "cached"  # equal to `packed` but for rounding, and no token is computed twice
        self._half = _half(run.precision)
        stores = run.datamodule.stores
        if stores.images is not None:
            known = None
            if self.model.settings.finetune != "full":  # else the tower is not the one that the stored ones are of
                folder = feature_folder(stores.images, frozen(self.model.settings))
                known = FeatureStore(folder) if (folder / "meta.json").exists() else None
            stores = replace(stores, features=TowerFeatures(self.model.loaded, stores.images, known))
        self._collate = PromptCollator(stores)

    def score(self, prefix_ids: Sequence[int], targets: Sequence[PromptTarget]) -> tuple[np.ndarray, np.ndarray]:
        """Scores and probabilities of targets behind one context.

        Args:
            prefix_ids: The context.
            targets: What is asked about in it; may be empty.

        Returns:
            Float32 scores `(N,)` by `model.score`, and float32 probabilities `(N,)`: the sigmoid of the difference of
            the logits of Yes and No, whatever the score.

        Raises:
            MllmSrecError: A score is no finite number.
        """
        scores, differences = [torch.zeros(0)], [torch.zeros(0)]
        for part in _parts(targets):
            batch = self._collate([PromptGroup(0, prefix_ids, part)])
            for kept, values in zip((scores, differences), self._run(batch), strict=True):
                kept.append(values[0].cpu())  # (n,)
        found = torch.cat(scores)  # (N,)
        if not found.isfinite().all():
            raise MllmSrecError("the model's scores are no finite numbers: its weights are broken, or overflow")
        return found.numpy(), torch.cat(differences).sigmoid().numpy()

    @torch.inference_mode()
    def _run(self, batch: PackedBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores and differences of logits, `(1, n)` each."""
        batch = move_data_to_device(batch, self.device)
        with torch.autocast(self.device.type, dtype=self._half or torch.bfloat16, enabled=self._half is not None):
            difference = score(self.model.yes_no(batch))  # (1, n)
            # The literal score needs the whole vocabulary, and another pass.
            scores = difference if self.model.score_kind == "logit" else self.model.score_candidates(batch)
        return scores.float(), difference.float()


def _parts(targets: Sequence[PromptTarget]) -> Iterator[list[PromptTarget]]:
    """Targets in their order, as many at a time as fit `MAX_TOKENS`."""
    part: list[PromptTarget] = []
    n_tokens = 0
    for target in targets:
        if part and n_tokens + len(target.input_ids) > MAX_TOKENS:
            yield part
            part, n_tokens = [], 0
        part.append(target)
        n_tokens += len(target.input_ids)
    if part:
        yield part


def _device(accelerator: str) -> str:
    return "cuda" if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available() else "cpu"


def _half(precision: str) -> torch.dtype | None:
    """Type of a mixed precision, that in which `test` computes; None for full precision."""
    if "mixed" not in precision:
        return None
    return torch.bfloat16 if precision.startswith("bf16") else torch.float16


MAX_BYTES = 1 << 30
"""Memory for outputs that are in no store."""

BATCH = 16
"""Pictures that run through the tower together."""


class TowerFeatures:
    """Features of pictures, each computed once as long as there is memory for it.

    Args:
        backbone: Whose tower runs; it must not be trained meanwhile.
        images: Where pictures are, those that were added too.
        store: Features computed earlier by the same tower; None where there are none.
        max_bytes: Memory for the others; those not used for the longest time give way.
    """

    def __init__(
        self, backbone: Backbone, images: ImageStore, store: FeatureStore | None = None, max_bytes: int = MAX_BYTES
    ) -> None:
        self.backbone, self.images, self.store, self.max_bytes = backbone, images, store, max_bytes
        self._kept: OrderedDict[str, torch.Tensor] = OrderedDict()  # picture -> (tokens, D), latest use last
        self._n_bytes = 0

    def features(self, pictures: Sequence[str]) -> torch.Tensor:
        """Features `(sum of picture tokens, D)` of the pictures one after another, on the CPU."""
        stored = {key: self.store.features([key]) for key in pictures if self.store is not None and key in self.store}
        others = list(dict.fromkeys(key for key in pictures if key not in stored))
        missing = [key for key in others if key not in self._kept]
        found = stored | {key: self._kept[key] for key in others if key in self._kept} | self._compute(missing)
        for key in others:
            self._keep(key, found[key])
        return torch.cat([found[key] for key in pictures])  # (sum of tokens, D)

    @torch.inference_mode()
    def _compute(self, pictures: Sequence[str]) -> dict[str, torch.Tensor]:
        device = self.backbone.lm_head.device
        found: dict[str, torch.Tensor] = {}
        for begin in range(0, len(pictures), BATCH):
            keys = pictures[begin : begin + BATCH]
            pixel_values, grids = self.images.pixel_values(keys)
            rows = self.backbone.image_features(pixel_values.to(device), grids.to(device))  # list of (tokens, D)
            found |= {key: row.cpu() for key, row in zip(keys, rows, strict=True)}
        return found

    def _keep(self, picture: str, rows: torch.Tensor) -> None:
        """Remember a picture as the one used last, and forget what there is no memory for."""
        before = self._kept.pop(picture, None)
        self._n_bytes += rows.nbytes - (0 if before is None else before.nbytes)
        self._kept[picture] = rows
        while self._n_bytes > self.max_bytes:
            _, forgotten = self._kept.popitem(last=False)
            self._n_bytes -= forgotten.nbytes
