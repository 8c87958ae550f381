"""Pretraining tasks of the demo backbone: generated items, users and pictures -> prompts with answers.

Every prompt is made by the functions that the pipeline itself uses. Nothing here is of any demo shop: attributes, texts
and pictures are drawn anew from the caller's generator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import demo_reader as reader
import numpy as np

from mllm_srec.data.demo import words as shop_words
from mllm_srec.data.demo.words import ATTRIBUTES, IMAGE_ATTRIBUTES, TEXT_ATTRIBUTES, VALUES
from mllm_srec.prompts import builder, chain_of_thought, summaries
from mllm_srec.prompts.builder import TURN_END, TURN_START, ItemText, Picture, Piece
from mllm_srec.prompts.templates import (
    ANSWERS,
    CAPTION_PROMPT,
    IMAGE_PROMPT,
    ITEM_PROMPT,
    NO_HISTORY,
    NO_PICTURE,
    PREFERENCE_PROMPT,
    PromptSettings,
)

COMPARE_PROMPT = "Compare the item with the preference."
PREFERENCE_WINDOW = 3


@dataclass(frozen=True)
class Target:
    """What stands behind a shared prefix.

    Attributes:
        pieces: The rest of the prompt.
        answer: The answer; None for the yes/no question.
        item: Attributes of the picture in `pieces`, None without one.
        probability: P(Yes), for the yes/no question.
    """

    pieces: Sequence[Piece]
    answer: str | None = None
    item: reader.Item | None = None
    probability: float = 0.0


@dataclass(frozen=True)
class Sample:
    """One prompt prefix and what is asked behind it."""

    task: str
    prefix: Sequence[Piece]
    targets: Sequence[Target]


Rng = np.random.Generator


def draw_item(rng: Rng) -> dict[str, str]:
    """An item with independent, uniform attributes."""
    return {name: VALUES[name][rng.integers(len(VALUES[name]))] for name in ATTRIBUTES}


def draw_likes(n: int, rng: Rng) -> tuple[list[dict[str, str]], Callable[[], dict[str, str]]]:
    """Items that a user of drifting taste liked one after another, and a function that draws one they like now."""
    state = {name: int(rng.integers(len(VALUES[name]))) for name in ATTRIBUTES}

    def liked() -> dict[str, str]:
        bits = reader.BITS[np.searchsorted(reader.law.liked_patterns, rng.random())]
        item = {}
        for name, bit in zip(ATTRIBUTES, bits, strict=True):
            fitting = np.flatnonzero(reader.LIKES[name][state[name]] == bool(bit))
            item[name] = VALUES[name][fitting[rng.integers(len(fitting))]]
        return item

    items = []
    for _ in range(n):
        for name in ATTRIBUTES:
            moves = rng.binomial(int(rng.geometric(1 / reader.DAYS_BETWEEN_LIKES)), reader.DRIFT)
            state[name] = (state[name] + (1 - 2 * int(rng.integers(2))) * moves) % len(VALUES[name])
        items.append(liked())
    return items, liked


def known(item: reader.Item, names: Sequence[str]) -> dict[str, str]:
    """The item as far as these attributes tell."""
    return {name: item[name] for name in ATTRIBUTES if name in names}


def chat(messages: Sequence[summaries.Message]) -> list[Piece]:
    """ChatML pieces up to the answer."""
    pieces: list[Piece] = []
    for message in messages:
        pieces += [TURN_START, f"{message.role}\n", *message.content, TURN_END, "\n"]
    return [*pieces, TURN_START, "assistant\n"]


def single(task: str, messages: Sequence[summaries.Message], answer: str, item: reader.Item | None = None) -> Sample:
    """A prompt with one answer; the system turn is its prefix."""
    return Sample(task, chat(messages)[:4], [Target(chat(messages)[4:], answer, item)])


# --- pictures and texts -----------------------------------------------------------------------------------------------


def look(rng: Rng) -> Sample:
    """p1 about a picture."""
    item = draw_item(rng)
    return single("image", summaries.image_messages(IMAGE_PROMPT), shop_words.image_summary(item), item)


def caption(rng: Rng) -> Sample:
    """A plain caption."""
    item = draw_item(rng)
    return single("caption", summaries.image_messages(CAPTION_PROMPT), shop_words.caption(item), item)


def item_line(item: reader.Item, rng: Rng) -> str:
    """Title, with further fields now and then."""
    clutter = rng.uniform(0, 1)
    fields = PromptSettings(brand=rng.random() < 0.15, categories=rng.random() < 0.15, description=rng.random() < 0.15)
    categories = ("Demo Shop", shop_words.PLURALS[item["category"]])
    title, about = shop_words.title(dict(item), clutter, rng), shop_words.description(dict(item), clutter, rng)
    return builder.item_text(ItemText(title, item["brand"], categories, about), fields)


def fuse(rng: Rng) -> Sample:
    """p2: image summary and text; either may be missing."""
    item, kind = draw_item(rng), rng.random()
    seen = shop_words.image_summary(item) if kind > 0.2 else None
    text = item_line(item, rng) if kind < 0.85 else None
    names = (*(IMAGE_ATTRIBUTES if seen else ()), *(TEXT_ATTRIBUTES if text else ()))
    answer = shop_words.item_summary(known(item, names))
    return single("item", summaries.item_messages(ITEM_PROMPT, seen, text), answer)


# --- preferences ------------------------------------------------------------------------------------------------------

LINES: dict[str, tuple[tuple[str, ...], float]] = {
    "summary": (ATTRIBUTES, 0.60),
    "title and image summary": (ATTRIBUTES, 0.10),
    "title and caption": (TEXT_ATTRIBUTES, 0.08),
    "title": (TEXT_ATTRIBUTES, 0.06),
    "text summary": (TEXT_ATTRIBUTES, 0.08),
    "image summary": (IMAGE_ATTRIBUTES, 0.08),
}
"""Kinds of item lines: which attributes they tell, and their share."""


def draw_kind(rng: Rng) -> str:
    """A kind of item line."""
    return str(rng.choice(list(LINES), p=[share for _, share in LINES.values()]))


def line(item: reader.Item, kind: str, rng: Rng) -> str:
    """One item as a line of this kind."""
    if kind.endswith("summary") and not kind.startswith("title"):
        return shop_words.item_summary(known(item, LINES[kind][0]))
    title = item_line(item, rng)
    if kind == "title":
        return title
    seen = shop_words.caption(item) if kind.endswith("caption") else shop_words.image_summary(item)
    return summaries.captioned_line(title, seen)


def lines(items: Sequence[reader.Item], kind: str, rng: Rng) -> list[str]:
    """Item lines, with the user's reviews in one prompt of twelve."""
    written = [line(item, kind, rng) for item in items]
    if rng.random() < 1 / 12:
        reviews = [shop_words.review(int(rng.choice((4, 5))), rng) for _ in items]
        written = [summaries.reviewed_line(text, review) for text, review in zip(written, reviews, strict=True)]
    return written


