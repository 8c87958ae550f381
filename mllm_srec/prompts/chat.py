"""Encodes chats for any model that writes summaries: ChatML where its family speaks it, else its own chat template.

This file chooses between the two and holds the first; `chat_template.py` holds the second. Whatever a title, a
description or an earlier summary says, only the chat format itself can become a control token.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from mllm_srec.families import text_only
from mllm_srec.families.base import Family
from mllm_srec.prompts.builder import TURN_END, TURN_START, Piece
from mllm_srec.prompts.chat_template import ChatTemplate
from mllm_srec.prompts.encoding import PlainText, PromptEncoder
from mllm_srec.prompts.summaries import Message

END_OF_TEXT = "<|endoftext|>"
"""Ends a document, and sometimes an answer: Qwen's own files list it beside `<|im_end|>`."""


class ChatEncoder:
    """Encodes chats up to the opening of the assistant's turn, and decodes answers.

    Args:
        tokenizer: Hugging Face tokenizer of the model.
        family: Family of the model; None for a text-only one.

    Attributes:
        stop_ids: Tokens that end an answer, at least one.
        image_token_id: Placeholder of one picture token; None where the chat cannot show pictures.

    Raises:
        ConfigError: The tokenizer has no chat template, or does not define the end of an answer.
    """

    def __init__(self, tokenizer: Any, family: Family | None = None) -> None:
        self.tokenizer = tokenizer
        family = family or text_only.FAMILY
        self._plain = PlainText(tokenizer)
        chatml = family.speaks(tokenizer.get_vocab())
        self._format = ChatML(tokenizer, family) if chatml else ChatTemplate(tokenizer, self._plain)
        self.stop_ids: list[int] = self._format.stop_ids
        self.image_token_id: int | None = self._format.image_token_id

    @property
    def pad_token_id(self) -> int:
        """Token that fills shorter rows of a batch; any would do, since it is never attended to."""
        return self.stop_ids[0]

    def encode(self, messages: Sequence[Message], n_image_tokens: int = 0) -> list[int]:
        """Return the token ids of `messages` and of the opening of the assistant's turn.

        Args:
            messages: The chat so far.
            n_image_tokens: Number of placeholders of its picture.

        Raises:
            ConfigError: A text-only model is shown a picture, or its template refuses the chat.
        """
        return self._format.encode(messages, n_image_tokens)

    def cut(self, text: str, max_tokens: int) -> str:
        """Return `text`, or its first `max_tokens` tokens where it has more."""
        ids = self._plain.encode(text)
        return text if len(ids) <= max_tokens else self.decode(ids[:max_tokens])

    def decode(self, ids: Sequence[int]) -> str:
        """Return the answer without control tokens, stripped, and without a cut character at its end."""
        control_ids = frozenset(self._plain.control_ids.values())
        kept = [index for index in ids if index not in control_ids]
        text: str = self.tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text.rstrip("\ufffd").strip()

    def fingerprint(self) -> str:
        """Return a hash of vocabulary, chat format and stop tokens, which names the encoder in stored summaries."""
        probe = [Message("system", ("Be brief.",)), Message("user", ("A red mug?",))]
        content = f"{self._plain.fingerprint()} {self.encode(probe)} {self.stop_ids}"
        return hashlib.sha256(content.encode()).hexdigest()[:16]


class ChatML:
    """The chat format of ChatML, pictures included.

    Args:
        tokenizer: Hugging Face tokenizer of the model.
        family: Family of the model.
    """

    def __init__(self, tokenizer: Any, family: Family) -> None:
        self._encoder = PromptEncoder(tokenizer, family)
        self.image_token_id: int | None = self._encoder.image_token_id
        vocabulary = tokenizer.get_vocab()
        self.stop_ids = [int(vocabulary[token]) for token in (TURN_END.token, END_OF_TEXT) if token in vocabulary]

    def encode(self, messages: Sequence[Message], n_image_tokens: int) -> list[int]:
        """Encode a chat; see `ChatEncoder.encode`."""
        pieces: list[Piece] = []
        for message in messages:
            pieces += [TURN_START, f"{message.role}\n", *message.content, TURN_END, "\n"]
        return self._encoder.encode([*pieces, TURN_START, "assistant\n"], n_image_tokens)
