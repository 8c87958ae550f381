"""Tokens of targets and contexts: the same for the prompt store and for what is asked on arrival."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mllm_srec.data.pictures.image_store import ImageStore
from mllm_srec.data.stored_prompts.contexts import ContextBody, ContextFitter, PromptReport, TwoListFitter
from mllm_srec.data.stored_prompts.item_texts import ShownItem, shown_item
from mllm_srec.data.stored_prompts.summary_texts import SummaryTexts
from mllm_srec.prompts.builder import ContextFrame, Piece, choice_line, choices_end, history_line, plain_context, target
from mllm_srec.prompts.chain_of_thought import chain_context, chain_target
from mllm_srec.prompts.encoding import PromptEncoder
from mllm_srec.prompts.templates import NO_PICTURE, PromptSettings
from mllm_srec.types import ConfigError

Ids = list[int]


class PromptParts:
    """Makes the rows of both tables of a prompt store.

    Args:
        encoder: The backbone's tokenizer.
        images: The image store, None for prompts without pictures.
        settings: Wording and fields.
        max_length: Tokens of a prompt with its longest target and answer.
        texts: Stored summaries, None for prompts of titles; a chain of thought needs them.

    Attributes:
        report: Counts what was shortened or is missing.
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
        self.chain = texts.prompts if texts is not None and settings.cot else None
        self.mentions_pictures = not settings.phrases.items_only and (texts is None or texts.modality != "text")
        self.images = images if self.mentions_pictures else None
        self.listwise = settings.layout == "listwise"
        self.report = PromptReport()

    # --- items -----------------------------------------------------------------------------------------------------

    def shown(self, row: Mapping[str, Any]) -> ShownItem:
        """An item's texts, cut at `max_item_tokens` and counted where one was.

        Args:
            row: Fields of the items table.

        Raises:
            DataError: A summary that is needed was not written.
        """
        whole = shown_item(row, self.settings, self.texts)
        shown = whole.cut(self.encoder, self.settings.max_item_tokens)
        self.report.n_cut_texts += shown != whole
        return shown

    def line(self, item: ShownItem) -> Ids:
        """Tokens of a history line."""
        return self.encoder.encode_text(history_line(item.line))

    def target(self, item_id: str, item: ShownItem) -> dict[str, Any]:
        """Tokens and picture of a target: a row of `targets`."""
        picture = self.images.picture_of(item_id) if self.images else None
        n_tokens = self.images.n_tokens(picture) if self.images and picture else 0
        grid = list(self.images.grid(picture)) if self.images and picture else []
        before, after = self._target_pieces(item, picture is not None)
        named = item.image_summary != NO_PICTURE if self.chain else picture is not None
        self.report.n_without_picture += self.mentions_pictures and not named
        return {
            "before_ids": self.encoder.encode(before, n_tokens),
            "input_ids": self.encoder.encode(after, n_tokens),
            "choice_ids": self.encoder.encode_text(choice_line(item.target)) if self.listwise else [],
            "picture": picture,
            "grid": grid,
        }

    @property
    def list_end(self) -> Ids:
        """Tokens from behind a list of candidates to its answer."""
        return self.encoder.encode(choices_end(self.settings))

    def longest_list(self, choice_lengths: Sequence[int]) -> int:
        """Tokens of a list prompt without its context, of the candidates with the most tokens.

        Args:
            choice_lengths: Lengths of all items' `choice_ids`.
        """
        longest = sorted(choice_lengths)[-self.settings.list_size :]
        return sum(longest) + len(longest) + len(self.list_end)

    def _target_pieces(self, item: ShownItem, has_picture: bool) -> tuple[list[Piece], list[Piece]]:
        """What stands before the context's middle part, and behind it."""
        if self.chain is None:
            return [], target(item.target, has_picture if self.mentions_pictures else None, self.settings)
        before = chain_target(self.chain, has_picture, item.image_summary, item.text, item.line)
        return before, target(item.line, None, self.settings)

    # --- contexts --------------------------------------------------------------------------------------------------

    def fitter(self, lines: Mapping[str, Ids]) -> ContextFitter:
        """Fits bodies into what `max_length` leaves them.

        Args:
            lines: item_id -> what `line` returned.
        """
        kind = TwoListFitter if self.settings.phrases.disliked else ContextFitter
        return kind(lines, self.encoder, self.settings, self.report)

    def context(
        self, group: Mapping[str, Any], profile: str | None, body: ContextBody, fitter: ContextFitter
    ) -> dict[str, Any]:
        """Tokens of a context: a row of `contexts`.

        Args:
            group: `group_id`, `user_id` and, of the data set, `purpose`; in `longest` the tokens of the longest target,
                or list of them; None where it has none.
            profile: The user's profile, where there is one.
            body: What is to be said.
            fitter: Knows the lines of the body's items.

        Raises:
            ConfigError: Even without any history the prompt exceeds `max_length`.
        """
        frame = self._frame(group, profile)
        head, tail, apart = (self.encoder.encode(pieces) for pieces in (frame.head, frame.tail, frame.apart))
        room = self._room(group, len(head) + len(tail) + len(apart), len(fitter.nothing))
        fitted, n_dropped = fitter.fit(body, room)
        whole = head + fitted + tail
        prefix, middle = (whole, apart) if frame.body_first else (apart, whole)
        return {"prefix_ids": prefix, "middle_ids": middle, "n_dropped": n_dropped}

    def _frame(self, group: Mapping[str, Any], profile: str | None) -> ContextFrame:
        user_id = group["user_id"]
        if self.chain is None:
            of_list = self.listwise and group.get("purpose") == "rank"
            return plain_context(user_id, profile, self.settings, of_list)
        return chain_context(self.chain, user_id, profile, self.settings)

    def _room(self, group: Mapping[str, Any], n_frame: int, n_nothing: int) -> int:
        """Tokens that `max_length` leaves for the body of a context."""
        answer = max(map(len, self.encoder.answer_ids.values()))
        room = self.max_length - n_frame - (group["longest"] or 0) - answer
        if room < n_nothing:
            raise ConfigError(
                f"max_length={self.max_length} is too short for group {group['group_id']} of user "
                f"{group['user_id']!r}: without any history it needs {self.max_length - room + n_nothing}; raise "
                "data.max_length, or lower data.pictures.max_pixels or data.prompt.max_item_tokens"
            )
        return room
