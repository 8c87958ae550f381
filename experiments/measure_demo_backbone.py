"""Measure what the demo backbone can do, on items, users and pictures of fresh seeds, and write its card.

python experiments/measure_demo_backbone.py --folder mllm_srec/demo_backbone --card
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path

import demo_tasks
import numpy as np
import torch
from pretrain_demo_backbone import COURSES, GRID, Pictures, Round, Tasks

from mllm_srec.data.demo.words import ATTRIBUTES, IMAGE_ATTRIBUTES, VALUES, named_values
from mllm_srec.metrics.auc import auc
from mllm_srec.models.backbone import Backbone, BackboneSettings, load_backbone
from mllm_srec.models.generation import generate
from mllm_srec.models.scoring import gather_answers, yes_no_logits
from mllm_srec.prompts.decoding import GenerationSettings
from mllm_srec.prompts.encoding import PromptEncoder, load_encoder
from mllm_srec.types import GenerationBatch

WRITTEN = ("image", "caption", "item", "refine", "condense", "compare")
"""Tasks that are answered in words; the others with Yes or No."""


@dataclass(frozen=True)
class Demo:
    """The loaded model and what feeds it."""

    backbone: Backbone
    encoder: PromptEncoder
    tasks: Tasks

    @classmethod
    def load(cls, folder: Path, seed: int, quantization: str = "none") -> Demo:
        """Load the model, and draw pictures that it has not seen."""
        settings = BackboneSettings(str(folder), finetune="none", quantization=quantization)  # type: ignore[arg-type]
        encoder = load_encoder(str(folder))
        backbone = load_backbone(settings, torch.device("cpu")).eval()
        return cls(backbone, encoder, Tasks(encoder, Pictures(2, seed)))

    def answers(self, samples: list[demo_tasks.Sample], rng: np.random.Generator) -> list[str]:
        """What it writes to the first target of each sample, greedily."""
        drawn = Round()
        for sample in samples:
            self.tasks.add(drawn, demo_tasks.Sample(sample.task, sample.prefix, sample.targets[:1]), rng)
        prompts = [[*group.prefix_ids, *group.targets[0].input_ids] for group in drawn.groups]
        width = max(map(len, prompts))
        end = self.encoder.pad_token_id
        input_ids = torch.tensor([[end] * (width - len(ids)) + ids for ids in prompts])  # (B, T)
        mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts])  # (B, T)
        batch = GenerationBatch(keys=[str(i) for i in range(len(prompts))], input_ids=input_ids, attention_mask=mask)
        if drawn.pictures:
            batch["mm_token_type_ids"] = (input_ids == self.encoder.image_token_id).long()
            batch["pixel_values"] = torch.cat(list(drawn.pictures.values()))  # (P, 1176)
            batch["image_grid_thw"] = torch.tensor([GRID] * len(drawn.pictures))  # (n pictures, 3)
        rows = generate(self.backbone.base, batch, GenerationSettings(max_new_tokens=96), [end], end)
        return [self.encoder.tokenizer.decode(row, skip_special_tokens=True) for row in rows]

    def scores(self, samples: list[demo_tasks.Sample], rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Yes-no logits of all targets, and the probabilities `(N,)` of a rational reader."""
        drawn, logits, expected = Round(), [], []
        for sample in samples:
            self.tasks.add(drawn, sample, rng)
        with torch.inference_mode():
            for batch, soft, _ in self.tasks.batches(drawn, 4000):
                hidden = gather_answers(self.backbone(batch), batch["answer_index"])  # (B, C, D)
                pair = yes_no_logits(hidden, self.backbone.lm_head, self.encoder.yes_id, self.encoder.no_id)
                asked = ~soft.isnan()  # (B, C)
                logits.append((pair[..., 0] - pair[..., 1])[asked])
                expected.append(soft[asked])
        return torch.cat(logits), torch.cat(expected)


def skills(demo: Demo, n: int, seed: int) -> dict[str, float]:
    """Share of right answers by task, and how well the question is answered.

    - `image`, `caption`, `item`, `compare`: attribute words that agree with the right answer's, per attribute;
      `compare` also needs the right level word.
    - `refine`, `condense`: agreement of the values that a preference names with those of the rational reader's text;
      `..._levels` needs the level words too.
    - `question`, `four_turns`: AUC against labels drawn from the reader's probabilities; `..._reader` that of the
      probabilities themselves, which is the ceiling.
    """
    found: dict[str, float] = {}
    for index, task in enumerate(WRITTEN):
        rng = np.random.default_rng(np.random.SeedSequence([seed, 10, index]))
        samples = [demo_tasks.TASKS[task](rng) for _ in range(n)]
        expected = [str(sample.targets[0].answer) for sample in samples]
        written = demo.answers(samples, rng)
        found[f"{task}_exact"] = float(np.mean([a == b for a, b in zip(written, expected, strict=True)]))
        found[task] = float(np.mean([agreement(a, b, task) for a, b in zip(written, expected, strict=True)]))
    for index, task in enumerate(("question", "four turns")):
        rng = np.random.default_rng(np.random.SeedSequence([seed, 11, index]))
        logits, chance = demo.scores([demo_tasks.TASKS[task](rng) for _ in range(n)], rng)
        labels = torch.from_numpy(rng.random(len(chance))) < chance  # (N,)
        name = task.replace(" ", "_")
        found[f"{name}_auc"] = float(auc(logits, labels.long()))
        found[f"{name}_auc_reader"] = float(auc(chance, labels.long()))
        found[f"{name}_correlation"] = float(np.corrcoef(logits, torch.logit(chance.clamp(1e-4, 1 - 1e-4)))[0, 1])
    return found


