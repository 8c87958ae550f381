"""VIP5: its scores against plain T5 one candidate at a time, its training, and what it can learn."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from mllm_srec.baselines import vip5 as vip5_module
from mllm_srec.baselines.parts import vip5_prompts
from mllm_srec.baselines.parts.train_data import ItemFeatures
from mllm_srec.baselines.parts.vip5_model import Adapter, VisualTokens, small_tokenizer
from mllm_srec.baselines.vip5 import VIP5
from mllm_srec.types import ConfigError
from tests.baselines.conftest import item_batch, left_padded, one_gradient, train_data, trained

N_ITEMS, N_USERS = 130, 24


def features(n_items=N_ITEMS, missing=(), seed=0):
    image = np.random.default_rng(seed).normal(size=(n_items + 1, 8)).astype(np.float32)
    image /= np.linalg.norm(image, axis=1, keepdims=True)
    image[[0, *missing]] = 0
    return ItemFeatures(image, np.zeros((n_items + 1, 4), np.float32), "random")


def world(missing=tuple(range(5, 130, 9)), n_items=N_ITEMS):
    random = np.random.default_rng(1)
    sequences = [random.permutation(np.arange(1, n_items + 1))[:6].tolist() for _ in range(N_USERS)]
    sequences[0][2] = 5
    return train_data(sequences, n_items, features(n_items, missing))


def save_t5(folder, random_mark=False):
    """A T5 with a sub-word tokenizer of T5's kind, whose config does not say that it is untrained."""
    core = Tokenizer(models.Unigram())
    core.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    words = (
        "Given the purchase history of : predict next item that this user will buy ? has bought so Answer yes or no ."
    )
    texts = [words, "nothing yet user_", *(str(number) for number in range(1, 100)), *(f"user_{n}" for n in range(99))]
    trainer = trainers.UnigramTrainer(
        vocab_size=150,
        special_tokens=["<pad>", "</s>", "<unk>", "<extra_id_0>"],
        unk_token="<unk>",
        show_progress=False,
    )
    core.train_from_iterator(texts * 3, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<extra_id_0>"],
    )
    tokenizer.save_pretrained(folder)
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    mark = {"random_weights": True} if random_mark else {}
    config = T5Config(vocab_size=len(tokenizer), decoder_start_token_id=0, **shape, **mark)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        T5ForConditionalGeneration(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory):
    return save_t5(tmp_path_factory.mktemp("t5"))


def small(**settings):
    return VIP5(**{"backbone": "random", "finetune": "full", "hidden": 16, "n_heads": 2, "dropout": 0.0, **settings})


@pytest.fixture(params=["random", "folder"])
def model(request, t5_folder):
    """Built, in evaluation mode; the folder's has adapters unlike the identity, and numbers of several tokens."""
    kind = {"backbone": t5_folder, "finetune": "adapters"} if request.param == "folder" else {}
    made = small(**kind)
    made.attach(world(), seed=3)
    with torch.random.fork_rng():
        torch.manual_seed(11)
        for module in made.modules():
            if isinstance(module, Adapter):
                torch.nn.init.normal_(module.up.weight, std=0.5)
    return made.eval()


# --- the oracle: one prompt and one candidate at a time, by hand and with transformers' own T5 --------------------


def visual_by_hand(model, item):
    """Rows of an item's visual tokens, from the paper's equations in numpy."""
    visual = model.network.visual
    first, second = visual.projection[0], visual.projection[2]
    image = visual.image[item].double().numpy()
    if not image.any():
        return visual.no_picture.detach().numpy()
    inner = np.tanh(first.weight.detach().double().numpy() @ image + first.bias.detach().double().numpy())
    flat = second.weight.detach().double().numpy() @ inner + second.bias.detach().double().numpy()
    rows = flat.reshape(model.n_visual_tokens, -1)
    rows /= np.sqrt((rows**2).mean(axis=1, keepdims=True) + 1e-6)
    return rows * visual.norm.weight.detach().double().numpy()


def prompt_by_hand(model, user, history, candidate=0):
    """Words of a prompt, each with the item it names (0: none)."""
    number = model.lexicon.item_number.tolist()
    person = f"user_{model.lexicon.user_number[user]}"
    items = [(str(number[item]), item) for item in history] or [("nothing", 0), ("yet", 0)]

    def plain(text):
        return [(word, 0) for word in text.split()]

    if not candidate:
        start = plain(f"Given the purchase history of {person} :")
        return start + items + plain("predict the next item that this user will buy ?")
    question = [*plain("so will this user buy"), (str(number[candidate]), candidate)]
    return plain(f"{person} has bought") + items + question + plain("next ? Answer yes or no .")


