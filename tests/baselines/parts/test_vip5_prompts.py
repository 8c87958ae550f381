"""VIP5's prompts against whole strings read by the tokenizer, and the law of training windows by counting."""

from collections import Counter

import pytest
import torch

from mllm_srec.baselines.parts.vip5_model import small_tokenizer
from mllm_srec.baselines.parts.vip5_prompts import PLACEHOLDER, Lexicon, draw_windows
from mllm_srec.baselines.parts.vip5_trie import NumberTrie, candidate_tree
from mllm_srec.types import ConfigError
from tests.baselines.conftest import left_padded


def lexicon(n_items=30, n_users=9, n_visual_tokens=2, max_tokens=1024, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Lexicon(small_tokenizer(), n_items, n_users, n_visual_tokens, max_tokens)


def texts(prompts):
    """What each prompt says, without padding."""
    rows = zip(prompts.tokens.tolist(), prompts.mask.tolist(), strict=True)
    return [
        " ".join(small_tokenizer().convert_ids_to_tokens([t for t, kept in zip(tokens, mask, strict=True) if kept]))
        for tokens, mask in rows
    ]


def written(found, item):
    """An item as it stands in a prompt: digits, then placeholders."""
    return f"{' '.join(str(found.item_number[item].item()))} {PLACEHOLDER} {PLACEHOLDER}"


def test_the_three_prompts_read_as_they_should():
    found = lexicon()
    prompts = found.prompts(
        torch.tensor([1, 2, 9]), left_padded([[4, 30], [], [7]], 4), candidate=torch.tensor([0, 0, 12])
    )
    users = [" ".join(str(found.user_number[user].item())) for user in (1, 2, 9)]
    assert texts(prompts) == [
        f"Given the purchase history of user_ {users[0]} : {written(found, 4)} {written(found, 30)} "
        "predict the next item that this user will buy ? </s>",
        f"Given the purchase history of user_ {users[1]} : nothing yet "
        "predict the next item that this user will buy ? </s>",
        f"user_ {users[2]} has bought {written(found, 7)} so will this user buy {written(found, 12)} "
        "next ? Answer yes or no . </s>",
    ]
    assert prompts.items.tolist() == [4, 30, 7, 12]


def test_someone_without_a_number_is_not_named():
    found = lexicon()
    prompts = found.prompts(torch.tensor([0]), left_padded([[4]], 2), candidate=torch.tensor([0]))
    assert texts(prompts) == [
        f"Given the purchase history of : {written(found, 4)} predict the next item that this user will buy ? </s>"
    ]
    assert prompts.items.tolist() == [4]
    assert prompts.visual.sum() == 2


def test_tokens_of_a_word_share_its_place_and_visual_tokens_that_of_their_item():
    found = lexicon(n_items=300)
    prompts = found.prompts(torch.tensor([5]), torch.tensor([[0, 250, 3]]), torch.tensor([0]))
    digits = [len(str(found.item_number[item].item())) for item in (250, 3)]
    assert sum(digits) > 2
    opening, question = 5, 10  # words of "Given the purchase history of" and of the question
    words = [*range(opening), opening, opening, opening + 1]  # the user's word has two tokens; then ":"
    words += [opening + 2] * (digits[0] + 2) + [opening + 3] * (digits[1] + 2)
    words += range(opening + 4, opening + 4 + question + 1)  # and the end of text
    assert prompts.words[0].tolist() == words
    assert int(prompts.visual.sum()) == 4


def test_items_get_a_random_permutation_and_not_the_order_of_appearance():
    first, again, other = lexicon(n_items=500), lexicon(n_items=500), lexicon(n_items=500, seed=1)
    numbers = first.item_number
    assert numbers[0] == 0
    assert sorted(numbers.tolist()) == list(range(501))
    assert (numbers == again.item_number).all()
    assert (numbers != other.item_number).any()
    neighbours = (numbers[2:] - numbers[1:-1]).abs().float()
    assert neighbours.mean() > 100  # a third of 500 is expected; 1 in order of appearance
    assert sorted(first.user_number.tolist()) == list(range(10))


@pytest.mark.filterwarnings("ignore:prompts exceed max_tokens")
def test_the_oldest_items_give_way_and_are_counted():
    """35 tokens: 18 fixed ones and a user of 2 leave room for items of 3 or 4 tokens."""
    found, free = lexicon(max_tokens=35), lexicon()
    history = torch.tensor([list(range(1, 16)), [0] * 13 + [1, 2]])
    user, nothing = torch.tensor([1, 1]), torch.tensor([0, 0])
    prompts = found.prompts(user, history, nothing)
    fixed = len(texts(free.prompts(user[:1], history[:1] * 0, nothing[:1]))[0].split()) - 2  # without "nothing yet"
    kept, used = [], fixed
    for item in reversed(range(1, 16)):
        used += len(str(free.item_number[item].item())) + 2
        if used > 35:
            break
        kept.insert(0, item)
    assert 0 < len(kept) < 15
    assert prompts.items.tolist() == [*kept, 1, 2]
    assert found.cut_items == 15 - len(kept)
    assert prompts.tokens.shape[1] <= 35
    assert texts(prompts)[1] == texts(free.prompts(user, history, nothing))[1]


def test_giving_way_is_told_once():
    found = lexicon(max_tokens=35)
    arguments = torch.tensor([1]), torch.arange(1, 16)[None], torch.tensor([0])
    with pytest.warns(UserWarning, match="prompts exceed max_tokens=35"):
        found.prompts(*arguments)
    found.prompts(*arguments)  # a second warning would be an error here


def test_a_limit_below_the_shortest_prompt_is_refused():
    needed = (
        lexicon().prompts(torch.tensor([1]), torch.zeros(1, 1, dtype=torch.long), torch.tensor([1])).tokens.shape[1]
    )
    with pytest.raises(ConfigError, match=r"max_tokens=10: too small; give at least .* for a prompt without a history"):
        lexicon(max_tokens=10)
    assert needed > 10


def test_a_tokenizer_without_placeholder_or_digits_is_refused():
    class Without:
        unk_token_id, eos_token_id, pad_token_id = 2, 1, 0

        def convert_tokens_to_ids(self, token):
            return 2

    with pytest.raises(ConfigError, match="has no token '<extra_id_0>'"):
        Lexicon(Without(), 3, 3, 2, 100)

    class OnlyUnknown(Without):
        def convert_tokens_to_ids(self, token):
            return 5

        def __call__(self, words, add_special_tokens):
            return {"input_ids": [[2] for _ in words]}

    with pytest.raises(ConfigError, match="cannot write '1'"):
        Lexicon(OnlyUnknown(), 3, 3, 2, 100)


# --- windows ------------------------------------------------------------------------------------------------------


def windows_by_hand(n, last):
    """All (start, target) places that the official code can draw from n training items, with their probabilities.

    There, with `sequence` = user + n training items + 2 held out: the history ends at `end`, one of
    range(max(2, len - 6), len - 3), begins at one of range(1, min(4, end)), and the target stands behind it.
    """
    length = 1 + n + 2
    ends = [end for end in range(2, length - 3) if not last or end >= length - 3 - last]
    found = {}
    for end in ends:
        starts = range(1, min(4, end))
        for start in starts:
            found[start - 1, end] = 1 / len(ends) / len(starts)
    return found


@pytest.mark.parametrize(("n", "last"), [(3, 3), (4, 3), (6, 3), (9, 3), (9, 0), (9, 1)])
def test_windows_follow_the_law_of_the_official_code(n, last):
    n_draws = 20_000
    sequences = left_padded([list(range(1, n + 1))] * n_draws, 12)
    torch.manual_seed(0)
    history, target = draw_windows(sequences, last)
    counts = Counter()
    for row, item in zip(history.tolist(), target.tolist(), strict=True):
        items = [place for place in row if place]
        assert items == list(range(items[0], item))  # in order, without a gap, up to the target
        counts[items[0] - 1, item - 1] += 1
    expected = windows_by_hand(n, last)
    assert set(counts) == set(expected)
    for window, share in expected.items():
        assert counts[window] / n_draws == pytest.approx(share, abs=4 * (share / n_draws) ** 0.5)


def test_short_sequences_give_what_they_have():
    history, target = draw_windows(left_padded([[8], [8, 9]], 5), 3)
    torch.manual_seed(0)
    drawn = {tuple(draw_windows(left_padded([[8, 9]], 5), 3)[1].tolist()) for _ in range(20)}
    assert (history[0].sum(), target[0]) == (0, 8)
    assert drawn == {(9,)}
    assert history[1].sum() == 8


# --- the trie -----------------------------------------------------------------------------------------------------


def test_a_trie_has_one_node_per_beginning():
    numbers = [[int(digit) for digit in str(number)] for number in range(1, 121)]
    trie = NumberTrie(numbers, start=77, eos=99)
    beginnings = {tuple(tokens[:k]) for tokens in numbers for k in range(len(tokens) + 1)}
    assert len(trie.tokens) == len(beginnings) == 121  # the root, and every number: each beginning is one itself
    assert trie.labels[105].tolist() == [1, 0, 5, 99]
    assert trie.labels[7].tolist() == [7, 99, -100, -100]
    assert [trie.tokens[node].item() for node in trie.nodes[105]] == [77, 1, 0, 5]
    by_string = sorted(range(1, 121), key=str)
    assert [trie.rank[number].item() for number in by_string] == list(range(120))


def test_the_tree_of_candidates_holds_every_node_once():
    numbers = [[int(digit) for digit in str(number)] for number in range(1, 121)]
    trie = NumberTrie(numbers, start=77, eos=99)
    candidates = torch.tensor([[12, 1, 120, 12], [5, 6, 7, 8]])
    tree = candidate_tree(trie, candidates)
    assert tree.nodes.shape == (2, 5)  # root, 1, 12, 120 and root, 5, 6, 7, 8
    assert len(set(tree.nodes[0, :4].tolist())) == 4
    for row in range(2):
        for column, number in enumerate(candidates[row].tolist()):
            places = tree.column[row, column, : len(str(number)) + 1]
            assert trie.tokens[tree.nodes[row, places]].tolist() == [77, *map(int, str(number))]
            way = tree.path[row, places[-1], : len(places)]
            assert way.tolist() == places.tolist()
