"""Pieces -> token ids, so that no text of the data can act as a control token."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mllm_srec.prompts.builder import Control, Picture, Piece, answer
from mllm_srec.prompts.templates import ANSWERS, LABELS
from mllm_srec.types import ConfigError

VISION_START, VISION_END, IMAGE_PAD = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"
REQUIRED = ("<|im_start|>", "<|im_end|>", VISION_START, VISION_END, IMAGE_PAD)


def load_tokenizer(backbone: str, revision: str | None = None) -> Any:
    """The backbone's tokenizer, from a hub name or a folder; code from a hub is never run."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(backbone, revision=revision)


class PlainText:
    """Encodes texts of the data, in which control tokens are letters like any other.

    Args:
        tokenizer: A Hugging Face tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.control_ids = _control_tokens(tokenizer)
        self._forbidden_ids = frozenset(self.control_ids.values())
        longest_first = sorted(self.control_ids, key=len, reverse=True)
        self._control_pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def encode(self, text: str) -> list[int]:
        """Token ids of `text` without a control token.

        Every occurrence of a control token is cut after its first character and the parts are encoded apart: this
        holds for any tokenizer, whatever its settings do with special tokens.

        Raises:
            ConfigError: The tokenizer turns other letters into a control token.
        """
        ids: list[int] = []
        while found := self._control_pattern.search(text):
            cut = found.start() + 1
            ids += self._encode_clean(text[:cut])
            text = text[cut:]
        return ids + self._encode_clean(text)

    def _encode_clean(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False) if text else []
        if not self._forbidden_ids.isdisjoint(ids):
            raise ConfigError(
                f"the tokenizer turned the plain text {text[:80]!r} into a control token; "
                "use a tokenizer that does not normalise text into its control tokens"
            )
        return ids

    def fingerprint(self) -> str:
        """Hash of vocabulary, added tokens and behaviour on a probe text: names the tokenizer in stored prompts."""
        digest = hashlib.sha256()
        for token, index in sorted(self.tokenizer.get_vocab().items(), key=lambda entry: (entry[1], entry[0])):
            digest.update(f"{index}\t{token}\n".encode())
        digest.update(repr(self.encode("It's a Probe: 12,345 naïve\u00a0caf\u0065\u0301s?\n\n - ok ")).encode())
        return digest.hexdigest()[:16]


def encode_pieces(pieces: Iterable[str | Control], plain: PlainText, control_ids: Mapping[str, int]) -> list[int]:
    """Token ids of texts and control tokens; neighbouring texts are joined first, so that they tokenise as one text."""
    ids: list[int] = []
    text = ""
    for piece in pieces:
        if isinstance(piece, str):
            text += piece
            continue
        ids += plain.encode(text)
        text = ""
        ids.append(control_ids[piece.token])
    return ids + plain.encode(text)


class PromptEncoder:
    """Encodes prompt pieces with a Hugging Face tokenizer.

    Args:
        tokenizer: A tokenizer whose vocabulary holds the control tokens of the Qwen-VL chat format.

    Raises:
        ConfigError: A control token is missing, or "Yes" / "No" is not the first single token of the response.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._control_ids = {token: _control_id(tokenizer, token) for token in REQUIRED}
        self._plain = PlainText(tokenizer)
        self._forbidden_ids = frozenset(self._plain.control_ids.values())
        self.image_token_id = self._control_ids[IMAGE_PAD]
        self.pad_token_id = self._control_ids["<|im_end|>"]  # never attended to and never a label: any id would do
        self.answer_ids = {label: self.encode(answer(label)) for label in ANSWERS}
        self.yes_id, self.no_id = _check_answers(tokenizer, self.answer_ids)

    def encode(self, pieces: Sequence[Piece], n_image_tokens: int = 0) -> list[int]:
        """Token ids of `pieces`; neighbouring texts are joined first, so that they tokenise as one text.

        Args:
            pieces: Texts, control tokens and pictures in order.
            n_image_tokens: Placeholders of each picture: patches of its grid divided by the merge area (4).
        """
        expanded: list[str | Control] = []
        for piece in pieces:
            expanded += _placeholders(n_image_tokens) if isinstance(piece, Picture) else [piece]
        return encode_pieces(expanded, self._plain, self._control_ids)

    def encode_text(self, text: str) -> list[int]:
        """Token ids of plain text, in which control tokens are letters like any other."""
        return self._plain.encode(text)

    def label_ids(self, n_labels: int) -> list[int]:
        """Tokens of the first letters of the alphabet, which name the candidates of a list.

        Raises:
            ConfigError: A letter is not one token.
        """
        encoded = {label: self.encode_text(label) for label in LABELS[:n_labels]}
        if wrong := [label for label, ids in encoded.items() if len(ids) != 1]:
            raise ConfigError(
                f"the tokenizer splits the letter {wrong[0]!r}, which must be one token to be scored; "
                "set data.prompt.layout to pointwise, or use another backbone"
            )
        return [ids[0] for ids in encoded.values()]

    def fingerprint(self) -> str:
        """Hash that names the tokenizer in stored prompts."""
        return self._plain.fingerprint()


def _placeholders(n_image_tokens: int) -> list[Control]:
    if n_image_tokens < 1:
        raise ValueError(f"n_image_tokens={n_image_tokens} for a prompt with a picture; give its token count")
    return [Control(VISION_START), *[Control(IMAGE_PAD)] * n_image_tokens, Control(VISION_END)]


def _control_tokens(tokenizer: Any) -> dict[str, int]:
    """Added tokens that steer the model: special ones, and those in brackets such as `<tool_call>` or `[INST]`."""
    return {
        str(token.content): int(index)
        for index, token in tokenizer.added_tokens_decoder.items()
        if len(token.content) > 1 and (token.special or re.fullmatch(r"<.+>|\[.+\]", token.content))
    }


def _control_id(tokenizer: Any, token: str) -> int:
    index = tokenizer.get_vocab().get(token)
    if index is None:
        raise ConfigError(
            f"the tokenizer has no token {token!r}; use the tokenizer of a Qwen2-VL, Qwen2.5-VL or Qwen3-VL model"
        )
    return int(index)


def _check_answers(tokenizer: Any, answer_ids: dict[int, list[int]]) -> tuple[int, int]:
    """Ids of Yes and No, derived from the exact training response (article, Eq. 4; practice: derive, never assume)."""
    first = {}
    for label, response in ANSWERS.items():
        word = response.rstrip(".")
        decoded = tokenizer.decode([answer_ids[label][0]])
        if decoded != word:
            raise ConfigError(
                f"the response {response!r} begins with the token {decoded!r}, but {word!r} must be one token to be "
                f"scored; use a tokenizer that has {word!r} as a single token"
            )
        first[label] = answer_ids[label][0]
    return first[1], first[0]
