"""Settings of the three summary stages and of how their texts are used."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mllm_srec.prompts.decoding import GenerationSettings
from mllm_srec.types import ConfigError

Stage = Literal["image", "item", "preference"]
STAGES: tuple[Stage, ...] = ("image", "item", "preference")
"""In the order in which they depend on each other."""

Variant = Literal["none", "base", "sv", "svi", "full", "vst"]
Modality = Literal["both", "text", "image"]


@dataclass(frozen=True)
class StageSettings:
    """One prediction loop.

    Args:
        backbone: Name of the model that writes, as in `model.backbone`; null is that one. The image stage needs a
            Qwen-VL; the others take any causal language model with a chat template, such as Llama-3.1-8B-Instruct.
        revision: Revision of a hub model.
        quantization: `nf4` with double quantisation, or `none`.
        dtype: Of unquantised weights; `auto` is bfloat16 on a GPU and float32 on a CPU.
        prompt: The question; null is the article's (p1, p2 or p3).
        generation: Decoding.
        token_budget: Tokens of a batch, padding and room for the summaries included.
    """

    backbone: str | None = None
    revision: str | None = None
    quantization: Literal["nf4", "none"] = "nf4"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    prompt: str | None = None
    generation: GenerationSettings = GenerationSettings()  # noqa: RUF009 - frozen
    token_budget: int = 16384

    def __post_init__(self) -> None:
        """Refuse an empty question and a budget below a single summary."""
        if self.prompt is not None and not self.prompt.strip():
            raise ConfigError("prompt='' asks nothing; give a question, or null for the article's")
        if self.token_budget < 1:
            raise ConfigError(f"token_budget={self.token_budget}; give the tokens of a batch, such as 16384")


@dataclass(frozen=True)
class SummarySettings:
    """The summary stages and the article's ablation of them (Table 5).

    Args:
        variant: `none`: titles only, no stage runs. `base`: plain captions, an item line is title and caption, each
            preference is written in one call over the whole sequence. `sv`: the VIU answer in place of the caption.
            `svi`: an item line is the IMSG summary. `full`: the preference is refined window by window. The target
            shows item summary and picture in all of them. `vst` (Rec-GPT4V) writes of pictures only, with the title in
            sight; a history line is title and image summary, the target its title.
        modality: What summaries and targets are made of: `both`, `text` (no pictures) or `image` (no item texts).
        use_reviews: Give the user's own reviews of history items to the preference prompt; never the target's.
        window: Items of one refinement (borrowed: 3).
        step: Items by which the window moves on (borrowed: 3); at most `window`, else items would be skipped.
        image: VIU, prompt p1.
        item: IMSG, prompt p2.
        preference: TUBC, prompt p3.
        clip: Hub name or folder of a CLIP model: image summaries are compared with the item's text (the article's
            hallucination score) and picture. Decides no text.
    """

    variant: Variant = "full"
    modality: Modality = "both"
    use_reviews: bool = False
    window: int = 3
    step: int = 3
    image: StageSettings = field(default_factory=StageSettings)
    item: StageSettings = field(default_factory=StageSettings)
    preference: StageSettings = field(
        default_factory=lambda: StageSettings(generation=GenerationSettings(max_new_tokens=256))
    )
    clip: str | None = None

    def __post_init__(self) -> None:
        """Refuse windows that lose items, and what a variant would not heed."""
        if not 1 <= self.step <= self.window:
            raise ConfigError(
                f"summaries.window={self.window}, summaries.step={self.step}: 1 <= step <= window is needed, "
                "else items between two windows would be lost"
            )
        if self.variant == "vst" and (self.modality != "both" or self.use_reviews):
            raise ConfigError(
                f"summaries.variant='vst' with modality={self.modality!r}, use_reviews={self.use_reviews}: it writes "
                "of pictures and titles and nothing else; set modality to both and use_reviews to false"
            )

    def stage(self, stage: Stage) -> StageSettings:
        """Settings of one stage."""
        chosen: StageSettings = getattr(self, stage)
        return chosen
