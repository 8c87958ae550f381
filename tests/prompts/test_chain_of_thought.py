"""The four-turn chain of thought written out in full, in both orders."""

import pytest

from mllm_srec.prompts.builder import Control, Picture, answer, history_line, preference_line, target
from mllm_srec.prompts.chain_of_thought import CotPrompts, cot_context, cot_target
from mllm_srec.prompts.templates import PromptSettings

SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
PICTURE = "<|vision_start|><|image_pad|><|image_pad|><|vision_end|>"
VIU = (
    f"<|im_start|>user\n{PICTURE}What is in the image and describe its category, type, color, style, brand, "
    "specifications, and feature?<|im_end|>\n<|im_start|>assistant\nA green bag.<|im_end|>\n"
)
IMSG = (
    "<|im_start|>user\nPlease combine visual summary and text to summarize the item.\nText: Bag, by Acme<|im_end|>\n"
    "<|im_start|>assistant\nA green bag by Acme.<|im_end|>\n"
)
TUBC = (
    "<|im_start|>user\nPlease summarize the user\u2019s multimodal summaries sequence in chronological order to refine "
    "the user\u2019s interests and preferences.<|im_end|>\n"
    "<|im_start|>assistant\nLikes mugs.\nSince then:\n- A blue lamp.\n<|im_end|>\n"
)
QUESTION = (
    "<|im_start|>user\n"
    "Based on the user's historical multimodal interaction sequence, please deduce whether the user might like "
    'the target item next by responding "Yes." or "No.".\n'
    "The user_A1 is a 34-year-old teacher and based on the previous multimodal interaction history ,his "
    'preferences are summarized above. \n Whether user_A1 will like the target item "A green bag by Acme." next ? \n'
    "<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>"
)


def write_out(pieces):
    """Pieces as one text, as a model sees it; a picture of two tokens."""
    shown = {Control: lambda p: p.token, Picture: lambda p: PICTURE}
    return "".join(piece if isinstance(piece, str) else shown[type(piece)](piece) for piece in pieces)


def whole(settings, profile="a 34-year-old teacher", body=None, shown=None):
    """`prefix | before | middle | after` and the answer."""
    frame = cot_context(CotPrompts(), "A1", profile, settings)
    body = [preference_line("Likes mugs.", True), history_line("A blue lamp.")] if body is None else body
    with_body = [*frame.head, *body, *frame.tail]
    prefix, middle = (with_body, frame.apart) if frame.body_first else (frame.apart, with_body)
    before = cot_target(CotPrompts(), *(shown or (True, "A green bag.", "Bag, by Acme")), "A green bag by Acme.")
    return write_out([*prefix, *before, *middle, *target("A green bag by Acme.", None, settings), *answer(1)])


@pytest.mark.parametrize(
    ("order", "expected"), [("user_first", SYSTEM + TUBC + VIU + IMSG), ("article", SYSTEM + VIU + IMSG + TUBC)]
)
def test_the_chain_in_full(order, expected):
    assert whole(PromptSettings(cot=True, cot_order=order)) == expected + QUESTION


def test_without_profile_and_history():
    text = whole(PromptSettings(cot=True, user_id=False), profile=None, body=["no history"])
    tubc = TUBC.replace("Likes mugs.\nSince then:\n- A blue lamp.\n", "no history")
    question = QUESTION.replace("The user_A1 is a 34-year-old teacher and based", "Based").replace(
        "user_A1", "the user"
    )
    assert text == SYSTEM + tubc + VIU + IMSG + question


def test_neutral_wording_in_full():
    question = (
        "<|im_start|>user\n"
        "Based on the user's past interactions with items, decide whether the user will like the target item next. "
        'Answer "Yes." or "No.".\n'
        "The user_A1 is a 34-year-old teacher. Based on the previous interactions, the preferences are summarized "
        'above.\nWill user_A1 like the target item "A green bag by Acme." next?\n<|im_end|>\n'
        "<|im_start|>assistant\nYes.<|im_end|>"
    )
    assert whole(PromptSettings(cot=True, wording="neutral")) == SYSTEM + TUBC + VIU + IMSG + question


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (
            (False, "no picture available", "Bag"),
            [VIU.replace(PICTURE, "").replace("A green bag.", "no picture available")],
        ),
        ((False, None, "Bag"), []),
    ],
    ids=["no picture", "pictures not used"],
)
def test_turns_without_a_picture(shown, expected):
    text = whole(PromptSettings(cot=True), shown=shown)
    assert text == "".join([SYSTEM + TUBC, *expected, IMSG.replace(", by Acme", ""), QUESTION])


def test_texts_that_are_not_used_are_not_mentioned():
    text = whole(PromptSettings(cot=True), shown=(True, "A green bag.", None))
    assert text == SYSTEM + TUBC + VIU + IMSG.replace("\nText: Bag, by Acme", "") + QUESTION


def test_other_questions_are_asked_as_they_were():
    prompts = CotPrompts(image="Describe {it}.", item="Sum up.", preference="Taste?")
    text = write_out(cot_target(prompts, True, "a", None, "b"))
    assert text.count("Describe {it}.<|im_end|>") == text.count("Sum up.<|im_end|>") == 1
    frame = cot_context(prompts, "A1", None, PromptSettings(cot=True))
    assert write_out(frame.head).endswith("user\nTaste?<|im_end|>\n<|im_start|>assistant\n")