def embedded_by_hand(model, user, history, candidate=0):
    """Embeddings of one prompt `(1, T, D)`."""
    tokenizer, t5, network = model_tokenizer(model), model.network.t5, model.network
    rows = []
    words = [*prompt_by_hand(model, user, history, candidate), ("</s>", 0)]
    for place, (word, item) in enumerate(words):
        tokens = [t5.config.eos_token_id] if word == "</s>" else tokenizer(word, add_special_tokens=False)["input_ids"]
        vectors = [t5.shared.weight[token] + network.categories.weight[0] for token in tokens]
        if item:
            vectors += [torch.tensor(row).float() + network.categories.weight[1] for row in visual_by_hand(model, item)]
        rows += [vector + network.whole_words.weight[place] for vector in vectors]
    return torch.stack(rows)[None]


def model_tokenizer(model):
    return small_tokenizer() if model.backbone == "random" else AutoTokenizer.from_pretrained(model.backbone)


@torch.no_grad()
def likelihood_by_hand(model, user, history, item):
    """Sum of log p of the number's tokens and the end of text, with transformers' own forward pass."""
    tokens = model_tokenizer(model)(str(model.lexicon.item_number[item].item()), add_special_tokens=False)["input_ids"]
    labels = torch.tensor([[*tokens, model.network.t5.config.eos_token_id]])
    output = model.network.t5(inputs_embeds=embedded_by_hand(model, user, history), labels=labels)
    return -output.loss.item() * labels.shape[1]  # transformers' loss is the mean


@torch.no_grad()
def yes_no_by_hand(model, user, history, item):
    yes, no = (model_tokenizer(model)(word, add_special_tokens=False)["input_ids"][0] for word in ("yes", "no"))
    start = torch.tensor([[model.network.t5.config.decoder_start_token_id]])
    embedded = embedded_by_hand(model, user, history, item)
    logits = model.network.t5(inputs_embeds=embedded, decoder_input_ids=start).logits[0, 0]
    return (logits[yes] - logits[no]).item()


HISTORIES = [[3, 5, 40], [], [7], [99, 12, 1, 5, 130]]
CANDIDATES = [[1, 2, 130, 40], [5, 77, 10, 11], [12, 13, 14, 100], [3, 3, 9, 128]]


def expected(model, by_hand):
    return [
        [by_hand(model, user, history, item) for item in items]
        for user, (history, items) in enumerate(zip(HISTORIES, CANDIDATES, strict=True), start=1)
    ]


def test_the_prefix_shared_likelihood_is_that_of_teacher_forcing_one_by_one(model):
    scores = model.score_candidates(item_batch(HISTORIES, CANDIDATES))
    np.testing.assert_allclose(scores.numpy(), expected(model, likelihood_by_hand), atol=1e-5, rtol=1e-5)
    assert scores.dtype == torch.float32


def test_yes_no_is_the_difference_of_two_logits(model):
    model.scoring = "yes_no"
    scores = model.score_candidates(item_batch(HISTORIES, CANDIDATES))
    np.testing.assert_allclose(scores.numpy(), expected(model, yes_no_by_hand), atol=1e-5, rtol=1e-5)


def test_the_numbers_of_the_folder_have_one_to_three_tokens(t5_folder):
    model = small(backbone=t5_folder)
    model.attach(world())
    lengths = {len(tokens) for tokens in model.lexicon.number_tokens}
    assert len(lengths) > 1


def test_a_likelihood_ends_with_the_end_of_text_and_is_no_mean(model):
    batch = item_batch([[3, 5]], [[8, 9]])
    prompts = model.lexicon.prompts(batch["user"], batch["history"], torch.zeros(1, dtype=torch.long))
    with torch.no_grad():
        memory = model.network.encode(prompts)
        for column, item in enumerate((8, 9)):
            tokens = model.lexicon.number_tokens[model.lexicon.item_number[item] - 1]
            total, given = 0.0, [model.network.t5.config.decoder_start_token_id]
            for token in [*tokens, model.network.t5.config.eos_token_id]:
                output = model.network.t5(
                    encoder_outputs=(memory,), attention_mask=prompts.mask, decoder_input_ids=torch.tensor([given])
                )
                total += output.logits[0, -1].log_softmax(-1)[token].item()
                given.append(token)
            assert model.score_candidates(batch)[0, column].item() == pytest.approx(total, abs=1e-4)


