"""Pretrain the demo backbone: a small Qwen2-VL that speaks the demo shop's language. CPU, two hours on two cores.

    python experiments/pretrain_demo_backbone.py --round 1 --output /tmp/round1
    python experiments/pretrain_demo_backbone.py --round 2 --init /tmp/round1 --output mllm_srec/demo_backbone

Items, users and pictures are generated anew from `--seed`; no demo shop is read (`demo_tasks`). Short tasks come first:
seeing, fusing and comparing, then refining preferences, then the question. The second round begins with the weights of
the first, a fresh optimiser and the noise of today's shop, and gives most of its tokens to the two slow skills.
`--resume` continues a round from its last state.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import demo_reader
import demo_tasks
import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F  # noqa: N812 - the name everybody knows it by
from transformers import PreTrainedTokenizerBase, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from mllm_srec.data.demo.drawing import draw_item
from mllm_srec.data.demo.words import IMAGE_ATTRIBUTES, VALUES
from mllm_srec.data.settings import DemoSettings
from mllm_srec.families import qwen2_vl
from mllm_srec.families.base import Grid
from mllm_srec.models.backbone import Backbone, BackboneSettings, prepare_backbone
from mllm_srec.models.backbone_files import MADE_FOR, RANDOM_MARK, BackboneInfo
from mllm_srec.models.random_backbone import RandomBackboneSettings, build_model, build_tokenizer
from mllm_srec.models.scoring import gather_answers
from mllm_srec.prompts.builder import TURN_END
from mllm_srec.prompts.encoding import PromptEncoder, load_tokenizer
from mllm_srec.prompts.packing import PackingSettings, PromptGroup, PromptTarget, pack
from mllm_srec.types import IGNORE_INDEX, PackedBatch

FloatArray = npt.NDArray[np.float64]

SHAPE = RandomBackboneSettings(
    hidden_size=192, n_layers=4, n_heads=6, mlp_ratio=2, vision_width=96, vision_depth=3, vocab_size=2048
)
SIZE, GRID = 56, (1, 4, 4)  # four picture tokens
PHASES: tuple[tuple[int, dict[str, float]], ...] = (  # from this step on: shares of the tasks
    (0, {"image": 0.18, "caption": 0.04, "item": 0.16, "look up": 0.37, "refine": 0.25}),
    (
        900,
        {
            "image": 0.10,
            "caption": 0.03,
            "item": 0.06,
            "look up": 0.22,
            "compare": 0.18,
            "refine": 0.22,
            "question": 0.19,
        },
    ),
    (
        2000,
        {
            "image": 0.08,
            "caption": 0.03,
            "item": 0.03,
            "look up": 0.06,
            "compare": 0.10,
            "refine": 0.30,
            "condense": 0.08,
            "question": 0.26,
            "four turns": 0.06,
        },
    ),
)
LAST_PHASE: tuple[tuple[int, dict[str, float]], ...] = (
    (
        0,
        {
            "image": 0.05,
            "caption": 0.02,
            "item": 0.03,
            "look up": 0.04,
            "compare": 0.06,
            "refine": 0.36,
            "condense": 0.06,
            "question": 0.30,
            "four turns": 0.08,
        },
    ),
)


@dataclass(frozen=True)
class Course:
    """One round of training.

    Attributes:
        noise: `DemoSettings.noise` of the users.
        steps: Optimiser steps.
        lr: Highest learning rate.
        cooldown: Last steps, over which the rate falls to nothing.
        stream: Random stream of the samples.
        phases: From which step on the tasks have which shares of the tokens.
    """

    noise: float
    steps: int
    lr: float
    cooldown: int
    stream: int
    phases: tuple[tuple[int, dict[str, float]], ...]


COURSES = {
    1: Course(noise=0.03, steps=5000, lr=1.5e-3, cooldown=1000, stream=4, phases=PHASES),
    2: Course(noise=DemoSettings().noise, steps=4000, lr=1.2e-3, cooldown=3900, stream=5, phases=LAST_PHASE),
}


class Pictures:
    """A pool of drawn pictures, `n` of every look, as patches of the image processor."""

    def __init__(self, n: int, seed: int) -> None:
        rng = np.random.default_rng(np.random.SeedSequence([seed, 1]))
        processor = Qwen2VLImageProcessorPil(min_pixels=SIZE * SIZE, max_pixels=SIZE * SIZE)
        self.patches: dict[tuple[str, ...], torch.Tensor] = {}
        self.n = n
        for category in VALUES["category"]:
            for colour in VALUES["colour"]:
                for pattern in VALUES["pattern"]:
                    drawn = [draw_item(category, colour, pattern, SIZE, rng.uniform(0, 1), rng) for _ in range(n)]
                    pixels = processor(images=drawn, return_tensors="pt")["pixel_values"]  # (n * 16, 1176)
                    self.patches[category, colour, pattern] = pixels.view(n, 16, -1).half()

    def draw(self, item: dict[str, str], rng: np.random.Generator) -> torch.Tensor:
        """Patches `(16, 1176)` of one picture of the item."""
        look = tuple(item[name] for name in IMAGE_ATTRIBUTES)
        return self.patches[look][rng.integers(self.n)].float()


@dataclass
class Round:
    """Groups of one optimiser step with what is expected of them."""

    groups: list[PromptGroup] = field(default_factory=list)
    probabilities: list[list[float]] = field(default_factory=list)  # NaN where the answer is text
    pictures: dict[str, torch.Tensor] = field(default_factory=dict)
    lengths: list[int] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)


class Tasks:
    """Draws rounds of samples."""

    def __init__(self, encoder: PromptEncoder, pictures: Pictures) -> None:
        self.encoder, self.pictures = encoder, pictures

    def draw(self, shares: dict[str, float], n_tokens: int, rng: np.random.Generator) -> Round:
        """Samples of about `n_tokens` tokens together; shares are of tokens, so that long tasks do not crowd out."""
        result = Round()
        names, wanted = list(shares), np.array(list(shares.values()))
        for name, share in zip(names, wanted / wanted.sum(), strict=True):
            left = share * n_tokens
            while left > 0:
                length = self.add(result, demo_tasks.TASKS[name](rng), rng)
                left -= length
                if length > left and rng.random() > max(0.0, left) / length:
                    break
        return result

    def add(self, result: Round, sample: demo_tasks.Sample, rng: np.random.Generator) -> int:
        """Encode one sample into the round; its number of tokens."""
        targets, probabilities = [], []
        for target in sample.targets:
            picture = None
            if target.item is not None:
                picture = str(len(result.pictures))
                result.pictures[picture] = self.pictures.draw(dict(target.item), rng)
            ids = self.encoder.encode(target.pieces, 4)
            answer = [] if target.answer is None else self.encoder.encode([target.answer, TURN_END])
            if target.answer is None:  # the rest of the response is trained too; its first token has a soft label
                answer = self.encoder.answer_ids[int(rng.random() < target.probability)]
            targets.append(PromptTarget(ids, answer, GRID if picture else None, picture))
            probabilities.append(math.nan if target.answer is not None else target.probability)
        group = PromptGroup(len(result.groups), self.encoder.encode(sample.prefix), targets)
        length = len(group.prefix_ids) + sum(len(t.input_ids) + len(t.answer_ids) for t in targets)
        result.groups.append(group)
        result.probabilities.append(probabilities)
        result.lengths.append(length)
        result.tasks.append(sample.task)
        return length

    def batches(self, result: Round, n_tokens: int) -> Iterator[tuple[PackedBatch, torch.Tensor, list[str]]]:
        """Packed batches of rows of like length, with `(B, C)` probabilities (NaN where the answer is text)."""
        order = sorted(range(len(result.groups)), key=lambda index: result.lengths[index])
        while order:
            longest, chosen = result.lengths[order[-1]], []
            while order and (len(chosen) + 1) * longest <= max(n_tokens, longest):
                chosen.append(order.pop())
            yield self._batch(result, chosen)

    def _batch(self, result: Round, chosen: Sequence[int]) -> tuple[PackedBatch, torch.Tensor, list[str]]:
        groups = [result.groups[index] for index in chosen]
        batch, shown = pack(groups, self.encoder, PackingSettings(max_row_tokens=100_000))
        if shown:
            batch["pixel_values"] = torch.cat([result.pictures[key] for key, _ in shown])  # (P, 1176)
            grids: list[Grid] = [grid for _, grid in shown]
            batch["image_grid_thw"] = torch.tensor(grids)
            batch["image_index"] = torch.arange(len(shown))
        soft = torch.full(batch["candidate_mask"].shape, math.nan)  # (B, C)
        for row, index in enumerate(chosen):
            soft[row, : len(result.probabilities[index])] = torch.tensor(result.probabilities[index])
        return batch, soft, [result.tasks[index] for index in chosen]


def losses(
    backbone: Backbone, batch: PackedBatch, soft: torch.Tensor, encoder: PromptEncoder
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Summed loss of text tokens, summed loss of first response tokens against their soft labels, text accuracy."""
    hidden = backbone(batch)  # (R, T, D)
    labels = batch["labels"].clone()
    asked = ~soft.isnan()  # (B, C)
    places = batch["answer_index"][asked]  # (n, 2): row and token that predicts the first response token
    labels[places[:, 0], places[:, 1] + 1] = IGNORE_INDEX
    predicting = labels[:, 1:] != IGNORE_INDEX
    logits = F.linear(hidden[:, :-1][predicting], backbone.lm_head)  # (n, V)
    expected = labels[:, 1:][predicting]  # (n,)
    text = F.cross_entropy(logits, expected, reduction="sum")
    answers = F.linear(gather_answers(hidden, batch["answer_index"])[asked], backbone.lm_head).log_softmax(-1)  # (n, V)
    chance = soft[asked]  # (n,)
    question = -(chance * answers[:, encoder.yes_id] + (1 - chance) * answers[:, encoder.no_id]).sum()
    return text, question, (logits.argmax(-1) == expected).float().sum()


