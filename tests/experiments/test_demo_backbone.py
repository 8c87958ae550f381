"""What the demo backbone is pretrained on: the conclusions of a rational reader, and the rounds of tasks."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

from mllm_srec.data.demo.truth import TasteModel
from mllm_srec.data.demo.words import ATTRIBUTES, LEVELS, VALUES, named_values
from mllm_srec.data.settings import DemoSettings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def scripts():
    """The scripts that made and measured it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "experiments")
        names = ("demo_reader", "demo_tasks", "pretrain_demo_backbone", "measure_demo_backbone")
        yield {name: importlib.import_module(name) for name in names}


def exact_beliefs(reader, items):
    """Joint filter over one attribute's states, written out: P(value liked) per attribute."""
    settings = DemoSettings()
    model = TasteModel.from_settings(settings)
    table = model.rating_table()[:, 3:].sum(axis=1)
    liked = {}
    for place, name in enumerate(ATTRIBUTES):
        n = len(VALUES[name])
        given = np.array([table[p] for p in range(32) if p >> (4 - place) & 1]).sum() / table.sum()
        belief = np.ones(n) / n
        day = np.array([[(1 - settings.drift) * (a == b) + settings.drift / 2 * ((a - b) % n == 1)
                         + settings.drift / 2 * ((b - a) % n == 1) for b in range(n)] for a in range(n)])  # fmt: skip
        for item in items:
            belief = belief @ np.linalg.matrix_power(day, reader.DAYS_BETWEEN_LIKES)
            if name in item:
                value = VALUES[name].index(item[name])
                belief = np.array([belief[s] * (given if (value - s) % n < n // 2 else 1 - given) for s in range(n)])
                belief /= belief.sum()
        liked[name] = [sum(belief[s] for s in range(n) if (v - s) % n < n // 2) for v in range(n)]
    return liked


def test_the_reader_filters_as_the_taste_model_says(scripts):
    reader, tasks = scripts["demo_reader"], scripts["demo_tasks"]
    items, _ = tasks.draw_likes(7, np.random.default_rng(3))
    items[2] = {name: items[2][name] for name in ("category", "colour")}
    beliefs = reader.after_likes(reader.ignorance(), items)
    expected = exact_beliefs(reader, items)
    for name in ATTRIBUTES:
        ours = np.array(beliefs[name]) @ TasteModel.from_settings(DemoSettings()).likes(name)
        assert ours == pytest.approx(expected[name], abs=1e-4)
    text, _ = reader.written(beliefs)
    named = named_values(text)
    for name in ATTRIBUTES:
        assert named[name] == {value for value, p in zip(VALUES[name], expected[name], strict=True) if p > 0.5}


def test_what_is_left_of_a_text_writes_the_same_text(scripts):
    reader, tasks = scripts["demo_reader"], scripts["demo_tasks"]
    for seed in range(20):
        items, _ = tasks.draw_likes(1 + seed % 6, np.random.default_rng(seed))
        text, left = reader.written(reader.after_likes(reader.ignorance(), items))
        assert named_values(reader.written(left)[0]) == named_values(text)


def test_the_reader_expects_what_users_like_next(scripts):
    reader, tasks = scripts["demo_reader"], scripts["demo_tasks"]
    rng = np.random.default_rng(9)
    expected, observed = [], []
    for _ in range(400):
        items, _ = tasks.draw_likes(6, rng)
        beliefs = reader.after_likes(reader.ignorance(), items[:-1])
        expected.append(reader.probability(beliefs, items[-1]))
        observed.append(reader.probability(beliefs, tasks.draw_item(rng)))
    assert np.mean(expected) > 3 * np.mean(observed)  # what was liked next, against any item


def test_every_task_is_answered_in_the_demo_language(scripts):
    tasks = scripts["demo_tasks"]
    for name, task in tasks.TASKS.items():
        sample = task(np.random.default_rng(1))
        for target in sample.targets:
            assert (target.answer is None) == (name in ("question", "four turns"))
            if target.answer is None:
                assert 0 <= target.probability <= 1
            elif name in ("refine", "condense"):
                assert any(level in target.answer for level in LEVELS)


def test_rounds_hold_what_the_shares_say(scripts, encoder):
    pretrain = scripts["pretrain_demo_backbone"]
    tasks = pretrain.Tasks(encoder, pretrain.Pictures(1, 0))
    rng, tokens = np.random.default_rng(0), {"item": 0, "question": 0}
    for _ in range(20):
        drawn = tasks.draw({"item": 0.25, "question": 0.75}, 3000, rng)
        for task, length in zip(drawn.tasks, drawn.lengths, strict=True):
            tokens[task] += length
        batches = list(tasks.batches(drawn, 1500))
        assert sum(len(names) for _, _, names in batches) == len(drawn.groups)
        for batch, soft, _ in batches:
            assert bool((batch["candidate_mask"] | soft.isnan()).all())
    assert tokens["question"] / sum(tokens.values()) == pytest.approx(0.75, abs=0.05)
    assert sum(tokens.values()) / 20 == pytest.approx(3000, rel=0.1)


def test_soft_labels_train_the_first_token_only_once(scripts, load_tiny, encoder):
    """Loss of the question: cross-entropy against the probability at the first response token, by hand."""
    pretrain = scripts["pretrain_demo_backbone"]
    tasks = pretrain.Tasks(encoder, pretrain.Pictures(1, 0))
    rng, backbone = np.random.default_rng(2), load_tiny(finetune="none", quantization="none")
    drawn = tasks.draw({"question": 1.0}, 300, rng)
    batch, soft, _ = next(iter(tasks.batches(drawn, 3000)))
    text, question, _ = pretrain.losses(backbone, batch, soft, encoder)
    logits = (backbone(batch) @ backbone.lm_head.T).log_softmax(-1)  # (R, T, V)
    expected_question, expected_text = 0.0, 0.0
    for group, row in zip(batch["answer_index"].tolist(), soft.tolist(), strict=True):
        for (r, t), chance in zip(group, row, strict=True):
            if chance == chance:
                at = logits[r, t]
                expected_question -= float(chance * at[encoder.yes_id] + (1 - chance) * at[encoder.no_id])
                for place in range(t + 2, batch["labels"].shape[1]):
                    label = int(batch["labels"][r, place])
                    if label == -100:
                        break
                    expected_text -= float(logits[r, place - 1, label])
    assert float(question) == pytest.approx(expected_question, rel=1e-4)
    assert float(text) == pytest.approx(expected_text, rel=1e-4)
    assert not torch.isnan(text)
