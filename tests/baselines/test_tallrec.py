"""TALLRec: the recommender asked with lists of liked and disliked titles, no pictures and no summaries."""

import re
from pathlib import Path

import pytest
import torch
import yaml

from mllm_srec.data.loading.prompt_batches import PromptCollator
from mllm_srec.data.loading.ranking_datamodule import ServedInputs
from mllm_srec.data.settings import PictureSettings
from mllm_srec.data.stored_prompts.contexts import ContextTexts
from mllm_srec.data.stored_prompts.summary_texts import SummaryTexts
from mllm_srec.models.backbone import LoraSettings
from mllm_srec.models.losses import response_loss
from mllm_srec.models.recommender import MLLMRecommender
from mllm_srec.pipeline.ranking.people import people_now
from mllm_srec.prompts.packing import PackingSettings, PromptGroup
from mllm_srec.prompts.templates import PromptSettings
from mllm_srec.types import ConfigError, DataError

SETTINGS = {"wording": "tallrec", "user_id": False, "profile": False, "max_history": 10}
NONE = PictureSettings(serve="none")
HEAD = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    "Given the items that a user liked and disliked, decide whether the user will like the target item. "
    'Answer "Yes." or "No.".\n'
)
VISIBLE = {"train": ["train"], "val": ["train"], "test": ["train", "val"]}
OVERLAY = Path(__file__).resolve().parents[2] / "configs/baselines/tallrec.yaml"


@pytest.fixture
def make(make_datamodule):
    """Function that makes a data module with TALLRec's prompts."""

    def module(stage="test", prompt=(), **changes):
        made = make_datamodule(prompt=PromptSettings(**{**SETTINGS, **dict(prompt)}), pictures=NONE, **changes)
        made.setup(stage)
        return made

    return module


def past(shop, group):
    """Title and liking of all that a group may see, oldest first, by the slow road."""
    titles = dict(shop.items.select("item_id", "title").iter_rows())
    rows = [
        ((row["timestamp"], row["order"]), titles[row["item_id"]], row["rating"] >= 4)
        for row in shop.interactions.iter_rows(named=True)
        if row["user_id"] == group["user_id"] and row["split"] in VISIBLE[group["split"]]
    ]
    now = (group["timestamp"], group["order"])
    return [(" ".join(title.split()), liked) for key, title, liked in sorted(rows) if key < now]


def written(rows):
    liked = "".join(f"- {title}\n" for title, liked in rows if liked) or "none\n"
    disliked = "".join(f"- {title}\n" for title, liked in rows if not liked) or "none\n"
    return f"Liked items, oldest first:\n{liked}Disliked items, oldest first:\n{disliked}"


# --- prompts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("latest", [3, 10, None])
def test_every_context_in_full(make, shop, latest):
    data = make(prompt={"max_history": latest})
    decode = data.stores.encoder.tokenizer.decode
    shown = [past(shop, group) for group in shop.groups.iter_rows(named=True)]
    for index, rows in enumerate(shown):
        expected = f'{HEAD}{written(rows[-(latest or 99) :])}Will the user like the target item "'
        assert decode(data.stores.prompts.prefix(index)) == expected
    assert data.stores.prompts.report.n_without_history == sum(not rows for rows in shown) > 0
    assert data.stores.prompts.report.n_shortened == 0
    mixed = [{liked for _, liked in rows[-3:]} for rows in shown]
    assert {True, False} in mixed, "no context has both lists: the test shows nothing"


def test_a_training_row_in_full(make, shop):
    """A hostile title, which holds control tokens, included: it stays plain text."""
    data = make("fit", batch_size=1)
    tokenizer = data.stores.encoder.tokenizer
    titles = [" ".join(title.split()) for title in shop.items["title"]]
    n_hostile = 0
    for batch in data.train_dataloader():
        assert "pixel_values" not in batch
        (group,) = [row for row in shop.groups.iter_rows(named=True) if row["group_id"] == batch["group_id"].item()]
        text = f'{HEAD}{written(past(shop, group)[-10:])}Will the user like the target item "'
        for item, label in zip(batch["item_index"][0].tolist(), batch["relevance"][0].tolist(), strict=True):
            answer = "Yes." if label else "No."
            text += f'{titles[item]}"?\n<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>'
        assert tokenizer.decode(batch["input_ids"][0]) == text
        n_turns = (batch["input_ids"][0] == tokenizer.convert_tokens_to_ids("<|im_end|>")).sum()
        assert n_turns == 1 + 2 * len(batch["item_index"][0]), "a title ended a turn"
        n_hostile += "Yes. & more" in text
    assert n_hostile > 0