def shares_at(course: Course, step: int) -> dict[str, float]:
    """Shares of the tasks in this step."""
    return [shares for start, shares in course.phases if start <= step][-1]


def learning_rate(course: Course, step: int) -> float:
    """Up over 100 steps, level, and down to nothing over the last ones."""
    return course.lr * min(1.0, (step + 1) / 100, (course.steps - step) / course.cooldown)


def measure(backbone: Backbone, tasks: Tasks, seed: int) -> dict[str, float]:
    """On fresh samples: share of right answer tokens per task, and correlation of the question's logit."""
    rng, scores = np.random.default_rng(np.random.SeedSequence([seed, 3])), {}
    with torch.inference_mode():
        for name in demo_tasks.TASKS:
            drawn = tasks.draw({name: 1.0}, 4000, rng)
            right, n, z, p = 0.0, 0, [], []
            for batch, soft, _ in tasks.batches(drawn, 4000):
                _, _, correct = losses(backbone, batch, soft, tasks.encoder)
                asked = ~soft.isnan()
                right, n = right + float(correct), n + int((batch["labels"] != IGNORE_INDEX).sum() - asked.sum())
                head = backbone.lm_head[[tasks.encoder.yes_id, tasks.encoder.no_id]]
                pair = F.linear(gather_answers(backbone(batch), batch["answer_index"])[asked], head)  # (n, 2)
                z += (pair[:, 0] - pair[:, 1]).tolist()
                p += torch.logit(soft[asked], 1e-4).tolist()
            scores[name] = float(np.corrcoef(z, p)[0, 1]) if z else right / n
    return scores


