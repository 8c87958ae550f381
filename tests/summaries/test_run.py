"""The summary stages as a whole: what a change writes anew, the order of writing, and what preferences may know."""

import json
import os
import re
import shutil
import signal
import weakref
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import (
    AutoTokenizer,
    BitsAndBytesConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

import mllm_srec.models.summarizer as summarizer_module
from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.prepare import prepare_dataset
from mllm_srec.data.settings import CandidateSettings, ColumnMapping, PictureSettings, PrepareSettings
from mllm_srec.data.stored_prompts.store import build_prompt_store
from mllm_srec.files import progress
from mllm_srec.models.random_backbone import RandomBackboneSettings, build_model
from mllm_srec.prompts.decoding import GenerationSettings
from mllm_srec.prompts.summaries import Summary
from mllm_srec.prompts.templates import PromptSettings
from mllm_srec.summaries import run as summarize
from mllm_srec.summaries.inputs import read_summary_texts
from mllm_srec.summaries.plan import SummaryPlan
from mllm_srec.summaries.quality import check_quality
from mllm_srec.summaries.settings import STAGES, StageSettings, SummarySettings
from mllm_srec.summaries.store import SummaryStore
from tests.prepared_again import replace_table

SMALL = PictureSettings(max_pixels=4 * 28 * 28)
SEEN_IN = {"train": ["train"], "train_val": ["train", "val"]}
VISIBLE = {"train": ["train"], "val": ["train"], "test": ["train", "val"]}
DRAWN = StageSettings(
    quantization="none", generation=GenerationSettings(max_new_tokens=6, sample=True, temperature=1.0, top_p=1.0)
)
"""Random weights draw texts that differ; taking the most likely token, they repeat themselves."""
WINDOW, STEP = 2, 1
SETTINGS = SummarySettings(window=WINDOW, step=STEP, image=DRAWN, item=DRAWN, preference=DRAWN)


def make_plan(folder, backbone, settings=SETTINGS, prompt=PromptSettings()):  # noqa: B008 - frozen
    return SummaryPlan(PreparedDataset.open(folder), settings, prompt, SMALL, str(backbone), None)


def write(plan, stages=STAGES):
    """Run the stages in this process."""
    trainer = summarize.summary_trainer(accelerator="cpu", devices=1, enable_progress_bar=False)
    summarize.Summarizer(plan, trainer).run(stages)
    return plan


def stored(folder):
    """(stage, key) of every record, read without the store; none may be there twice."""
    found = [
        (stage, json.loads(line)["key"])
        for stage in STAGES
        for path in (folder / "summaries" / stage).glob("records-*.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert len(found) == len(set(found))
    return set(found)


def view(plan, part):
    return pd.read_parquet(plan.folder(part) / "views" / f"{plan.view(part)}.parquet")


def counts(records):
    return {stage: sum(name == stage for name, _ in records) for stage in STAGES}


def shown(folder, window=WINDOW, step=STEP):
    """(user, visible, step) -> all items of the chain up to the step's end, by plain pandas."""
    rows = pd.read_parquet(folder / "interactions.parquet")
    liked = rows[rows["rating"] >= 4].sort_values(["user_id", "timestamp", "order"])
    found = {}
    for visible, splits in SEEN_IN.items():
        for user, own in liked[liked["split"].isin(splits)].groupby("user_id"):
            ends = range(window, len(own) + 1, step)
            found |= {(user, visible, i): tuple(own["item_id"][:end]) for i, end in enumerate(ends)}
    return found


@pytest.fixture(scope="module")
def written(shop, tiny_backbone, tmp_path_factory):
    """A copy of the small shop with all summaries; not to be changed."""
    folder = tmp_path_factory.mktemp("written") / "shop"
    shutil.copytree(shop.folder, folder)
    plan = write(make_plan(folder, tiny_backbone))
    items = view(plan, "item")
    assert items["text"].nunique() == len(items) == 15, "texts must differ, or changes would not show"
    return folder


@pytest.fixture
def folder(written, tmp_path):
    """A copy to be changed."""
    return shutil.copytree(written, tmp_path / "shop")


@pytest.fixture
def loads(monkeypatch):
    """Models that were loaded."""
    found, load = [], summarizer_module.load_writer

    def load_and_tell(settings, device):
        found.append(settings.name)
        return load(settings, device)

    monkeypatch.setattr(summarizer_module, "load_writer", load_and_tell)
    return found


@pytest.fixture(scope="module")
def other_backbone(tiny_backbone, tmp_path_factory):
    """The tiny backbone with other weights."""
    folder = shutil.copytree(tiny_backbone, tmp_path_factory.mktemp("other") / "other")
    shape = RandomBackboneSettings(hidden_size=64, n_layers=2, n_heads=2, vision_width=32, vision_depth=2, seed=1)
    build_model(AutoTokenizer.from_pretrained(folder), shape).save_pretrained(folder)
    return folder


# --- what a change writes anew ------------------------------------------------------------------------------------


def test_everything_is_written_once(written, tiny_backbone):
    plan = make_plan(written, tiny_backbone)
    prefixes = shown(written)
    pictures = {row.read_bytes() for row in (written / "images").rglob("*.png")}
    assert counts(stored(written)) == {
        "image": len(pictures), "item": 15, "preference": len(set(prefixes.values())),
    }  # fmt: skip
    assert len(set(prefixes.values())) < len(prefixes), "the test needs chains with a common beginning"
    rows = view(plan, "preference")
    assert {(row.user_id, row.visible, row.step) for row in rows.itertuples()} == set(prefixes)
    assert len(rows) == len(prefixes)
    keys = {}
    for row in rows.itertuples():
        prefix = prefixes[row.user_id, row.visible, row.step]
        assert keys.setdefault(prefix, row.key) == row.key
    assert set(view(plan, "image")["item_id"]) == {f"i{i:02d}" for i in range(15)} - {"i05"}


def test_a_second_run_writes_nothing_and_loads_no_model(folder, tiny_backbone, loads, capsys):
    before, tables = stored(folder), {part: view(make_plan(folder, tiny_backbone), part) for part in STAGES}
    plan = write(make_plan(folder, tiny_backbone))
    assert stored(folder) == before
    assert loads == []
    out = capsys.readouterr().out
    for part in STAGES:
        pd.testing.assert_frame_equal(view(plan, part), tables[part])
        assert f"{part}: {len(tables[part])} summaries, 0 texts written now" in out


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 1)])
def test_a_run_that_is_told_to_stop_ends_behind_its_batch(folder, tiny_backbone, monkeypatch, number, status):
    """Lightning takes the signal of `kill` and cluster managers and looks at it when fitting and testing only."""
    shutil.rmtree(folder / "summaries")
    append = SummaryStore.append

    def append_and_stop(store, records):
        append(store, records)
        os.kill(os.getpid(), number)

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(SummaryStore, "append", append_and_stop)
    one_by_one = replace(DRAWN, token_budget=1)
    settings = replace(SETTINGS, image=one_by_one, item=one_by_one, preference=one_by_one)
    with pytest.raises(SystemExit) as ended:
        write(make_plan(folder, tiny_backbone, settings))
    signal.signal(signal.SIGINT, before)
    assert ended.value.code == status
    assert len(stored(folder)) == 1
    assert not list(folder.rglob("summaries/**/*.parquet"))


