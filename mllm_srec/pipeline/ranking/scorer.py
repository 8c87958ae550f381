"""The run's model on any prompts: scores, probabilities and picture features within bounded memory."""

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
from mllm_srec.models.turns import MODEL_TURN
from mllm_srec.pipeline.features.pictures import feature_folder, frozen
from mllm_srec.pipeline.ranking.loaded_run import LoadedRun
from mllm_srec.prompts.packing import PromptGroup, PromptTarget
from mllm_srec.types import MllmSrecError, PackedBatch

MAX_TOKENS = 16_384
"""Most tokens of targets that are packed together; the model's own passes are smaller."""

MAX_BYTES = 1 << 30
"""Memory for picture features that are in no store."""


class Scorer:
    """A loaded recommender with the weights of a checkpoint; threads take turns at it.

    Args:
        run: Loaded run, whose model has no weights yet.
        checkpoint: Content of a checkpoint; None for a model that was not fine-tuned.
        device: Device of the model; None takes a GPU if there is one and the run did not ask for the CPU.

    Raises:
        ConfigError: The checkpoint belongs to another model or another tokenizer.
    """

    def __init__(self, run: LoadedRun, checkpoint: Mapping[str, Any] | None, device: str | None = None) -> None:
        self.model, self.device = run.model, torch.device(device or _device(run.accelerator))
        with MODEL_TURN:
            self._load(run, checkpoint)
        self._half = _half(run.precision)
        stores = run.datamodule.stores
        if stores.images is not None:
            stored = None
            if self.model.settings.finetune != "full":  # stored features are of the untrained tower
                folder = feature_folder(stores.images, frozen(self.model.settings))
                stored = FeatureStore(folder) if (folder / "meta.json").exists() else None
            stores = replace(stores, features=TowerFeatures(self.model.loaded, stores.images, stored))
        self._collate = PromptCollator(stores)

    def _load(self, run: LoadedRun, checkpoint: Mapping[str, Any] | None) -> None:
        self.model.attach(load_backbone(self.model.settings, self.device))
        if checkpoint is not None:
            self.model.on_load_checkpoint(dict(checkpoint))
            self.model.load_state_dict(checkpoint["state_dict"], strict=False)  # the keys were checked above
            run.datamodule.load_state_dict(checkpoint["PromptDataModule"])
        self.model.eval()
        self.model.scoring = "cached"  # equal to `packed` up to rounding, and computes no token twice

    def score(self, prefix_ids: Sequence[int], targets: Sequence[PromptTarget]) -> tuple[np.ndarray, np.ndarray]:
        """Compute scores and probabilities of targets in one context.

        Args:
            prefix_ids: Tokens of the context.
            targets: Targets to score; may be empty.

        Returns:
            Float32 scores `(N,)` by `model.score`, and float32 probabilities `(N,)`: the sigmoid of the difference of
            the logits of Yes and No, whatever the score.

        Raises:
            MllmSrecError: A score is infinite or NaN.
        """
        scores, differences = [torch.zeros(0)], [torch.zeros(0)]
        for part in _parts(targets):
            with MODEL_TURN:
                found = self._run(self._collate([PromptGroup(0, prefix_ids, part)]))
            for kept, values in zip((scores, differences), found, strict=True):
                kept.append(values[0])  # (n,)
        joined = torch.cat(scores)  # (N,)
        if not joined.isfinite().all():
            raise MllmSrecError(
                "the model's scores are infinite or NaN; check its weights, or set trainer.precision to 32-true"
            )
        return joined.numpy(), torch.cat(differences).sigmoid().numpy()

    @torch.inference_mode()
    def _run(self, batch: PackedBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scores and differences of logits on the CPU, `(1, n)` each."""
        batch = move_data_to_device(batch, self.device)
        with torch.autocast(self.device.type, dtype=self._half or torch.bfloat16, enabled=self._half is not None):
            difference = score(self.model.yes_no(batch))  # (1, n)
            # The literal score needs the full vocabulary, and thus another pass.
            scores = difference if self.model.score_kind == "logit" else self.model.score_candidates(batch)
        return scores.float().cpu(), difference.float().cpu()


def _parts(targets: Sequence[PromptTarget]) -> Iterator[list[PromptTarget]]:
    """Yield the targets in order, in parts of at most `MAX_TOKENS` tokens."""
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
    """Return the dtype of a mixed precision, in which `test` computes too; None for full precision."""
    if "mixed" not in precision:
        return None
    return torch.bfloat16 if precision.startswith("bf16") else torch.float16


class TowerFeatures:
    """Features of pictures, each computed once while memory allows.

    Each picture runs through the tower alone: among others, the order of sums would depend on who asked for what first.

    Args:
        backbone: Backbone with the tower; it must not be trained meanwhile.
        images: Pictures of the data set, and added ones.
        store: Store of features of the same tower; None: no store.
        max_bytes: Memory for features outside the store; the least recently used are dropped.
    """

    def __init__(
        self, backbone: Backbone, images: ImageStore, store: FeatureStore | None = None, max_bytes: int = MAX_BYTES
    ) -> None:
        self.backbone, self.images, self.store, self.max_bytes = backbone, images, store, max_bytes
        self._kept: OrderedDict[str, torch.Tensor] = OrderedDict()  # picture -> (tokens, D), most recently used last
        self._n_bytes = 0

    def features(self, pictures: Sequence[str]) -> torch.Tensor:
        """Return the features `(sum of picture tokens, D)` of the pictures one after another, on the CPU."""
        stored = {key: self.store.features([key]) for key in pictures if self.store is not None and key in self.store}
        others = list(dict.fromkeys(key for key in pictures if key not in stored))
        missing = [key for key in others if key not in self._kept]
        features = stored | {key: self._kept[key] for key in others if key in self._kept} | self._compute(missing)
        for key in others:
            self._keep(key, features[key])
        return torch.cat([features[key] for key in pictures])  # (sum of tokens, D)

    @torch.inference_mode()
    def _compute(self, pictures: Sequence[str]) -> dict[str, torch.Tensor]:
        device = self.backbone.lm_head.device
        computed: dict[str, torch.Tensor] = {}
        for key in pictures:
            pixel_values, grids = self.images.pixel_values([key])
            computed[key] = self.backbone.image_features(pixel_values.to(device), grids.to(device))[0].cpu()
        return computed  # (tokens, D) each

    def _keep(self, picture: str, rows: torch.Tensor) -> None:
        """Keep a picture as the most recently used, and drop the least recently used beyond `max_bytes`."""
        before = self._kept.pop(picture, None)
        self._n_bytes += rows.nbytes - (0 if before is None else before.nbytes)
        self._kept[picture] = rows
        while self._n_bytes > self.max_bytes:
            _, dropped = self._kept.popitem(last=False)
            self._n_bytes -= dropped.nbytes
