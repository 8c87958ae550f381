"""Rec-GPT4V's own question: candidates in one list, in several orders, scored by the logits of their letters."""

from dataclasses import replace

import lightning.pytorch as pl
import numpy as np
import polars
import pytest
import torch

from mllm_srec.data.loading.prompt_batches import ListCollator
from mllm_srec.data.loading.ranking_datamodule import ServedInputs
from mllm_srec.data.settings import PictureSettings
from mllm_srec.data.stored_prompts.summary_texts import SummaryTexts
from mllm_srec.models.recommender import MLLMRecommender
from mllm_srec.models.scoring import list_scores
from mllm_srec.pipeline.evaluation.references import references, split_metrics
from mllm_srec.pipeline.ranking.loaded_run import load_run
from mllm_srec.pipeline.ranking.ranker import Ranker
from mllm_srec.prompts.listwise import draw_lists
from mllm_srec.prompts.packing import PackingSettings
from mllm_srec.prompts.templates import PromptSettings
from mllm_srec.types import ConfigError

NONE = PictureSettings(serve="none")
SETTINGS = {"wording": "rec_gpt4v", "user_id": False, "profile": False, "layout": "listwise"}
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
END = "Which candidate will be liked best? Answer with its letter.\n<|im_end|>\n<|im_start|>assistant\n"
LETTERS = "ABCDEFGHIJKLMNOPQRST"


@pytest.fixture
def make(make_datamodule, shop):
    """Function that makes a data module which shows lists of at most `list_size`, with image summaries."""

    def module(list_size=20, prompt=(), **changes):
        settings = PromptSettings(**{**SETTINGS, "list_size": list_size, **dict(prompt)})
        made = make_datamodule(prompt=settings, pictures=NONE, **changes)
        seen = {
            item: f"a thing look_{item}." for item, image in shop.items.select("item_id", "image").iter_rows() if image
        }
        made.use(ServedInputs(summaries=SummaryTexts("vst-1", "both", seen, {}, {}, titled=True)))
        made.setup("test")
        return made

    return module


@pytest.fixture
def model(tiny_backbone):
    """A zero-shot recommender of large random weights, so that its answers vary."""
    made = MLLMRecommender(str(tiny_backbone), finetune="none", quantization="none")
    made.configure_model()
    generator = torch.Generator().manual_seed(0)
    for parameter in made.loaded.base.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.2, generator=generator)
    return made.eval()