@pytest.mark.parametrize("scoring", ["likelihood", "yes_no"])
def test_chunks_change_nothing(model, scoring, monkeypatch):
    model.scoring = scoring
    batch = item_batch(HISTORIES, CANDIDATES)
    whole = model.score_candidates(batch)
    monkeypatch.setattr(vip5_module, "MAX_CANDIDATES", 3)
    monkeypatch.setattr(vip5_module, "MAX_PROMPTS", 3)
    torch.testing.assert_close(model.score_candidates(batch), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scoring", ["likelihood", "yes_no"])
def test_candidates_are_columns_of_the_whole_catalogue_and_rows_do_not_matter(model, scoring):
    model.scoring = scoring
    everything = model.score_all(item_batch(HISTORIES[:2], n_items=N_ITEMS))
    assert everything.shape == (2, N_ITEMS)
    torch.testing.assert_close(
        model.score_candidates(item_batch(HISTORIES[:2], n_items=N_ITEMS)), everything, atol=1e-5, rtol=1e-5
    )
    few = model.score_candidates(item_batch(HISTORIES, CANDIDATES))
    columns = torch.tensor(CANDIDATES[:2]) - 1
    torch.testing.assert_close(few[:2], everything.gather(1, columns), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scoring", ["likelihood", "yes_no"])
def test_padding_and_masked_candidates_change_nothing(model, scoring):
    model.scoring = scoring
    scores = model.score_candidates(item_batch(HISTORIES, CANDIDATES, length=5))
    torch.testing.assert_close(
        model.score_candidates(item_batch(HISTORIES, CANDIDATES, length=15)), scores, atol=0, rtol=0
    )
    longer = [[*row, 0] for row in CANDIDATES]
    masked = model.score_candidates(item_batch(HISTORIES, longer))
    torch.testing.assert_close(masked[:, :4], scores, atol=1e-5, rtol=1e-5)
    assert masked.isfinite().all()


@pytest.mark.parametrize("scoring", ["likelihood", "yes_no"])
def test_only_the_latest_items_are_looked_at(model, scoring):
    model.scoring, model.max_history = scoring, 3
    long, cut, other = [9, 8, 3, 60, 5], [3, 60, 5], [8, 60, 5]
    scores = [model.score_candidates(item_batch([row], CANDIDATES[:1], length=8)) for row in (long, cut, other)]
    torch.testing.assert_close(scores[0], scores[1], atol=1e-6, rtol=0)
    assert not torch.allclose(scores[0], scores[2], atol=1e-6)


@pytest.mark.parametrize(("scoring", "swapped"), [("likelihood", 3), ("yes_no", 3), ("yes_no", 40)])
def test_another_picture_gives_another_score(model, scoring, swapped):
    """Item 3 is in the history; item 40 is the candidate, whose picture only the yes-no prompt shows."""
    model.scoring = scoring
    batch = item_batch([[3, 9]], [[40]])
    before = model.score_candidates(batch)
    model.network.visual.image[swapped] = -model.network.visual.image[swapped]
    assert (model.score_candidates(batch) - before).abs().item() > 1e-5


def test_the_likelihood_does_not_see_the_candidate_s_picture(model):
    batch = item_batch([[3, 9]], [[40]])
    before = model.score_candidates(batch)
    model.network.visual.image[40] = -model.network.visual.image[40]
    assert (model.score_candidates(batch) == before).all()


# --- parts --------------------------------------------------------------------------------------------------------


def test_an_adapter_adds_a_bottleneck_of_gelu():
    torch.manual_seed(0)
    adapter, x = Adapter(16, 8), torch.randn(3, 16)
    torch.nn.init.normal_(adapter.up.weight)
    down = x.numpy() @ adapter.down.weight.detach().numpy().T + adapter.down.bias.detach().numpy()
    assert down.shape == (3, 2)
    gelu = np.vectorize(lambda v: v * 0.5 * (1 + math.erf(v / math.sqrt(2))))(down)
    expected = x.numpy() + gelu @ adapter.up.weight.detach().numpy().T + adapter.up.bias.detach().numpy()
    np.testing.assert_allclose(adapter(x).detach().numpy(), expected, atol=1e-5)


def test_adapters_stand_behind_every_layer(t5_folder):
    model = small(backbone=t5_folder, finetune="adapters")
    model.attach(world())
    names = [name for name, module in model.network.t5.named_modules() if isinstance(module, Adapter)]
    assert len(names) == 2 * 2 + 2 * 3  # encoder: attention and feed-forward; decoder: cross-attention too
    assert {name.split(".")[0] for name in names} == {"encoder", "decoder"}


def test_a_missing_picture_has_learnt_tokens_and_none_are_made_where_all_have_one():
    some = VisualTokens(features(missing=(5,)), 16, 2)
    tokens = some(torch.tensor([5, 6, 5]))
    assert tokens.shape == (6, 16)
    assert (tokens[[0, 1, 4, 5]] == some.no_picture[[0, 1, 0, 1]]).all()
    assert VisualTokens(features(), 16, 2).no_picture is None


# --- training -----------------------------------------------------------------------------------------------------

MODES = [("full", False), ("adapters", False), ("adapters", True)]


@pytest.mark.parametrize(("finetune", "strict"), MODES)
def test_every_trained_tensor_gets_a_gradient(finetune, strict, t5_folder):
    gradients = one_gradient(small(backbone=t5_folder, finetune=finetune, strict=strict, target_window=0), world())
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.abs().sum() > 0] == []
    tables = {"network.whole_words.weight", "network.categories.weight"}
    assert (tables <= set(gradients)) is not strict
    assert ("network.t5.shared.weight" in gradients) is (finetune == "full")


def test_what_adapters_leave_frozen(t5_folder):
    model = small(backbone=t5_folder, finetune="adapters")
    trained_names = set(one_gradient(model, world()))
    frozen = {name for name, _ in model.named_parameters()} - trained_names
    assert all("layer_norm" in name or ".down." in name or ".up." in name for name in trained_names if ".t5." in name)
    assert all(name.startswith("network.t5.") for name in frozen)
    assert any("SelfAttention.q" in name for name in frozen)


@pytest.mark.parametrize("asked", [0.0, 1.0])
def test_the_loss_is_the_mean_over_answers_of_the_mean_over_tokens(model, asked, monkeypatch):
    """Sequences of two items leave one window only: the first as history, the second as target."""
    rows, users = [[3, 40], [7, 128]], torch.tensor([1, 2])
    draws = torch.zeros(2, 2) + torch.tensor([[1 - asked], [0.0]])  # asked or not; liked
    real = torch.rand

    def rand(*size, **options):
        return draws if size[0] == 2 and size[1:] == (2,) else real(*size, **options)

    monkeypatch.setattr(torch, "rand", rand)
    loss = model.loss({"user": users, "history": left_padded(rows, 6)}).item()
    each = []
    for user, (past, target) in enumerate(rows, start=1):
        answer = "yes" if asked else str(model.lexicon.item_number[target].item())
        tokens = model_tokenizer(model)(answer, add_special_tokens=False)["input_ids"]
        labels = torch.tensor([[*tokens, model.network.t5.config.eos_token_id]])
        embedded = embedded_by_hand(model, user, [past], target if asked else 0)
        each.append(model.network.t5(inputs_embeds=embedded, labels=labels).loss.item())
    assert loss == pytest.approx(np.mean(each), abs=1e-5)


def test_half_of_the_questions_are_yes_no_and_half_of_those_show_unseen_items(monkeypatch):
    train = world()
    model = small()
    model.attach(train)
    asked_for, answers = [], []
    prompts, decode = model.lexicon.prompts, model.network.decode
    monkeypatch.setattr(model.lexicon, "prompts", lambda u, h, c: asked_for.append(c) or prompts(u, h, c))
    monkeypatch.setattr(model.network, "decode", lambda m, p, labels: answers.append(labels) or decode(m, p, labels))
    users = torch.arange(1, N_USERS + 1).repeat(40)
    torch.manual_seed(0)
    model.loss({"user": users, "history": left_padded([train.sequences[int(user)] for user in users], 7)})
    candidate, yes = asked_for[0], answers[0][:, 0] == model.lexicon.answers[1, 0]
    known = torch.tensor([int(item) in train.sequences[int(user)] for user, item in zip(users, candidate, strict=True)])
    shown = candidate > 0
    assert 0.45 < shown.float().mean() < 0.55  # 960 draws: three standard deviations are .048
    assert 0.43 < known[shown].float().mean() < 0.57
    assert (yes[shown] == known[shown]).all()
    assert not yes[~shown].any()


@pytest.mark.parametrize("scoring", ["likelihood", "yes_no"])
def test_scores_and_losses_survive_mixed_precision(model, scoring):
    model.scoring = scoring
    batch = item_batch(HISTORIES, CANDIDATES)
    exact = model.score_candidates(batch)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model.score_candidates(batch)
        loss = model.loss({"user": torch.arange(1, 5), "history": left_padded([[3, 5, 40], [1, 2], [7, 8], [4, 5]], 8)})
    assert rounded.dtype == loss.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, atol=0.1, rtol=0.02)
    assert (rounded != exact).any()  # it was rounded somewhere