def affected(prefixes, item):
    return {name for name, prefix in prefixes.items() if item in prefix}


def changed_rows(before, after, names):
    """Names of rows whose key is another; such a row has another text, others are the same altogether."""
    old, new = before.set_index(names), after.set_index(names)
    assert list(old.index) == list(new.index)
    is_new = old["key"] != new["key"]
    assert (old["text"] != new["text"])[is_new].all()
    pd.testing.assert_frame_equal(old[~is_new], new[~is_new])
    return set(is_new[is_new].index)


@pytest.mark.parametrize("what", ["picture", "title"])
def test_a_changed_item_costs_its_own_summaries_and_its_chains_from_there_on(folder, tiny_backbone, loads, what):
    prefixes, plan = shown(folder), make_plan(folder, tiny_backbone)
    known, tables = stored(folder), {part: view(plan, part) for part in STAGES}
    n_touched = {item: len(affected(prefixes, item)) for item in plan.data.items["item_id"]}
    item = max((n, item) for item, n in n_touched.items() if item not in ("i05", "i13", "i14"))[1]
    steps = affected(prefixes, item)
    assert 0 < len(steps) < len(prefixes)
    assert any((user, seen, step - 1) in set(prefixes) - steps for user, seen, step in steps), "not all from the first"
    if what == "picture":
        path = folder / plan.data.items.filter(pl.col("item_id") == item)["image"].item()
        size = Image.open(path).size
        Image.new("RGB", size, "yellow").save(path)
    else:
        title = pl.when(pl.col("item_id") == item).then(pl.lit("A new name")).otherwise(pl.col("title"))
        replace_table(folder, "items", plan.data.items.with_columns(title=title))
    plan = write(make_plan(folder, tiny_backbone))
    assert counts(stored(folder) - known) == {
        "image": int(what == "picture"), "item": 1, "preference": len({prefixes[step] for step in steps}),
    }  # fmt: skip
    assert len(loads) == 3 - (what == "title")
    assert known < stored(folder)
    assert changed_rows(tables["image"], view(plan, "image"), "item_id") == ({item} if what == "picture" else set())
    assert changed_rows(tables["item"], view(plan, "item"), "item_id") == {item}
    assert changed_rows(tables["preference"], view(plan, "preference"), ["user_id", "visible", "step"]) == steps


