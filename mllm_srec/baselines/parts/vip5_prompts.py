"""Prompts of VIP5: words are tokenized once, and batches of prompts are assembled from their tokens on the device.

A prompt is a sequence of pieces (fixed words, a user, items). A piece is a row of the lexicon's table; piece 0 is empty
and stands for padding, which therefore leaves no trace in a prompt, wherever it is in the history.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mllm_srec.types import ConfigError

PLACEHOLDER = "<extra_id_0>"
"""Placeholder of a visual token: T5's first sentinel, as in the official code."""

NEXT_OPENING, NEXT_MIDDLE = "Given the purchase history of", ":"
NEXT_QUESTION = "predict the next item that this user will buy ?"
YES_NO_MIDDLE, YES_NO_QUESTION = "has bought", "so will this user buy"
YES_NO_ENDING = "next ? Answer yes or no ."
NO_HISTORY = "nothing yet"
ANSWERS = ("no", "yes")
FIXED = (NEXT_OPENING, NEXT_MIDDLE, NEXT_QUESTION, YES_NO_MIDDLE, YES_NO_QUESTION, YES_NO_ENDING, NO_HISTORY)
USER = "user_"
IGNORED = -100
"""Label without loss."""


class Prompts(NamedTuple):
    """B prompts of up to T tokens, padded on the right."""

    tokens: Tensor  # (B, T) int64
    words: Tensor  # (B, T) int64, index of the word that a token belongs to, from 0
    mask: Tensor  # (B, T) bool, False at padding
    visual: Tensor  # (B, T) bool, True at placeholders of visual tokens
    items: Tensor  # (n,) int64, items in the order of their placeholders, prompt by prompt