def history_state(items: Sequence[reader.Item], names: Sequence[str], window: int) -> tuple[str | None, reader.Beliefs]:
    """Preference text after the whole windows of `items`, refined one by one, and the belief that it stands for."""
    text, beliefs = None, reader.ignorance()
    for start in range(0, len(items) - window + 1, window):
        seen = [known(item, names) for item in items[start : start + window]]
        text, beliefs = reader.written(reader.after_likes(beliefs, seen))
    return text, beliefs


def refine(rng: Rng) -> Sample:
    """p3: a previous preference, if any, and the next window."""
    kind, window = draw_kind(rng), PREFERENCE_WINDOW if rng.random() < 0.85 else int(rng.integers(1, 6))
    names, n_before = LINES[kind][0], int(rng.integers(0, 8))
    items, _ = draw_likes((n_before + 1) * window, rng)
    before, beliefs = history_state(items[:-window], names, window)
    answer, _ = reader.written(reader.after_likes(beliefs, [known(item, names) for item in items[-window:]]))
    messages = summaries.preference_messages(PREFERENCE_PROMPT, before, lines(items[-window:], kind, rng))
    return single("refine", messages, answer)


def condense(rng: Rng) -> Sample:
    """p3 in one call: the whole sequence at once."""
    kind = draw_kind(rng)
    items, _ = draw_likes(PREFERENCE_WINDOW * int(rng.integers(1, 8)), rng)
    seen = [known(item, LINES[kind][0]) for item in items]
    answer, _ = reader.written(reader.after_likes(reader.ignorance(), seen))
    messages = summaries.preference_messages(PREFERENCE_PROMPT, None, lines(items, kind, rng))
    return single("condense", messages, answer)


