"""What the summary stages are asked, written out in full, and which settings give their tables other names."""

import shutil
from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace

import polars as pl
import pytest
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.prepare import prepare_dataset
from mllm_srec.data.settings import CandidateSettings, ColumnMapping, PictureSettings, PrepareSettings
from mllm_srec.data.stored_prompts.summary_texts import PreferenceState
from mllm_srec.models.backbone_files import describe_writer
from mllm_srec.prompts.builder import Picture
from mllm_srec.prompts.summaries import Message, Summary
from mllm_srec.prompts.templates import PromptSettings
from mllm_srec.summaries import plan as plans
from mllm_srec.summaries import run as summarize
from mllm_srec.summaries.inputs import SummaryInputs, read_summary_texts
from mllm_srec.summaries.plan import SummaryPlan
from mllm_srec.summaries.preference_chains import build_chains
from mllm_srec.summaries.run import ensure_summaries, missing_stages
from mllm_srec.summaries.settings import SummarySettings
from mllm_srec.types import ConfigError

SMALL = PictureSettings(max_pixels=4 * 28 * 28)
SYSTEM = ("system", "You are a helpful assistant.")
P1 = "What is in the image and describe its category, type, color, style, brand, specifications, and feature?"
P2 = "Please combine visual summary and text to summarize the item."
P3 = (
    "Please summarize the user\u2019s multimodal summaries sequence in chronological order to refine the user\u2019s "
    "interests and preferences."
)


def changed(settings, changes):
    """Settings with other values, by dotted names."""
    for name, value in changes.items():
        head, _, rest = name.partition(".")
        inner = changed(getattr(settings, head), {rest: value}) if rest else value
        settings = replace(settings, **{head: inner})
    return settings


@pytest.fixture(scope="module")
def make_plan(shop, tiny_backbone):
    """Function that makes a plan with other settings, or for another data set."""

    def make(changes=(), prompt=PromptSettings(), pictures=SMALL, data=shop):  # noqa: B008 - frozen
        return SummaryPlan(data, changed(SummarySettings(), dict(changes)), prompt, pictures, str(tiny_backbone), None)

    return make


def edited(data, **tables):
    """The data set with other tables in memory."""
    other = PreparedDataset(data.folder, data.manifest)
    other.__dict__.update(tables)
    return other


# --- names --------------------------------------------------------------------------------------------------------

IMAGE, ITEM, PREFERENCE = {"image", "item", "preference"}, {"item", "preference"}, {"preference"}


@pytest.mark.parametrize(
    ("changes", "renamed"),
    [
        ({"image.prompt": "What is it?"}, IMAGE),
        ({"image.generation.max_new_tokens": 9}, IMAGE),
        ({"image.quantization": "none"}, IMAGE),
        ({"item.prompt": "Sum it up."}, ITEM),
        ({"item.generation.sample": True}, ITEM),
        ({"item.dtype": "bfloat16"}, ITEM),
        ({"modality": "image"}, ITEM),
        ({"preference.prompt": "What is liked?"}, PREFERENCE),
        ({"preference.generation.max_new_tokens": 9}, PREFERENCE),
        ({"window": 4}, PREFERENCE),
        ({"step": 2}, PREFERENCE),
        ({"use_reviews": True}, PREFERENCE),
        ({"variant": "svi"}, PREFERENCE),
        ({"variant": "sv"}, PREFERENCE),
        ({"image.token_budget": 1, "item.token_budget": 2, "preference.token_budget": 3}, set()),
        ({"clip": "some/clip"}, set()),
    ],
)
def test_a_setting_renames_its_part_and_those_behind_it(make_plan, changes, renamed):
    before, after = make_plan(), make_plan(changes)
    assert {part for part in before.parts if before.view(part) != after.view(part)} == renamed
    assert (before.identity != after.identity) == bool(renamed)


@pytest.mark.parametrize("part", ["image", "item", "preference"])
def test_another_model_of_a_stage_renames_its_part_and_those_behind_it(make_plan, part, tiny_backbone, tmp_path):
    """The same weights elsewhere are the same model; other weights in the same place are not."""
    names = {"image": IMAGE, "item": ITEM, "preference": PREFERENCE}
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in tiny_backbone.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    before, moved = make_plan(), make_plan({f"{part}.backbone": str(copy)})
    assert [moved.view(name) for name in moved.parts] == [before.view(name) for name in before.parts]
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    after = make_plan({f"{part}.backbone": str(copy)})
    assert {name for name in before.parts if before.view(name) != after.view(name)} == names[part]


