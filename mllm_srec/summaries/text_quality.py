"""Checks of summaries that need no truth: refusals, loops, copies and the like, and titles of held-out items.

Words are runs of letters and digits in lower case; apostrophes of either kind do not split a word.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import polars as pl

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.stored_prompts.summary_texts import VISIBLE_NAME, SummaryTexts
from mllm_srec.prompts.templates import NO_PICTURE
from mllm_srec.summaries.preference_chains import visible_likes
from mllm_srec.summaries.tables import preference_states
from mllm_srec.types import SPLITS

Number = int | float | None

N_EXAMPLES = 3
"""Texts shown of each check that fails."""
COPIED_WORDS = 8
"""Length in words of a run of the question that counts as copied; of a shorter question, all of it."""
ECHOED_WORDS, ECHOED_SHARE = 5, 0.8
"""Length in words of shorter runs, which count as copied if they make up this share of a text."""
REPEATED_WORDS, REPEATED_TIMES, REPEATED_SHARE = 4, 3, 0.2
"""See `repeats_itself`."""
DOUBTFUL_SHARE, LEAST_COMPARED = 0.2, 4
"""Share of texts with a fault from which on a stage is doubtful; texts among which most can be the same."""
TITLE_WORDS = 3
"""Words of a title that is searched for; shorter ones ("Red Mug") are everyday language."""

_DOUBTFUL = {
    "n_empty": "are empty",
    "n_refused": "are refusals",
    "n_repeated": "go round in circles or stutter",
    "n_copied_prompt": "repeat the question",
}
_INVISIBLE = r"^[\p{Z}\p{C}]*$"
_APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc\u00b4`", "'"))
_REFUSAL = re.compile(
    r"\W*(?:[\w ]{1,30}:\W*)?(?:"  # after quotes, punctuation, or a word such as "Answer:"
    r"i (?:cannot|can not|can't|could not|couldn't|will not|won't|apologi[sz]e)\b"
    r"|i (?:do not|don't) have (?:access|the ability)\b"
    r"|i(?: am|'m) (?:sorry|afraid|unable|not able)\b"
    r"|as an? (?:ai|artificial intelligence|(?:large )?language model)(?![\w-])"  # not "as an AI-powered lamp"
    r"|(?:sorry|unfortunately|(?:my )?apologies)[,.]? (?:but )?i\b"  # not "Sorry! is a board game"
    r"|unable to\b|it(?: is|'s) (?:not possible|impossible) to\b)"
)


@dataclass(frozen=True)
class Quality:
    """Results of some checks.

    Attributes:
        numbers: Name -> count, share in [0, 1], length in tokens, or None where there was nothing to measure.
        examples: Name of a number that counts faults -> up to `N_EXAMPLES` distinct texts; no entry where it is 0.
    """

    numbers: dict[str, Number]
    examples: dict[str, list[str]]


def text_quality(table: pl.DataFrame, question: str) -> Quality:
    """Check the texts of any stage; all counts are of rows, and a row may be in several.

    `n_keys` counts distinct content addresses: chains with a common beginning share texts.
    `n_empty`: only white space and invisible characters. `n_cut_off`: the limit of tokens was reached. `n_refused`,
    `n_copied_prompt`: see `is_refusal`, `copies`. `n_repeated`: see `repeats_itself`, `stutters`. `n_duplicates`: rows
    whose text a row with *another key* has too, character by character; all rows of such a text count, empty ones do
    not.
    `tokens_*`: distribution of the lengths in tokens, quantiles interpolated.

    Args:
        table: View of a stage; `text`, `finish_reason`, `n_tokens` and `key` are read.
        question: Question of the stage.
    """
    faults = _faults(table, question)
    failed = [name for name in faults.columns if faults[name].any()]
    return Quality(
        {
            "n": table.height,
            "n_keys": table["key"].n_unique(),
            **{name: int(faults[name].sum()) for name in faults.columns},
            **_lengths(table["n_tokens"]),
        },
        {name: _examples(table["text"].filter(faults[name]).to_list()) for name in failed},
    )


def is_refusal(text: str) -> bool:
    """Return True if the first sentence begins as a refusal does ("I cannot", "I'm sorry", "As an AI", ...)."""
    return _REFUSAL.match(" ".join(text.translate(_APOSTROPHES).lower().split())) is not None


def repeats_itself(text: str) -> bool:
    """Return True if a text loops, by one of two rules.

    Runs: the runs of `REPEATED_WORDS` words that occur at least `REPEATED_TIMES` times, overlaps included, cover at
    least `REPEATED_SHARE` of all words. So a loop at the end of a long text counts, and a phrase that occurs three
    times in one does not.
    Sentences: a sentence of at least `REPEATED_WORDS` words occurs twice.

    A list such as "surely red, surely orange, surely yellow" is not a loop.
    """
    words = _words(text)
    runs = _runs(words, REPEATED_WORDS)
    counts = Counter(runs)
    covered = _covered([counts[run] >= REPEATED_TIMES for run in runs], REPEATED_WORDS)
    if covered and covered >= REPEATED_SHARE * len(words):
        return True
    sentences = Counter(tuple(_words(sentence)) for sentence in re.split(r"(?<=[.!?])\s+|\n", text))
    return any(n > 1 and len(sentence) >= REPEATED_WORDS for sentence, n in sentences.items())


def stutters(text: str) -> bool:
    """Return True if a word comes three times in a row, as in "a shirt of of of"; numbers may."""
    words = _words(text)
    return any(a == b == c and not a.isdigit() for a, b, c in zip(words, words[1:], words[2:], strict=False))


def find_doubts(table: pl.DataFrame, numbers: Mapping[str, Number]) -> list[str]:
    """Return sentences on a stage whose texts are hardly of use, whatever they were asked.

    Args:
        table: View of the stage; `text` and `key` are read.
        numbers: Numbers of `text_quality`.
    """
    n = table.height
    if not n:
        return []
    doubts = [
        f"{numbers[name]:,} of {n:,} texts {words}"
        for name, words in _DOUBTFUL.items()
        if int(numbers[name] or 0) > DOUBTFUL_SHARE * n
    ]
    distinct = table.select("key", "text").unique()  # a chain's beginning is shared, and no doubt
    if distinct.height >= LEAST_COMPARED:
        same = int(distinct["text"].value_counts()["count"].to_numpy().max())
        if same > distinct.height / 2:
            doubts.append(f"{same:,} of {distinct.height:,} texts are one and the same")
    return doubts


def copies(text: str, question: str) -> bool:
    """Return True if a text only repeats its prompt, by one of three rules.

    It has `COPIED_WORDS` words in a row from the question, or all of a shorter question; runs of `ECHOED_WORDS` words
    of the question cover `ECHOED_SHARE` of it; or it is the phrase that prompts show in place of a missing picture.
    """
    asked, words = _words(question), _words(text)
    n_words = min(COPIED_WORDS, len(asked))
    if not set(_runs(asked, n_words)).isdisjoint(_runs(words, n_words)):
        return True
    echoed = set(_runs(asked, ECHOED_WORDS))
    covered = _covered([run in echoed for run in _runs(words, ECHOED_WORDS)], ECHOED_WORDS)
    return bool(covered and covered >= ECHOED_SHARE * len(words)) or words == _words(NO_PICTURE)


def unchanged(preferences: pl.DataFrame) -> dict[str, Number]:
    """Count how often a chain does not change: `n_unchanged` of the `n_refined` later steps repeat the step before.

    Args:
        preferences: View of the preference stage.
    """
    before = pl.col("text").shift().over("user_id", "visible", order_by="step")
    later = preferences.select(same=pl.col("text") == before).drop_nulls()
    return {"n_refined": later.height, "n_unchanged": int(later["same"].sum())}


def title_leaks(preferences: pl.DataFrame, data: PreparedDataset) -> Quality:
    """Search the titles of held-out positives in the preferences that their contexts read.

    A target is an item with label 1 of a val or test group, pairs and lists alike; it is checked where its context
    reads a preference and its title has `TITLE_WORDS` words. `target_title_leaks` is the share of the
    `n_targets_checked` whose title is in that preference, `n_target_title_leaks` their number. A title that is also
    (part of) the title of an item in the preference's chain proves nothing: it counts in `n_titles_of_history` instead.

    Args:
        preferences: View of the preference stage.
        data: Data set that it was written from.
    """
    texts = SummaryTexts("", "both", {}, {}, preference_states(preferences))
    likes = visible_likes(data.interactions)
    titles = {item: _spaced(title) for item, title in data.items.select("item_id", "title").iter_rows()}
    n_checked, n_of_history, leaks = 0, 0, []
    for user_id, split, timestamp, order, item_id in _held_out(data).iter_rows():
        state, title = texts.state_before(user_id, split, timestamp, order), titles[item_id]
        if state is None or len(title.split()) < TITLE_WORDS:
            continue
        n_checked += 1
        if title in _spaced(state.text):
            chain = likes.get((user_id, VISIBLE_NAME[split]), [])
            covered = (like.item_id for like in chain if (like.timestamp, like.order) <= state.key)
            in_history = any(title in titles[item_id] for item_id in covered)
            n_of_history += in_history
            leaks += [] if in_history else [state.text]
    numbers: dict[str, Number] = {
        "target_title_leaks": len(leaks) / n_checked if n_checked else None,
        "n_target_title_leaks": len(leaks),
        "n_targets_checked": n_checked,
        "n_titles_of_history": n_of_history,
    }
    return Quality(numbers, {"n_target_title_leaks": _examples(leaks)} if leaks else {})


def _faults(table: pl.DataFrame, question: str) -> pl.DataFrame:
    """Return one boolean column a count, named after it."""
    texts = table["text"].to_list()
    return table.select(
        pl.col("text").str.contains(_INVISIBLE).alias("n_empty"),
        (pl.col("finish_reason") == "length").alias("n_cut_off"),
        pl.Series("n_refused", [is_refusal(text) for text in texts], pl.Boolean),
        pl.Series("n_repeated", [repeats_itself(text) or stutters(text) for text in texts], pl.Boolean),
        pl.Series("n_copied_prompt", [copies(text, question) for text in texts], pl.Boolean),
        (pl.col("key").n_unique().over("text") > 1).alias("n_duplicates"),
    ).with_columns(pl.col("n_duplicates") & ~pl.col("n_empty"))


def _lengths(n_tokens: pl.Series) -> dict[str, Number]:
    shares = {"min": 0.0, "p10": 0.1, "median": 0.5, "p90": 0.9, "max": 1.0}
    quantiles = {f"tokens_{name}": n_tokens.quantile(share, "linear") for name, share in shares.items()}
    return {**quantiles, "tokens_mean": float(n_tokens.sum()) / len(n_tokens) if len(n_tokens) else None}


def _held_out(data: PreparedDataset) -> pl.DataFrame:
    """Return context and item of each positive of val and test, sorted so that neighbours read the same preferences."""
    targets = pl.concat([table.select("group_id", "item_id", "label") for table in (data.samples, data.candidates)])
    contexts = data.groups.filter(pl.col("split").is_in(SPLITS[1:]))
    positives = targets.filter(pl.col("label") == 1).join(contexts, on="group_id")
    return positives.select("user_id", "split", "timestamp", "order", "item_id").sort(pl.all())


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.translate(_APOSTROPHES).lower().replace("'", ""))


@lru_cache(maxsize=1024)
def _spaced(text: str) -> str:
    """Return the words with a space around each, so that a text is found in another at word boundaries only."""
    return f" {' '.join(_words(text))} "


def _runs(words: Sequence[str], n_words: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[start:] for start in range(n_words)), strict=False))


def _covered(marked: Sequence[bool], n_words: int) -> int:
    """Count the words in the runs of `n_words` that are marked, each word once."""
    return len({begin + offset for begin, is_marked in enumerate(marked) if is_marked for offset in range(n_words)})


def _examples(texts: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(texts))[:N_EXAMPLES]