def agreement(written: str, expected: str, task: str) -> float:
    """Share of right answers within one text."""
    if task == "compare":
        parts = [text.rstrip(".").split(", ") for text in (written, expected)]
        return float(np.mean([a == b for a, b in zip(parts[0] + [""] * 9, parts[1], strict=False)]))
    ours, right = named_values(written), named_values(expected)
    if task in ("refine", "condense"):
        pairs = [(v in ours[name], v in right[name]) for name in ATTRIBUTES for v in VALUES[name] if right[name]]
        return float(np.mean([a == b for a, b in pairs])) if pairs else 1.0
    names = IMAGE_ATTRIBUTES if task == "image" else ATTRIBUTES
    return float(np.mean([ours[name] == right[name] for name in names if right[name]]))


CARD = """# Demo backbone

A Qwen2-VL of {n_parameters:,} parameters (`Qwen2VLForConditionalGeneration`, float32) with a tokenizer of its own. It
speaks the language of the demo shop and no other: it is to the demo what Qwen2-VL-7B is to real shops, so that every
path of `mllm_srec` can be run, and measured, on two CPU cores. It knows nothing of the world.

**Recipe.** `experiments/pretrain_demo_backbone.py` ({commit}), its rounds 1 and 2 one after the other: {recipe}
AdamW, all weights trained, seed {seed}, on two CPU cores in about an hour each. The script with its defaults is the
recipe; another processor or library rounds differently, so weights repeat digit by digit only on the same ones.

**Data.** Generated by the script, without end: items with independent attributes, users with drifting tastes, pictures
drawn anew. No demo shop is read, and the random streams differ from every shop's. The *law* of the tastes is the one
that shops follow (round 1 with noise 0.03, which shops had before, round 2 with today's default), so the model knows
how people choose there: that its zero-shot answers are good is by construction. A plain caption names the kind of thing
only, the answer to p1 also colour and pattern: that captions tell less is by construction too.

**Skills**, measured on fresh seeds by `experiments/measure_demo_backbone.py` ({n} samples a task, greedy, float32):

| skill | measured |
|---|---|
{rows}

Attribute shares are per attribute; preferences are compared with the text of a rational reader of the same prompt,
value by value (chance 0.5); the question's AUC is against labels drawn from that reader's probabilities, whose own AUC
stands beside it.
"""


def main() -> None:
    """Measure, print, and write the card where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="Folder of the model.")
    parser.add_argument("--n", type=int, default=300, help="Samples of each task.")
    parser.add_argument("--seed", type=int, default=900_000_001)
    parser.add_argument("--quantization", default="none", choices=("none", "nf4"))
    parser.add_argument("--card", action="store_true", help="Write README.md and skills.json into the folder.")
    parser.add_argument("--commit", default="see the history of this folder", help="Named in the card.")
    arguments = parser.parse_args()
    demo = Demo.load(arguments.folder, arguments.seed, arguments.quantization)
    found = skills(demo, arguments.n, arguments.seed)
    print(json.dumps({name: round(value, 4) for name, value in found.items()}, indent=2))
    if arguments.card:
        write_card(demo, arguments, found)


def write_card(demo: Demo, arguments: argparse.Namespace, found: dict[str, float]) -> None:
    """Write `README.md` and `skills.json` beside the weights."""
    training = json.loads((arguments.folder / "training.json").read_text())
    rounds = [f"{course.steps:,} steps at up to {course.lr}" for course in COURSES.values()]
    recipe = f"{' and '.join(rounds)}, each of about {training['tokens']:,} tokens."
    rows = "\n".join(f"| {name} | {value:.3f} |" for name, value in found.items() if not math.isnan(value))
    n_parameters = sum(parameter.numel() for parameter in demo.backbone.parameters())
    card = CARD.format(
        n_parameters=n_parameters,
        commit=arguments.commit,
        seed=training["seed"],
        recipe=recipe,
        n=arguments.n,
        rows=rows,
    )
    (arguments.folder / "README.md").write_text(card, encoding="utf-8")
    (arguments.folder / "skills.json").write_text(json.dumps({"n": arguments.n, **found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
