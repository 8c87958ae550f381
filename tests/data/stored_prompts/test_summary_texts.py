"""Which stored text a prompt gets."""

import pytest

from mllm_srec.data.stored_prompts.summary_texts import PreferenceState, SummaryTexts
from mllm_srec.types import DataError

STATES = [PreferenceState(10, 3, "first"), PreferenceState(20, 1, "second"), PreferenceState(20, 5, "third")]


def texts(states=STATES):
    chains = {("u", "train"): states, ("u", "train_val"): [PreferenceState(5, 0, "other")]}
    return SummaryTexts("id", "both", {"a": "seen a"}, {"a": "sum a", "b": ""}, chains)


@pytest.mark.parametrize(
    ("key", "expected"),
    [((9, 9), None), ((10, 3), None), ((10, 4), "first"), ((20, 1), "first"), ((20, 2), "second"), ((99, 0), "third")],
)
def test_the_last_state_before_the_key(key, expected):
    for split in ("train", "val"):
        state = texts().state_before("u", split, *key)
        assert (state and state.text) == expected


def test_test_contexts_read_their_own_chain():
    assert texts().state_before("u", "test", 99, 0).text == "other"
    assert texts().state_before("nobody", "test", 99, 0) is None


def test_a_state_without_words_is_passed_over():
    states = [STATES[0], PreferenceState(20, 1, " \n")]
    assert texts(states).state_before("u", "train", 99, 0) == STATES[0]
    assert texts(states[1:]).state_before("u", "train", 99, 0) is None


def test_a_missing_summary_names_item_and_command():
    assert texts().item_summary("a") == "sum a"
    assert texts().item_summary("b") == ""
    with pytest.raises(DataError, match=r"item 'c' has no item summary .* every item; run `python -m mllm_srec summ"):
        texts().item_summary("c")
    with pytest.raises(
        DataError, match=r"item 'b' has no image summary among the 1 .* `python -m mllm_srec summarize`"
    ):
        texts().image_summary("b")