def train(arguments: argparse.Namespace) -> None:
    """One whole round."""
    torch.manual_seed(arguments.seed)
    start, course = time.time(), COURSES[arguments.round]
    demo_reader.use_noise(course.noise)
    state = arguments.output / "state.pt"
    saved = torch.load(state, weights_only=True) if arguments.resume and state.exists() else None
    net, tokenizer = begin(arguments, saved)
    encoder = PromptEncoder(tokenizer, qwen2_vl.FAMILY)
    settings = BackboneSettings("demo", finetune="full", quantization="none", dtype="float32")
    backbone = prepare_backbone(net, BackboneInfo("demo", "Qwen2VLForConditionalGeneration", "", False), settings)
    tasks = Tasks(encoder, Pictures(arguments.pictures, arguments.seed))
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=course.lr, betas=(0.9, 0.98), weight_decay=0.05)
    if saved:
        optimizer.load_state_dict(saved["optimizer"])
    n_parameters = sum(p.numel() for p in net.parameters())
    print(f"{n_parameters:,} parameters, {len(tokenizer)} tokens, set up in {time.time() - start:.0f} s", flush=True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for step in range(saved["step"] if saved else 0, course.steps):
        rng = np.random.default_rng(np.random.SeedSequence([arguments.seed, course.stream, step]))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(course, step)
        drawn = tasks.draw(shares_at(course, step), arguments.tokens, rng)
        total = train_step(backbone, optimizer, tasks, drawn, arguments.tokens // 2)
        if step % 25 == 0:
            seconds = time.time() - start
            print(f"{step} {seconds:.0f}s text {total[0]:.3f} acc {total[2]:.3f} question {total[1]:.3f}", flush=True)
        if (step + 1) % 250 == 0 or step + 1 == course.steps:
            torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}, state)
            skills = measure(backbone, tasks, arguments.seed)
            print(step + 1, {name: round(value, 3) for name, value in skills.items()}, flush=True)
            facts = {"round": arguments.round, "steps": step + 1, "tokens": arguments.tokens, "seed": arguments.seed}
            save(net, tokenizer, arguments.output, {**facts, **skills})


