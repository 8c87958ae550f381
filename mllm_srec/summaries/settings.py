"""The summary stages: one table of what there is to write (`PARTS`), and the settings of each stage.

A stage is one loop over a model and has settings and a folder of its own; a part is one kind of text that it writes.
Each stage writes the part of its name, and the image stage also the captions of variant `base`. What else a new stage
needs: its question in `prompts/templates.py`, its messages in `prompts/summaries.py`, what it reads in
`summaries/inputs.py` and `plan.py`, and where prompts show it in `data/stored_prompts/`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from mllm_srec.prompts.decoding import GenerationSettings
from mllm_srec.prompts.templates import CAPTION_PROMPT, IMAGE_PROMPT, ITEM_PROMPT, PREFERENCE_PROMPT
from mllm_srec.types import ConfigError

Stage = Literal["image", "item", "preference"]
STAGES: tuple[Stage, ...] = get_args(Stage)
"""All stages, each after those that it reads."""

Part = Literal["caption", "image", "item", "preference"]
Variant = Literal["none", "base", "sv", "svi", "full", "vst"]
Modality = Literal["both", "text", "image"]


@dataclass(frozen=True)
class PartFacts:
    """Facts about a part.

    Attributes:
        stage: Stage that writes it.
        subject: `item`: one text an item. `user`: a chain of texts a user (see `preference_chains.py`).
        reads: `picture`: the item's picture. `texts`: texts of the data set and of the parts before it.
        prompt: The article's question, which `summaries.<stage>.prompt` replaces.
        variants: Values of `summaries.variant` for which it is written.
        accuracy: Number of `demo_quality.py` by which it is judged on the demo shop.
    """

    stage: Stage
    subject: Literal["item", "user"]
    reads: Literal["picture", "texts"]
    prompt: str
    variants: tuple[Variant, ...]
    accuracy: str


PARTS: dict[Part, PartFacts] = {
    # used in history lines of the preference prompt, in place of the image summary
    "caption": PartFacts("image", "item", "picture", CAPTION_PROMPT, ("base",), "attribute_accuracy"),
    # used in the prompt of the item stage, in a chain of thought, and with `vst` in the lines of a history
    "image": PartFacts(
        "image", "item", "picture", IMAGE_PROMPT, ("base", "sv", "svi", "full", "vst"), "attribute_accuracy"
    ),
    # used as the text of targets and, with `svi` and `full`, in history lines of the preference prompt
    "item": PartFacts("item", "item", "texts", ITEM_PROMPT, ("base", "sv", "svi", "full"), "attribute_accuracy"),
    # used in contexts, in place of the items that it covers
    "preference": PartFacts(
        "preference", "user", "texts", PREFERENCE_PROMPT, ("base", "sv", "svi", "full"), "current_taste_accuracy"
    ),
}
"""All parts, each after those that it reads."""


@dataclass(frozen=True)
class StageSettings:
    """One stage.

    Args:
        backbone: Name of the model that writes, as in `model.backbone`; null is that one. The image stage needs a
            Qwen-VL; the others take any causal language model with a chat template, such as Llama-3.1-8B-Instruct.
        revision: Revision of a hub model.
        quantization: `nf4` with double quantisation, or `none`.
        dtype: Type of unquantised weights; `auto` is bfloat16 on a GPU and float32 on a CPU.
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
            raise ConfigError("prompt='': asks nothing; give a question, or null for the article's")
        if self.token_budget < 1:
            raise ConfigError(
                f"token_budget={self.token_budget}: must be at least 1; give the tokens of a batch, such as 16384"
            )


@dataclass(frozen=True)
class SummarySettings:
    """The summary stages and the article's ablation of them (Table 5).

    Args:
        variant: `none`: titles only, no stage runs. `base`: plain captions, an item line is title and caption, each
            preference is written in one call over the whole sequence. `sv`: the VIU answer in place of the caption.
            `svi`: an item line is the IMSG summary. `full`: the preference is refined window by window. The target
            shows item summary and picture in all of them. `vst` (Rec-GPT4V): pictures are summarised with the title in
            sight; a history line is title and image summary, the target its title.
        modality: What summaries and targets are made of: `both`, `text` (no pictures) or `image` (no item texts).
        use_reviews: Give the user's own reviews of history items to the preference prompt; never the target's.
        window: Items of one refinement (borrowed: 3).
        step: Items by which the window moves on (borrowed: 3); at most `window`, else items would be skipped.
        max_windows: Most windows of a user, the latest; older ones are left out and counted. Without refinement it is
            also the most windows of likes that one prompt shows.
        image: VIU, prompt p1.
        item: IMSG, prompt p2.
        preference: TUBC, prompt p3.
        clip: Hub name or folder of a CLIP model: image summaries are compared with the item's text (the article's
            hallucination score) and picture. Does not influence any text.
    """

    variant: Variant = "full"
    modality: Modality = "both"
    use_reviews: bool = False
    window: int = 3
    step: int = 3
    max_windows: int = 200
    image: StageSettings = field(default_factory=StageSettings)
    item: StageSettings = field(default_factory=StageSettings)
    preference: StageSettings = field(
        default_factory=lambda: StageSettings(generation=GenerationSettings(max_new_tokens=256))
    )
    clip: str | None = None

    def __post_init__(self) -> None:
        """Refuse windows that lose items, and settings that a variant would ignore."""
        if not 1 <= self.step <= self.window:
            raise ConfigError(
                f"summaries.window={self.window}, summaries.step={self.step}: items between two windows would be lost; "
                "give 1 <= step <= window"
            )
        if self.max_windows < 1:
            raise ConfigError(
                f"summaries.max_windows={self.max_windows}: leaves no preference; give the most windows of a user, "
                "such as 200"
            )
        if self.variant == "vst" and (self.modality != "both" or self.use_reviews):
            raise ConfigError(
                f"summaries.variant='vst', summaries.modality={self.modality!r}, "
                f"summaries.use_reviews={self.use_reviews}: this variant reads pictures and titles only; set modality "
                "to both and use_reviews to false"
            )

    def stage(self, stage: Stage) -> StageSettings:
        """Return the settings of one stage."""
        chosen: StageSettings = getattr(self, stage)
        return chosen

    @property
    def parts(self) -> list[Part]:
        """Parts that these settings need, each after those that it reads."""
        return [
            part
            for part, about in PARTS.items()
            if self.variant in about.variants and not (about.reads == "picture" and self.modality == "text")
        ]
