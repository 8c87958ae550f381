"""Batches padded on the left: the package pads on the right, and no result may depend on that."""

import torch

from mllm_srec.prompts.packing import PackingSettings, pack


def pack_padded(groups, encoder, padding_side="right", **packing):
    """As `pack`, with the rows padded on either side."""
    batch, pictures = pack(groups, encoder, PackingSettings(**packing))
    return (left_padded(batch) if padding_side == "left" else batch), pictures


def left_padded(batch):
    """The same packed batch with the padding of every row moved to its front."""
    shift = (batch["segment_ids"] == -1).sum(dim=1)  # (R,)
    rolled = {}
    for name in ("input_ids", "segment_ids", "labels", "position_ids"):
        rows = batch[name].unbind(-2)  # (..., R, T) -> R times (..., T)
        pairs = zip(rows, shift.tolist(), strict=True)
        rolled[name] = torch.stack([row.roll(by, dims=-1) for row, by in pairs], dim=-2)
    answers = batch["answer_index"].clone()  # (B, C, 2)
    answers[..., 1] += shift[answers[..., 0]]
    return {**batch, **rolled, "answer_index": answers}