N_IMAGES, N_ITEMS = 13, 15


@pytest.mark.parametrize(
    ("stage", "change", "redone"),
    [
        ("image", {"prompt": "What is it?"}, STAGES),
        ("item", {"prompt": "Sum it up."}, STAGES[1:]),
        ("item", {"backbone": "other"}, STAGES[1:]),
        ("item", {"dtype": "bfloat16"}, STAGES[1:]),
        ("preference", {"prompt": "What is liked?"}, STAGES[2:]),
        ("preference", {"backbone": "other"}, STAGES[2:]),
        ("preference", {"generation": replace(DRAWN.generation, seed=1)}, STAGES[2:]),
        ("item", {"token_budget": 1}, ()),
        ("preference", {"token_budget": 10**6}, ()),
    ],
)
def test_a_changed_setting_costs_its_stage_and_those_behind_it(
    folder, tiny_backbone, other_backbone, loads, stage, change, redone
):
    if change.get("backbone"):
        change = {"backbone": str(other_backbone)}
    settings = replace(SETTINGS, **{stage: replace(DRAWN, **change)})
    known = stored(folder)
    plan = write(make_plan(folder, tiny_backbone, settings))
    n_items = N_ITEMS - (stage == "image")  # one has no picture
    n_all = {"image": N_IMAGES, "item": n_items, "preference": len(set(shown(folder).values()))}
    assert counts(stored(folder) - known) == {name: n_all[name] * (name in redone) for name in STAGES}
    assert loads == [plan.plan(name).settings.backbone for name in redone]
    write(make_plan(folder, tiny_backbone))
    assert len(loads) == len(redone), "the former texts are still there"


def test_a_limit_of_windows_keeps_the_latest_and_counts_the_others(folder, tiny_backbone, capsys):
    settings = replace(SETTINGS, max_windows=1)
    plan = write(make_plan(folder, tiny_backbone, settings), ["preference"])
    every = shown(folder)
    last = {(user, visible): items for (user, visible, _), items in sorted(every.items(), key=lambda row: row[0][2])}
    table = view(plan, "preference")
    assert sorted(zip(table["user_id"], table["visible"], table["step"], strict=True)) == sorted(
        (user, visible, 0) for user, visible in last
    )
    n_chains = sum(step == 1 for _, _, step in every)
    assert n_chains > 0, "else nothing was cut"
    n_left_out = len(every) - len(last)
    said = f"preference: {n_chains} chains have more than 1 windows (summaries.max_windows); their {n_left_out} oldest"
    assert said in capsys.readouterr().err
    quality = json.loads((plan.folder("preference") / "quality.json").read_text())
    assert (quality["n_chains_cut"], quality["n_windows_left_out"]) == (n_chains, n_left_out)


