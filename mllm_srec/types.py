"""Constants, errors, batch types and checks of settings that every room shares; imports nothing of ours.

Letters in shape comments: B batch (groups), R packed rows, T tokens, C candidates, S history length, D hidden,
V vocabulary, P patches, F values of a patch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal, NotRequired, TypedDict, get_args, get_origin, get_type_hints

if TYPE_CHECKING:  # annotations only: this file must load in milliseconds
    import torch
    from _typeshed import DataclassInstance

VERSION = "0.1.0"
"""Version of the package; `pyproject.toml` names the same."""

IGNORE_INDEX = -100
"""Label of a token that carries no loss (the convention of torch and transformers)."""

LIKED_RATING = 4.0
"""Default of `prepare.liked_from`: a rating of at least this is *liked* (article, data set description)."""

EVAL_TOP_K = (5, 10, 20)
"""Cut-offs of HR, Recall, NDCG and MRR (article, Table 5) that are always measured; `data.cut_offs` adds others."""

USER_AUC, RERANKED_USER_AUC = "user_auc", "user_auc_reranked"
"""Name of the AUC within a list, and its name where a retriever chose the candidates.

There a liked item that was missed lies below every candidate, so that a guess is not at 0.5: it is another number.
"""

Split = Literal["train", "val", "test"]
Purpose = Literal["pair", "rank"]
Kind = Literal["liked", "disliked", "sampled"]

SPLITS: tuple[Split, ...] = ("train", "val", "test")
VISIBLE: dict[Split, tuple[Split, ...]] = {"train": ("train",), "val": ("train",), "test": ("train", "val")}
"""Splits whose interactions a context of the given split may show."""


class MllmSrecError(Exception):
    """An error whose message is meant for the person at the keyboard; commands print it without a traceback."""


class DataError(MllmSrecError):
    """Input data that cannot be used."""


class ConfigError(MllmSrecError):
    """Settings that contradict each other, an earlier run, or the files on disk."""


class CandidateBatch(TypedDict):
    """Fields about the targets of B groups, which all models share; B is 0 on a process without groups."""

    group_id: torch.Tensor  # (B,) int64
    candidate_mask: torch.Tensor  # (B, C) bool, False where a group has fewer targets
    relevance: torch.Tensor  # (B, C) int64, 1 liked, 0 not; 0 where masked
    kind: torch.Tensor  # (B, C) int64 index into LIST_KINDS; -1 where masked
    item_index: torch.Tensor  # (B, C) int64 row in items.parquet; -1 where masked
    n_missed: torch.Tensor  # (B,) int64, relevant items that a retriever left out of the list


class PackedBatch(CandidateBatch):
    """A batch of B groups laid out as R >= B packed rows (see `prompts.packing`).

    A row is `prefix | target 1 + answer 1 | target 2 + answer 2 | ...`; a long group may take several rows.
    """

    input_ids: torch.Tensor  # (R, T) int64
    position_ids: torch.Tensor  # (3, R, T) int64, M-RoPE: time, height, width
    segment_ids: torch.Tensor  # (R, T) int64: -1 padding, 0 prefix, 1.. the targets
    labels: torch.Tensor  # (R, T) int64, IGNORE_INDEX but on response tokens
    answer_index: torch.Tensor  # (B, C, 2) int64: row and token whose output predicts the first response token
    pixel_values: NotRequired[torch.Tensor]  # (P, F) float32, pictures in order of their placeholders
    image_grid_thw: NotRequired[torch.Tensor]  # (n pictures, 3) int64, patches in time, height, width
    image_features: NotRequired[torch.Tensor]  # (sum of picture tokens, D), the frozen tower's output
    image_index: NotRequired[torch.Tensor]  # (n placeholders,) int64: which picture of the batch fills it
    # Where prompts show lists of candidates, `answer_index` is (B, P, 2), of P prompts, and these say who is in them:
    label_ids: NotRequired[torch.Tensor]  # (K,) int64, tokens of the letters that name candidates
    label_mask: NotRequired[torch.Tensor]  # (B, P, K) bool, letters that occur in a prompt
    places: NotRequired[torch.Tensor]  # (B, shuffles, C) int64, prompt * K + letter of each candidate; 0 where masked


class ItemBatch(CandidateBatch):
    """A batch of B contexts for models that know users and items by number.

    Numbers begin at 1, and 0 is padding: item row i of the catalogue is number i + 1, whatever the order of ids.
    """

    user: torch.Tensor  # (B,) int64, 1..U
    history: torch.Tensor  # (B, S) int64 items liked before the context's key, oldest first, padded on the left
    timestamp: torch.Tensor  # (B,) int64 milliseconds, the context's key
    catalogue: NotRequired[bool]  # True: candidates are the catalogue in its order, C is N, column j is item row j


class TrainBatch(TypedDict):
    """B training examples for models that know users and items by number; see `ItemBatch`."""

    user: torch.Tensor  # (B,) int64, 1..U
    history: torch.Tensor  # (B, S) int64 items liked in the train split, oldest first, padded on the left
    target: NotRequired[torch.Tensor]  # (B,) int64 the item liked next; where the unit of training is targets


class GenerationBatch(TypedDict):
    """A batch of B chats to be answered, padded on the left; B is 0 on a process without chats.

    A row shows at most one picture; pictures stand in the order of their rows.
    """

    keys: list[str]  # B keys of records, see `prompts.summaries.SummaryPrompt`
    input_ids: torch.Tensor  # (B, T) int64
    attention_mask: torch.Tensor  # (B, T) int64, 0 on padding
    mm_token_type_ids: NotRequired[torch.Tensor]  # (B, T) int64, 1 on picture placeholders; where there are pictures
    image_grid_thw: NotRequired[torch.Tensor]  # (n pictures, 3) int64, patches in time, height, width
    pixel_values: NotRequired[torch.Tensor]  # (P, F) float32
    image_features: NotRequired[torch.Tensor]  # (sum of picture tokens, D), the frozen tower's output in place of it


KINDS: tuple[Kind, ...] = ("liked", "disliked", "sampled")
"""Kinds of labelled targets."""

LIST_KINDS = (*KINDS, "unrated")
"""Kinds of candidates in a list; `unrated`: from the whole catalogue, neither drawn nor rated by the user."""


def user_auc_name(evaluator: str | None) -> str:
    """Return the name of the AUC within a list under an evaluator.

    >>> user_auc_name("sampled@20"), user_auc_name("rerank@100")
    ('user_auc', 'user_auc_reranked')
    """
    return RERANKED_USER_AUC if (evaluator or "").partition("@")[0] == "rerank" else USER_AUC


def check_literals(settings: DataclassInstance, section: str = "", error: type[Exception] = ConfigError) -> None:
    """Check that every field typed `Literal` holds one of its values; nested dataclasses are checked too.

    The command line and YAML files have this check from their parser; settings made in Python have it from here.

    Args:
        settings: A dataclass.
        section: Dotted name of the settings' section in a YAML file, used in the message.
        error: Class of the error to raise.

    Raises:
        ConfigError: A value is not among those of its `Literal`; the message names the nearest one.
    """
    from dataclasses import fields, is_dataclass

    hints = get_type_hints(type(settings))
    for field in fields(settings):
        name = f"{section}.{field.name}" if section else field.name
        value, hint = getattr(settings, field.name), hints[field.name]
        if is_dataclass(value) and not isinstance(value, type):
            check_literals(value, name, error)
        elif get_origin(hint) is Literal and value not in (accepted := get_args(hint)):
            advice = did_you_mean(str(value), map(str, accepted)) or "; choose one of these"
            raise error(f"{name}={value!r}: not one of {', '.join(map(str, accepted))}{advice}")


def did_you_mean(name: str, known: Iterable[str] | Mapping[str, str], n: int = 1, cutoff: float = 0.6) -> str:
    """Return the end of an error message about an unknown name: the valid names most like it.

    >>> did_you_mean("ndgc", ["ndcg", "hr"]), did_you_mean("qqq", ["ndcg", "hr"])
    ("; did you mean 'ndcg'?", '')

    Args:
        name: The unknown name.
        known: Valid names; or the spellings to compare with, each with the valid name to suggest for it.
        n: Number of suggestions at most.
        cutoff: Least similarity of a suggestion, from 0 to 1.

    Returns:
        "; did you mean 'a' or 'b'?", the most similar first; empty if no name is similar enough.
    """
    import difflib

    suggested = known if isinstance(known, Mapping) else {entry: entry for entry in known}
    near = difflib.get_close_matches(name, suggested, n=n, cutoff=cutoff)
    return f"; did you mean {' or '.join(repr(suggested[entry]) for entry in near)}?" if near else ""