def test_too_long_a_context_loses_its_oldest_items_and_never_target_or_answer(make, shop):
    whole, limit = make("fit"), 240
    short = make("fit", max_length=limit, batch_size=1)
    decode = short.stores.encoder.tokenizer.decode
    longest = max(short.stores.prompts.target_lengths().to_list())
    n_short = 0
    for index, group in enumerate(shop.groups.iter_rows(named=True)):
        rows, dropped = past(shop, group)[-10:], short.stores.prompts._contexts[index]["n_dropped"]
        assert written(rows[dropped:]) in decode(short.stores.prompts.prefix(index))
        n_short += dropped > 0
        if group["purpose"] == "rank":  # of any item; of a pair, of its own
            assert len(short.stores.prompts.prefix(index)) + longest + 3 <= limit
            if dropped:
                n_line = len(short.stores.encoder.encode_text(f"- {rows[dropped - 1][0]}\n"))
                n_none = len(short.stores.encoder.encode_text("none\n"))
                n_more = len(short.stores.prompts.prefix(index)) + n_line + longest + 3
                assert n_more > limit or n_more - n_none <= limit < n_more, "one more item would have fitted"
    assert short.stores.prompts.report.n_shortened == n_short > 0 == whole.stores.prompts.report.n_shortened
    for before, after in zip(served(whole), served(short), strict=True):
        assert before[0] == after[0], "the target or its answer changed"
        assert after[1] <= limit


def served(data):
    """Every target with its answer, as text, and the tokens of its whole prompt; sorted."""
    dataset = data._loader(data.train_examples(), train=True).dataset
    decode = data.stores.encoder.tokenizer.decode
    groups = [dataset[index] for index in range(len(dataset))]
    return [
        (decode([*t.input_ids, *t.answer_ids]), len(group.prefix_ids) + len(t.input_ids) + len(t.answer_ids))
        for group in groups
        for t in group.targets
    ]


def test_at_the_tightest_limit_the_newest_item_stands_cut_in_its_own_list(make, shop):
    limit = 60
    while True:  # raise to what the longest prompt needs
        try:
            data = make(max_length=limit)
            break
        except ConfigError as error:
            limit = int(re.search(r"it needs (\d+)", str(error))[1])
    decode = data.stores.encoder.tokenizer.decode
    report = data.stores.prompts.report
    assert report.n_cut_histories > 0
    n_cut = 0
    for index, group in enumerate(shop.groups.iter_rows(named=True)):
        rows = past(shop, group)
        text = decode(data.stores.prompts.prefix(index))
        if rows and not any(f"- {title}\n" in text for title, _ in rows):
            title, liked = rows[-1]
            before = "Liked items, oldest first:\n" if liked else "Disliked items, oldest first:\n"
            start = text.index(f"\n{before}") + 1 + len(before)
            shown = text[start:].split("Disliked items" if liked else "Will the user")[0]
            assert f"- {title}\n".startswith(shown)
            assert len(shown) > 2
            n_cut += 1
    assert n_cut == report.n_cut_histories


def test_dislikes_of_the_future_are_refused(shop):
    groups = [g for g in shop.groups.iter_rows(named=True) if g["history"]]
    contexts = ContextTexts(shop.interactions, None, PromptSettings(**SETTINGS))
    unseen = next(item for item in shop.items["item_id"] if item not in groups[0]["history"] + groups[0]["disliked"])
    for late in ({"disliked": [unseen]}, {"timestamp": 0, "order": 0}):
        with pytest.raises(DataError, match="do not belong together"):
            contexts.body({**groups[0], **late})


def test_what_the_wording_has_no_place_for_is_refused(make_datamodule, shop):
    prompt = PromptSettings(**SETTINGS)
    with pytest.raises(ConfigError, match=r"serve='pixels' with data\.prompt\.wording='tallrec'"):
        make_datamodule(prompt=prompt, pictures=PictureSettings(serve="pixels"))
    with pytest.raises(ConfigError, match="cot=true, wording='tallrec'"):
        PromptSettings(wording="tallrec", cot=True)
    with pytest.raises(ConfigError, match="max_history=0"):
        PromptSettings(max_history=0)
    data = make_datamodule(prompt=prompt, pictures=NONE)
    data.use(ServedInputs(summaries=SummaryTexts("a1", "both", {}, dict.fromkeys(shop.items["item_id"], "x"), {})))
    with pytest.raises(ConfigError, match="has no place for preferences"):
        data.setup("fit")


def test_a_person_of_now_is_shown_as_the_contexts_are(shop):
    settings = PromptSettings(**{**SETTINGS, "max_history": 4})
    users = sorted(shop.interactions["user_id"].unique())
    titles = dict(shop.items.select("item_id", "title").iter_rows())
    now = {"split": "test", "timestamp": 2**62, "order": 0}
    for person in people_now(shop.interactions, users, None, 50, settings):
        expected = past(shop, {**now, "user_id": person.user_id})[-4:]
        shown = [(" ".join(titles[i].split()), i not in person.body.disliked) for i in person.body.items]
        assert shown == expected


def test_max_history_limits_likes_in_the_other_wordings_too(make_datamodule, shop):
    data = make_datamodule(prompt=PromptSettings(max_history=2), pictures=NONE)
    data.setup("test")
    decode = data.stores.encoder.tokenizer.decode
    titles = dict(shop.items.select("item_id", "title").iter_rows())
    for index, history in enumerate(shop.groups["history"]):
        lines = "".join(f"- {' '.join(titles[item].split())}\n" for item in history.to_list()[-2:]) or "no history"
        assert f'summarized as: \n "{lines}" \n Whether' in decode(data.stores.prompts.prefix(index))