def test_variants_share_what_they_ask_alike(folder, tiny_backbone, loads):
    """One call over the first window is the first refinement, whatever the variant calls it."""
    known, prefixes = stored(folder), set(shown(folder).values())
    write(make_plan(folder, tiny_backbone, replace(SETTINGS, variant="svi")))
    n_later = sum(len(prefix) > WINDOW for prefix in prefixes)
    assert counts(stored(folder) - known) == {"image": 0, "item": 0, "preference": n_later}
    assert len(loads) == 1


def test_the_token_budget_decides_no_text(written, shop, tiny_backbone, tmp_path):
    folder = shutil.copytree(shop.folder, tmp_path / "shop")
    tight = {name: replace(DRAWN, token_budget=1) for name in STAGES}
    plan = write(make_plan(folder, tiny_backbone, replace(SETTINGS, **tight)))
    before = make_plan(written, tiny_backbone)
    assert stored(folder) == stored(written)
    for part in ("item", "preference"):
        pd.testing.assert_frame_equal(view(plan, part), view(before, part))


def test_quality_is_noted(written, tiny_backbone):
    plan = make_plan(written, tiny_backbone)
    for stage in STAGES:
        found = json.loads((written / "summaries" / stage / "quality.json").read_text())
        assert (found["view"], found["backbone"]) == (plan.view(stage), str(tiny_backbone))
        assert found["random_backbone"] is True
        assert found["n"] == len(view(plan, stage))
        assert found["n_keys"] == view(plan, stage)["key"].nunique()
        assert found["n_cut_off"] == (view(plan, stage)["finish_reason"] == "length").sum()
        assert found["tokens_max"] <= 6
        assert ("n_targets_checked" in found) == ("n_unchanged" in found) == (stage == "preference")


def test_a_model_made_for_other_data_is_doubted(folder, tiny_backbone):
    """The shop of these tests is of tables; nothing is said of a model of the world, or of one made for tables."""
    backbone = shutil.copytree(tiny_backbone, folder.parent / "backbone")
    config = json.loads((backbone / "config.json").read_text())
    for made_for in (None, "tables", "demo"):
        stated = {} if made_for is None else {"made_for": made_for}
        (backbone / "config.json").write_text(json.dumps(config | stated))
        plan, heard = make_plan(folder, backbone), []
        table = pl.from_pandas(view(plan, "item"))  # found: a word on what it is for makes it no other model
        content = check_quality(plan, "item", table, lambda *what: heard.append(what))  # noqa: B023
        doubts = [doubt for doubt in content.get("doubts", []) if "was made for" in doubt]
        assert [doubt for doubt in heard[0][-1] if "was made for" in doubt] == doubts
        assert len(doubts) == (made_for == "demo")
    assert doubts[0].startswith("the backbone backbone was made for data of prepare.source=demo and knows no other")


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_stage_frees_its_model_before_the_next_one_loads(shop, tiny_backbone, tmp_path, monkeypatch, quantization):
    """Two models of 8 billion weights do not fit side by side."""
    alive, load = [], summarizer_module.load_writer

    def load_and_watch(settings, device):
        assert [net for net in alive if net() is not None] == []
        writer = load(settings, device)
        alive.append(weakref.ref(writer.net))
        return writer

    monkeypatch.setattr(summarizer_module, "load_writer", load_and_watch)
    settings = SummarySettings(**dict.fromkeys(STAGES, replace(DRAWN, quantization=quantization)))
    write(make_plan(shutil.copytree(shop.folder, tmp_path / "shop"), tiny_backbone, settings))
    assert len(alive) == 3


