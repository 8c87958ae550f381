"""Backbone families: the one record of everything that differs between the models that can serve as backbone."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from mllm_srec.types import ConfigError

if TYPE_CHECKING:  # a family file must load in milliseconds
    import numpy as np
    import torch

Grid = tuple[int, int, int]
"""Patches of a picture in time, height and width."""

LANGUAGE_LAYERS = r".*language_model\..*\.(q|k|v|o|gate|up|down)_proj"
"""Linear layers of a language model that transformers names as most do; a vision tower's are named otherwise."""


class ImageProcessor(Protocol):
    """A family's image processor with our pixel budget: the PIL class, which needs no torchvision."""

    @property
    def facts(self) -> dict[str, Any]:
        """Everything that decides the pixels, as JSON values; enters the keys of stored pictures and features."""
        ...

    def resize(self, pixels: np.ndarray) -> np.ndarray:
        """Resize `(height, width, 3)` uint8 to sides that are whole picture tokens, within the pixel budget."""
        ...

    def grid(self, height: int, width: int) -> Grid:
        """Count the patches of a resized picture."""
        ...

    def n_tokens(self, grid: Grid) -> int:
        """Count the tokens of a picture with this grid."""
        ...

    def patches(self, pictures: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        """Turn resized pictures into patches `(P, F)` float32, one picture after another, and grids `(n, 3)`."""
        ...


def refuse_pictures(*_: Any) -> NoReturn:
    """Refuse pictures, in place of the functions that a text-only family lacks.

    Raises:
        ConfigError: Always.
    """
    raise ConfigError("the backbone is a text-only model, which cannot see pictures; give a multimodal one")


def keep_everything(_: Any) -> None:
    """Leave a model as it is: most keep no state between batches."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """Everything that differs between backbone families; each stands in a file of its own beside this one.

    Prompts are ChatML, whose turns are named by `control_tokens`.

    Attributes:
        model_type: `model_type` in config.json, by which the family is found; empty where it covers many.
        title: Display name, such as Qwen2-VL.
        model_class: Class in transformers that holds the language model's head.
        text_only: The family cannot see pictures; the attributes of vision below keep their defaults.
        language_model: Path of the submodule that holds the language layers.
        lora_targets: Regular expression over full module names: layers that get adapters by default.
        not_quantised: Modules that stay in full precision, as full paths: "visual" alone matches nothing. Empty
            leaves the choice to transformers, which spares the head only.
        shares_prefix: Targets may share one row and its prefix. False where layers carry a state along the row.
        control_tokens: Tokens that the vocabulary must hold for a ChatML prompt.
        foreign_tokens: Tokens that mark another family's vocabulary, even if it holds all `control_tokens`.
        image_token: Placeholder of one picture token.
        expand_picture: Number of picture tokens -> control tokens that stand for the picture in a prompt.
        positions: (tokens `(T,)`, grids of their pictures in order, id of the placeholder, first position) ->
            positions `(3, T)`, and the one that the next token would take.
        vision_tower: Path of the submodule that encodes pictures.
        patch_size: Pixels along the side of a patch.
        temporal_patch_size: Frames of a patch.
        spatial_merge: Patches along the side of a picture token.
        load_image_processor: (hub name or folder, revision, least and largest number of pixels) -> processor.
        encode_pictures: (transformers model, patches `(P, F)`, grids `(n, 3)`) -> one `(tokens, D)` per picture.
        picture_inputs: Encoded pictures -> arguments of the transformers model that take the place of pixels.
        forget: Clear what a transformers model keeps of its last batch.
    """

    model_type: str
    title: str
    model_class: str
    text_only: bool = False
    language_model: str = "model.language_model"
    lora_targets: str = LANGUAGE_LAYERS
    not_quantised: tuple[str, ...] = ()
    shares_prefix: bool = True
    control_tokens: tuple[str, ...]
    foreign_tokens: tuple[str, ...] = ()
    image_token: str
    expand_picture: Callable[[int], list[str]]
    positions: Callable[[torch.Tensor, Sequence[Grid], int, int], tuple[torch.Tensor, int]]
    vision_tower: str = ""
    patch_size: int = 0
    temporal_patch_size: int = 0
    spatial_merge: int = 1
    load_image_processor: Callable[[str, str | None, int, int], ImageProcessor] = refuse_pictures
    encode_pictures: Callable[[Any, torch.Tensor, torch.Tensor], list[torch.Tensor]] = refuse_pictures
    picture_inputs: Callable[[Sequence[torch.Tensor]], dict[str, Any]] = refuse_pictures
    forget: Callable[[Any], None] = keep_everything

    @property
    def values_per_patch(self) -> int:
        """F, numbers of one patch: three colours of every pixel."""
        return 3 * self.temporal_patch_size * self.patch_size**2

    def split_pictures(self, features: torch.Tensor, grids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Split encoded pictures that lie one after another.

        Args:
            features: `(sum of tokens, D)`.
            grids: `(n, 3)`.

        Returns:
            One `(tokens, D)` per picture.
        """
        import torch

        return torch.split(features, [math.prod(grid) // self.spatial_merge**2 for grid in grids.tolist()])

    def speaks(self, vocabulary: Collection[str]) -> bool:
        """Return True if a vocabulary is one of this family's chat format."""
        return all(token in vocabulary for token in self.control_tokens) and not any(
            token in vocabulary for token in self.foreign_tokens
        )

    def in_vision_tower(self, module: str) -> bool:
        """Return True if a submodule of the transformers model, by its full name, belongs to the vision tower."""
        return bool(self.vision_tower) and f".{self.vision_tower}." in f".{module}."