# --- the question -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Context:
    """A user's past as prompts show it, and what a reader believes who has read it."""

    text: str
    beliefs: reader.Beliefs
    liked: Callable[[], dict[str, str]]


def draw_context(rng: Rng) -> Context:
    """Preference and later items, or items only, or nothing."""
    kind = draw_kind(rng)
    names, form = LINES[kind][0], rng.random()
    if form < 0.04:
        return Context(NO_HISTORY, reader.ignorance(), draw_likes(0, rng)[1])
    if form < 0.16:  # no window is full yet, or no summaries are used at all
        items, liked = draw_likes(int(rng.integers(1, 4 if form < 0.12 else 12)), rng)
        preference, beliefs, later = None, reader.ignorance(), items
    else:
        n_windows, n_later = int(rng.integers(1, 8)), int(rng.integers(0, 3))
        items, liked = draw_likes(n_windows * PREFERENCE_WINDOW + n_later, rng)
        preference, beliefs = history_state(items, names, PREFERENCE_WINDOW)
        later = items[n_windows * PREFERENCE_WINDOW :]
    beliefs = reader.after_likes(beliefs, [known(item, names) for item in later])
    shown = "".join(builder.history_line(line(item, kind, rng)) for item in later)
    opening = "" if preference is None else builder.preference_line(preference, bool(later))
    return Context(opening + shown, beliefs, liked)


def draw_target(context: Context, rng: Rng) -> dict[str, str]:
    """An item the user likes, one that differs from it in a single attribute, or any."""
    kind = rng.random()
    if kind > 0.75:
        return draw_item(rng)
    item = context.liked()
    if kind > 0.4:
        name = ATTRIBUTES[rng.integers(len(ATTRIBUTES))]
        item[name] = VALUES[name][rng.integers(len(VALUES[name]))]
    return item


def draw_prompt_settings(rng: Rng) -> tuple[PromptSettings, str, str | None]:
    """Wording, user id and profile."""
    settings = PromptSettings(wording="neutral" if rng.random() < 0.1 else "article", user_id=rng.random() < 0.15)
    return settings, f"U{rng.integers(100_000):05d}", shop_words.profile(rng) if rng.random() < 0.8 else None


TARGETS = (  # form, share: what the target shows
    ("summary and picture", 0.50),
    ("text summary", 0.10),
    ("image summary and picture", 0.10),
    ("title and picture", 0.15),
    ("title", 0.05),
    ("summary", 0.10),
)


def draw_form(rng: Rng) -> tuple[str, tuple[str, ...]]:
    """Form of the targets and the attributes that it tells."""
    form = str(rng.choice([name for name, _ in TARGETS], p=[share for _, share in TARGETS]))
    if form.startswith(("text", "image")):
        return form, TEXT_ATTRIBUTES if form.startswith("text") else IMAGE_ATTRIBUTES
    return form, TEXT_ATTRIBUTES if form == "title" else ATTRIBUTES


def target_text(item: reader.Item, form: str, names: Sequence[str], rng: Rng) -> str:
    """What stands in words at the target."""
    return item_line(item, rng) if form.startswith("title") else shop_words.item_summary(known(item, names))


def question(rng: Rng, n_targets: int = 10) -> Sample:
    """The yes/no question about several targets of one context."""
    context, (settings, user, profile), (form, names) = draw_context(rng), draw_prompt_settings(rng), draw_form(rng)
    prefix = [
        *builder.context_head(user, profile, settings),
        context.text,
        *builder.context_tail(user, settings),
    ]
    targets = []
    for _ in range(n_targets):
        item = draw_target(context, rng)
        text, pictured = target_text(item, form, names, rng), form.endswith("picture")
        silent = not pictured and (form == "text summary" or rng.random() < 0.5)  # no picture is spoken of
        pieces = builder.target(text, None if silent else pictured, settings)
        probability = reader.probability(context.beliefs, known(item, names))
        targets.append(Target(pieces, None, item if pictured else None, probability))
    return Sample("question", prefix, targets)