# --- lock-step and one at a time ------------------------------------------------------------------------------------

SYSTEM = "You are a helpful assistant."
P1 = "What is in the image and describe its category, type, color, style, brand, specifications, and feature?"
P2 = "Please combine visual summary and text to summarize the item."
P3 = (
    "Please summarize the user\u2019s multimodal summaries sequence in chronological order to refine the user\u2019s "
    "interests and preferences."
)
N_NEW = 8
GREEDY = StageSettings(quantization="none", dtype="float32", generation=GenerationSettings(max_new_tokens=N_NEW))


@pytest.fixture(scope="module")
def plain_shop(shop, tmp_path_factory):
    """The small shop with titles that hold no control tokens, so that a plain tokenizer can read whole chats."""
    folder = shutil.copytree(shop.folder, tmp_path_factory.mktemp("plain") / "shop")
    title = pl.when(pl.col("item_id") == "i03").then(pl.lit("red coat")).otherwise(pl.col("title"))
    replace_table(folder, "items", PreparedDataset.open(folder).items.with_columns(title=title))
    return folder


@pytest.fixture(scope="module")
def lively(tiny_backbone, tmp_path_factory):
    """The tiny backbone with large weights, so that its most likely texts differ."""
    folder = shutil.copytree(tiny_backbone, tmp_path_factory.mktemp("lively") / "lively")
    net = Qwen2VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2, generator=generator)
        head = torch.randn(net.lm_head.weight.shape, generator=generator)
    net.lm_head.weight = torch.nn.Parameter(head)  # tied to the embeddings it would repeat its input
    net.config.tie_word_embeddings = net.config.text_config.tie_word_embeddings = False
    net.save_pretrained(folder)
    return folder


