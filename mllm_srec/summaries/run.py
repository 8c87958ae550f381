"""Runs the summary stages: prompts of what is missing, prediction loops, stores, tables, and checks of their quality.

What the checks found is saved as `summaries/<stage>/quality.json` and given to `on_checked`, which may show it.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import polars as pl
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher

from mllm_srec.data.loading.summary_batches import SummaryCollator, SummaryDataset, TokenBudgetSampler, summary_loader
from mllm_srec.data.stored_prompts.summary_texts import SummaryTexts
from mllm_srec.models.clip import clip_similarity
from mllm_srec.models.summarizer import SummaryGenerator
from mllm_srec.prompts.summaries import Summary, SummaryPrompt
from mllm_srec.summaries.demo_quality import demo_quality
from mllm_srec.summaries.inputs import SummaryInputs, summary_texts
from mllm_srec.summaries.preference_chains import Chain, ChainStep, build_chains
from mllm_srec.summaries.quality import Number, text_quality, title_leaks, unchanged
from mllm_srec.summaries.requests import STAGE_OF, Part, PartPlan, SummaryPlan
from mllm_srec.summaries.settings import STAGES, Stage
from mllm_srec.summaries.store import SummaryStore
from mllm_srec.summaries.tables import item_view, preference_view, read_view, write_view
from mllm_srec.types import ConfigError

OnChecked = Callable[[Stage, Mapping[str, Any], Mapping[str, Sequence[str]], bool], None]
"""Receives the quality of a stage: its name, numbers, examples of texts that failed, and if its model is untrained."""


class SummaryWriter(BasePredictionWriter):
    """Appends every batch of summaries to the store as it comes, so that a kill loses one batch at most."""

    store: SummaryStore

    def __init__(self) -> None:
        super().__init__("batch")

    def write_on_batch_end(
        self, trainer: Any, pl_module: Any, prediction: list[Summary], *args: Any, **kwargs: Any
    ) -> None:
        """Append one batch; end there if the process was told to.

        Raises:
            SystemExit: With status 143, after SIGTERM: Lightning keeps that signal, but heeds it in fit and test only.
        """
        self.store.append(prediction)
        if trainer.received_sigterm:
            print("told to stop; the same command goes on from here", file=sys.stderr, flush=True)
            raise SystemExit(128 + signal.SIGTERM)


def summary_trainer(**kwargs: Any) -> Trainer:
    """A Trainer for the loops, without loggers and checkpoints.

    Args:
        kwargs: `accelerator`, `devices`, `strategy`, `num_nodes` and the like.
    """
    return Trainer(
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,  # our own sampler shards, and leaves no process without a batch
        callbacks=[SummaryWriter()],
        **kwargs,
    )


class Summarizer:
    """Writes what is missing of a plan's summaries.

    Args:
        plan: What is to be written.
        trainer: Runs the loops; made by `summary_trainer`.
        on_checked: Called by the first process after each stage, with the quality of what was written.

    Raises:
        ConfigError: What the trainer gets would be lost, or written by several processes into one file.
    """

    def __init__(self, plan: SummaryPlan, trainer: Trainer, on_checked: OnChecked | None = None) -> None:
        self.plan, self.trainer, self.on_checked = plan, trainer, on_checked
        self.inputs = SummaryInputs(plan)
        found = [callback for callback in getattr(trainer, "callbacks", []) if isinstance(callback, SummaryWriter)]
        if not found:
            raise ConfigError("the Trainer has no SummaryWriter, so summaries would be lost; use summary_trainer()")
        if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
            raise ConfigError(
                "trainer.strategy: processes that are spawned or forked would write into one file; set it to ddp"
            )
        self._writer = found[0]

    def run(self, stages: Sequence[Stage]) -> None:
        """Write the given stages in order of dependence; those before them must have been written.

        Two runs of several processes must be kept apart by their callers: see `SummaryStore`.

        Raises:
            ConfigError: A stage that they read has not been run.
        """
        self.meet()
        for part in self.plan.parts:
            if STAGE_OF[part] in stages:
                self._run_part(part)

    def meet(self) -> None:
        """Start and join all processes now and not with the first batch: until then no barrier would hold them.

        To be called before a lock is taken: a process that starts later could need it to get here.
        """
        strategy = self.trainer.strategy
        if strategy.launcher is not None:
            strategy.launcher.launch(strategy.setup_environment, trainer=self.trainer)

    def _run_part(self, part: Part) -> None:
        with SummaryStore(self.plan.folder(part), rank=self.trainer.global_rank) as store:
            self._writer.store = store
            loop = SummaryLoop(self.plan.plan(part), self.plan, self.trainer, store)
            table = self._preferences(loop) if part == "preference" else self._items(loop)
            self.trainer.strategy.barrier("summaries written")
            if self.trainer.is_global_zero:
                for notice in store.notices:
                    print(f"{STAGE_OF[part]} summaries: {notice}", file=sys.stderr)
                write_view(self.plan.folder(part), self.plan.view(part), table)
                print(f"{part}: {table.height} summaries, {loop.n_written} texts written now", flush=True)
                if part != "caption":
                    check_quality(self.plan, STAGE_OF[part], table, self.on_checked)
            self.trainer.strategy.barrier("view written")

    def _items(self, loop: SummaryLoop) -> Any:
        prompts = self.inputs.item_prompts(loop.plan)
        loop.write(prompts.values())
        return item_view(list(prompts), [prompt.key for prompt in prompts.values()], loop.store)

    def _preferences(self, loop: SummaryLoop) -> Any:
        """All chains advance in lock-step, so that a batch holds the same step of many users."""
        settings = self.plan.settings
        refined = settings.variant == "full"
        chains = build_chains(self.plan.data.interactions)
        rows = [(chain, step) for chain in chains for step in chain.steps(settings.window, settings.step, refined)]
        keys: dict[tuple[str, str, int], str] = {}
        for wave in _waves(rows, refined):
            prompts = []
            for chain, step in wave:
                previous = keys.get((chain.user_id, chain.visible, step.index - 1)) if refined else None
                text = loop.store[previous].text if previous else None
                prompts.append(self.inputs.preference_prompt(loop.plan, chain, step, text))
                keys[chain.user_id, chain.visible, step.index] = prompts[-1].key
            loop.write(prompts)
        return preference_view(rows, [keys[c.user_id, c.visible, s.index] for c, s in rows], loop.store)


def _waves(rows: Sequence[tuple[Chain, ChainStep]], refined: bool) -> list[list[tuple[Chain, ChainStep]]]:
    """Steps that can be written together: all first ones, all second ones, ...; without refinement all at once."""
    if not refined:
        return [list(rows)]
    n_waves = 1 + max((step.index for _, step in rows), default=-1)
    return [[row for row in rows if row[1].index == index] for index in range(n_waves)]


class SummaryLoop:
    """One part's prediction loop: a model that is loaded when the first missing summary asks for it.

    Args:
        plan: Model and prompt of the part.
        whole: The plan that it belongs to.
        trainer: Made by `summary_trainer`; its writer must know the store.
        store: Where summaries are and go.
    """

    def __init__(self, plan: PartPlan, whole: SummaryPlan, trainer: Trainer, store: SummaryStore) -> None:
        self.plan, self.trainer, self.store = plan, trainer, store
        self.images = whole.images if STAGE_OF[plan.part] == "image" else None
        self.n_written = 0
        settings = plan.settings
        self._module = SummaryGenerator(
            str(settings.backbone),
            settings.revision,
            settings.quantization,
            settings.dtype,
            settings.generation,
        )

    def write(self, prompts: Iterable[SummaryPrompt]) -> None:
        """Generate the summaries that the store does not hold; all processes know of all of them afterwards."""
        missing = list({prompt.key: prompt for prompt in prompts if prompt.key not in self.store}.values())
        if not missing:
            return
        settings = self.plan.settings
        dataset = SummaryDataset(
            missing, self.plan.chat, settings.generation.max_new_tokens, self.images, self.plan.info.max_positions
        )
        sampler = TokenBudgetSampler(dataset, settings.token_budget, self.trainer.global_rank, self.trainer.world_size)
        loader = summary_loader(dataset, sampler, SummaryCollator(self.plan.chat, self.images))
        self.trainer.predict(self._module, loader, return_predictions=False)
        self.trainer.strategy.barrier("loop done")
        self.store.refresh()
        self.n_written += len(missing)


def missing_stages(plan: SummaryPlan) -> list[Stage]:
    """Stages that have not been written for exactly these settings, data, pictures and models."""
    missing = {STAGE_OF[part] for part in plan.parts if read_view(plan.folder(part), plan.view(part)) is None}
    return [stage for stage in STAGES if stage in missing]


def ensure_summaries(plan: SummaryPlan, command: str, on_checked: OnChecked | None = None) -> SummaryTexts:
    """The texts of a plan; on the demo shop, what is missing is written first, by this process alone.

    Args:
        plan: What is needed.
        command: The command that would write them, for the error.
        on_checked: Receives the quality of each stage that is written; see `Summarizer`.

    Raises:
        ConfigError: They are missing on a real data set, where writing them may take hours.
    """
    if missing := missing_stages(plan):
        if plan.data.manifest["prepare"]["source"] != "demo":
            raise ConfigError(
                f"summaries.variant={plan.settings.variant!r} needs summaries of the stages {', '.join(missing)}, "
                "which are not there for these settings, data and models. It may take long, so they are never made by "
                f"themselves; first run\n  {command}\nor set summaries.variant to none"
            )
        Summarizer(plan, summary_trainer(accelerator="auto", devices=1), on_checked).run(missing)
    return summary_texts(plan)


def check_quality(
    plan: SummaryPlan, stage: Stage, table: pl.DataFrame, on_checked: OnChecked | None = None
) -> dict[str, Any]:
    """Measure the summaries of a stage, save what was found as `quality.json` and hand it on.

    Args:
        plan: What was asked of which model.
        stage: What was written.
        table: Its view.
        on_checked: Receives what was found.

    Returns:
        Content of `quality.json`.
    """
    part = plan.plan(stage)
    texts = text_quality(table, part.prompt)
    numbers: dict[str, Any] = dict(texts.numbers)
    examples = dict(texts.examples)
    if stage == "preference":
        leaks = title_leaks(table, plan.data)
        numbers |= unchanged(table) | leaks.numbers
        examples |= leaks.examples
    numbers |= demo_quality(stage, table, plan.data, plan.settings.modality)
    if stage == "image" and plan.settings.clip:
        numbers |= _clip(plan, table)
    about = {"view": plan.view(stage), "backbone": part.info.name, "random_backbone": part.info.random_weights}
    content = {**about, **numbers}
    (plan.folder(stage) / "quality.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if on_checked is not None:
        on_checked(stage, numbers, examples, part.info.random_weights)
    return content


ACCURACIES: dict[Stage, str] = {
    "image": "attribute_accuracy",
    "item": "attribute_accuracy",
    "preference": "current_taste_accuracy",
}
"""The number that judges a stage on the demo shop."""


def summary_accuracy(plan: SummaryPlan) -> dict[str, float]:
    """How right a plan's summaries are: `image/attribute_accuracy` and so on; empty where no truth is known.

    Args:
        plan: Its stages have been written.
    """
    found = {}
    for stage in (stage for stage in STAGES if stage in plan.parts):
        quality = demo_quality(stage, SummaryInputs(plan).table(stage), plan.data, plan.settings.modality)
        if (value := quality.get(ACCURACIES[stage])) is not None:
            found[f"{stage}/{ACCURACIES[stage]}"] = float(value)
    return found


def summary_tokens(plan: SummaryPlan) -> int:
    """Tokens of all summaries of a plan, the early ones that others were written from included.

    Args:
        plan: Its stages have been written.
    """
    inputs = SummaryInputs(plan)
    return sum(int(inputs.table(part)["n_tokens"].sum()) for part in plan.parts)


def _clip(plan: SummaryPlan, table: pl.DataFrame) -> dict[str, Number]:
    """Mean CLIP similarities of image summaries with titles (the article's hallucination score) and pictures."""
    items = table.join(plan.data.items.select("item_id", "title"), on="item_id", how="left", maintain_order="left")
    images = plan.images
    keys = [images.picture_of(item_id) if images else None for item_id in items["item_id"]]
    pictures = [images.pixels(key) if images and key else None for key in keys]
    found = clip_similarity(str(plan.settings.clip), None, items["text"].to_list(), items["title"].to_list(), pictures)
    return found.numbers()
