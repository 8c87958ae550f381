"""Which summary stages a configuration needs, with which models and prompts, and the names of what they write.

Names are hashes of everything that decides the texts, so that a changed prompt, picture, model or setting leads to
other names from its stage on, and only from there. Nothing here loads weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.pictures.image_store import ImageStore, build_image_store, load_image_processor, processor_key
from mllm_srec.data.settings import PictureSettings
from mllm_srec.families.lookup import read_family, titles
from mllm_srec.files.hashing import table_hash
from mllm_srec.models.backbone_files import WriterInfo, describe_writer
from mllm_srec.prompts.chat import ChatEncoder
from mllm_srec.prompts.encoding import load_tokenizer
from mllm_srec.prompts.summaries import Message
from mllm_srec.prompts.templates import (
    CAPTION_PROMPT,
    IMAGE_PROMPT,
    ITEM_PROMPT,
    PREFERENCE_PROMPT,
    VERSION,
    VST_PROMPT,
    VST_VERSION,
    PromptSettings,
)
from mllm_srec.summaries.settings import Stage, StageSettings, SummarySettings
from mllm_srec.summaries.store import content_key
from mllm_srec.types import ConfigError

Part = Literal["image", "caption", "item", "preference"]
"""What is written: the three stages, and the plain captions of variant `base`, which the image stage writes too."""

_PROMPTS: dict[Part, str] = {
    "image": IMAGE_PROMPT,
    "caption": CAPTION_PROMPT,
    "item": ITEM_PROMPT,
    "preference": PREFERENCE_PROMPT,
}
STAGE_OF: dict[Part, Stage] = {"image": "image", "caption": "image", "item": "item", "preference": "preference"}


@dataclass(frozen=True)
class PartPlan:
    """One prediction loop, before its inputs are known.

    Attributes:
        part: What is written.
        settings: Of its stage; `backbone` is resolved.
        prompt: The question.
        info: The model that writes.
        model: Everything about the model that decides a text, for content addresses.
        chat: Encoder of the model.
        version: Of the texts around the question.
    """

    part: Part
    settings: StageSettings
    prompt: str
    info: WriterInfo
    model: dict[str, Any]
    chat: ChatEncoder
    version: str = VERSION

    def record_key(self, messages: list[Message], picture: str | None) -> str:
        """Content address of one summary."""
        chat = [[m.role, *(piece if isinstance(piece, str) else repr(piece) for piece in m.content)] for m in messages]
        return content_key(
            stage=STAGE_OF[self.part],
            version=self.version,
            model=self.model,
            chat=chat,
            picture=picture,
            decoding=self.settings.generation.identity(),
        )


class SummaryPlan:
    """The loops of one configuration.

    Args:
        data: The prepared data set.
        settings: The `summaries` section, which must ask for summaries.
        prompt: The `data.prompt` section: which of an item's fields are its text.
        pictures: The `data.pictures` section: how large pictures are.
        backbone: What a stage without a backbone of its own uses: `model.backbone`, resolved.
        revision: Its revision.

    Raises:
        ConfigError: `variant` is `none`, or a model cannot do what its stage needs.
    """

    def __init__(
        self,
        data: PreparedDataset,
        settings: SummarySettings,
        prompt: PromptSettings,
        pictures: PictureSettings,
        backbone: str,
        revision: str | None,
    ) -> None:
        if settings.variant == "none":
            raise ConfigError(
                "summaries.variant is 'none', so there is nothing to summarise; choose full, svi, sv or base"
            )
        self.data, self.settings, self.prompt, self.pictures = data, settings, prompt, pictures
        self._default = (backbone, revision)
        self._chats: dict[tuple[str, str | None], ChatEncoder] = {}  # a large vocabulary takes seconds

    @property
    def parts(self) -> list[Part]:
        """What this configuration needs, in the order of dependence."""
        if self.titled:
            return ["image"]
        pictures: list[Part] = ["caption", "image"] if self.settings.variant == "base" else ["image"]
        return [*(pictures if self.settings.modality != "text" else ()), "item", "preference"]

    @property
    def titled(self) -> bool:
        """Whether pictures are asked about with the item's title in sight, and nothing is written but that (VST)."""
        return self.settings.variant == "vst"

    def folder(self, part: Part) -> Path:
        """Folder of the part's stage."""
        return self.data.folder / "summaries" / STAGE_OF[part]

    @cached_property
    def _plans(self) -> dict[Part, PartPlan]:
        return {part: self._plan(part) for part in self.parts}

    def plan(self, part: Part) -> PartPlan:
        """Model and prompt of a part."""
        return self._plans[part]

    def _plan(self, part: Part) -> PartPlan:
        stage = self.settings.stage(STAGE_OF[part])
        name, revision = (stage.backbone, stage.revision) if stage.backbone else self._default
        info = describe_writer(name, revision)
        if STAGE_OF[part] == "image" and not info.multimodal:
            raise ConfigError(
                f"summaries.image.backbone={name!r}: is a text-only model, which cannot see pictures; give a "
                f"{titles()}, or set summaries.modality to text"
            )
        own = VST_PROMPT if self.titled else _PROMPTS[part]
        prompt = stage.prompt if stage.prompt is not None and part != "caption" else own
        if (name, revision) not in self._chats:
            self._chats[name, revision] = ChatEncoder(load_tokenizer(name, revision), read_family(name, revision))
        chat = self._chats[name, revision]
        model = {
            "weights": info.fingerprint,
            "tokenizer": chat.fingerprint(),
            "revision": revision,
            "quantization": stage.quantization,
            "dtype": stage.dtype,
        }
        resolved = StageSettings(**{**vars(stage), "backbone": name, "revision": revision})
        return PartPlan(part, resolved, prompt, info, model, chat, VST_VERSION if self.titled else VERSION)

    @cached_property
    def images(self) -> ImageStore | None:
        """Pictures as the image stage sees them; None where it does not run."""
        if "image" not in self.parts:
            return None
        settings = self.plan("image").settings
        processor = load_image_processor(str(settings.backbone), settings.revision, self.pictures)
        return build_image_store(self.data.folder, processor, self.data.items)

    def picture_key(self, item_id: str) -> str | None:
        """Content address of an item's picture as the model sees it; None where it has none."""
        if self.images is None or (picture := self.images.picture_of(item_id)) is None:
            return None
        return f"{picture}/{processor_key(self.images.processor)}"

    def view(self, part: Part) -> str:
        """Name of the table that a part writes: a hash of everything that decides it."""
        return self._views[part]

    @cached_property
    def _views(self) -> Mapping[Part, str]:
        names: dict[Part, str] = {}
        for part in self.parts:
            plan = self.plan(part)
            decided_by = {
                "version": plan.version,
                "part": part,
                "model": plan.model,
                "prompt": plan.prompt,
                "decoding": plan.settings.generation.identity(),
                "inputs": self._inputs(part),
                "upstream": list(names.values()),
            }
            names[part] = content_key(**decided_by)[:16]
        return names

    def _inputs(self, part: Part) -> dict[str, Any]:
        """What a part reads beside the parts before it."""
        settings = self.settings
        fields = ("brand", "categories", "description", "max_item_tokens")
        texts = {
            "items": table_hash(self.data.items.drop("price", "image_urls")),
            "modality": settings.modality,
            **{name: getattr(self.prompt, name) for name in fields},
        }
        if STAGE_OF[part] == "image":
            # By content: the store's own name changes with the files' times, which copying a data set does not keep.
            pictures = [[item_id, self.picture_key(item_id)] for item_id in self.data.items["item_id"]]
            return {"pictures": pictures, **(texts if self.titled else {})}
        inputs = texts
        if part == "preference":
            names = ("variant", "use_reviews", "window", "step")
            inputs |= {name: getattr(settings, name) for name in names}
            inputs["interactions"] = table_hash(self.data.interactions)
        return inputs

    @property
    def identity(self) -> str:
        """Names all texts together."""
        return self.view(self.parts[-1])
