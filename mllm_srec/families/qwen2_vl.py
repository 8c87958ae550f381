"""Qwen2-VL (Wang et al., 2024): ChatML, M-RoPE positions, pictures in patches of 14 x 14 merged two by two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mllm_srec.families.base import Family, Grid
from mllm_srec.families.config_file import first_line, hub_given_up_early, pinned_revision
from mllm_srec.types import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import torch

PATCH, FRAMES, MERGE = 14, 2, 2
"""Pixels along a patch, frames of a patch (a picture is shown twice), patches along a picture token."""

SIZES = {"patch_size": PATCH, "temporal_patch_size": FRAMES, "merge_size": MERGE}
"""The same sizes as an image processor's file names them."""

VISION_START, VISION_END, IMAGE_PAD = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"
CONTROL_TOKENS = ("<|im_start|>", "<|im_end|>", VISION_START, VISION_END, IMAGE_PAD)

THINK = "<think>"
"""Token of later, text-only Qwen vocabularies, whose own template is needed to switch reasoning off."""


def expand_picture(n_tokens: int) -> list[str]:
    """Return the control tokens of a picture: placeholders between the two marks of vision."""
    return [VISION_START, *[IMAGE_PAD] * n_tokens, VISION_END]


def rope_positions(
    input_ids: torch.Tensor, grids: Sequence[Grid], image_token_id: int, start: int
) -> tuple[torch.Tensor, int]:
    """Compute the M-RoPE positions of one piece of a row.

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
    import torch

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
    import torch

    time, height, width = grid[0], grid[1] // MERGE, grid[2] // MERGE
    axes = torch.meshgrid(torch.arange(time), torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack(axes).reshape(3, -1)  # (3, time*height*width)


class Qwen2VLPictures:
    """Image processor of the Qwen-VL models; see `families.base.ImageProcessor`.

    Args:
        processor: A `Qwen2VLImageProcessorPil` of transformers.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    @property
    def facts(self) -> dict[str, Any]:
        """Class, sizes and means."""
        names = ("patch_size", "merge_size", "temporal_patch_size", "image_mean", "image_std", "resample")
        return {
            "class": type(self.processor).__name__,
            **{name: getattr(self.processor, name) for name in names},
            "size": [self.processor.size["shortest_edge"], self.processor.size["longest_edge"]],
        }

    def resize(self, pixels: np.ndarray) -> np.ndarray:
        """Resize `(height, width, 3)` uint8 to sides that are whole merged patches, within the pixel budget.

        Raises:
            ConfigError: The processor returns something other than uint8.
        """
        import numpy as np
        from transformers.image_utils import SizeDict

        processor = self.processor
        resized: Any = processor.resize(
            pixels.transpose(2, 0, 1),
            size=SizeDict(**dict(processor.size)),
            resample=processor.resample,
            factor=processor.patch_size * processor.merge_size,
        )
        if resized.dtype != np.uint8:
            raise ConfigError(
                f"{type(processor).__name__}: resizes to {resized.dtype} instead of uint8; install a version of "
                "transformers that pyproject.toml accepts"
            )
        return np.ascontiguousarray(np.asarray(resized).transpose(1, 2, 0))

    def grid(self, height: int, width: int) -> Grid:
        """Count the patches of a resized picture."""
        return 1, height // self.processor.patch_size, width // self.processor.patch_size

    def n_tokens(self, grid: Grid) -> int:
        """Count the tokens of a picture with this grid."""
        return math.prod(grid) // MERGE**2

    def patches(self, pictures: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        """Turn resized pictures into patches `(P, F)` float32, one picture after another, and grids `(n, 3)`."""
        out = self.processor(
            images=list(pictures), do_resize=False, input_data_format="channels_last", return_tensors="pt"
        )
        return out["pixel_values"], out["image_grid_thw"]


def load_image_processor(name: str, revision: str | None, min_pixels: int, max_pixels: int) -> Qwen2VLPictures:
    """Load a model's image processor with our pixel budget.

    Raises:
        ConfigError: Its file is missing or broken, or states other sizes of patches; or the budget is below one token.
    """
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    side = PATCH * MERGE
    if max_pixels < side**2:
        raise ConfigError(
            f"data.pictures.max_pixels={max_pixels}: a picture token covers {side} x {side} pixels; give at least "
            f"{side**2}"
        )
    # In both spellings: `min_pixels` and `max_pixels` in the model's file would win over `size`.
    budget = {
        "size": {"shortest_edge": min_pixels, "longest_edge": max_pixels},
        "min_pixels": min_pixels,
        "max_pixels": max_pixels,
    }
    try:
        revision = pinned_revision(name, revision)
        with hub_given_up_early(name):
            processor = Qwen2VLImageProcessorPil.from_pretrained(name, revision=revision, **budget)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"backbone={name!r}: its preprocessor_config.json cannot be used ({first_line(error)}); copy the "
            "file from the model that this one was made from"
        ) from error
    found = {size: getattr(processor, size) for size in SIZES}
    if found != SIZES:
        raise ConfigError(
            f"backbone={name!r}: its preprocessor_config.json states {found}, but the model reads pictures in {SIZES}; "
            "copy the file from the model that this one was made from"
        )
    return Qwen2VLPictures(processor)


def encode_pictures(model: Any, pixel_values: torch.Tensor, image_grid_thw: torch.Tensor) -> list[torch.Tensor]:
    """Run the vision tower: one `(tokens, D)` per picture."""
    return list(model.get_image_features(pixel_values, image_grid_thw).pooler_output)


def picture_inputs(pictures: Sequence[torch.Tensor]) -> dict[str, Any]:
    """Return the argument that feeds encoded pictures in place of pixels."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    return {"mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=tuple(pictures))}}


def forget(net: Any) -> None:
    """Clear the position offsets of the last batch, which `generate` would apply to the next one."""
    net.model.rope_deltas = None


FAMILY = Family(
    model_type="qwen2_vl",
    title="Qwen2-VL",
    model_class="Qwen2VLForConditionalGeneration",
    not_quantised=("model.visual", "lm_head"),
    control_tokens=CONTROL_TOKENS,
    foreign_tokens=(THINK,),
    image_token=IMAGE_PAD,
    expand_picture=expand_picture,
    positions=rope_positions,
    vision_tower="model.visual",
    patch_size=PATCH,
    temporal_patch_size=FRAMES,
    spatial_merge=MERGE,
    load_image_processor=load_image_processor,
    encode_pictures=encode_pictures,
    picture_inputs=picture_inputs,
    forget=forget,
)
