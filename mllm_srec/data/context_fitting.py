"""Bodies of contexts -> token ids within the room that `max_length` leaves them.

The oldest history lines give way first, then the end of the preference; what is left out is counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mllm_srec.data.context_texts import ContextBody
from mllm_srec.data.item_texts import cut_text
from mllm_srec.data.prompt_report import PromptReport
from mllm_srec.prompts.builder import empty_history, preference_line
from mllm_srec.prompts.encoding import PromptEncoder
from mllm_srec.prompts.templates import PromptSettings

Ids = list[int]


class ContextFitter:
    """Puts the tokens of bodies together.

    Args:
        lines: item_id -> tokens of its history line.
        encoder: The backbone's tokenizer.
        settings: Wording, and the length at which preferences are cut.
        report: Receives what was shortened.

    Attributes:
        nothing: Tokens of a body without any history.
    """

    def __init__(
        self, lines: Mapping[str, Ids], encoder: PromptEncoder, settings: PromptSettings, report: PromptReport
    ) -> None:
        self.lines, self.encoder, self.settings, self.report = lines, encoder, settings, report
        self.nothing = encoder.encode_text(empty_history(settings))

    def fit(self, body: ContextBody, room: int) -> tuple[Ids, int]:
        """Tokens of a body, at most `room`, and how many of its lines were left out.

        Args:
            body: What is to be said.
            room: Tokens that there are for it, at least those of `nothing`.
        """
        lines = [self.lines[item] for item in body.items]
        shown, n_kept = self._shown(body, lines, room)
        n_dropped = len(lines) - n_kept
        self.report.n_contexts += 1
        self.report.n_without_history += body.preference is None and not lines
        self.report.n_shortened += n_dropped > 0
        self.report.n_dropped_items += n_dropped
        return shown, n_dropped

    def _shown(self, body: ContextBody, lines: Sequence[Ids], room: int) -> tuple[Ids, int]:
        """Tokens of the body, and how many of its lines they hold."""
        opening: Ids = []
        if body.preference is None:
            kept = self._only_lines(lines, room)
        else:
            opening, kept = self._behind_preference(body.preference, lines, room)
        return opening + _joined(kept) or self.nothing, len(kept)

    def _only_lines(self, lines: Sequence[Ids], room: int) -> Sequence[Ids]:
        kept = _newest_that_fit(lines, room)
        if lines and not kept:  # never claim that there is no history: the newest item, cut
            kept = [lines[-1][:room]]
            self.report.n_cut_histories += 1
        return kept

    def _behind_preference(self, preference: str, lines: Sequence[Ids], room: int) -> tuple[Ids, Sequence[Ids]]:
        """Tokens of the preference up to the first line, and the lines that fit behind them."""
        text = cut_text(self.encoder, preference, self.settings.max_preference_tokens)
        opening = self.encoder.encode_text(preference_line(text, has_lines=True))
        kept = _newest_that_fit(lines, room - len(opening))
        whole = opening if kept else self.encoder.encode_text(preference_line(text, has_lines=False))
        shown = whole if len(whole) <= room else self._cut(whole, room)
        self.report.n_cut_preferences += text != preference or len(shown) < len(whole)
        return shown, kept

    def _cut(self, ids: Ids, room: int) -> Ids:
        """The first `room` tokens, without the first bytes of a letter that was cut through."""
        ids = ids[:room]
        while self.encoder.tokenizer.decode(ids).endswith("\ufffd"):
            ids = ids[:-1]
        return ids


class TwoListFitter(ContextFitter):
    """Puts liked and disliked items into two lists; the oldest of both together give way first."""

    def __init__(
        self, lines: Mapping[str, Ids], encoder: PromptEncoder, settings: PromptSettings, report: PromptReport
    ) -> None:
        super().__init__(lines, encoder, settings, report)
        self._none = encoder.encode_text(empty_history(settings))
        self._between = encoder.encode_text(settings.phrases.disliked)
        self.nothing = [*self._none, *self._between, *self._none]

    def _shown(self, body: ContextBody, lines: Sequence[Ids], room: int) -> tuple[Ids, int]:
        disliked = [item in body.disliked for item in body.items]
        for first in range(len(lines)):
            if len(ids := self._written(lines[first:], disliked[first:])) <= room:
                return ids, len(lines) - first
        if not lines:
            return self.nothing, 0
        self.report.n_cut_histories += 1  # never claim that there is no history: the newest item, cut
        around = len(self._written([()], disliked[-1:]))
        return self._written([lines[-1][: room - around]], disliked[-1:]), 1

    def _written(self, lines: Sequence[Sequence[int]], disliked: Sequence[bool]) -> Ids:
        """Both lists, each in the order of `lines`."""
        lists = [[line for line, no in zip(lines, disliked, strict=True) if no == other] for other in (False, True)]
        liked, other = (_joined(part) if part else self._none for part in lists)
        return [*liked, *self._between, *other]


def _joined(lines: Sequence[Sequence[int]]) -> Ids:
    return [token for line in lines for token in line]


def _newest_that_fit(lines: Sequence[Ids], room: int) -> Sequence[Ids]:
    first = len(lines)
    while first > 0 and len(lines[first - 1]) <= room:
        first -= 1
        room -= len(lines[first])
    return lines[first:]