def test_weights_bring_their_numbers_along():
    train, batch = world(), item_batch(HISTORIES, CANDIDATES)
    first, second = small(), small()
    first.attach(train, seed=1)
    second.attach(train, seed=2)
    first.eval()
    second.eval()
    assert (first.lexicon.item_number != second.lexicon.item_number).any()
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(second.score_candidates(batch), first.score_candidates(batch), atol=0, rtol=0)


def test_the_rate_warms_up():
    model = small(warmup_steps=4, lr=0.4)
    model.attach(world())
    found = model.configure_optimizers()
    rates = []
    for _ in range(6):
        rates.append(found["optimizer"].param_groups[0]["lr"])
        found["optimizer"].step()
        found["lr_scheduler"]["scheduler"].step()
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])


# --- settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"finetune": "lora"}, "finetune='lora': unknown; give one of adapters, full"),
        ({"scoring": "beam"}, "scoring='beam'"),
        ({"n_visual_tokens": 0}, "n_visual_tokens=0: too small; give at least 1"),
        ({"target_window": -1}, "target_window=-1"),
        ({"max_tokens": 2000}, "max_tokens=2000: exceeds the table of words; give at most 1024"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"hidden": 30, "n_heads": 4}, "n_heads=4: not a divisor of hidden=30; give one of its divisors"),
        ({"strict": True}, "strict=True: freezes tables of a frozen T5"),
        ({"finetune": "adapters"}, "has random weights, which finetune='adapters' would freeze"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        small(**settings)


def test_an_unknown_backbone_is_refused(tmp_path):
    model = small(backbone=str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="cannot be read"):
        model.attach(world())


def test_weights_that_a_backbone_lacks_are_not_drawn_at_random(t5_folder, tmp_path):
    folder = Path(shutil.copytree(t5_folder, tmp_path / "t5"))
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.final_layer_norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ConfigError, match=r"weights are missing, such as encoder.final_layer_norm.weight; give a folder"
    ):
        small(backbone=str(folder)).attach(world())