def test_data_and_prompt_settings_rename_what_reads_them(make_plan, shop):
    before = make_plan()
    title = pl.when(pl.col("item_id") == "i00").then(pl.lit("other")).otherwise(pl.col("title"))
    rating = pl.col("rating").replace(5.0, 4.0)  # as liked as before, but the table is another
    cases = [
        (make_plan(pictures=PictureSettings(max_pixels=9 * 28 * 28)), IMAGE),
        (make_plan(prompt=PromptSettings(brand=True)), ITEM),
        (make_plan(prompt=PromptSettings(max_item_tokens=7)), ITEM),
        (make_plan(data=edited(shop, items=shop.items.with_columns(title=title))), ITEM),
        (make_plan(data=edited(shop, interactions=shop.interactions.with_columns(rating))), PREFERENCE),
        (make_plan(prompt=PromptSettings(wording="neutral", cot=True, user_id=False, profile=False)), set()),
        (make_plan(data=edited(shop, items=shop.items.with_columns(price=pl.lit(1.5)))), set()),
    ]
    for number, (after, renamed) in enumerate(cases):
        assert {part for part in IMAGE if before.view(part) != after.view(part)} == renamed, number


@pytest.mark.parametrize("name", ["seed", "temperature", "top_p"])
def test_settings_of_a_draw_rename_nothing_where_nothing_is_drawn(make_plan, name):
    before, after = make_plan(), make_plan({f"item.generation.{name}": 1})
    assert [before.view(part) for part in before.parts] == [after.view(part) for part in after.parts]


@pytest.mark.parametrize("name", ["seed", "temperature", "top_p"])
def test_settings_of_a_draw_rename_what_is_drawn(make_plan, name):
    drawn = {"item.generation.sample": True}
    before, after = make_plan(drawn), make_plan({**drawn, f"item.generation.{name}": 1})
    assert {part for part in before.parts if before.view(part) != after.view(part)} == ITEM


def test_a_limit_of_windows_renames_preferences_only_where_it_leaves_some_out(make_plan):
    """So that the texts of all data sets without such a user keep the names they had before there was a limit."""
    before = make_plan()
    longest = max(len(chain.steps(3, 3, True)) for chain in build_chains(before.data.interactions))
    assert longest > 1
    same, cut = make_plan({"max_windows": longest}), make_plan({"max_windows": longest - 1})
    assert {part for part in before.parts if before.view(part) != same.view(part)} == set()
    assert {part for part in before.parts if before.view(part) != cut.view(part)} == PREFERENCE
    assert same.windows_left_out == (0, 0)
    assert cut.windows_left_out[1] > 0


def test_a_copied_data_set_keeps_its_names(make_plan, shop, tmp_path):
    """Without the times of its pictures, as `cp -r` leaves it; another picture is another name."""
    folder = shutil.copytree(shop.folder, tmp_path / "shop", copy_function=shutil.copyfile)
    before, after = make_plan(), make_plan(data=PreparedDataset.open(folder))
    assert [after.view(part) for part in after.parts] == [before.view(part) for part in before.parts]
    Image.new("RGB", (60, 90), "red").save(folder / shop.items["image"][0])
    after = make_plan(data=PreparedDataset.open(folder))
    assert not {after.view(part) for part in after.parts} & {before.view(part) for part in before.parts}


def test_a_record_is_named_by_what_decides_its_text_and_no_more(make_plan):
    """Records are shared where only what stands before them changed: their chat says it."""
    messages = [Message("user", ("Sum up.\nText: red mug",))]

    def key(changes=(), part="preference", picture=None):
        return make_plan(changes).plan(part).record_key(messages, picture)

    assert key() == key({"step": 2, "variant": "sv", "image.generation.seed": 1, "item.prompt": "Sum it up."})
    assert key() == key({"preference.token_budget": 1, "preference.prompt": "What is liked?"})
    others = [
        key({"preference.generation.max_new_tokens": 9}),
        key({"preference.quantization": "none"}),
        key(part="item"),
        key(part="image", picture="a"),
        key(part="image", picture="b"),
    ]
    assert len({key(), *others}) == 1 + len(others)


def test_parts_of_each_variant(make_plan):
    def parts(**changes):
        return make_plan(changes).parts

    assert parts(variant="full") == parts(variant="svi") == parts(variant="sv") == ["image", "item", "preference"]
    assert parts(variant="base") == ["caption", "image", "item", "preference"]
    for variant in ("full", "svi", "sv", "base"):
        assert parts(variant=variant, modality="text") == ["item", "preference"]
        assert "image" in parts(variant=variant, modality="image")