class Lexicon(nn.Module):
    """Tokens of every user, item and fixed phrase.

    Items and users are written as decimal numbers, assigned by a random permutation (torch's global random state).
    Numbers in order of appearance, as in P5 and VIP5, would give items bought together the same leading digits, also in
    the test split. The permutations are part of a checkpoint.

    Args:
        tokenizer: Fast T5 tokenizer, or that of `vip5_model.small_tokenizer`.
        n_items: N, size of the catalogue.
        n_users: U, number of users.
        n_visual_tokens: Placeholders after every item.
        max_tokens: Length limit of a prompt; longer histories lose their oldest items, which are counted in `cut_items`
            and reported by one warning.

    Raises:
        ConfigError: If the tokenizer lacks the placeholder or a word, "yes" and "no" begin with the same token, or
            `max_tokens` is too small for a prompt without a history.
    """

    item_number: Tensor
    user_number: Tensor
    table: Tensor
    starts: Tensor
    lengths: Tensor
    answers: Tensor

    def __init__(self, tokenizer: Any, n_items: int, n_users: int, n_visual_tokens: int, max_tokens: int) -> None:
        super().__init__()
        self.n_items, self.n_users, self.max_tokens = n_items, n_users, max_tokens
        self.placeholder, self.eos = _special(tokenizer, PLACEHOLDER), int(tokenizer.eos_token_id)
        self.pad = int(tokenizer.pad_token_id)
        self.register_buffer("item_number", _permutation(n_items))
        self.register_buffer("user_number", _permutation(n_users))
        numbers = word_tokens(tokenizer, [str(number) for number in range(1, n_items + 1)])
        users = word_tokens(tokenizer, [f"{USER}{number}" for number in range(1, n_users + 1)])
        pieces: list[list[list[int]]] = [[]]  # a piece is a list of words, a word a list of tokens
        pieces += [[[*number, *[self.placeholder] * n_visual_tokens]] for number in numbers]
        pieces += [[user] for user in users]
        pieces += [word_tokens(tokenizer, phrase.split()) for phrase in FIXED]
        pieces.append([[self.eos]])
        self.number_tokens, self.cut_items = numbers, 0
        for name, value in zip(("table", "starts", "lengths"), _tabulate(pieces, self.pad), strict=True):
            self.register_buffer(name, value, persistent=False)
        self.register_buffer("answers", self._answers(tokenizer), persistent=False)
        self._check_room()

    def _answers(self, tokenizer: Any) -> Tensor:
        """Labels of "no" and "yes", each with the end-of-text token, `(2, L)`."""
        no, yes = ([*tokens, self.eos] for tokens in word_tokens(tokenizer, ANSWERS))
        if no[0] == yes[0]:
            raise ConfigError(
                f"the tokenizer begins {ANSWERS[0]!r} and {ANSWERS[1]!r} with the same token {no[0]}; give a T5 as "
                "backbone"
            )
        return padded([no, yes], IGNORED)

    def _check_room(self) -> None:
        """Refuse a `max_tokens` that some prompt exceeds even without a history."""
        item = int(self.lengths[1 : self.n_items + 1].max())
        user = int(self.lengths[self.n_items + 1 : self.n_items + self.n_users + 1].max())
        length = dict(zip(FIXED, self.lengths[-len(FIXED) - 1 : -1].tolist(), strict=True))
        fixed = [length[NEXT_OPENING] + length[NEXT_MIDDLE] + length[NEXT_QUESTION]]
        fixed += [length[YES_NO_MIDDLE] + length[YES_NO_QUESTION] + item + length[YES_NO_ENDING]]
        needed = max(fixed) + user + length[NO_HISTORY] + 1
        if needed > self.max_tokens:
            raise ConfigError(
                f"max_tokens={self.max_tokens}: too small; give at least {needed} for a prompt without a history, and "
                "more for its items"
            )

    def _fixed(self, phrase: str, like: Tensor) -> Tensor:
        """Piece of a phrase of `FIXED`, repeated for every row: `(B, 1)`."""
        return torch.full_like(like[:, None], self.n_items + self.n_users + 1 + FIXED.index(phrase))

    def prompts(self, user: Tensor, history: Tensor, candidate: Tensor) -> Prompts:
        """Write prompts: the yes-no question about a candidate, or the question for the next item without one.

        Args:
            user: `(B,)` user numbers; 0 for a user without a number, who is left out of the prompt.
            history: `(B, S)` items, oldest first; zeros are skipped.
            candidate: `(B,)` item to ask about; 0 to ask for the next item.

        Returns:
            The prompts, padded to the longest.
        """
        yes_no = candidate[:, None] > 0  # (B, 1)
        nothing = torch.zeros_like(candidate)[:, None]
        empty = ~(history > 0).any(dim=1, keepdim=True)
        before = [
            torch.where(yes_no, 0, self._fixed(NEXT_OPENING, user)),
            torch.where(user > 0, self.n_items + self.user_number[user], 0)[:, None],
            torch.where(yes_no, self._fixed(YES_NO_MIDDLE, user), self._fixed(NEXT_MIDDLE, user)),
            torch.where(empty, self._fixed(NO_HISTORY, user), 0),
        ]
        after = [
            torch.where(yes_no, self._fixed(YES_NO_QUESTION, user), self._fixed(NEXT_QUESTION, user)),
            self.item_number[candidate][:, None],
            torch.where(yes_no, self._fixed(YES_NO_ENDING, user), 0),
            torch.full_like(nothing, len(self.table) - 1),
        ]
        fixed_length = self.lengths[torch.cat([*before, *after], dim=1)].sum(dim=1, keepdim=True)  # (B, 1)
        history = self._fitting(history, self.max_tokens - fixed_length)
        pieces = torch.cat([*before, self.item_number[history], *after], dim=1)  # (B, P)
        shown = torch.cat([history, candidate[:, None]], dim=1)  # (B, S + 1), items in the order of the prompt
        return self._expanded(pieces, shown[shown > 0])

    def _fitting(self, history: Tensor, room: Tensor) -> Tensor:
        """Cut the oldest items of histories that exceed `room` `(B, 1)` tokens."""
        lengths = self.lengths[self.item_number[history]]  # (B, S)
        until_end = lengths.flip(1).cumsum(dim=1).flip(1)  # (B, S) tokens of an item and of all later ones
        exceeds = (until_end > room) & (history > 0)
        n_cut = int(exceeds.sum())
        if n_cut and not self.cut_items:
            warnings.warn(
                f"prompts exceed max_tokens={self.max_tokens}: the oldest items of long histories are cut; give a "
                "lower max_history or fewer n_visual_tokens",
                stacklevel=2,
            )
        self.cut_items += n_cut
        return history.masked_fill(exceeds, 0)

    def _expanded(self, pieces: Tensor, items: Tensor) -> Prompts:
        """Concatenate the tokens of pieces `(B, P)`, padded on the right."""
        n_rows, width = len(pieces), self.table.shape[1]
        columns = torch.arange(width, device=pieces.device)
        kept = (columns < self.lengths[pieces][..., None]).view(n_rows, -1)  # (B, P W)
        lengths = kept.sum(dim=1, keepdim=True)
        longest = int(lengths.max())
        target = torch.where(kept, kept.cumsum(dim=1) - 1, longest)  # an extra column takes what is dropped
        starts = self.starts[pieces].view(n_rows, -1)
        word = (starts & kept).cumsum(dim=1) - 1
        tokens = self.table[pieces].view(n_rows, -1)
        rows = [
            torch.full((n_rows, longest + 1), fill, device=pieces.device).scatter(1, target, values)[:, :-1]
            for fill, values in ((self.pad, tokens), (0, word))
        ]  # (B, T) each
        mask = torch.arange(longest, device=pieces.device) < lengths  # (B, T)
        return Prompts(rows[0], rows[1], mask, (rows[0] == self.placeholder) & mask, items)