def test_an_adapter_wider_than_the_layer_is_refused(t5_folder):
    with pytest.raises(ConfigError, match="adapter_reduction=64: out of range; give 1 to 32"):
        small(backbone=t5_folder, finetune="adapters", adapter_reduction=64).attach(world())


def test_untrained_weights_are_known_as_such(t5_folder, tmp_path):
    assert small().random_weights
    pretrained = small(backbone=t5_folder)
    pretrained.attach(world())
    assert not pretrained.random_weights
    marked = small(backbone=save_t5(tmp_path, random_mark=True))
    marked.attach(world())
    assert marked.random_weights
    with pytest.raises(ConfigError, match="random weights"):
        small(backbone=str(tmp_path), finetune="adapters").attach(world())


# --- what it learns -----------------------------------------------------------------------------------------------


FAST = {"hidden": 32, "n_layers": 1, "n_heads": 4, "lr": 5e-3, "max_history": 6, "target_window": 0}


def pair_auc(positive, negative):
    """Share of (positive, negative) pairs in the right order, ties half."""
    difference = np.asarray(positive)[:, None] - np.asarray(negative)[None, :]
    return ((difference > 0) + 0.5 * (difference == 0)).mean()


def cluster_auc(model, train, cluster, taste, items):
    """Mean AUC over users of items of the liked cluster against the others, what was trained on left out."""
    users = np.arange(1, train.n_users + 1)
    histories = [train.sequences[user] for user in users]
    scores = score(model, item_batch(histories, np.tile(items, (len(users), 1)), users))
    found = []
    for user, row in zip(users, scores, strict=True):
        new = ~np.isin(items, train.sequences[user])
        liked = cluster[items] == taste[user]
        if (liked & new).any():
            found.append(pair_auc(row[liked & new], row[~liked]))
    return float(np.mean(found))