# --- training and scores ------------------------------------------------------------------------------------------


def paper_model(backbone, **changes):
    """The overlay's adapters, without dropout and 4 bits, so that numbers can be compared."""
    lora = yaml.safe_load(OVERLAY.read_text())["model"]["lora"]
    values = {"lora": LoraSettings(**{**lora, "dropout": 0.0}), "quantization": "none", **changes}
    model = MLLMRecommender(str(backbone), **values)
    model.configure_model()
    return model


def test_the_overlay_trains_queries_and_values_only(tiny_backbone):
    trained = {name for name, p in paper_model(tiny_backbone).named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 2 * 2  # layers, modules, matrices
    assert all("language_model" in name and ("q_proj" in name or "v_proj" in name) for name in trained)
    settings = paper_model(tiny_backbone).settings.lora
    assert (settings.r, settings.alpha) == (8, 16)


def moved(model):
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.2, generator=generator)
    return model.eval()


@torch.no_grad()
def test_shared_prefixes_score_as_plain_rows(make, tiny_backbone):
    """Acceptance test 10: cached, packed and separate rows, against plain transformers with one prompt at a time."""
    model = moved(paper_model(tiny_backbone))
    net, encoder = model.loaded.net, make().stores.encoder
    found = {}
    for scoring, packed in (("cached", True), ("packed", True), ("packed", False)):
        model.scoring = scoring
        data = make(packing=PackingSettings(packed=packed))
        for batch in data.test_dataloader()[1]:
            scores = model.score_candidates(batch)
            for b, c in torch.nonzero(batch["candidate_mask"]).tolist():
                key = batch["group_id"][b].item(), batch["item_index"][b, c].item()
                found.setdefault(key, []).append(scores[b, c].item())
    dataset = data.test_dataloader()[1].dataset
    n = 0
    for index in range(len(dataset)):
        group = dataset[index]
        for target in group.targets:
            ids = torch.tensor([[*group.prefix_ids, *target.input_ids]])
            logits = net(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -1]
            expected = (logits[encoder.yes_id] - logits[encoder.no_id]).item()
            assert found[group.group_id, target.item_index] == pytest.approx([expected] * 3, abs=1e-5)
            n += 1
    assert n == len(found) > 20
    scores = torch.tensor([values[0] for values in found.values()])
    assert scores.std() > 1e-3, "all targets score alike: the test shows nothing"


@pytest.mark.parametrize("loss_on", ["response", "all"])
def test_every_trainable_tensor_gets_a_gradient(make, tiny_backbone, loss_on):
    model = paper_model(tiny_backbone)
    moved(model).train()
    model.loss_on = loss_on
    batch = next(iter(make("fit").train_dataloader()))
    trained = model.trained_on(batch)
    assert ((trained["labels"] >= 0).sum() > 3 * batch["candidate_mask"].sum()) == (loss_on == "all")
    model.training_step(batch, 0).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in gradients.values())


def auc(scores, labels):
    positive, negative = scores[labels == 1], scores[labels == 0]
    wins = (positive[:, None] > negative).float() + 0.5 * (positive[:, None] == negative)
    return wins.mean().item()


@pytest.mark.slow
def test_overfits_32_instances(make, tiny_backbone):
    """Acceptance test 11: labels at random, so that nothing but the instance tells them; 4 contexts of 8 targets."""
    data = make("fit", prompt={"max_history": 4})
    model = paper_model(tiny_backbone, lr=1e-2)
    head = torch.randn(model.loaded.lm_head.shape, generator=torch.Generator().manual_seed(0))
    # The untrained head is tied and near zero: adapters could not move a logit far enough.
    model.loaded.base.lm_head.weight = torch.nn.Parameter(0.3 * head, requires_grad=False)
    optimizer = model.train().configure_optimizers()["optimizer"]
    labels = (torch.randperm(32, generator=torch.Generator().manual_seed(0)) % 2).tolist()
    contexts = [index for index, history in enumerate(data.data.groups["history"]) if len(history) > 2][::12][:4]
    prompts, answers = data.stores.prompts, data.stores.encoder.answer_ids
    groups = [
        PromptGroup(row, prompts.prefix(context), [
            prompts.target((3 * row + c) % 15, answers[label], label, 0)
            for c, label in enumerate(labels[8 * row : 8 * row + 8])
        ])
        for row, context in enumerate(contexts)
    ]  # fmt: skip
    batch = PromptCollator(data.stores)(groups)
    for _ in range(200):
        optimizer.zero_grad()
        loss, _ = response_loss(model.loaded(batch), model.loaded.lm_head, batch)
        loss.backward()
        optimizer.step()
        if loss < 0.05:
            break
    with torch.no_grad():
        scores = model.eval().score_candidates(batch)
    assert scores.shape == (4, 8)
    assert auc(scores, batch["relevance"]) == 1.0