def word_tokens(tokenizer: Any, words: Sequence[str]) -> list[list[int]]:
    """Tokenize words as they would be in a sentence; T5 never joins words, so each can be tokenized alone.

    Args:
        tokenizer: Tokenizer of the backbone.
        words: Words of the prompts.

    Returns:
        Tokens of each word.

    Raises:
        ConfigError: If a word has unknown tokens or none.
    """
    ids = tokenizer(list(words), add_special_tokens=False)["input_ids"] if words else []
    odd = [word for word, tokens in zip(words, ids, strict=True) if not tokens or tokenizer.unk_token_id in tokens]
    if odd:
        raise ConfigError(
            f"the tokenizer cannot write {odd[0]!r} (and {len(odd) - 1} other words of the prompts); give a T5 as "
            "backbone"
        )
    return [list(tokens) for tokens in ids]


def padded(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    """Pad rows on the right with `fill` to an int64 matrix."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])


def draw_windows(sequences: Tensor, last: int) -> tuple[Tensor, Tensor]:
    """Draw a target and the history before it from each sequence, using torch's global random state.

    As in the official code, the target is one of the last few items and the history begins at one of the first three
    and has at least two items. Shorter sequences give as many items as they have.

    Args:
        sequences: `(B, S)` items, padded on the left, at least one per row.
        last: Number of latest items that may be the target; 0 for all.

    Returns:
        History `(B, S)`, with zeros before and after it, and target `(B,)`.
    """
    length = (sequences > 0).sum(dim=1)  # (B,)
    lowest = (length - 1).clamp(max=2)
    if last:
        lowest = torch.maximum(lowest, length - last)
    target = lowest + _below(length - lowest)
    start = _below((target - 1).clamp(1, 3))
    width = sequences.shape[1]
    position = torch.arange(width, device=sequences.device) - (width - length)[:, None]  # (B, S), 0 at the oldest item
    inside = (position >= start[:, None]) & (position < target[:, None])
    chosen = sequences.gather(1, (width - length + target)[:, None])[:, 0]
    return sequences * inside, chosen


def _below(n: Tensor) -> Tensor:
    """Draw uniform integers in [0, n)."""
    return (torch.rand(n.shape, device=n.device) * n).long()


def _special(tokenizer: Any, token: str) -> int:
    """Look up a special token, which must exist."""
    number = tokenizer.convert_tokens_to_ids(token)
    if number is None or number == tokenizer.unk_token_id:
        raise ConfigError(f"the tokenizer has no token {token!r}, which T5's tokenizers have; give a T5 as backbone")
    return int(number)


def _permutation(n: int) -> Tensor:
    """Draw a permutation of 1 to n; 0 stays 0."""
    return torch.cat([torch.zeros(1, dtype=torch.long), torch.randperm(n) + 1])


def _tabulate(pieces: list[list[list[int]]], pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens of the pieces `(P, W)`, bool `(P, W)` that is True where a word begins, and lengths `(P,)`."""
    tokens = [[token for word in piece for token in word] for piece in pieces]
    starts = [[int(index == 0) for word in piece for index in range(len(word))] for piece in pieces]
    return padded(tokens, pad), padded(starts, 0).bool(), torch.tensor([len(row) for row in tokens])
