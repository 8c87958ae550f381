"""Checks of texts on texts made for them; leaks of titles against a search written out a second time."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.files.hashing import table_hash
from mllm_srec.prompts.templates import CAPTION_PROMPT, IMAGE_PROMPT, ITEM_PROMPT, PREFERENCE_PROMPT
from mllm_srec.summaries.tables import ITEM_VIEW_SCHEMA, PREFERENCE_VIEW_SCHEMA
from mllm_srec.summaries.text_quality import (
    N_EXAMPLES,
    copies,
    find_doubts,
    is_refusal,
    repeats_itself,
    stutters,
    text_quality,
    title_leaks,
    unchanged,
)

FAULTS = ("n_empty", "n_cut_off", "n_refused", "n_repeated", "n_copied_prompt", "n_duplicates")


def view(*rows):
    """Rows of (text, finish_reason, n_tokens, key)."""
    return pl.DataFrame([(f"i{n}", *row) for n, row in enumerate(rows)], ITEM_VIEW_SCHEMA, orient="row")


# --- one text -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "I cannot see a picture.",
        "i can\u2019t help with that",
        "I can't say.",
        "I\u2019m sorry, but there is no image.",
        "I am sorry.",
        "I'm afraid this is not visible.",
        "I am unable to view images.",
        "I'm not able to tell.",
        "As an AI, I have no eyes.",
        "AS AN AI language model I do not see",
        "As a large language model, I read.",
        "Sorry, I do not know.",
        "Unfortunately, I have no access to it.",
        "I don't have access to pictures.",
        '"I cannot tell."',
        "**Answer:** I'm  sorry",
        "  \n I\ncannot",
        "Unable to describe the picture.",
        "It's not possible to describe it.",
    ],
)
def test_refusals(text):
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A red mug. I cannot see more.",  # an answer all the same
        "Sorry! is a board game for the family.",
        "As an AI-powered lamp, it dims by itself.",
        "As an aid for sleeping it is soft.",
        "An icannot lamp.",
        "The user says: it is good. I am sorry to say more.",
        "I canned tomatoes.",
    ],
)
def test_no_refusals(text):
    assert not is_refusal(text)


VARIED = " ".join(f"word{i}" for i in range(60))


@pytest.mark.parametrize(
    "text",
    [
        "red red red red red red",
        "The mug is red and the mug is red and the mug is red and",
        "a mug, a bag, a mug, a bag, a mug, a bag, a mug, a bag",
        f"{VARIED} and so it goes and so it goes and so it goes and so it goes",
        f"It is a good red mug. {VARIED}. It is a good, red mug!",
        f"He likes red mugs\n{VARIED}\nhe likes red mugs",
        "The user\u2019s taste is red. The user's taste is red.",
    ],
)
def test_texts_in_circles(text):
    assert repeats_itself(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "red",
        "surely red, surely orange, surely yellow",
        "The user likes probably mug, probably shirt; surely red, surely orange, surely yellow; maybe plain; "
        "mostly Arven, mostly Bolto, mostly Calido; surely hemp, surely wool.",
        f"It is made of cork, {VARIED}. It is made of wool. It is made of hemp.",  # a turn of phrase, 12 of 73 words
        "Color: red. Size: small. Color: red.",  # sentences of two words
        "It is made of cork. It is made of wool.",  # twice only
    ],
)
def test_texts_that_go_on(text):
    assert not repeats_itself(text)


@pytest.mark.parametrize("text", ["A blue plain shirt of of of", "no No, NO", "It is red red red."])
def test_texts_that_stutter(text):
    assert stutters(text)
    assert text_quality(view((text, "stop", 5, "a")), IMAGE_PROMPT).numbers["n_repeated"] == 1


@pytest.mark.parametrize(
    "text", ["", "of of", "A shirt of of cotton of wool", "from 9 9 9 to 1 1 1", "very, very good"]
)
def test_texts_that_do_not_stutter(text):
    assert not stutters(text)


GOOD = [(f"A mug of colour {n} with dots", "stop", 7, f"g{n}") for n in range(8)]


@pytest.mark.parametrize(
    ("rows", "doubts"),
    [
        (GOOD, []),
        ([*GOOD, ("", "stop", 0, "x")], []),  # one of many
        ([*GOOD, *[("", "stop", 0, f"x{n}") for n in range(3)]], ["3 of 11 texts are empty"]),
        ([*GOOD, *[(f"shirt {n} of of of", "stop", 4, f"x{n}") for n in range(4)]],
         ["4 of 12 texts go round in circles or stutter"]),
        ([*GOOD, *[(f"I cannot see {n}.", "stop", 4, f"x{n}") for n in range(4)]], ["4 of 12 texts are refusals"]),
        ([*GOOD, *[("A shirt", "stop", 4, f"x{n}") for n in range(9)]], ["9 of 17 texts are one and the same"]),
        ([*GOOD, *[("A shirt", "stop", 4, "x")] * 30], []),  # a beginning that chains share
        ([("A shirt", "stop", 4, "x"), ("A shirt", "stop", 4, "y")], []),  # too few to tell
        ([], []),
    ],
)  # fmt: skip
def test_doubts_about_a_stage(rows, doubts):
    table = view(*rows)
    assert find_doubts(table, text_quality(table, IMAGE_PROMPT).numbers) == doubts


@settings(deadline=None)
@given(loop=st.integers(1, 12), n_before=st.integers(0, 40))
def test_a_loop_of_any_length_is_found_once_it_has_come_three_times(loop, n_before):
    before = [f"b{i}" for i in range(n_before)]
    text = [f"w{i}" for i in range(loop)] * (3 + 24 // loop)
    assert repeats_itself(" ".join(before + text))
    assert not repeats_itself(" ".join(before + text[:loop]))


@settings(deadline=None)
@given(st.lists(st.sampled_from("abcd"), max_size=40))
def test_runs_are_counted_as_a_second_search_counts_them(words):
    found = set()
    for i in range(len(words) - 3):
        places = [j for j in range(len(words) - 3) if words[j : j + 4] == words[i : i + 4]]
        if len(places) >= 3:
            found |= {j + k for j in places for k in range(4)}
    assert repeats_itself(" ".join(words)) == (len(found) > 0 and len(found) / len(words) >= 0.2)


@pytest.mark.parametrize("question", [IMAGE_PROMPT, ITEM_PROMPT, PREFERENCE_PROMPT, CAPTION_PROMPT])
def test_a_question_that_comes_back_is_found(question):
    words = question.split()
    assert copies(f"Well. {question.upper()} A mug.", question)
    assert copies(question.replace("’", "'"), question)  # noqa: RUF001
    if len(words) > 3:
        assert copies(f"x {' '.join(words[-8:])}", question)
        assert not copies(f"{' '.join(words[:7])} x {' '.join(words[-2:])}", question)
    assert not copies("A red mug of cork by Arven.", question)
    assert not copies("", question)


@pytest.mark.parametrize(
    ("text", "copied"),
    [
        ("Please refine the user's interests and preferences to refine the user's interests and preferences.", True),
        ("The user's multimodal summaries sequence is:", True),
        ("The user's multimodal summaries sequence is: red mugs of cork.", False),
        ("The user's interests and preferences are red mugs.", False),
    ],
)
def test_a_text_of_little_else_than_parts_of_the_question(text, copied):
    """Answers of a model of 135 M parameters, and two of the same kind that say something."""
    assert copies(text, PREFERENCE_PROMPT) == copied


@pytest.mark.parametrize("text", ["No picture available.", "no picture available"])
def test_the_phrase_in_place_of_a_picture_is_no_summary(text):
    assert copies(text, ITEM_PROMPT)
    assert not copies(f"A mug, {text}", ITEM_PROMPT)


def test_a_question_without_words_is_never_copied():
    assert not copies("A mug?", "?!")
    assert not copies("", "?!")


# --- a table ------------------------------------------------------------------------------------------------------


def test_every_fault_is_counted_by_row():
    table = view(
        ("A red mug.", "stop", 5, "a"),
        ("A red mug.", "stop", 5, "b"),
        ("A blue bag.", "stop", 6, "c"),
        ("A blue bag.", "stop", 6, "c"),  # one text, read twice
        ("", "stop", 1, "d"),
        (" \n\u200b", "stop", 3, "e"),
        ("", "length", 9, "f"),
        ("I can\u2019t. " * 4, "length", 9, "g"),
        (f"{IMAGE_PROMPT} {IMAGE_PROMPT}", "stop", 60, "h"),
        ("dots " * 9, "stop", 9, "i"),
    )
    quality = text_quality(table, IMAGE_PROMPT)
    counted = {"n": 10, "n_keys": 9, "n_empty": 3, "n_cut_off": 2, "n_refused": 1, "n_repeated": 3}
    counted |= {"n_copied_prompt": 1, "n_duplicates": 2}
    assert {name: quality.numbers[name] for name in counted} == counted
    assert quality.examples["n_duplicates"] == ["A red mug."]
    assert quality.examples["n_refused"] == ["I can\u2019t. " * 4]
    assert set(quality.examples) == set(FAULTS)
    # the other questions are not copied
    assert text_quality(table, ITEM_PROMPT).numbers["n_copied_prompt"] == 0


@settings(max_examples=25, deadline=None)  # a busy machine is no fault
@given(st.lists(st.tuples(st.sampled_from(["x", "y", "", " "]), st.sampled_from("ab")), max_size=8))
def test_duplicates_are_equal_texts_under_other_keys(rows):
    n = sum(bool(text.strip()) and any(t == text and k != key for t, k in rows) for text, key in rows)
    assert text_quality(view(*((text, "stop", 1, key) for text, key in rows)), "?").numbers["n_duplicates"] == n


@settings(max_examples=25, deadline=None)  # a busy machine is no fault
@given(st.lists(st.integers(1, 300), min_size=1, max_size=30))
def test_lengths_are_those_of_numpy(lengths):
    numbers = text_quality(view(*(("x", "stop", n, "k") for n in lengths)), "?").numbers
    expected = np.quantile(lengths, [0, 0.1, 0.5, 0.9, 1])
    names = ("min", "p10", "median", "p90", "max")
    assert [numbers[f"tokens_{name}"] for name in names] == pytest.approx(expected.tolist())
    assert numbers["tokens_mean"] == pytest.approx(np.mean(lengths))


def test_an_empty_table_has_counts_of_zero_and_no_lengths():
    quality = text_quality(view(), IMAGE_PROMPT)
    assert {name: quality.numbers[name] for name in ("n", *FAULTS)} == dict.fromkeys(("n", *FAULTS), 0)
    assert quality.numbers["tokens_median"] is None
    assert quality.numbers["tokens_mean"] is None
    assert quality.examples == {}


def test_a_sound_table_has_no_examples_and_a_poor_one_a_few_different_ones():
    assert text_quality(view(("A mug.", "stop", 3, "a"), ("A bag.", "stop", 3, "b")), "?").examples == {}
    poor = view(*((f"I cannot {i // 2}.", "stop", 3, "k") for i in range(20)))
    assert text_quality(poor, "?").examples == {"n_refused": [f"I cannot {i}." for i in range(N_EXAMPLES)]}


# --- titles of held-out targets -----------------------------------------------------------------------------------

TITLES = {
    "old": "Blue Linen Bag",
    "set": "Set: the Big Cork Lamp, new",
    "val": "Men’s Big-Cork  LAMP!",  # noqa: RUF001
    "part": "big cork lamp",
    "test": "Green Wool Hat",
    "short": "Red Mug",
    "like": "Blue linen BAG",
    "none": "!!",
}


def write_shop(folder, contexts):
    """One user who liked `old` at 10 and `set` at 20 in train and `val` at 30 in val; contexts with one target each.

    Args:
        folder: Where to.
        contexts: Rows of (split, timestamp, item_id, label, table).
    """
    items = {"item_id": list(TITLES), "title": list(TITLES.values())}
    liked = {"item_id": ["old", "set", "val"], "timestamp": [10, 20, 30], "split": ["train", "train", "val"]}
    n = len(contexts)
    rows = pl.DataFrame(contexts, ["split", "timestamp", "item_id", "label", "table"], orient="row").with_columns(
        user_id=pl.lit("u"), order=pl.lit(0, pl.Int64), group_id=pl.Series(range(n), dtype=pl.Int64)
    )
    tables = {
        "items": pl.DataFrame(items),
        "interactions": pl.DataFrame(liked).with_columns(
            user_id=pl.lit("u"), rating=5.0, order=pl.lit(0, pl.Int64), review=pl.lit("")
        ),
        "groups": rows.select("group_id", "user_id", "split", "timestamp", "order"),
        "samples": rows.filter(table="samples").select("group_id", "item_id", "label"),
        "candidates": rows.filter(table="candidates").select("group_id", "item_id", "label"),
    }
    for name, table in tables.items():
        table.write_parquet(folder / f"{name}.parquet")
    hashes = {name: {"sha256": table_hash(table)} for name, table in tables.items()}
    return PreparedDataset(folder, {"prepare": {}, "tables": hashes})


def preferences(*states):
    """Rows of (visible, timestamp, text) of the user."""
    rows = [("u", visible, n, time, 0, text, "stop", 9, f"k{n}") for n, (visible, time, text) in enumerate(states)]
    return pl.DataFrame(rows, PREFERENCE_VIEW_SCHEMA, orient="row")


def test_refinements_that_changed_nothing():
    table = pl.DataFrame(
        [
            ("u", "train", 2, 3, 0, "Red.", "stop", 2, "c"),  # in any order
            ("u", "train", 0, 1, 0, "Red.", "stop", 2, "a"),
            ("u", "train", 1, 2, 0, "Red.", "stop", 2, "b"),
            ("u", "train_val", 0, 1, 0, "Red.", "stop", 2, "a"),
            ("u", "train_val", 1, 2, 0, "Red. Blue.", "stop", 3, "d"),
            ("v", "train", 0, 9, 0, "Red. Blue.", "stop", 3, "e"),
        ],
        PREFERENCE_VIEW_SCHEMA,
        orient="row",
    )
    assert unchanged(table) == {"n_refined": 3, "n_unchanged": 2}
    assert unchanged(table.clear()) == {"n_refined": 0, "n_unchanged": 0}


def leaks(folder, states, *contexts):
    quality = title_leaks(preferences(*states), write_shop(folder, contexts))
    names = ("n_target_title_leaks", "n_targets_checked", "n_titles_of_history")
    return tuple(quality.numbers[name] for name in names), quality


def test_a_title_in_the_preference_that_the_context_reads_is_a_leak(tmp_path):
    states = [("train", 20, "Likes bags, and the mens big cork lamp."), ("train_val", 30, "Likes a green wool hat.")]
    contexts = [
        ("val", 30, "val", 1, "samples"),  # leak
        ("val", 30, "val", 1, "candidates"),  # leak, in a list
        ("val", 30, "test", 1, "samples"),  # stands in the other chain only
        ("test", 40, "test", 1, "samples"),  # leak
        ("test", 40, "val", 1, "samples"),  # stands in the other chain only
        ("test", 40, "test", 0, "samples"),  # a negative
        ("train", 40, "val", 1, "samples"),  # not held out
        ("val", 20, "val", 1, "samples"),  # reads nothing yet: the state ends at its own key
        ("test", 40, "short", 1, "samples"),  # title too short
        ("test", 40, "none", 1, "samples"),
    ]
    counts, quality = leaks(tmp_path, states, *contexts)
    assert counts == (3, 5, 0)
    assert quality.numbers["target_title_leaks"] == 3 / 5
    assert quality.examples == {"n_target_title_leaks": [states[1][2], states[0][2]]}


def test_a_title_that_history_has_too_proves_nothing(tmp_path):
    text = "A blue linen bag and a big cork lamp; set: the big cork lamp, new."
    contexts = [("val", 30, item, 1, "samples") for item in ("like", "part", "test")]
    assert leaks(tmp_path, [("train", 20, text)], *contexts)[0] == (0, 3, 2)
    # the state knew `old` only: `set` came after it
    counts, quality = leaks(tmp_path, [("train", 10, text)], *contexts)
    assert counts == (1, 3, 1)
    assert quality.examples == {"n_target_title_leaks": [text]}
    # chains of val do not know what val liked
    text = "Big cork lamp of men: mens big cork lamp"
    assert leaks(tmp_path, [("train", 30, text)], ("val", 40, "val", 1, "samples"))[0] == (1, 1, 0)
    assert leaks(tmp_path, [("train_val", 30, text)], ("test", 40, "val", 1, "samples"))[0] == (0, 1, 1)


def test_the_state_read_is_the_last_before_the_key_that_says_anything(tmp_path):
    states = [("train", 10, "green wool hat"), ("train", 15, "blue"), ("train", 20, " ")]
    targets = [("val", time, "test", 1, "samples") for time in (10, 11, 15, 16, 99)]
    assert leaks(tmp_path, states, *targets)[0] == (2, 4, 0)  # at 11 and 15
    assert leaks(tmp_path, list(reversed(states)), *targets)[0] == (2, 4, 0)


def test_whole_words_only(tmp_path):
    target = ("val", 30, "test", 1, "samples")
    for text, n in [("evergreen wool hat", 0), ("green wool hats", 0), ("green, wool (hat)", 1), ("green wool", 0)]:
        assert leaks(tmp_path, [("train", 20, text)], target)[0] == (n, 1, 0)


def test_without_preferences_there_is_nothing_to_check(tmp_path):
    counts, quality = leaks(tmp_path, [], ("val", 30, "test", 1, "samples"))
    assert counts == (0, 0, 0)
    assert quality.numbers["target_title_leaks"] is None
    assert quality.examples == {}


def test_on_a_prepared_shop_against_a_search_by_hand(shop):
    """Every state quotes the titles of the user's whole life up to the chain's end, so much leaks."""
    life = shop.interactions.sort("timestamp", "order")
    titles = dict(shop.items.select("item_id", "title").iter_rows())
    rows, known = [], {}
    for visible, splits in (("train", ["train"]), ("train_val", ["train", "val"])):
        for (user,), mine in life.group_by("user_id", maintain_order=True):
            quoted = " and also ".join(f"one {titles[item]}" for item in mine["item_id"])
            seen = mine.filter(pl.col("split").is_in(splits) & (pl.col("rating") >= 4))
            for step, (time, order) in enumerate(seen.select("timestamp", "order").iter_rows()):
                rows.append((user, visible, step, time, order, quoted, "stop", 9, f"{user}{visible}{step}"))
            known[user, visible] = seen.select("timestamp", "order", "item_id").rows()
    odd = {item for item, title in titles.items() if "XL" in title}  # the only title of three words or more
    n_checked = n_leaks = 0
    groups = {row["group_id"]: row for row in shop.groups.iter_rows(named=True)}
    targets = pl.concat([table.select("group_id", "item_id", "label") for table in (shop.samples, shop.candidates)])
    for group_id, item, label in targets.iter_rows():
        group = groups[group_id]
        before = [
            row for row in known.get((group["user_id"], "train_val" if group["split"] == "test" else "train"), [])
            if row[:2] < (group["timestamp"], group["order"])
        ]  # fmt: skip
        if label == 1 and group["split"] != "train" and before and item in odd:
            n_checked += 1
            n_leaks += item not in [row[2] for row in before]
    numbers = title_leaks(pl.DataFrame(rows, PREFERENCE_VIEW_SCHEMA, orient="row"), shop).numbers
    assert n_leaks == n_checked > 0  # a target is never in its own history
    assert (numbers["n_targets_checked"], numbers["n_target_title_leaks"]) == (n_checked, n_leaks)
    assert numbers["target_title_leaks"] == 1.0