def begin(
    arguments: argparse.Namespace, saved: dict[str, Any] | None
) -> tuple[Qwen2VLForConditionalGeneration, PreTrainedTokenizerBase]:
    """Model and tokenizer: of the saved state, of the round before, or new ones."""
    if saved:
        tokenizer = load_tokenizer(str(arguments.output))
    elif arguments.init:
        tokenizer = load_tokenizer(str(arguments.init))
    else:
        rng = np.random.default_rng(np.random.SeedSequence([arguments.seed, 2]))
        tokenizer = build_tokenizer(demo_tasks.corpus(rng), SHAPE.vocab_size)
    net = build_model(tokenizer, SHAPE)
    delattr(net.config, RANDOM_MARK)
    setattr(net.config, MADE_FOR, "demo")
    if saved:
        net.load_state_dict(saved["net"])
    elif arguments.init:
        net.load_state_dict(Qwen2VLForConditionalGeneration.from_pretrained(str(arguments.init)).state_dict())
    return net, tokenizer


def train_step(
    backbone: Backbone, optimizer: torch.optim.Optimizer, tasks: Tasks, drawn: Round, n_tokens: int
) -> FloatArray:
    """One optimiser step; text loss, question loss and text accuracy `(3,)`, means over the round."""
    n_asked = sum(not math.isnan(p) for row in drawn.probabilities for p in row)
    n_text = sum(len(t.answer_ids) for group in drawn.groups for t in group.targets) - n_asked
    total = np.zeros(3)
    for batch, soft, _ in tasks.batches(drawn, n_tokens):
        text, asked, right = losses(backbone, batch, soft, tasks.encoder)
        (text / max(1, n_text) + asked / max(1, n_asked)).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            total += [float(text) / max(1, n_text), float(asked) / max(1, n_asked), float(right) / max(1, n_text)]
    torch.nn.utils.clip_grad_norm_(backbone.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total


def save(net: Qwen2VLForConditionalGeneration, tokenizer: object, folder: Path, facts: dict[str, float]) -> None:
    """Write model, tokenizer and image processor, and what was measured."""
    net.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))  # type: ignore[attr-defined]
    Qwen2VLImageProcessorPil().save_pretrained(str(folder))
    (folder / "training.json").write_text(json.dumps(facts, indent=2) + "\n")


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="Folder to write the model to.")
    parser.add_argument("--round", type=int, required=True, choices=sorted(COURSES))
    parser.add_argument("--init", type=Path, help="Folder of the round before; needed by round 2.")
    parser.add_argument("--tokens", type=int, default=4000, help="Tokens of a step.")
    parser.add_argument("--pictures", type=int, default=40, help="Pictures drawn of each of the 144 looks.")
    parser.add_argument("--seed", type=int, default=20_000_003, help="Of everything; demo shops use other streams.")
    parser.add_argument("--resume", action="store_true", help="Go on from the state in --output.")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
