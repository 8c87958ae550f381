"""Plans the summaries of a configuration: which parts it needs, with which models and prompts, and their names.

Names are hashes of all that decides the texts, so that a changed prompt, picture, model or setting leads to new names
from its stage on, and only from there. Nothing here loads weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.pictures.image_store import ImageStore, build_image_store, load_image_processor, processor_key
from mllm_srec.data.ratings import LIKED, RatingRule
from mllm_srec.data.settings import PictureSettings
from mllm_srec.families.lookup import read_family, titles
from mllm_srec.files.hashing import table_hash
from mllm_srec.models.backbone_files import WriterInfo, describe_writer
from mllm_srec.prompts.chat import ChatEncoder
from mllm_srec.prompts.encoding import load_tokenizer
from mllm_srec.prompts.summaries import Message
from mllm_srec.prompts.templates import SUMMARY_VERSION, VST_PROMPT, VST_VERSION, PromptSettings
from mllm_srec.summaries.preference_chains import windows_left_out
from mllm_srec.summaries.settings import PARTS, Part, StageSettings, SummarySettings
from mllm_srec.summaries.store import content_key
from mllm_srec.types import ConfigError


@dataclass(frozen=True)
class PartPlan:
    """The plan of one part.

    Attributes:
        part: Part that is written.
        settings: Settings of its stage; `backbone` is resolved.
        prompt: The question.
        info: Facts about the model that writes.
        model: Everything about the model that decides a text, for content addresses.
        chat: Encoder of the model.
        version: Version of the texts around the question.
    """

    part: Part
    settings: StageSettings
    prompt: str
    info: WriterInfo
    model: dict[str, Any]
    chat: ChatEncoder
    version: str = SUMMARY_VERSION

    def record_key(self, messages: list[Message], picture: str | None) -> str:
        """Return the content address of one summary.

        Args:
            messages: The prompt.
            picture: Content address of its picture; None where it has none.
        """
        chat = [[m.role, *(piece if isinstance(piece, str) else repr(piece) for piece in m.content)] for m in messages]
        return content_key(
            stage=PARTS[self.part].stage,
            version=self.version,
            model=self.model,
            chat=chat,
            picture=picture,
            decoding=self.settings.generation.identity(),
        )


class SummaryPlan:
    """The plan of all parts that a configuration needs.

    Args:
        data: The prepared data set.
        settings: The `summaries` section, which must ask for summaries.
        prompt: The `data.prompt` section: the fields of an item that make its text.
        pictures: The `data.pictures` section: the size of pictures.
        backbone: Model of a stage without a backbone of its own: `model.backbone`, resolved.
        revision: Revision of that model.

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
            raise ConfigError("summaries.variant='none': there is nothing to summarise; choose full, svi, sv or base")
        self.data, self.settings, self.prompt, self.pictures = data, settings, prompt, pictures
        self._default = (backbone, revision)
        self._chats: dict[tuple[str, str | None], ChatEncoder] = {}  # a large vocabulary takes seconds

    @property
    def parts(self) -> list[Part]:
        """Parts that this configuration needs, each after those that it reads."""
        return self.settings.parts

    @property
    def titled(self) -> bool:
        """True if image summaries are written with the item's title in sight, and nothing else is written (VST)."""
        return self.settings.variant == "vst"

    @property
    def identity(self) -> str:
        """Name of all texts together."""
        return self.view(self.parts[-1])

    def folder(self, part: Part) -> Path:
        """Return the folder of the part's stage."""
        return self.data.folder / "summaries" / PARTS[part].stage

    def plan(self, part: Part) -> PartPlan:
        """Return model and prompt of a part."""
        return self._plans[part]

    def view(self, part: Part) -> str:
        """Return the name of a part's table: a hash of all that decides it."""
        return self._views[part]

    def view_before(self, part: Part) -> str | None:
        """Return the name that a part's table had in versions that did not tell revisions apart; None if the same."""
        before = {
            one: {**plan.model, "weights": plan.info.earlier_fingerprint or plan.info.fingerprint}
            for one, plan in self._plans.items()
        }
        name = self._names(before)[part]
        return name if name != self.view(part) else None

    @cached_property
    def images(self) -> ImageStore | None:
        """Pictures as the image stage sees them; None where it does not run."""
        if "image" not in self.parts:
            return None
        settings = self.plan("image").settings
        processor = load_image_processor(str(settings.backbone), settings.revision, self.pictures)
        return build_image_store(self.data.folder, processor, self.data.items)

    @cached_property
    def windows_left_out(self) -> tuple[int, int]:
        """Preference chains that `summaries.max_windows` shortens, and the windows that it leaves out of them."""
        settings = self.settings
        limits = (settings.window, settings.step, settings.max_windows)
        return windows_left_out(self.data.interactions, *limits)

    def picture_key(self, item_id: str) -> str | None:
        """Return the content address of an item's picture as the model sees it; None where it has none."""
        if self.images is None or (picture := self.images.picture_of(item_id)) is None:
            return None
        return f"{picture}/{processor_key(self.images.processor)}"

    @cached_property
    def _plans(self) -> dict[Part, PartPlan]:
        return {part: self._plan(part) for part in self.parts}

    def _plan(self, part: Part) -> PartPlan:
        about = PARTS[part]
        stage = self.settings.stage(about.stage)
        name, revision = (stage.backbone, stage.revision) if stage.backbone else self._default
        info = describe_writer(name, revision)
        if about.reads == "picture" and not info.multimodal:
            raise ConfigError(
                f"summaries.{about.stage}.backbone={name!r}: is a text-only model, which cannot see pictures; give a "
                f"{titles()}, or set summaries.modality to text"
            )
        default = VST_PROMPT if self.titled else about.prompt
        prompt = stage.prompt if stage.prompt is not None and part == about.stage else default
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
        return PartPlan(part, resolved, prompt, info, model, chat, VST_VERSION if self.titled else SUMMARY_VERSION)

    @cached_property
    def _views(self) -> Mapping[Part, str]:
        return self._names({part: plan.model for part, plan in self._plans.items()})

    def _names(self, models: Mapping[Part, dict[str, Any]]) -> dict[Part, str]:
        """Name the tables of all parts, each of which depends on those before it."""
        names: dict[Part, str] = {}
        for part in self.parts:
            plan = self.plan(part)
            decided_by = {
                "version": plan.version,
                "part": part,
                "model": models[part],
                "prompt": plan.prompt,
                "decoding": plan.settings.generation.identity(),
                "inputs": self._inputs(part),
                "upstream": list(names.values()),
            }
            names[part] = content_key(**decided_by)[:16]
        return names

    def _inputs(self, part: Part) -> dict[str, Any]:
        """Return what a part reads, apart from the parts before it."""
        settings, about = self.settings, PARTS[part]
        fields = ("brand", "categories", "description", "max_item_tokens")
        inputs = {
            "items": table_hash(self.data.items.drop("price", "image_urls")),
            "modality": settings.modality,
            **{name: getattr(self.prompt, name) for name in fields},
        }
        if about.reads == "picture":
            # By content: the store's own name changes with the files' times, which copying a data set does not keep.
            pictures = [[item_id, self.picture_key(item_id)] for item_id in self.data.items["item_id"]]
            return {"pictures": pictures, **(inputs if self.titled else {})}
        if about.subject == "user":
            names = ("variant", "use_reviews", "window", "step")
            inputs |= {name: getattr(settings, name) for name in names}
            if self.windows_left_out[0]:  # else it decides nothing, and is in no older name
                inputs["max_windows"] = settings.max_windows
            inputs["interactions"] = table_hash(self.data.interactions.drop(LIKED))
            if (rule := self.data.rating_rule) != RatingRule():  # the default one is in no older name
                inputs["ratings"] = [rule.liked_from, *rule.no_rating]
        return inputs
