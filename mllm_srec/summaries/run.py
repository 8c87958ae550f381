"""Runs the summary stages: a prediction loop over the missing summaries of each, then its table and its quality."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import polars as pl
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher

from mllm_srec.data.loading.summary_batches import SummaryCollator, SummaryDataset, TokenBudgetSampler, summary_loader
from mllm_srec.data.stored_prompts.summary_texts import SummaryTexts
from mllm_srec.files.folders import build_lock
from mllm_srec.files.progress import LateProgress
from mllm_srec.models.summarizer import SummaryGenerator
from mllm_srec.prompts.summaries import Summary, SummaryPrompt
from mllm_srec.summaries.inputs import SummaryInputs, read_summary_texts
from mllm_srec.summaries.plan import PartPlan, SummaryPlan
from mllm_srec.summaries.preference_chains import Chain, ChainStep, build_chains
from mllm_srec.summaries.quality import OnChecked, check_quality
from mllm_srec.summaries.settings import PARTS, STAGES, Part, Stage
from mllm_srec.summaries.store import SummaryStore
from mllm_srec.summaries.tables import item_view, preference_view, read_view, write_view
from mllm_srec.types import ConfigError


def ensure_summaries(plan: SummaryPlan, command: str, on_checked: OnChecked | None = None) -> SummaryTexts:
    """Return the texts of a plan; on the demo shop, what is missing is written first, by this process alone.

    Args:
        plan: Plan of the summaries.
        command: Command that would write them, for the error.
        on_checked: Receiver of the quality of each stage that is written; see `Summarizer`.

    Raises:
        ConfigError: Summaries of a real data set are missing; writing them may take hours.
    """
    if missing := missing_stages(plan):
        before = written_before(plan)
        if plan.data.manifest["prepare"]["source"] != "demo":
            raise ConfigError(
                f"summaries.variant={plan.settings.variant!r}: the stages {', '.join(missing)} are missing for "
                "these settings, data and models; writing them can take hours and is never started automatically; "
                "first run\n"
                f"  {command}\nor set summaries.variant to none" + (before and f"\n({before})")
            )
        with build_lock(plan.data.folder / "summaries"):
            if missing := missing_stages(plan):  # another process may have been faster
                Summarizer(plan, summary_trainer(accelerator="auto", devices=1), on_checked).run(missing)
    return read_summary_texts(plan)


def missing_stages(plan: SummaryPlan) -> list[Stage]:
    """Return the stages that have not been written for exactly these settings, data, pictures and models."""
    missing = {PARTS[part].stage for part in plan.parts if read_view(plan.folder(part), plan.view(part)) is None}
    return [stage for stage in STAGES if stage in missing]


def written_before(plan: SummaryPlan) -> str:
    """Say why texts of an earlier version, which named models by their shape, are not used; empty if there are none."""
    for part in plan.parts:
        name = plan.view_before(part)
        if name is not None and read_view(plan.folder(part), name) is not None:
            return (
                f"the texts in {plan.folder(part)} may be of another revision of {plan.plan(part).info.label}, which "
                "earlier versions did not tell apart; they stay and are not used"
            )
    return ""


class Summarizer:
    """Writes the missing summaries of a plan.

    Args:
        plan: Plan of the summaries.
        trainer: Trainer of the loops, made by `summary_trainer`.
        on_checked: Receiver of the quality of each stage, called by the first process when the stage is written.

    Raises:
        ConfigError: The trainer would lose the summaries, or let several processes write into one file.
    """

    def __init__(self, plan: SummaryPlan, trainer: Trainer, on_checked: OnChecked | None = None) -> None:
        self.plan, self.trainer, self.on_checked = plan, trainer, on_checked
        self.inputs = SummaryInputs(plan)
        writers = [callback for callback in getattr(trainer, "callbacks", []) if isinstance(callback, SummaryWriter)]
        if not writers:
            raise ConfigError("the Trainer has no SummaryWriter, so summaries would be lost; use summary_trainer()")
        if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
            raise ConfigError("trainer.strategy: spawned or forked processes would write into one file; set it to ddp")
        self._writer = writers[0]

    def run(self, stages: Sequence[Stage]) -> None:
        """Write the given stages in order of dependence; those before them must have been written.

        Two runs of several processes each must be kept apart by their callers: see `SummaryStore`.

        Raises:
            ConfigError: A stage that they read has not been run.
        """
        self.meet()
        if self.trainer.is_global_zero and (before := written_before(self.plan)):
            print(f"summaries: {before}", file=sys.stderr)
        for part in self.plan.parts:
            if PARTS[part].stage in stages:
                self._run_part(part)

    def meet(self) -> None:
        """Start and join all processes now instead of with the first batch; before that no barrier holds them.

        To be called before a lock is taken: a process that starts later could need the lock to get here.
        """
        strategy = self.trainer.strategy
        if strategy.launcher is not None:
            strategy.launcher.launch(strategy.setup_environment, trainer=self.trainer)

    def _run_part(self, part: Part) -> None:
        stage = PARTS[part].stage
        with SummaryStore(self.plan.folder(part), rank=self.trainer.global_rank) as store:
            self._writer.store = store
            loop = SummaryLoop(self.plan.plan(part), self.plan, self.trainer, store)
            table = self._preferences(loop) if PARTS[part].subject == "user" else self._items(loop)
            self.trainer.strategy.barrier("summaries written")
            if self.trainer.is_global_zero:
                for notice in store.notices:
                    print(f"{stage} summaries: {notice}", file=sys.stderr)
                write_view(self.plan.folder(part), self.plan.view(part), table)
                print(f"{part}: {table.height} summaries, {loop.n_written} texts written now", flush=True)
                if part == stage:  # captions are a by-product whose quality is not measured
                    check_quality(self.plan, stage, table, self.on_checked)
            self.trainer.strategy.barrier("view written")

    def _items(self, loop: SummaryLoop) -> pl.DataFrame:
        prompts = self.inputs.item_prompts(loop.plan)
        with self._counted(loop, len(prompts)):
            loop.write(prompts.values())
        return item_view(list(prompts), [prompt.key for prompt in prompts.values()], loop.store)

    def _preferences(self, loop: SummaryLoop) -> pl.DataFrame:
        """Write all preference chains in lock-step, so that a batch holds the same step of many users."""
        settings = self.plan.settings
        refined = settings.variant == "full"
        limits = (settings.window, settings.step, refined, settings.max_windows)
        rows = [(chain, step) for chain in build_chains(self.plan.data.interactions) for step in chain.steps(*limits)]
        n_chains, n_left_out = self.plan.windows_left_out
        if n_chains and self.trainer.is_global_zero:
            print(
                f"preference: {n_chains:,} chains have more than {settings.max_windows} windows "
                f"(summaries.max_windows); their {n_left_out:,} oldest windows are left out",
                file=sys.stderr,
            )
        keys: dict[tuple[str, str, int], str] = {}
        with self._counted(loop, len(rows)):
            for wave in _waves(rows, refined):
                prompts = []
                for chain, step in wave:
                    previous = keys.get((chain.user_id, chain.visible, step.index - 1)) if refined else None
                    text = loop.store[previous].text if previous else None
                    prompts.append(self.inputs.preference_prompt(loop.plan, chain, step, text))
                    keys[chain.user_id, chain.visible, step.index] = prompts[-1].key
                loop.write(prompts)
        return preference_view(rows, [keys[c.user_id, c.visible, s.index] for c, s in rows], loop.store)

    @contextmanager
    def _counted(self, loop: SummaryLoop, n: int) -> Iterator[None]:
        """Show one bar for all `n` texts of a part, however many calls write them."""
        shown = self._writer.shows_progress and self.trainer.is_global_zero
        with LateProgress(f"{loop.plan.part} summaries", n, "texts", shown=shown) as progress:
            loop.progress = self._writer.progress = progress
            yield


def _waves(rows: Sequence[tuple[Chain, ChainStep]], refined: bool) -> list[list[tuple[Chain, ChainStep]]]:
    """Group steps that can be written together: all first steps, all second steps, ...; without refinement all."""
    if not refined:
        return [list(rows)]
    waves: list[list[tuple[Chain, ChainStep]]] = [[] for _ in range(1 + max((s.index for _, s in rows), default=-1))]
    for row in rows:
        waves[row[1].index].append(row)
    return waves


class SummaryLoop:
    """The prediction loop of one part; its model is loaded with the first missing summary.

    Args:
        plan: Plan of the part.
        summary_plan: Plan of all parts.
        trainer: Trainer made by `summary_trainer`, whose writer has the store.
        store: Store of the part's stage.

    Attributes:
        n_written: Summaries written so far.
    """

    def __init__(self, plan: PartPlan, summary_plan: SummaryPlan, trainer: Trainer, store: SummaryStore) -> None:
        self.plan, self.trainer, self.store = plan, trainer, store
        self.images = summary_plan.images if PARTS[plan.part].reads == "picture" else None
        self.n_written = 0
        self.progress: LateProgress | None = None
        settings = plan.settings
        self._module = SummaryGenerator(
            str(settings.backbone),
            settings.revision,
            settings.quantization,
            settings.dtype,
            settings.generation,
        )

    def write(self, prompts: Iterable[SummaryPrompt]) -> None:
        """Write the summaries that the store does not hold; afterwards the store of every process holds them all."""
        wanted = list(prompts)
        missing = list({prompt.key: prompt for prompt in wanted if prompt.key not in self.store}.values())
        if self.progress is not None:
            self.progress.skip(len(wanted) - len(missing))
        if not missing:
            return
        settings = self.plan.settings
        dataset = SummaryDataset(
            missing, self.plan.chat, settings.generation.max_new_tokens, self.images, self.plan.info.max_positions
        )
        sampler = TokenBudgetSampler(dataset, settings.token_budget, self.trainer.global_rank, self.trainer.world_size)
        loader = summary_loader(dataset, sampler, SummaryCollator(self.plan.chat, self.images))
        with nullcontext() if self.progress is None else self.progress.part(len(missing)):
            self.trainer.predict(self._module, loader, return_predictions=False)
            self.trainer.strategy.barrier("loop done")
        self.store.refresh()
        self.n_written += len(missing)


class SummaryWriter(BasePredictionWriter):
    """Appends every batch of summaries to the store as it comes, so that a kill loses one batch at most."""

    store: SummaryStore

    def __init__(self, shows_progress: bool = True) -> None:
        super().__init__("batch")
        self.shows_progress = shows_progress
        self.progress: LateProgress | None = None

    def write_on_batch_end(
        self, trainer: Any, pl_module: Any, prediction: list[Summary], *args: Any, **kwargs: Any
    ) -> None:
        """Append one batch; exit if the process received SIGTERM.

        Raises:
            SystemExit: With status 143, after SIGTERM: Lightning catches that signal, but exits in fit and test only.
        """
        self.store.append(prediction)
        if self.progress is not None:
            self.progress.advance(len(prediction) * trainer.world_size)  # the others write about as many, if any
        if trainer.received_sigterm:
            print("stopped by SIGTERM; the same command continues from here", file=sys.stderr, flush=True)
            raise SystemExit(128 + signal.SIGTERM)


def summary_trainer(enable_progress_bar: bool | None = None, **kwargs: Any) -> Trainer:
    """Make a Trainer for the loops, without loggers and checkpoints.

    Args:
        enable_progress_bar: False shows none; else there is one bar for each part, not one for each call of `predict`.
        kwargs: Arguments of the Trainer: `accelerator`, `devices`, `strategy`, `num_nodes` and the like.
    """
    return Trainer(
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,  # our own sampler shards, and leaves no process without a batch
        enable_progress_bar=False,
        callbacks=[SummaryWriter(shows_progress=enable_progress_bar is not False)],
        **kwargs,
    )
