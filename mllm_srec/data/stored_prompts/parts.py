"""Tokens of targets and contexts, made the same way for the prompt store and for users and items ranked on arrival."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mllm_srec.data.history import Ids, room_for_history
from mllm_srec.data.pictures.image_store import ImageStore
from mllm_srec.data.stored_prompts.contexts import ContextBody, ContextFitter, PromptReport, TwoListFitter
from mllm_srec.data.stored_prompts.item_texts import ShownItem, shown_item
from mllm_srec.data.stored_prompts.summary_texts import SummaryTexts
from mllm_srec.prompts.builder import ContextFrame, Piece, choice_line, choices_end, history_line, plain_context, target
from mllm_srec.prompts.chain_of_thought import cot_context, cot_target
from mllm_srec.prompts.encoding import PromptEncoder
from mllm_srec.prompts.templates import NO_PICTURE, PromptSettings


class PromptParts:
    """Makes the rows of both tables of a prompt store.

    Args:
        encoder: The backbone's tokenizer.
        images: The image store; None for prompts without pictures.
        settings: Wording and fields.
        max_length: Tokens of a prompt with its longest target and answer.
        texts: Stored summaries; None for prompts of titles. A chain of thought needs them.

    Attributes:
        report: Counts of what was shortened or is missing.
    """

    def __init__(
        self,
        encoder: PromptEncoder,
        images: ImageStore | None,
        settings: PromptSettings,
        max_length: int,
        texts: SummaryTexts | None,
    ) -> None:
        self.encoder, self.settings, self.max_length, self.texts = encoder, settings, max_length, texts
        self.chain_of_thought = texts.prompts if texts is not None and settings.cot else None
        self.mentions_pictures = not settings.phrases.items_only and (texts is None or texts.modality != "text")
        self.images = images if self.mentions_pictures else None
        self.listwise = settings.layout == "listwise"
        self.report = PromptReport()

    # --- items -----------------------------------------------------------------------------------------------------

    def shown(self, row: Mapping[str, Any]) -> ShownItem:
        """Return an item's texts, cut at `max_item_tokens`, and count the item if one was.

        Args:
            row: A row of the items table.

        Raises:
            DataError: A summary that is needed was not written.
        """
        uncut = shown_item(row, self.settings, self.texts)
        shown = uncut.cut(self.encoder, self.settings.max_item_tokens)
        self.report.n_cut_texts += shown != uncut
        return shown

    def line(self, item: ShownItem) -> Ids:
        """Return the tokens of a history line."""
        return self.encoder.encode_text(history_line(item.line))

    def target(self, item_id: str, item: ShownItem) -> dict[str, Any]:
        """Return tokens and picture of a target: a row of `targets`."""
        picture = self.images.picture_of(item_id) if self.images else None
        n_tokens = self.images.n_tokens(picture) if self.images and picture else 0
        grid = list(self.images.grid(picture)) if self.images and picture else []
        before, after = self._target_pieces(item, picture is not None)
        is_pictured = item.image_summary != NO_PICTURE if self.chain_of_thought else picture is not None
        self.report.n_without_picture += self.mentions_pictures and not is_pictured
        return {
            "before_ids": self.encoder.encode(before, n_tokens),
            "input_ids": self.encoder.encode(after, n_tokens),
            "choice_ids": self.encoder.encode_text(choice_line(item.target)) if self.listwise else [],
            "picture": picture,
            "grid": grid,
        }

    @property
    def list_end(self) -> Ids:
        """Tokens between the candidates of a listwise prompt and its answer."""
        return self.encoder.encode(choices_end(self.settings))

    def longest_question(self, targets: Sequence[Mapping[str, Any]]) -> int:
        """Return the tokens of the longest target or, with listwise prompts, of a longer possible list.

        Args:
            targets: Rows of `targets`, of the whole catalogue: a candidate list may hold any item.
        """
        single = max((len(row["before_ids"]) + len(row["input_ids"]) for row in targets), default=0)
        if not self.listwise:
            return single
        longest = sorted(len(row["choice_ids"]) for row in targets)[-self.settings.list_size :]
        return max(single, sum(longest) + len(longest) + len(self.list_end))

    def _target_pieces(self, item: ShownItem, has_picture: bool) -> tuple[list[Piece], list[Piece]]:
        """Return the pieces before the context's middle part, and those behind it."""
        if self.chain_of_thought is None:
            return [], target(item.target, has_picture if self.mentions_pictures else None, self.settings)
        before = cot_target(self.chain_of_thought, has_picture, item.image_summary, item.text, item.line)
        return before, target(item.line, None, self.settings)

    # --- contexts --------------------------------------------------------------------------------------------------

    def fitter(self, lines: Mapping[str, Ids]) -> ContextFitter:
        """Return what fits bodies into the room that `max_length` leaves them.

        Args:
            lines: item_id -> tokens of the history line, as `line` returned them.
        """
        kind = TwoListFitter if self.settings.phrases.disliked else ContextFitter
        return kind(lines, self.encoder, self.settings, self.report)

    def context(
        self, group: Mapping[str, Any], profile: str | None, body: ContextBody, fitter: ContextFitter, longest: int
    ) -> dict[str, Any]:
        """Return the tokens of a context: a row of `contexts`.

        The history is cut alike for every purpose, so that pairs and lists of one context show the same.

        Args:
            group: A row of the groups table, or at least `group_id` and `user_id`.
            profile: The user's profile; None where there is none.
            body: Preference and items of the context.
            fitter: Fitter that holds the lines of these items.
            longest: Tokens of the longest target of the catalogue, from `longest_question`, or of a longer new item.

        Raises:
            ConfigError: Even without any history the prompt exceeds `max_length`.
        """
        of_list = self.listwise and group.get("purpose") == "rank"
        frame, parts = self._frame(group, profile, of_list)
        head, tail, apart = parts
        n_frame = sum(map(len, parts))
        if self.listwise:  # the other purpose has another instruction
            n_frame = max(n_frame, sum(map(len, self._frame(group, profile, not of_list)[1])))
        room = self._room(group, n_frame, len(fitter.nothing), longest)
        fitted, n_dropped = fitter.fit(body, room)
        around_body = head + fitted + tail
        prefix, middle = (around_body, apart) if frame.body_first else (apart, around_body)
        return {"prefix_ids": prefix, "middle_ids": middle, "n_dropped": n_dropped}

    def _frame(
        self, group: Mapping[str, Any], profile: str | None, of_list: bool
    ) -> tuple[ContextFrame, tuple[Ids, Ids, Ids]]:
        """Return what stands around a body, and the tokens of its head, tail and rest."""
        user_id = group["user_id"]
        if self.chain_of_thought is None:
            frame = plain_context(user_id, profile, self.settings, of_list)
        else:
            frame = cot_context(self.chain_of_thought, user_id, profile, self.settings)
        head, tail, apart = (self.encoder.encode(pieces) for pieces in (frame.head, frame.tail, frame.apart))
        return frame, (head, tail, apart)

    def _room(self, group: Mapping[str, Any], n_frame: int, n_empty: int, longest: int) -> int:
        """Return the tokens that `max_length` leaves for the body of a context."""
        n_answer = max(map(len, self.encoder.answer_ids.values()))
        about = f"group {group['group_id']} of user {group['user_id']!r}"
        return room_for_history(self.max_length, n_frame, longest, n_answer, n_empty, about)
