"""Summaries of what arrives after `summarize`: new items and new histories, by the same prompts and models.

Texts go into the data set's store under the hash of their inputs: no text is ever written twice, and an item that the
data set already has finds its texts there. The tables of the stages, which list the items and users of the data set,
stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import RLock

import polars as pl

from mllm_srec.data.stored_prompts.summary_texts import PreferenceState
from mllm_srec.models.turns import MODEL_TURN
from mllm_srec.prompts.summaries import SummaryPrompt
from mllm_srec.summaries.inputs import Row, SummaryInputs
from mllm_srec.summaries.plan import SummaryPlan
from mllm_srec.summaries.preference_chains import Chain, ChainStep, build_chains
from mllm_srec.summaries.run import SummaryLoop, SummaryWriter, summary_trainer
from mllm_srec.summaries.settings import PARTS, Part
from mllm_srec.summaries.store import SummaryStore
from mllm_srec.summaries.tables import valid_unicode

LONGEST_WAIT = 600.0
"""Seconds to wait at most for another process that writes summaries: somebody waits for a list."""


class SummaryArrivals:
    """Writes summaries one by one; a model is loaded when it is first needed, and kept for the next arrival.

    Threads take turns: a store has one writer, and what one writes the next one reads.

    Args:
        plan: Prompts, models and decoding of the run.
        inputs: Texts of the data set's items; those of new items are added.
        accelerator: Accelerator of the Trainer: `auto`, `cpu`, `gpu`.
    """

    def __init__(self, plan: SummaryPlan, inputs: SummaryInputs, accelerator: str = "auto") -> None:
        self.plan, self.inputs, self.accelerator = plan, inputs, accelerator
        self._loops: dict[Part, tuple[SummaryLoop, SummaryWriter]] = {}
        self._stores: dict[Part, SummaryStore] = {}
        self._turn = RLock()

    def add_items(self, rows: Sequence[Row]) -> None:
        """Write the summaries of new items, and add them to `inputs`.

        Args:
            rows: Rows as in the items table; their pictures are in `plan.images` already.

        Raises:
            ConfigError: The store of summaries cannot be written, or another process writes for `LONGEST_WAIT`.
        """
        with self._turn:
            self.inputs.rows.update({row["item_id"]: row for row in rows})
            for part in self.plan.parts:
                if PARTS[part].subject == "item":  # each part reads the texts of those before it
                    self._add_part(part, rows)

    def _add_part(self, part: Part, rows: Sequence[Row]) -> None:
        by_item = {row["item_id"]: self.inputs.item_prompt(self.plan.plan(part), row) for row in rows}
        prompts = {item_id: prompt for item_id, prompt in by_item.items() if prompt is not None}
        texts = self._write(part, prompts)
        self.inputs.add_texts(part, {item_id: valid_unicode(text) for item_id, text in texts.items()})

    def preferences(self, interactions: pl.DataFrame) -> list[PreferenceState]:
        """Write the preference chain of one user whose interactions are not in the data set.

        Args:
            interactions: Rows as in `interactions.parquet`, all of one user; `inputs` has their items.

        Returns:
            States in time order, as for a user of the data set: one for each full window. Where windows do not refine
            each other, only the last one with a text, since no other is ever read.

        Raises:
            ConfigError: The store of summaries cannot be written, or another process writes for `LONGEST_WAIT`.
        """
        settings = self.plan.settings
        states: list[PreferenceState] = []
        if "preference" not in self.plan.parts:
            return states
        with self._turn:
            for chain in build_chains(interactions):
                if chain.visible == "train_val":
                    refined = settings.variant == "full"
                    steps = chain.steps(settings.window, settings.step, refined, settings.max_windows)
                    states += self._refined(chain, steps) if refined else self._latest(chain, steps)
        return states

    def release(self) -> None:
        """Release the models that were loaded."""
        with self._turn:
            self._loops.clear()

    def _refined(self, chain: Chain, steps: Sequence[ChainStep]) -> list[PreferenceState]:
        states, previous = [], None
        for step in steps:
            previous = self._preference(chain, step, previous)
            states.append(PreferenceState(*step.key, valid_unicode(previous)))
        return states

    def _latest(self, chain: Chain, steps: Sequence[ChainStep]) -> list[PreferenceState]:
        for step in reversed(steps):
            text = self._preference(chain, step, None)
            if text.strip():
                return [PreferenceState(*step.key, valid_unicode(text))]
        return []

    def _preference(self, chain: Chain, step: ChainStep, previous: str | None) -> str:
        prompt = self.inputs.preference_prompt(self.plan.plan("preference"), chain, step, previous)
        return self._write("preference", {"": prompt})[""]

    def _write(self, part: Part, prompts: Mapping[str, SummaryPrompt]) -> dict[str, str]:
        """Return the texts of the prompts, and write those that are not stored yet."""
        if part not in self._stores:
            self._stores[part] = SummaryStore(self.plan.folder(part), longest_wait=LONGEST_WAIT)
        store = self._stores[part]
        if any(prompt.key not in store for prompt in prompts.values()):
            # Another process may be writing: wait for it and read what it wrote, and only then take a turn here.
            with store, MODEL_TURN:
                loop, writer = self._loop(part, store)
                writer.store = store
                loop.write(prompts.values())
        return {name: store[prompt.key].text for name, prompt in prompts.items()}

    def _loop(self, part: Part, store: SummaryStore) -> tuple[SummaryLoop, SummaryWriter]:
        if part not in self._loops:
            trainer = summary_trainer(accelerator=self.accelerator, devices=1, enable_progress_bar=False)
            writers = [callback for callback in trainer.callbacks if isinstance(callback, SummaryWriter)]  # type: ignore[attr-defined]
            self._loops[part] = SummaryLoop(self.plan.plan(part), self.plan, trainer, store), writers[0]
        return self._loops[part]