LLAMA_TOKENS = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
LLAMA_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A tiny untrained Llama with a chat template like that of Llama 3."""
    folder = tmp_path_factory.mktemp("llama")
    core = Tokenizer(BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=350, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator([P2, P3] * 10, trainer)
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in LLAMA_TOKENS])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token=LLAMA_TOKENS[0], eos_token=LLAMA_TOKENS[1])
    tokenizer.chat_template = LLAMA_TEMPLATE
    tokenizer.save_pretrained(str(folder))
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=2048,
        initializer_range=0.2,
        tie_word_embeddings=False,
        **shape,
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        LlamaForCausalLM(config).save_pretrained(str(folder))
    return folder


class OneByOne:
    """Answers one chat at a time through transformers alone.

    Args:
        folder: The model.
        template: The chat, with {} for the user's text.
        ends: Tokens that end an answer.
        kind: Class of the model.
        loading: Arguments of its loading.
    """

    def __init__(self, folder, template, ends, kind, **loading):
        self.tokenizer, self.template = AutoTokenizer.from_pretrained(folder), template
        self.net = kind.from_pretrained(folder, dtype=torch.float32, **loading).eval()
        self.ends = self.tokenizer.convert_tokens_to_ids(ends)
        if kind is Qwen2VLForConditionalGeneration:
            size = {"shortest_edge": SMALL.min_pixels, "longest_edge": SMALL.max_pixels}
            self.processor = Qwen2VLImageProcessorPil.from_pretrained(folder, size=size)

    def __call__(self, question, picture=None):
        shown, vision = "", {}
        if picture is not None:
            vision = dict(self.processor(images=[Image.open(picture).convert("RGB")], return_tensors="pt"))
            n_tokens = int(vision["image_grid_thw"].prod()) // 4
            shown = f"<|vision_start|>{'<|image_pad|>' * n_tokens}<|vision_end|>"
        chat = self.template.format(SYSTEM, shown + question)
        inputs = self.tokenizer(chat, return_tensors="pt", add_special_tokens=False)
        ids = inputs["input_ids"]
        if picture is not None:
            vision["mm_token_type_ids"] = (ids == self.tokenizer.convert_tokens_to_ids("<|image_pad|>")).long()
            self.net.model.rope_deltas = None
        found = self.net.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            **vision,
            max_new_tokens=N_NEW,
            do_sample=False,
            eos_token_id=self.ends,
            pad_token_id=self.ends[0],
        )
        answer = self.tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True)
        return answer.rstrip("\ufffd").strip()


def line(text):
    return " ".join(text.split())


def by_plain_loops(folder, see, tell, window=3):
    """Image summaries and item summaries one item after another, preferences user by user and step by step."""
    items = pd.read_parquet(folder / "items.parquet")
    image = {row.item_id: see(P1, folder / row.image) for row in items.itertuples() if isinstance(row.image, str)}
    item = {}
    for row in items.itertuples():
        seen = line(image.get(row.item_id, "")) or "no picture available"
        item[row.item_id] = tell(f"{P2}\nVisual summary: {seen}\nText: {line(row.title)}")
    preference = {}
    for (user, visible, step), prefix in sorted(shown(folder, window, window).items()):
        latest, said = prefix[-window:], [P3]
        if step:
            said.append(f"Previous preference: {line(preference[user, visible, step - 1])}")
        said += ["Items:", *(f"- {line(item[name])}" for name in latest)]
        preference[user, visible, step] = tell("\n".join(said))
    return image, item, preference


def by_the_pipeline(plan):
    tables = [view(plan, part) for part in STAGES]
    return *(dict(zip(table["item_id"], table["text"], strict=True)) for table in tables[:2]), {
        (row.user_id, row.visible, row.step): row.text for row in tables[2].itertuples()
    }


QWEN_CHAT = "<|im_start|>system\n{}<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
LLAMA_CHAT = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{}<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
)
QWEN_ENDS, LLAMA_ENDS = ["<|im_end|>", "<|endoftext|>"], ["<|eot_id|>", "<|end_of_text|>"]


def test_lock_step_gives_the_texts_of_one_at_a_time(plain_shop, lively, tmp_path):
    folder = shutil.copytree(plain_shop, tmp_path / "shop")
    settings = SummarySettings(window=2, step=2, image=GREEDY, item=GREEDY, preference=GREEDY)
    found = by_the_pipeline(write(make_plan(folder, lively, settings)))
    model = OneByOne(lively, QWEN_CHAT, QWEN_ENDS, Qwen2VLForConditionalGeneration)
    expected = by_plain_loops(folder, model, model, window=2)
    for texts, others in zip(found, expected, strict=True):
        assert texts == others
        assert len(set(texts.values())) > len(texts) / 2, "texts that are all alike prove nothing"
    assert max(step for _, _, step in found[2]) >= 2


def test_a_text_only_model_in_4_bits_writes_items_and_preferences(plain_shop, lively, llama, same_layout, tmp_path):
    folder = shutil.copytree(plain_shop, tmp_path / "shop")
    blind = replace(GREEDY, backbone=str(llama), quantization="nf4")
    settings = SummarySettings(window=2, step=2, image=GREEDY, item=blind, preference=blind)
    found = by_the_pipeline(write(make_plan(folder, lively, settings)))
    see = OneByOne(lively, QWEN_CHAT, QWEN_ENDS, Qwen2VLForConditionalGeneration)
    bits = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, llm_int8_skip_modules=["lm_head"]
    )
    tell = OneByOne(llama, LLAMA_CHAT, LLAMA_ENDS, LlamaForCausalLM, quantization_config=bits)
    same_layout(tell.net)
    for texts, others in zip(found, by_plain_loops(folder, see, tell, window=2), strict=True):
        assert texts == others
        assert len(set(texts.values())) > len(texts) / 2


# --- what preferences may know --------------------------------------------------------------------------------------

MARKS = re.compile(r"mark_i\d\d_|said_u\d\d_i\d\d_|look_[0-9a-f]{32}_")
SPLITS = ["random", "leave_one_out", "global_time"]


@pytest.fixture(scope="module")
def marked(shop_root, tmp_path_factory):
    """Function that prepares a shop in which every title, picture and review can be told from all others."""
    root = tmp_path_factory.mktemp("marked")
    random = np.random.default_rng(5)
    items = [f"i{i:02d}" for i in range(15)]
    rows = ["user_id,item_id,rating,timestamp,review"]
    for user in (f"u{n:02d}" for n in range(12)):
        for time, item in enumerate(random.permutation(items)[: random.integers(7, 13)]):
            rating, at = random.choice([1, 3, 4, 5, 5, 5]), 1000 + 3 * time + random.integers(0, 9)
            rows.append(f"{user},{item},{rating},{at},nice said_{user}_{item}_ indeed")
    (root / "interactions.csv").write_text("\n".join(rows) + "\n")
    (root / "items.csv").write_text("item_id,title\n" + "".join(f"{item},A mug mark_{item}_ here\n" for item in items))

    def prepare(split):
        settings = PrepareSettings(
            source="tables",
            reviews=str(root / "interactions.csv"),
            metadata=str(root / "items.csv"),
            images=str(shop_root / "raw/pictures"),
            columns=ColumnMapping(review="review"),
            k_core=1,
            split=split,
        )
        if not (root / split).exists():
            prepare_dataset(root / split, settings, CandidateSettings(n_negatives=4))
        return root / split

    return prepare


@pytest.fixture
def echo(monkeypatch):
    """Models answer with every mark that they are shown, so that a text names all that it was made of.

    Returns the marks of each prompt by its key.
    """
    found = {}

    def answer(loop, prompts):
        for prompt in prompts:
            said = [f"look_{prompt.picture}_"] if prompt.picture else []
            texts = (piece for message in prompt.messages for piece in message.content if isinstance(piece, str))
            said += MARKS.findall("\n".join(texts))
            found[prompt.key] = set(said)
            if prompt.key not in loop.store:
                loop.store.append([Summary(prompt.key, " ".join(dict.fromkeys(said)), "stop", 1)])

    monkeypatch.setattr(summarize.SummaryLoop, "write", answer)
    return found


def echoed(plan):
    """Run all stages without any model."""
    trainer = SimpleNamespace(
        callbacks=[summarize.SummaryWriter()],
        global_rank=0,
        world_size=1,
        is_global_zero=True,
        strategy=SimpleNamespace(barrier=lambda name: None, launcher=None),
    )
    summarize.Summarizer(plan, trainer).run(STAGES)


def marks_of(plan, items, user):
    """What shows that a text was made of these likes of a user."""
    settings, found = plan.settings, set()
    looks = dict(view(plan, "image")[["item_id", "text"]].to_numpy()) if settings.modality != "text" else {}
    for item in items:
        found |= {f"mark_{item}_"} if settings.modality != "image" else set()
        found |= {looks[item]} if item in looks else set()
        found |= {f"said_{user}_{item}_"} if settings.use_reviews else set()
    return found


def by_user(folder):
    """user -> interactions, oldest first."""
    rows = pd.read_parquet(folder / "interactions.parquet").sort_values(["timestamp", "order"])
    return {user: list(own.itertuples()) for user, own in rows.groupby("user_id")}


def past(rows, context):
    """Items that a context may know of, oldest first."""
    key, splits = (context.timestamp, context.order), VISIBLE[context.split]
    own = [row for row in rows[context.user_id] if row.rating >= 4 and row.split in splits]
    return [row.item_id for row in own if (row.timestamp, row.order) < key]


FORMS = [(variant, "both", reviews) for variant in ("base", "sv", "svi", "full") for reviews in (False, True)]
FORMS += [("full", "text", True), ("sv", "image", True), ("full", "image", False)]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(("variant", "modality", "use_reviews"), FORMS)
def test_a_preference_is_made_of_what_its_readers_may_know(
    marked, echo, tiny_backbone, split, variant, modality, use_reviews
):
    """Of nothing else, and of all of it up to the last full window; through every text before it."""
    folder = marked(split)
    settings = SummarySettings(variant=variant, modality=modality, use_reviews=use_reviews, window=2, step=2)
    plan = make_plan(folder, tiny_backbone, settings)
    echoed(plan)
    rows = by_user(folder)
    texts, states = read_summary_texts(plan), view(plan, "preference")
    prompt_of = {(row.user_id, row.visible, row.timestamp, row.order): row.key for row in states.itertuples()}
    n_read, n_hidden = 0, 0
    for context in pd.read_parquet(folder / "groups.parquet").itertuples():
        known = past(rows, context)
        n_told = len(known) // 2 * 2
        state = texts.state_before(context.user_id, context.split, context.timestamp, context.order)
        assert (state is None) == (n_told == 0)
        if state is not None:
            visible = "train_val" if context.split == "test" else "train"
            asked = echo[prompt_of[context.user_id, visible, *state.key]]
            expected = marks_of(plan, known[:n_told], context.user_id)
            assert asked == expected == set(MARKS.findall(state.text))
            n_read += 1
            n_hidden += len(rows[context.user_id]) > len(known)
    assert min(n_read, n_hidden) > 20


@pytest.mark.parametrize("split", SPLITS)
def test_a_prompt_made_of_written_summaries_knows_the_visible_past(marked, echo, tiny_backbone, encoder, split):
    """From the stages to the tokens of every context: the preference, and the items since."""
    folder = marked(split)
    settings = SummarySettings(use_reviews=True, window=2, step=2)
    prompt = PromptSettings(max_preference_tokens=9999, max_item_tokens=9999)
    plan = make_plan(folder, tiny_backbone, settings, prompt)
    echoed(plan)
    prompts = build_prompt_store(plan.data, encoder, None, prompt, 9999, read_summary_texts(plan))
    rows = by_user(folder)
    for index, context in enumerate(pd.read_parquet(folder / "groups.parquet").itertuples()):
        known = past(rows, context)
        told = {f"said_{context.user_id}_{item}_" for item in known[: len(known) // 2 * 2]}
        seen = {mark for mark in marks_of(plan, known, context.user_id) if not mark.startswith("said")}
        assert set(MARKS.findall(encoder.tokenizer.decode(prompts.prefix(index)))) == seen | told


@pytest.mark.parametrize(("wanted", "n_processes"), [(True, 1), (True, 3), (False, 1)])
def test_a_part_is_counted_once_however_many_waves_write_it(
    written, tiny_backbone, tmp_path, monkeypatch, capsys, wanted, n_processes
):
    """Half of the texts are there already: they count as done and not as speed. What others write is estimated."""
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    write = summarize.SummaryWriter.write_on_batch_end
    told = SimpleNamespace(world_size=n_processes, received_sigterm=False)
    monkeypatch.setattr(
        summarize.SummaryWriter, "write_on_batch_end", lambda self, trainer, *batch: write(self, told, *batch)
    )
    folder = shutil.copytree(written, tmp_path / "shop")
    plan = make_plan(folder, tiny_backbone)
    n = {part: len(view(plan, part)) for part in ("image", "preference")}
    for part in n:
        shutil.rmtree(plan.folder(part) / "views")
        records = plan.folder(part) / "records-0.jsonl"
        lines = records.read_text().splitlines(keepends=True)
        records.write_text("".join(lines[: len(lines) // 2]))
    capsys.readouterr()
    trainer = summarize.summary_trainer(accelerator="cpu", devices=1, enable_progress_bar=None if wanted else False)
    summarize.Summarizer(plan, trainer).run(["image", "preference"])
    lines = [line for line in capsys.readouterr().err.splitlines() if " texts (" in line]
    if not wanted:
        assert lines == []
        return
    for part, total in n.items():
        own = [line for line in lines if line.startswith(f"{part} summaries: ")]
        assert len(own) >= 2
        done = [int(re.match(rf".*: (\d+) of {total} texts", line)[1]) for line in own]
        assert done == sorted(done)
        assert done[0] > 0
        assert max(done) <= total
        assert done[-1] == total
    assert "Predicting" not in "".join(lines)