def slow_lists(data, group_id, size, shuffles, seed=0):
    """Item ids of every list prompt of a group, by the rule as documented: shuffle -> parts -> items in order."""
    candidates = data.data.candidates
    rows = candidates.filter((polars.col("group_id") == group_id) & (polars.col("position") <= data.n_negatives))
    items = sorted(rows["item_id"].to_list())
    n_parts = -(-len(items) // size)
    found = []
    for shuffle in range(shuffles):
        order = np.random.default_rng([seed, group_id, shuffle]).permutation(len(items))
        found.append([[items[i] for i in part] for part in np.array_split(order, n_parts)])
    return found


def context_text(data, group):
    titles = dict(data.data.items.select("item_id", "title", "image").rows_by_key("item_id").items())
    lines = ""
    for item in group["history"]:
        title, image = titles[item][0]
        lines += f"- {' '.join(title.split())}. {f'a thing look_{item}.' if image else 'no picture available'}\n"
    lines = lines or "none\n"
    return f"{SYSTEM}<|im_start|>user\nItems that the user liked, oldest first:\n{lines}"


def list_text(data, items):
    titles = dict(data.data.items.select("item_id", "title").iter_rows())
    lines = "".join(f"{LETTERS[k]}. {' '.join(titles[item].split())}\n" for k, item in enumerate(items))
    return f"Candidates for the next item of the user:\n{lines}{END}"


# --- prompts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 20])
def test_every_prompt_in_full(make, size):
    data = make(size)
    decode = data.stores.encoder.tokenizer.decode
    groups = {row["group_id"]: row for row in data.data.groups.iter_rows(named=True)}
    dataset = data.test_dataloader()[1].dataset
    end = data.stores.encoder.tokenizer.convert_tokens_to_ids("<|im_end|>")
    n_hostile = 0
    for index in range(len(dataset)):
        found = dataset[index].prompts
        texts = [decode([*found.prefix_ids, *target.input_ids]) for target in found.targets]
        lists = [items for parts in slow_lists(data, found.group_id, size, 3) for items in parts]
        assert texts == [context_text(data, groups[found.group_id]) + list_text(data, items) for items in lists]
        for target in found.targets:  # a title that looks like the end of a turn is letters
            assert [*found.prefix_ids, *target.input_ids].count(end) == 2
        n_hostile += any("Yes. & more" in text for text in texts)
        assert all(len(items) <= size for items in lists)
    assert n_hostile > 0


def test_pairs_are_asked_one_by_one_in_training(make, make_datamodule, monkeypatch):
    monkeypatch.setattr(type(make()), "fitting", True)
    data = make()
    alone = make_datamodule(prompt=replace(data.prompt, layout="pointwise"), pictures=NONE)
    alone.use(ServedInputs(summaries=data.summaries))
    alone.setup("test")
    pairs, expected = data.test_dataloader()[0], alone.test_dataloader()[0]
    for found, same in zip(pairs, expected, strict=True):
        assert found.keys() == same.keys()
        assert all(torch.equal(found[key], same[key]) for key in same)
    assert "places" in next(iter(data.test_dataloader()[1]))


def test_lengths_equal_packed_rows(make):
    data = make(2)
    dataset = data.test_dataloader()[1].dataset
    collate = ListCollator(dataset)
    found = [int((collate([dataset[i]])["segment_ids"] >= 0).sum()) for i in range(len(dataset))]
    assert found == dataset.lengths.tolist()


def test_the_history_gives_way_never_a_candidate(make):
    """At a limit that the longest lists of all nearly fill."""
    limit, whole = 60, make()
    while True:
        try:
            data = make(max_length=limit)
            break
        except ConfigError as error:
            limit = int(str(error).split("it needs ")[1].split(";")[0])
    data = make(max_length=limit + 20)
    assert data.stores.prompts.report.n_shortened > 0 == whole.stores.prompts.report.n_shortened
    short, free = (module.test_dataloader()[1].dataset for module in (data, whole))
    for index in range(len(short)):
        assert [t.input_ids for t in short[index].prompts.targets] == [t.input_ids for t in free[index].prompts.targets]
        assert (
            max(len(t.input_ids) for t in short[index].prompts.targets) + len(short[index].prompts.prefix_ids)
            <= limit + 20
        )


# --- scores -------------------------------------------------------------------------------------------------------


def all_scores(model, data):
    """(group, row of the item) -> score."""
    found = {}
    with torch.no_grad():
        for batch in data.test_dataloader()[1]:
            scores = model.score_candidates(batch)
            assert scores.dtype == torch.float32
            for b, c in torch.nonzero(batch["candidate_mask"]).tolist():
                found[batch["group_id"][b].item(), batch["item_index"][b, c].item()] = scores[b, c].item()
    return found


@pytest.mark.parametrize("scoring", ["packed", "cached"])
@pytest.mark.parametrize("size", [2, 20])
@torch.no_grad()
def test_scores_are_those_of_a_slow_loop_with_plain_transformers(make, model, size, scoring):
    model.scoring = scoring
    data = make(size, packing=PackingSettings(max_row_tokens=400))
    encoder, net = data.stores.encoder, model.loaded.net
    letters = [encoder.tokenizer.convert_tokens_to_ids(letter) for letter in LETTERS]
    index = {item: row for row, item in enumerate(data.data.items["item_id"])}
    groups = data.data.groups["group_id"].to_list()
    found, expected = all_scores(model, data), {}
    for group_id in sorted({group for group, _ in found}):
        prefix = data.stores.prompts.prefix(groups.index(group_id))
        for parts in slow_lists(data, group_id, size, 3):
            for items in parts:
                text = list_text(data, items)
                tail = encoder.encode_text("Candidates for the next item of the user:\n")
                begin = len(prefix) - len(tail)
                assert prefix[begin:] == tail
                ids = list(prefix)
                for letter, item in zip(letters, items, strict=False):
                    ids += [letter, *data.stores.prompts.choice(index[item])]
                ids += encoder.encode_text(END.split("<|im_end|>")[0]) + ending(encoder)
                assert encoder.tokenizer.decode(ids).endswith(text)
                row = torch.tensor([ids])
                logits = net(input_ids=row, attention_mask=torch.ones_like(row)).logits[0, -1]
                chances = logits[letters[: len(items)]].double().softmax(dim=0)
                for item, chance in zip(items, chances.tolist(), strict=True):
                    expected.setdefault((group_id, index[item]), []).append(np.log(chance * len(items)))
    assert found.keys() == expected.keys()
    means = {key: np.mean(values) for key, values in expected.items()}
    assert all(len(values) == 3 for values in expected.values())
    assert found == pytest.approx(means, abs=2e-4)
    assert np.std(list(means.values())) > 0.05, "all candidates score alike: the test shows nothing"


def ending(encoder):
    vocabulary = encoder.tokenizer.get_vocab()
    start, end = vocabulary["<|im_start|>"], vocabulary["<|im_end|>"]
    return [end, *encoder.encode_text("\n"), start, *encoder.encode_text("assistant\n")]


@pytest.mark.parametrize("size", [2, 20])
def test_the_order_of_candidates_and_what_else_is_in_the_batch_change_nothing(make, model, size):
    expected = all_scores(model, make(size, eval_batch_size=1))
    data = make(size, eval_batch_size=4)
    pairs, lists = data.eval_examples("test")
    random = np.random.default_rng(3)
    turned = np.concatenate(
        [random.permutation(np.arange(a, b)) for a, b in zip(lists.offsets[:-1], lists.offsets[1:], strict=True)]
    )
    assert (turned != np.arange(len(turned))).any()
    other = replace(lists, **{name: getattr(lists, name)[turned] for name in ("item_index", "relevance", "kind")})
    data.eval_examples = lambda split: (pairs, other)
    assert all_scores(model, data) == pytest.approx(expected, abs=1e-5)


def test_other_seeds_and_shuffles_give_other_scores(make, model):
    base = all_scores(model, make())
    for other in (make(seed=1), make(prompt={"list_shuffles": 5})):
        assert max(abs(base[key] - value) for key, value in all_scores(model, other).items()) > 1e-3


def test_numbers_by_hand():
    """Two prompts of three and two letters; logits are read off the hidden states by a head of units."""
    hidden = torch.tensor([[[1.0, 2.0, 3.0], [0.0, 5.0, 9.0], [0.0, 0.0, 0.0]]])  # (1, 3, 3); the last is padding
    batch = {
        "label_ids": torch.tensor([0, 1, 2]),
        "label_mask": torch.tensor([[[True, True, True], [True, True, False], [False, False, False]]]),
        "places": torch.tensor([[[2, 0, 1], [4, 3, 4]]]),  # places of three candidates in two shuffles
    }
    first = np.log(3 * np.exp([3.0, 1.0, 2.0]) / np.exp([1.0, 2.0, 3.0]).sum())
    second = np.log(2 * np.exp([5.0, 0.0, 5.0]) / np.exp([0.0, 5.0]).sum())
    scores = list_scores(hidden, torch.eye(3), batch)
    assert scores[0].tolist() == pytest.approx(((first + second) / 2).tolist(), abs=1e-6)


def test_a_model_that_always_answers_the_first_letter_ranks_nothing(make):
    """Position bias cancels in the mean over many shuffles."""
    items = np.array([7, 2, 9, 4, 11])
    means = {}
    for shuffles in (3, 400):
        shown = draw_lists(items, 5, 20, shuffles, 0)
        scores = np.zeros(len(items))
        for prompt in shown:
            chances = np.array([0.8, 0.05, 0.05, 0.05, 0.05])
            scores[list(prompt.candidates)] += np.log(5 * chances) / shuffles
        means[shuffles] = scores.std()
    assert means[400] < 0.2 * np.log(16) / 2


@pytest.mark.parametrize("n", [1, 5, 20, 21, 50])
def test_every_candidate_is_shown_once_a_shuffle_in_lists_of_equal_size(n):
    items = np.random.default_rng(n).permutation(100)[:n]
    shown = draw_lists(items, 3, 20, 4, 1)
    assert len(shown) == 4 * -(-n // 20)
    for shuffle in range(4):
        lists = [prompt.candidates for prompt in shown if prompt.shuffle == shuffle]
        assert sorted(place for part in lists for place in part) == list(range(n))
        sizes = {len(part) for part in lists}
        assert max(sizes) <= 20
        assert max(sizes) - min(sizes) <= 1
    assert n == 1 or shown[0].candidates != shown[-1].candidates


# --- as a whole ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("evaluator", ["sampled", "full"])
def test_lightning_tests_it(make, model, evaluator):
    data = make(4, evaluator=evaluator)
    trainer = pl.Trainer(logger=False, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False)
    results = trainer.test(model, data, verbose=False)[0]
    assert {"test/user_auc", "test/ndcg@10"} <= {name for name, value in results.items() if value == value}


def test_single_targets_are_not_measured_as_if_lists_scored_them(make, model, make_datamodule):
    """The pairs would be asked about one by one: their AUC is that of the pointwise layout."""
    data, pointwise = make(4), make_datamodule(pictures=NONE)
    trainer = pl.Trainer(logger=False, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False)
    trainer.test(model, data, verbose=False)
    stored = split_metrics(model.results, "test")
    assert {stored[f"test/{name}"] for name in ("auc", "auc_disliked", "ece", "mean_probability")} == {None}
    assert (stored["test/n_pairs"], stored["test/n_users"] > 0) == (0, True)
    assert "single targets not at all" in data.no_pairs
    assert all("auc" not in of and "user_auc" in of for of in references(data, "test").values())
    assert pointwise.no_pairs == ""
    assert len(pointwise.eval_examples("test")[0]) > 0


def test_settings_that_cannot_be_asked_are_refused(run_settings_of_lists, shop_root):
    for wording in ("article", "tallrec"):
        with pytest.raises(ConfigError, match="this wording has no question about a list"):
            PromptSettings(wording=wording, layout="listwise")
    for changes, match in [
        ({"list_size": 1}, "list_size=1"),
        ({"list_size": 27}, "2 to 26"),
        ({"list_shuffles": 0}, "=0"),
    ]:
        with pytest.raises(ConfigError, match=match):
            PromptSettings(**{**SETTINGS, **changes})
    with pytest.raises(ConfigError, match=r"layout='listwise': gives scores within a list"):
        Ranker(load_run(run_settings_of_lists), None)


@pytest.fixture
def run_settings_of_lists(shop_root, tiny_backbone):
    return {
        "data": {
            "root": str(shop_root),
            "name": "shop",
            "n_negatives": 4,
            "pictures": {"serve": "none"},
            "prompt": SETTINGS,
        },
        "summaries": {"variant": "none"},
        "model": {"backbone": str(tiny_backbone), "finetune": "none"},
        "trainer": {"accelerator": "cpu"},
    }