def test_what_cannot_be_planned(make_plan, tiny_backbone, tmp_path):
    with pytest.raises(ConfigError, match=r"variant='none': there is nothing to summarise; choose full, svi"):
        make_plan({"variant": "none"})
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    LlamaForCausalLM(LlamaConfig(vocab_size=9, **sizes)).save_pretrained(tmp_path)
    shutil.copy(tiny_backbone / "tokenizer.json", tmp_path)
    blind = {"image.backbone": str(tmp_path)}
    with pytest.raises(ConfigError, match=r"summaries.image.backbone=.* text-only .* set summaries.modality to text"):
        make_plan(blind).view("preference")
    assert make_plan({**blind, "modality": "text"}).view("preference")


# --- what is asked --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """One user who liked a mug with a picture, in words, and then a lamp without either."""
    root = tmp_path_factory.mktemp("pair")
    (root / "pictures").mkdir()
    Image.new("RGB", (56, 56), "red").save(root / "pictures/a.png")
    (root / "items.csv").write_text("item_id,title\na,Red  mug\nb,Blue lamp\n")
    rows = 'u,a,5,1000,"Love it,\nreally."\nu,b,4,1001,\n'
    (root / "interactions.csv").write_text(f"user_id,item_id,rating,timestamp,review\n{rows}")
    settings = PrepareSettings(
        source="tables",
        reviews=str(root / "interactions.csv"),
        metadata=str(root / "items.csv"),
        images=str(root / "pictures"),
        columns=ColumnMapping(review="review"),
        k_core=1,
        split="leave_one_out",
    )
    prepare_dataset(root / "pair", settings, CandidateSettings())
    return PreparedDataset.open(root / "pair")


@pytest.fixture
def ask(make_plan, pair, tmp_path, monkeypatch):
    """Function that runs the stages with a model that answers "image text 0", "image text 1", ..., in two lines.

    Returns the chats by part, each without its system turn, and the plan.
    """
    shutil.copytree(pair.folder, tmp_path / "pair")
    asked = defaultdict(list)

    def write(loop, prompts):
        for prompt in prompts:
            if prompt.key not in loop.store:
                part = loop.plan.part
                loop.store.append([Summary(prompt.key, f" {part}\ntext {len(asked[part])}", "stop", 3)])
                asked[part].append(spoken(prompt))

    monkeypatch.setattr(summarize.SummaryLoop, "write", write)
    strategy = SimpleNamespace(barrier=lambda name: None, launcher=None)
    trainer = SimpleNamespace(
        callbacks=[summarize.SummaryWriter()], global_rank=0, world_size=1, is_global_zero=True, strategy=strategy
    )

    def run(stages=("image", "item", "preference"), prompt=PromptSettings(), **changes):  # noqa: B008 - frozen
        data = PreparedDataset.open(tmp_path / "pair")
        plan = make_plan({"step": 1, "window": 1, **changes}, prompt, data=data)
        summarize.Summarizer(plan, trainer).run(stages)
        return dict(asked), plan

    return run


def spoken(prompt):
    """The user's turn as one text; the system's is the same in all."""
    system, user = prompt.messages
    assert (system.role, *system.content) == SYSTEM
    assert user.role == "user"
    shown = [piece if isinstance(piece, str) else "[picture]" for piece in user.content]
    assert (Picture() in user.content) == (prompt.picture is not None)
    return "".join(shown)


IMSG = {
    "both": [
        f"{P2}\nVisual summary: image text 0\nText: Red mug",
        f"{P2}\nVisual summary: no picture available\nText: Blue lamp",
    ],
    "text": [
        f"{P2}\nVisual summary: no picture available\nText: Red mug",
        f"{P2}\nVisual summary: no picture available\nText: Blue lamp",
    ],
    "image": [f"{P2}\nVisual summary: image text 0", f"{P2}\nVisual summary: no picture available"],
}
LINES = {
    ("base", "both"): ("Red mug. caption text 0", "Blue lamp. no picture available"),
    ("base", "text"): ("Red mug", "Blue lamp"),
    ("base", "image"): ("caption text 0", "no picture available"),
    ("sv", "both"): ("Red mug. image text 0", "Blue lamp. no picture available"),
    ("sv", "text"): ("Red mug", "Blue lamp"),
    ("sv", "image"): ("image text 0", "no picture available"),
    **{(v, m): ("item text 0", "item text 1") for v in ("svi", "full") for m in ("both", "text", "image")},
}


