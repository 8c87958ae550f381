"""The vision tower's output for whatever picture is asked for: stored, remembered, or computed now."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch

from mllm_srec.data.pictures.feature_store import FeatureStore
from mllm_srec.data.pictures.image_store import ImageStore
from mllm_srec.models.backbone import Backbone

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