def score(model, batch):
    return model.score_candidates(batch).numpy()


def popularity_auc(train, cluster, taste, items):
    class Popular:
        def score_candidates(self, batch):
            return torch.from_numpy(train.item_likes[(batch["item_index"] + 1).numpy()])

    return cluster_auc(Popular(), train, cluster, taste, items)


@pytest.mark.slow
def test_pictures_tell_more_than_popularity(clustered):
    """Only yes-no prompts show the candidate's picture, so that only they know anything of cold items."""
    train, cluster, taste = clustered
    model = trained(small(**FAST), train, steps=200, seed=1)
    warm, cold = np.arange(1, 41), np.arange(41, 61)
    assert popularity_auc(train, cluster, taste, warm) < 0.6
    assert cluster_auc(model, train, cluster, taste, warm) > 0.9
    model.scoring = "yes_no"
    assert cluster_auc(model, train, cluster, taste, warm) > 0.9
    assert cluster_auc(model, train, cluster, taste, cold) > 0.9


@pytest.mark.slow
def test_relabelled_items_are_as_easy_as_before(clustered):
    """Items sorted by cluster, and other permutations: all end above .85."""
    train, cluster, taste = clustered
    order = np.concatenate([[0], 1 + np.argsort(cluster[1:], kind="stable")])  # new number -> old number
    new_of = np.argsort(order)
    sequences = [new_of[train.sequences[user]].tolist() for user in range(1, train.n_users + 1)]
    relabelled = ItemFeatures(train.features.image[order], train.features.text[order], "sorted")
    for seed in (1, 2):
        data = train_data(sequences, train.n_items, relabelled)
        model = trained(small(**FAST), data, steps=200, seed=seed)
        assert cluster_auc(model, data, cluster[order], taste, new_of[1:41]) > 0.85


def betrayed(by_number, seed):
    """Users like one of four clusters that no picture shows; `by_number` sorts items by cluster."""
    random = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(4), 20)
    cluster = np.concatenate([[-1], cluster if by_number else random.permutation(cluster)])
    taste = np.concatenate([[-1], random.integers(0, 4, 40)])
    sequences = [random.permutation(np.flatnonzero(cluster == taste[user]))[:6].tolist() for user in range(1, 41)]
    return train_data(sequences, 80, features(80)), cluster, taste


def mean_quality(by_number):
    found = []
    for seed in (0, 1):
        train, cluster, taste = betrayed(by_number, seed)
        model = trained(small(**FAST), train, steps=120, batch_size=40, seed=seed)
        found.append(cluster_auc(model, train, cluster, taste, np.arange(1, 81)))
    return float(np.mean(found))


@pytest.mark.slow
def test_numbers_betray_nothing(monkeypatch):
    """Items sorted by cluster are no easier than shuffled ones, but would be if they were numbered in that order."""
    assert abs(mean_quality(by_number=True) - mean_quality(by_number=False)) < 0.06
    monkeypatch.setattr(vip5_prompts, "_permutation", lambda n: torch.arange(n + 1))
    assert mean_quality(by_number=True) > 0.62


@pytest.mark.slow
def test_it_overfits_32_instances():
    """Each user knows all items but one, which is then always the negative: 32 yes, 32 no, and 32 numbers."""
    random = np.random.default_rng(0)
    chosen = np.stack([random.choice(np.arange(1, 10), 3, replace=False) for _ in range(32)])
    sequences, negative = chosen[:, :2].tolist(), chosen[:, 2]
    disliked = [(user, item) for user in range(1, 33) for item in range(1, 10) if item not in chosen[user - 1]]
    train = train_data(sequences, 9, features(9), disliked)
    settings = {"hidden": 32, "n_heads": 4, "n_layers": 1, "lr": 3e-3, "target_window": 1}
    model = trained(small(**settings), train, steps=800)
    batch = item_batch(chosen[:, :1].tolist(), np.stack([chosen[:, 1], negative], axis=1))
    for model.scoring in ("likelihood", "yes_no"):
        scores = score(model, batch)
        assert pair_auc(scores[:, 0], scores[:, 1]) == 1.0
