"""Encodes chats by a model's own chat template, which is cut where contents go, so that contents are never parsed.

For text-only models that write summaries; `chat.py` chooses between this and the ChatML of Qwen-VL.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from jinja2 import TemplateError

from mllm_srec.families.lookup import titles
from mllm_srec.prompts.builder import Control
from mllm_srec.prompts.encoding import PlainText, encode_pieces
from mllm_srec.prompts.summaries import Message
from mllm_srec.types import ConfigError

Turn = tuple[str, str]
"""Role and text of one message."""
Layout = list[list[str | Control]]
"""Parts that a template writes before, between and behind the contents of a chat."""

SENTINEL = "MLLMSREC{}CONTENT"
FIXED_DATE = "{%- macro strftime_now(format) -%}26 Jul 2024{%- endmacro -%}"
"""Prepended to every template: Llama 3.2 and others write today's date into each prompt, and a summary must not depend
on the day it is written. The date is the default of Llama 3.1."""


class ChatTemplate:
    """Encodes chats by a tokenizer's chat template.

    The template is rendered with a sentinel in place of each content and split at the sentinels. Control tokens are
    parsed in the template's own parts only; contents go in between as plain text.

    Args:
        tokenizer: Hugging Face tokenizer with a chat template.
        plain: Encoder of plain text with the same tokenizer.

    Attributes:
        stop_ids: The control token that the template writes behind an answer, and the tokenizer's end of sequence.
        image_token_id: Always None: such a model is shown no pictures.

    Raises:
        ConfigError: The tokenizer has no chat template, or does not define the end of an answer.
    """

    image_token_id: int | None = None

    def __init__(self, tokenizer: Any, plain: PlainText) -> None:
        self._name = tokenizer.name_or_path
        if not getattr(tokenizer, "chat_template", None):
            raise ConfigError(
                f"the tokenizer of {self._name!r} has no chat template: the model is old or not instruction-tuned; "
                "give one that has it, such as Llama-3.1-8B-Instruct, or put a chat_template.jinja beside its files"
            )
        self._tokenizer, self._plain = tokenizer, plain
        self._source = FIXED_DATE + str(tokenizer.get_chat_template())
        self._pattern = _control_pattern(tokenizer, plain)
        self._layouts: dict[tuple[str, ...], Layout | None] = {}
        self.stop_ids = self._find_stop_ids()

    def encode(self, messages: Sequence[Message], n_image_tokens: int = 0) -> list[int]:
        """Return the token ids of a chat and of the opening of the assistant's turn.

        Where the template has no system role, the system text opens the first user turn.

        Args:
            messages: The chat, texts only.
            n_image_tokens: Ignored; such models see no pictures.

        Raises:
            ConfigError: A message shows a picture, or the template drops, repeats or reorders contents.
        """
        turns = [(message.role, self._text(message)) for message in messages]
        layout = self._layout(turns)
        if layout is None:
            turns = _without_system(turns)
            layout = self._layout(turns)
        if layout is None:
            raise ConfigError(
                f"the chat template of {self._name!r} does not write the turns {[role for role, _ in turns]} "
                "each once and in order; give a model with a plain chat template"
            )
        pieces = [*layout[0]]
        for (_, text), behind in zip(turns, layout[1:], strict=True):
            pieces += [text, *behind]
        return encode_pieces(pieces, self._plain, self._plain.control_ids)

    def _text(self, message: Message) -> str:
        texts = [piece for piece in message.content if isinstance(piece, str)]
        if len(texts) < len(message.content):
            raise ConfigError(
                f"the {message.role} message shows a picture, but {self._name!r} is a text-only model; "
                f"give a {titles()} as backbone of this stage"
            )
        return "".join(texts)

    def _find_stop_ids(self) -> list[int]:
        """Return the ids that end an answer, first the one that ends the turn."""
        layout = self._cut(("user", "assistant"), add_generation_prompt=False)
        behind = [piece for piece in (layout[-1] if layout else []) if not isinstance(piece, str) or piece.strip()]
        stop_ids = [self._plain.control_ids[piece.token] for piece in behind[:1] if isinstance(piece, Control)]
        if self._tokenizer.eos_token_id not in (None, *stop_ids):
            stop_ids.append(int(self._tokenizer.eos_token_id))
        if not stop_ids:
            raise ConfigError(
                f"the tokenizer of {self._name!r} does not define the end of an answer: it has no end of sequence, and "
                "its chat template writes no special token there; set eos_token in the model's tokenizer_config.json"
            )
        return stop_ids

    def _layout(self, turns: Sequence[Turn]) -> Layout | None:
        """Return the parts around the contents, rendered once for the same roles; None if the template refuses them."""
        roles = tuple(role for role, _ in turns)
        if roles not in self._layouts:
            self._layouts[roles] = self._cut(roles, add_generation_prompt=True)
        return self._layouts[roles]

    def _cut(self, roles: Sequence[str], add_generation_prompt: bool) -> Layout | None:
        chat = [{"role": role, "content": SENTINEL.format(index)} for index, role in enumerate(roles)]
        try:
            rendered = self._tokenizer.apply_chat_template(
                chat,
                chat_template=self._source,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                enable_thinking=False,  # for Qwen3 and its like; other templates ignore it
            )
        except TemplateError:
            return None
        parts = re.split(SENTINEL.format(r"(\d+)"), rendered)
        if parts[1::2] != [str(index) for index in range(len(roles))]:
            return None
        return [list(self._parse(part)) for part in parts[::2]]

    def _parse(self, part: str) -> Iterator[str | Control]:
        """Yield the control tokens of the template's own text, and the texts between them."""
        end = 0
        for match in self._pattern.finditer(part):
            yield part[end : match.start()]
            yield Control(match.group().strip())
            end = match.end()
        yield part[end:]


def _control_pattern(tokenizer: Any, plain: PlainText) -> re.Pattern[str]:
    """Return a pattern of control tokens, with the white space that some of them absorb."""
    flags = {str(token.content): (token.lstrip, token.rstrip) for token in tokenizer.added_tokens_decoder.values()}
    written = [
        (r"\s*" if flags[token][0] else "") + re.escape(token) + (r"\s*" if flags[token][1] else "")
        for token in sorted(plain.control_ids, key=len, reverse=True)
    ]
    return re.compile("|".join(written) or r"(?!)")


def _without_system(turns: Sequence[Turn]) -> list[Turn]:
    """Return the same chat with the system text at the head of the first user turn."""
    system = "\n\n".join(text for role, text in turns if role == "system")
    rest = [turn for turn in turns if turn[0] != "system"]
    first = next((index for index, (role, _) in enumerate(rest) if role == "user"), None)
    if first is None:
        return rest
    return [(role, f"{system}\n\n{text}" if index == first else text) for index, (role, text) in enumerate(rest)]
