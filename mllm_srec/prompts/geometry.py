"""Where tokens stand and whom they see in packed rows: M-RoPE positions, attention masks, predicting positions."""

from __future__ import annotations

from collections.abc import Sequence

import torch

Grid = tuple[int, int, int]
"""Patches of a picture in time, height and width."""

MERGE = 2
"""Patches along a side that the vision tower merges into one token (`spatial_merge_size` of all Qwen-VL models)."""


def rope_positions(
    input_ids: torch.Tensor, grids: Sequence[Grid], image_token_id: int, start: int
) -> tuple[torch.Tensor, int]:
    """M-RoPE positions of one piece of a row.

    A text token takes one position in all three dimensions; a picture's tokens spread over height and width and the
    text after it goes on behind the longer side (Qwen2-VL, section 2.1).

    Args:
        input_ids: Tokens `(T,)`.
        grids: Patch grids of the pictures in `input_ids`, in order.
        image_token_id: The placeholder token.
        start: Position of the first token.

    Returns:
        Positions `(3, T)` and the position that the next token would take.

    Raises:
        ValueError: The placeholders do not fit the grids.
    """
    n_tokens = len(input_ids)
    is_image = input_ids == image_token_id  # (T,)
    expected = sum(t * h * w // MERGE**2 for t, h, w in grids)
    if int(is_image.sum()) != expected:
        raise ValueError(f"{int(is_image.sum())} picture placeholders for grids {list(grids)}, which need {expected}")
    positions = torch.empty(3, n_tokens, dtype=torch.long)  # (3, T)
    index, position = 0, start
    starts = iter(torch.nonzero(is_image).flatten().tolist())
    for grid in grids:
        first = next(starts)
        while first < index:  # further tokens of the picture before
            first = next(starts)
        positions[:, index:first] = torch.arange(position, position + first - index)
        position += first - index
        vision = _picture_positions(grid) + position  # (3, t*h*w/4)
        positions[:, first : first + vision.shape[1]] = vision
        index = first + vision.shape[1]
        position += max(grid[1], grid[2]) // MERGE
    positions[:, index:] = torch.arange(position, position + n_tokens - index)
    return positions, position + n_tokens - index


def _picture_positions(grid: Grid) -> torch.Tensor:
    time, height, width = grid[0], grid[1] // MERGE, grid[2] // MERGE
    axes = torch.meshgrid(torch.arange(time), torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack(axes).reshape(3, -1)  # (3, time*height*width)


def attention_mask(segment_ids: torch.Tensor) -> torch.Tensor:
    """Who sees whom in packed rows: causal, within the prefix and one's own target.

    Args:
        segment_ids: `(R, T)`: -1 padding, 0 prefix, 1.. the targets.

    Returns:
        Bool `(R, 1, T, T)`, True where a query (third dimension) sees a key. Padding sees itself, since a row of the
        softmax without any key would be NaN.
    """
    n_tokens = segment_ids.shape[1]
    query, key = segment_ids[:, :, None], segment_ids[:, None, :]  # (R, T, 1), (R, 1, T)
    causal = torch.ones(n_tokens, n_tokens, dtype=torch.bool, device=segment_ids.device).tril()
    visible = causal & (key >= 0) & (query >= 0) & ((key == 0) | (key == query))  # (R, T, T)
    return (visible | torch.eye(n_tokens, dtype=torch.bool, device=segment_ids.device)).unsqueeze(1)


def predicting_positions(segment_ids: torch.Tensor) -> torch.Tensor:
    """For every token of packed rows, the token whose output predicts it.

    That is the token before it, but for the first token of each target, which the last token of the prefix predicts.

    Args:
        segment_ids: `(R, T)`: -1 padding, 0 prefix, 1.. the targets.

    Returns:
        Positions `(R, T)` within the row; 0 for the first token, which nothing predicts.
    """
    n_rows, n_tokens = segment_ids.shape
    index = torch.arange(n_tokens, device=segment_ids.device).expand(n_rows, n_tokens)  # (R, T)
    before = segment_ids.roll(1, dims=1)
    prefix_end = torch.where(segment_ids == 0, index, 0).amax(dim=1, keepdim=True)  # (R, 1)
    opens_target = (segment_ids > 0) & (before != segment_ids)
    return torch.where(opens_target, prefix_end, (index - 1).clamp(min=0))