@pytest.mark.parametrize("use_reviews", [False, True])
@pytest.mark.parametrize(("variant", "modality"), list(LINES))
def test_every_prompt_in_full(ask, variant, modality, use_reviews):
    mug, lamp = LINES[variant, modality]
    if use_reviews:
        mug += ' Review: "Love it, really."'
    second = f"{P3}\nItems:\n- {mug}\n- {lamp}"
    if variant == "full":
        second = f"{P3}\nPrevious preference: preference text 0\nItems:\n- {lamp}"
    expected = {"item": IMSG[modality], "preference": [f"{P3}\nItems:\n- {mug}", second]}
    if modality != "text":
        expected["image"] = [f"[picture]{P1}"]
    if modality != "text" and variant == "base":
        expected["caption"] = ["[picture]Describe the image."]
    assert ask(variant=variant, modality=modality, use_reviews=use_reviews)[0] == expected


def test_questions_of_ones_own_and_the_fields_asked_for(ask):
    """The caption of variant base is the article's whatever the image stage asks."""
    settings = {"image.prompt": "See?", "item.prompt": "Sum up?", "preference.prompt": "Likes?"}
    asked, plan = ask(variant="base", prompt=PromptSettings(max_item_tokens=2), **settings)
    assert asked["caption"] == ["[picture]Describe the image."]
    assert asked["image"] == ["[picture]See?"]
    red = plan.plan("item").chat.cut("Red mug", 2)
    assert red != "Red mug"
    assert asked["item"][0] == f"Sum up?\nVisual summary: image text 0\nText: {red}"
    assert asked["preference"][0] == f"Likes?\nItems:\n- {red}. caption text 0"


def test_what_was_written_is_what_prompts_are_made_of(ask):
    for stage in ("image", "item", "preference"):
        _, plan = ask([stage], **{"item.prompt": "Sum up?"})
    times, orders = plan.data.interactions["timestamp"], plan.data.interactions["order"]
    states = [PreferenceState(times[i], orders[i], f" preference\ntext {i}") for i in range(2)]
    texts = read_summary_texts(plan)
    assert texts.identity == plan.view("preference")
    assert texts.image == {"a": " image\ntext 0"}
    assert texts.item == {"a": " item\ntext 0", "b": " item\ntext 1"}
    assert texts.preference == {("u", "train"): states, ("u", "train_val"): states}
    assert (texts.prompts.image, texts.prompts.item, texts.prompts.preference) == (P1, "Sum up?", P3)


def test_stages_that_are_missing(ask):
    """A table of other settings is no table; that of a stage before it is told apart from its own."""
    with pytest.raises(ConfigError, match=r"no image summaries of these .* `python -m mllm_srec summarize --stage im"):
        ask(["item"])
    _, plan = ask(["image"])
    assert missing_stages(plan) == ["item", "preference"]
    with pytest.raises(ConfigError, match=r"no item summaries of these .* `python -m mllm_srec summarize --stage item"):
        ask(["preference"])
    ask(["item", "preference"])
    assert missing_stages(plan) == []
    assert ensure_summaries(plan, "").identity == plan.identity
    _, other = ask([], **{"item.prompt": "Sum up?"})
    assert missing_stages(other) == ["item", "preference"]
    with pytest.raises(ConfigError, match=r"'full': the stages item, preference are missing .*\n  do this\n"):
        ensure_summaries(other, "do this")


def test_texts_of_an_earlier_version_are_not_taken_for_those_of_this_revision(ask, monkeypatch):
    _, plan = ask(["image", "item", "preference"])
    assert summarize.written_before(plan) == ""

    def describe(name, revision):
        info = describe_writer(name, revision)
        return replace(info, fingerprint="of a commit", earlier_fingerprint=info.fingerprint)

    monkeypatch.setattr(plans, "describe_writer", describe)
    _, now = ask([])
    assert [now.view_before(part) for part in now.parts] == [plan.view(part) for part in plan.parts]
    with pytest.raises(
        ConfigError, match=r"(?s)stages image, item, preference are missing.*\(the texts in .* another rev"
    ):
        ensure_summaries(now, "do this")


def test_a_trainer_that_would_lose_what_is_written_is_refused(make_plan):
    with pytest.raises(ConfigError, match=r"use summary_trainer\(\)"):
        summarize.Summarizer(make_plan(), SimpleNamespace(callbacks=[]))
    assert SummaryInputs(make_plan({"modality": "text"})).texts("image") == {}