def four_turns(rng: Rng, n_targets: int = 4) -> Sample:
    """The chain of thought in both orders; rows that share nothing but the system turn in the article's."""
    context, (settings, user, profile) = draw_context(rng), draw_prompt_settings(rng)
    settings = replace(settings, cot=True, cot_order="user_first" if rng.random() < 0.6 else "article")
    prompts = chain_of_thought.CotPrompts()
    frame = chain_of_thought.cot_context(prompts, user, profile, settings)
    body = [*frame.head, context.text, *frame.tail]
    prefix, middle = (body, frame.apart) if frame.body_first else (frame.apart, body)
    targets = []
    for _ in range(n_targets if frame.body_first else 2):
        item = draw_target(context, rng)
        text, seen, fused = item_line(item, rng), shop_words.image_summary(item), shop_words.item_summary(item)
        steps = chain_of_thought.cot_target(prompts, True, seen, text, fused)
        pieces = [*steps, *middle, *builder.target(fused, None, settings)]
        targets.append(Target(pieces, None, item, reader.probability(context.beliefs, item)))
    return Sample("four turns", prefix, targets)


def compare(rng: Rng, n_targets: int = 4) -> Sample:
    """How items stand in a stated preference, attribute by attribute: the skill behind the question."""
    kind, n_windows = draw_kind(rng), int(rng.integers(1, 6))
    items, liked = draw_likes(n_windows * PREFERENCE_WINDOW, rng)
    text, beliefs = history_state(items, LINES[kind][0], PREFERENCE_WINDOW)
    context, targets = Context(text or "", beliefs, liked), []
    form, names = draw_form(rng)
    for _ in range(n_targets):
        item = draw_target(context, rng)
        shown: list[Piece] = [target_text(item, form, names, rng)]
        if form.endswith("picture"):
            shown = [Picture(), *([] if rng.random() < 0.5 and names == IMAGE_ATTRIBUTES else shown)]
        pieces = [*shown, TURN_END, "\n", TURN_START, "assistant\n"]
        answer = reader.comparison(beliefs, known(item, names))
        targets.append(Target(pieces, answer, item if form.endswith("picture") else None))
    prefix = [TURN_START, f"user\n{COMPARE_PROMPT}\n{text}\n"]
    return Sample("compare", prefix, targets)


def look_up(rng: Rng) -> Sample:
    """Every value's level in a preference, one by one and without a chat: the shortest form of a comparison."""
    kind = draw_kind(rng)
    items, _ = draw_likes(PREFERENCE_WINDOW * int(rng.integers(1, 6)), rng)
    text, beliefs = history_state(items, LINES[kind][0], PREFERENCE_WINDOW)
    levels = reader.levels(beliefs)
    values = [value for name in ATTRIBUTES for value in VALUES[name]]
    targets = [
        Target([f"\n- {value}"], f" {levels.get(value, shop_words.NOT_LIKED)}")
        for value in (values[i] for i in rng.permutation(len(values))[:16])
    ]
    return Sample("look up", [text or ""], targets)


TASKS: dict[str, Callable[[Rng], Sample]] = {
    "image": look,
    "caption": caption,
    "item": fuse,
    "look up": look_up,
    "compare": compare,
    "refine": refine,
    "condense": condense,
    "question": question,
    "four turns": four_turns,
}


def corpus(rng: Rng, n: int = 300) -> list[str]:
    """Texts whose words the tokenizer learns: every task's prompts and answers, and every word of the shop."""
    words = shop_words.vocabulary()
    # Both forms of every word, and often: a word of several tokens cannot be found again by looking for its like.
    texts = [*words, *(f" {word}" for word in words)] * 20 + [NO_PICTURE, *ANSWERS.values()]
    for task in TASKS.values():
        for _ in range(n):
            sample = task(rng)
            pieces = [*sample.prefix, *(piece for target in sample.targets for piece in target.pieces)]
            texts += [piece for piece in pieces if isinstance(piece, str)]
            texts += [target.answer for target in sample.targets if target.answer]
    return texts
