"""Prompts written out in full, per template version: Table 1 of the article, letter by letter."""

import pytest

from mllm_srec.prompts.builder import (
    Control,
    ItemText,
    Picture,
    answer,
    context_head,
    context_tail,
    history_line,
    item_text,
    target,
)
from mllm_srec.prompts.templates import PromptSettings


def write_out(pieces):
    """Pieces as one text, as a model sees it; a picture of two tokens."""
    shown = {Control: lambda p: p.token, Picture: lambda p: "<|vision_start|><|image_pad|><|image_pad|><|vision_end|>"}
    return "".join(piece if isinstance(piece, str) else shown[type(piece)](piece) for piece in pieces)


def whole(settings, profile="a 34-year-old teacher", has_picture=True, label=1):
    return write_out(
        [
            *context_head("A1", profile, settings),
            history_line("Red mug"),
            history_line("Blue lamp"),
            *context_tail("A1", settings),
            *target("Green bag", has_picture, settings),
            *answer(label),
        ]
    )


def test_table_1_in_full():
    assert PromptSettings().version == "table1-article-v1"
    assert whole(PromptSettings()) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n"
        "Based on the user's historical multimodal interaction sequence, please deduce whether the user might like "
        'the target item next by responding "Yes." or "No.".\n'
        "The user_A1 is a 34-year-old teacher and based on the previous multimodal interaction history ,his "
        'preferences are summarized as: \n "- Red mug\n- Blue lamp\n" \n Whether user_A1 will like the target item '
        '"<|vision_start|><|image_pad|><|image_pad|><|vision_end|>Green bag" next ? \n<|im_end|>\n'
        "<|im_start|>assistant\nYes.<|im_end|>"
    )


def test_without_user_profile_and_picture():
    text = whole(PromptSettings(user_id=False), profile=None, has_picture=False, label=0)
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n"
        "Based on the user's historical multimodal interaction sequence, please deduce whether the user might like "
        'the target item next by responding "Yes." or "No.".\n'
        "Based on the previous multimodal interaction history ,his preferences are summarized as: \n "
        '"- Red mug\n- Blue lamp\n" \n Whether the user will like the target item '
        '"no picture available, Green bag" next ? \n<|im_end|>\n'
        "<|im_start|>assistant\nNo.<|im_end|>"
    )


def test_neutral_wording_in_full():
    assert PromptSettings(wording="neutral").version == "table1-neutral-v1"
    assert whole(PromptSettings(wording="neutral")) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n"
        "Based on the user's past interactions with items, decide whether the user will like the target item next. "
        'Answer "Yes." or "No.".\n'
        "The user_A1 is a 34-year-old teacher. Based on the previous interactions, the preferences are summarized as:\n"
        '"- Red mug\n- Blue lamp\n"\nWill user_A1 like the target item '
        '"<|vision_start|><|image_pad|><|image_pad|><|vision_end|>Green bag" next?\n<|im_end|>\n'
        "<|im_start|>assistant\nYes.<|im_end|>"
    )


def test_profile_can_be_switched_off():
    assert "teacher" not in whole(PromptSettings(profile=False))
    assert "teacher" in whole(PromptSettings(profile=True))


def test_braces_in_data_stay_letters():
    text = write_out(context_head("{user}", "{profile} {0}", PromptSettings()))
    assert "The user_{user} is {profile} {0} and based" in text


ITEM = ItemText("Red\n mug", "Acme", ("Kitchen", "Mugs"), "Holds  tea.")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (PromptSettings(), "Red mug"),
        (PromptSettings(brand=True), "Red mug, by Acme"),
        (PromptSettings(brand=True, categories=True), "Red mug, by Acme, in Kitchen > Mugs"),
        (PromptSettings(description=True), "Red mug, Holds tea."),
    ],
)
def test_item_text_fields(settings, expected):
    assert item_text(ITEM, settings) == expected


def test_item_without_text_says_so():
    assert item_text(ItemText(""), PromptSettings(brand=True)) == "untitled item"


def test_settings_refuse_nonsense():
    with pytest.raises(ValueError, match="wording='poem': not a wording"):
        PromptSettings(wording="poem")
    with pytest.raises(ValueError, match="max_item_tokens=0"):
        PromptSettings(max_item_tokens=0)
