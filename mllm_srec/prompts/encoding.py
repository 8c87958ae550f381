"""Pieces of a prompt -> token ids, such that no untrusted text can act as a control token."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mllm_srec.families.base import Family
from mllm_srec.families.config_file import first_line, hub_given_up_early, pinned_revision
from mllm_srec.families.lookup import read_family, titles
from mllm_srec.prompts.builder import TURN_END, Control, Picture, Piece, answer
from mllm_srec.prompts.templates import ANSWERS, LABELS
from mllm_srec.types import ConfigError


def load_tokenizer(backbone: str, revision: str | None = None) -> Any:
    """Load a backbone's tokenizer from a hub name or a folder; code from a hub is never run.

    Raises:
        ConfigError: Its files are missing or damaged.
    """
    from transformers import AutoTokenizer

    try:
        with hub_given_up_early(backbone):
            return AutoTokenizer.from_pretrained(backbone, revision=pinned_revision(backbone, revision))
    except Exception as error:  # the tokenizers library raises bare ones
        raise ConfigError(
            f"backbone={backbone!r}: its tokenizer cannot be loaded ({first_line(error)}); tokenizer.json or "
            "tokenizer_config.json is missing or damaged: copy them from where the model was published"
        ) from error


def load_encoder(backbone: str, revision: str | None = None) -> PromptEncoder:
    """Load the prompt encoder of a recommender's backbone.

    Raises:
        ConfigError: The backbone is of no family, or its tokenizer does not fit; see `PromptEncoder`.
    """
    return PromptEncoder(load_tokenizer(backbone, revision), read_family(backbone, revision))


class PlainText:
    """Encoder of untrusted text, in which a control token is a string of characters like any other.

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
        """Encode `text` without any control token.

        Every occurrence of a control token is cut after its first character and the parts are encoded separately. That
        is safe with any tokenizer, however it is set to treat special tokens.

        Raises:
            ConfigError: The tokenizer turns other characters into a control token.
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
                f"tokenizer={self.tokenizer.name_or_path!r}: turns the plain text {text[:80]!r} into a control token; "
                "use one that does not normalise text into its control tokens"
            )
        return ids

    def fingerprint(self) -> str:
        """Hash vocabulary, added tokens and behaviour on a probe text, to identify the tokenizer of stored prompts."""
        digest = hashlib.sha256()
        for token, index in sorted(self.tokenizer.get_vocab().items(), key=lambda entry: (entry[1], entry[0])):
            digest.update(f"{index}\t{token}\n".encode())
        digest.update(repr(self.encode("It's a Probe: 12,345 naïve\u00a0caf\u0065\u0301s?\n\n - ok ")).encode())
        return digest.hexdigest()[:16]


def encode_pieces(pieces: Iterable[str | Control], plain: PlainText, control_ids: Mapping[str, int]) -> list[int]:
    """Encode texts and control tokens; adjacent texts are joined first, so that they tokenise as one text."""
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
    """Encoder of prompt pieces, by a Hugging Face tokenizer.

    Args:
        tokenizer: Tokenizer of the backbone.
        family: Family of the backbone.

    Attributes:
        image_token_id: Placeholder of one picture token.
        pad_token_id: Filler of shorter rows; any id would do, since it is never attended to and never a label.
        answer_ids: Token ids of the response by label, 1 liked and 0 not.
        yes_id: First token of the response "Yes".
        no_id: First token of the response "No".

    Raises:
        ConfigError: A control token is missing, or "Yes" / "No" is not the first single token of the response.
    """

    def __init__(self, tokenizer: Any, family: Family) -> None:
        self.tokenizer, self.family = tokenizer, family
        self._control_ids = {token: _control_id(tokenizer, token) for token in family.control_tokens}
        self._plain = PlainText(tokenizer)
        self.image_token_id = self._control_ids[family.image_token]
        self.pad_token_id = self._control_ids[TURN_END.token]
        self.answer_ids = {label: self.encode(answer(label)) for label in ANSWERS}
        self.yes_id, self.no_id = _check_answers(tokenizer, self.answer_ids)

    def encode(self, pieces: Sequence[Piece], n_image_tokens: int = 0) -> list[int]:
        """Encode `pieces`; adjacent texts are joined first, so that they tokenise as one text.

        Args:
            pieces: Texts, control tokens and pictures in order.
            n_image_tokens: Number of placeholders of each picture, see `ImageProcessor.n_tokens`.

        Raises:
            ValueError: A picture without placeholders.
        """
        expanded: list[str | Control] = []
        for piece in pieces:
            expanded += self._placeholders(n_image_tokens) if isinstance(piece, Picture) else [piece]
        return encode_pieces(expanded, self._plain, self._control_ids)

    def encode_text(self, text: str) -> list[int]:
        """Encode plain text, in which a control token is a string of characters like any other."""
        return self._plain.encode(text)

    def label_ids(self, n_labels: int) -> list[int]:
        """Return the tokens of the first `n_labels` letters, which label the candidates of a listwise prompt.

        Raises:
            ConfigError: The tokenizer splits a letter.
        """
        encoded = {label: self.encode_text(label) for label in LABELS[:n_labels]}
        if wrong := [label for label, ids in encoded.items() if len(ids) != 1]:
            raise ConfigError(
                f"data.prompt.layout='listwise': the tokenizer splits the letter {wrong[0]!r}, which must be one "
                "token to be scored; set it to pointwise, or use another backbone"
            )
        return [ids[0] for ids in encoded.values()]

    def fingerprint(self) -> str:
        """Hash that identifies the tokenizer of stored prompts."""
        return self._plain.fingerprint()

    def _placeholders(self, n_image_tokens: int) -> list[Control]:
        if n_image_tokens < 1:
            raise ValueError(f"n_image_tokens={n_image_tokens}: the prompt shows a picture; give its number of tokens")
        return [Control(token) for token in self.family.expand_picture(n_image_tokens)]


def _control_tokens(tokenizer: Any) -> dict[str, int]:
    """Return the added tokens that steer the model: special ones, and those such as `<tool_call>` or `[INST]`."""
    return {
        str(token.content): int(index)
        for index, token in tokenizer.added_tokens_decoder.items()
        if len(token.content) > 1 and (token.special or re.fullmatch(r"<.+>|\[.+\]", token.content))
    }


def _control_id(tokenizer: Any, token: str) -> int:
    index = tokenizer.get_vocab().get(token)
    if index is None:
        raise ConfigError(
            f"tokenizer={tokenizer.name_or_path!r}: has no token {token!r}; use the tokenizer of a {titles()} model"
        )
    return int(index)


def _check_answers(tokenizer: Any, answer_ids: dict[int, list[int]]) -> tuple[int, int]:
    """Return the ids of Yes and No, derived from the exact training response (article, Eq. 4)."""
    first = {}
    for label, response in ANSWERS.items():
        word = response.rstrip(".")
        decoded = tokenizer.decode([answer_ids[label][0]])
        if decoded != word:
            raise ConfigError(
                f"tokenizer={tokenizer.name_or_path!r}: the response {response!r} begins with the token {decoded!r}, "
                f"but {word!r} must be one token to be scored; use a tokenizer that has it as a single token"
            )
        first[label] = answer_ids[label][0]
    return first[1], first[0]
