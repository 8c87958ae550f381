"""Runs the summary stages: prompts of what is missing, prediction loops, stores and views."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher

from mllm_srec.data.loading.summary_batches import SummaryCollator, SummaryDataset, TokenBudgetSampler, summary_loader
from mllm_srec.models.summarizer import SummaryGenerator
from mllm_srec.pipeline.summary_inputs import SummaryInputs
from mllm_srec.pipeline.summary_plan import STAGE_OF, Part, PartPlan, SummaryPlan
from mllm_srec.pipeline.summary_quality import check_quality
from mllm_srec.prompts.summaries import Summary, SummaryPrompt
from mllm_srec.summaries.chains import Chain, ChainStep, build_chains
from mllm_srec.summaries.settings import Stage
from mllm_srec.summaries.store import SummaryStore
from mllm_srec.summaries.views import item_view, preference_view, write_view
from mllm_srec.types import ConfigError


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


def summary_trainer(**kwargs: Any) -> pl.Trainer:
    """A Trainer for the loops, without loggers and checkpoints.

    Args:
        kwargs: `accelerator`, `devices`, `strategy`, `num_nodes` and the like.
    """
    return pl.Trainer(
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

    Raises:
        ConfigError: What the trainer gets would be lost, or written by several processes into one file.
    """

    def __init__(self, plan: SummaryPlan, trainer: pl.Trainer) -> None:
        self.plan, self.trainer = plan, trainer
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
                    check_quality(self.plan, STAGE_OF[part], table)
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

    def __init__(self, plan: PartPlan, whole: SummaryPlan, trainer: pl.Trainer, store: SummaryStore) -> None:
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
