"""Base of the data modules: one prepared data set, the same pairs and candidate lists for every model.

The settings of evaluation are stated and documented here only; data modules pass them on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import lightning.pytorch as lightning
import numpy as np
import polars as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.loading.candidate_lists import RankLists
from mllm_srec.data.loading.catalogue_lists import CatalogueLists
from mllm_srec.data.loading.examples import GroupExamples, pair_examples, rank_examples
from mllm_srec.data.loading.sampler import EpochBatchSampler, GroupBatchSampler, Position
from mllm_srec.data.stored_prompts.summary_texts import SummaryTexts
from mllm_srec.types import EVAL_TOP_K, ConfigError, Split

Evaluator = Literal["sampled", "rerank", "full"]
Lists = GroupExamples | CatalogueLists


@dataclass(frozen=True)
class ServedInputs:
    """Inputs that the pipeline computes and a data module serves; in `use`, None leaves what is there.

    Attributes:
        summaries: Stored summaries, of which prompts are made instead of titles.
        features: Folder of a finished feature store, which is served instead of pixels.
        retrieved: Split -> the retriever's lists, which are reranked (`pipeline.evaluation.retrieval`).
        hard: `user_id`, `item_id` and `rank` of a retriever, from which hard negatives are drawn in training.
        scored: Ids of the pair groups and of the candidate lists that were scored before and are left out.
    """

    summaries: SummaryTexts | None = None
    features: Path | None = None
    retrieved: Mapping[Split, pl.DataFrame] | None = None
    hard: pl.DataFrame | None = None
    scored: tuple[frozenset[int], frozenset[int]] | None = None

    def updated(self, other: ServedInputs) -> ServedInputs:
        """These inputs, with those of `other` in place of what they replace."""
        return replace(self, **{name: value for name, value in vars(other).items() if value is not None})


class RankingDataModule(lightning.LightningDataModule):
    """Base of the data modules; a subclass makes loaders of groups, and training examples.

    Args:
        root: Folder of all data sets.
        name: Folder of this data set below `root`.
        batch_size: Training examples per device and step.
        eval_batch_size: Groups per device and step in evaluation.
        evaluator: Candidates that `validate`, `test` and `predict` rank; `fit` validates prompts on sampled lists.
            `sampled`: the positives and `n_negatives` drawn items; `rerank`: the first `n_retrieved` items of
            `retriever`, positives that it missed counting as missed; `full`: every item that the user has not met yet.
        cut_offs: K of HR, Recall, NDCG and MRR; 5, 10 and 20 are always measured.
        n_negatives: m of `sampled@m`: candidates besides the positives in evaluation (borrowed: 20).
        retriever: `popularity`, or the folder of a run on this data set that was evaluated with `full`.
        n_retrieved: N of `rerank@N`.
        max_train_groups: Training examples, drawn with the seed; null takes all.
        max_eval_groups: Groups of each kind that `fit` validates on, drawn with the seed; null takes all.
        max_test_groups: The same for `validate`, `test` and `predict`; results name it, and null takes all.
        num_workers: Worker processes of each loader.
        seed: Seed of the order and the draws; linked to `seed_everything`.

    Raises:
        ConfigError: A batch would hold nothing.

    Attributes:
        inputs: What `use` was given.
    """

    validates_on_catalogue: ClassVar[bool] = False
    """True if `fit` may validate on the whole catalogue, since scoring it is cheap; else on sampled lists."""

    def __init__(
        self,
        root: str,
        name: str,
        batch_size: int,
        eval_batch_size: int,
        evaluator: Evaluator = "sampled",
        n_negatives: int = 20,
        retriever: str = "popularity",
        n_retrieved: int = 100,
        max_train_groups: int | None = None,
        max_eval_groups: int | None = None,
        max_test_groups: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
        cut_offs: Sequence[int] = (1, *EVAL_TOP_K),
    ) -> None:
        super().__init__()
        for setting, value in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if value < 1:
                raise ConfigError(f"data.{setting}={value}; give at least 1")
        if wrong := [k for k in cut_offs if k < 1 or k != int(k)]:
            raise ConfigError(f"data.cut_offs={list(cut_offs)}: {wrong[0]} is no cut-off; give whole numbers from 1")
        self.cut_offs = tuple(sorted({*map(int, cut_offs), *EVAL_TOP_K}))
        for setting, limit in (("train", max_train_groups), ("eval", max_eval_groups), ("test", max_test_groups)):
            if limit is not None and limit < 1:
                raise ConfigError(f"data.max_{setting}_groups={limit}; give at least 1, or null for all")
        self.allow_zero_length_dataloader_with_multiple_devices = True  # fewer lists than processes
        self.root, self.name = root, name
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.evaluator, self.retriever, self.n_retrieved = evaluator, retriever, n_retrieved
        self.num_workers, self.seed, self.n_negatives = num_workers, seed, n_negatives
        self.max_train_groups, self.max_eval_groups = max_train_groups, max_eval_groups
        self.max_test_groups = max_test_groups
        self.inputs = ServedInputs()
        self._data: PreparedDataset | None = None
        self._examples: dict[tuple[Any, ...], tuple[GroupExamples, Lists]] = {}

    def use(self, inputs: ServedInputs) -> None:
        """Serve inputs that were computed elsewhere, in place of earlier ones.

        Args:
            inputs: What is new; fields that are None leave what is there.
        """
        self.inputs = self.inputs.updated(inputs)
        if inputs.retrieved is not None:
            self._examples.clear()

    # --- defined by a subclass ------------------------------------------------------------------------------------

    @property
    def inputs_label(self) -> str:
        """Short name of what the model is shown of a context: a part of the protocol."""
        raise NotImplementedError(f"{type(self).__name__} has no inputs_label")

    @property
    def n_train_examples(self) -> int:
        """Number of training examples."""
        raise NotImplementedError(f"{type(self).__name__} has no n_train_examples")

    @property
    def left_out(self) -> str:
        """Sentence on the rows of the train split that are no examples, printed before training; empty if all are."""
        return ""

    @property
    def no_pairs(self) -> str:
        """Sentence on why `test` and `validate` measure no labelled pairs; empty if they do."""
        return ""

    def catalogue_lists(self, lists: RankLists) -> Lists:
        """Return candidate lists of the whole catalogue, in the form that this module serves."""
        raise NotImplementedError(f"{type(self).__name__} has no catalogue_lists(lists)")

    def eval_loader(self, examples: Lists) -> DataLoader[Any]:
        """Make a loader of groups in evaluation."""
        raise NotImplementedError(f"{type(self).__name__} has no eval_loader(examples)")

    def lists_loader(self, examples: Lists) -> DataLoader[Any]:
        """Make a loader of candidate lists; as for pairs, unless a subclass serves them differently."""
        return self.eval_loader(examples)

    # --- shared by all --------------------------------------------------------------------------------------------

    @property
    def folder(self) -> Path:
        """Folder of the prepared data set."""
        return Path(self.root) / str(self.name)

    @property
    def data(self) -> PreparedDataset:
        """The prepared data set."""
        if self._data is None:
            self._data = PreparedDataset.open(self.folder)
        return self._data

    @property
    def fitting(self) -> bool:
        """True if the running command is `fit`, whose validation has a limit of its own."""
        return self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING

    def evaluator_of(self, fitting: bool) -> Evaluator:
        """Return `evaluator`, or while fitting `sampled` if that would take too long or need another run."""
        cheap = self.evaluator == "full" and self.validates_on_catalogue
        return "sampled" if fitting and not cheap else self.evaluator

    @property
    def running_evaluator(self) -> Evaluator:
        """The evaluator of the running command."""
        return self.evaluator_of(self.fitting)

    def eval_examples(self, split: Split) -> tuple[GroupExamples, Lists]:
        """Return the pair groups and candidate lists of `split`, as many as the running command takes.

        There are no pair groups where the model has no score of single targets (`no_pairs`).

        They are computed once and kept, since loaders, metrics, references and the protocol all ask for them.

        Raises:
            ConfigError: Fewer negatives are stored than asked for, or the retriever's lists do not fit.
        """
        limit = self.max_eval_groups if self.fitting else self.max_test_groups
        evaluator = self.evaluator_of(self.fitting)
        key = (split, limit, evaluator, self.n_negatives, self.n_retrieved, self.seed, self.fitting)
        if key not in self._examples:
            pairs, lists = self._eval_examples(split, limit, evaluator)
            self._examples[key] = (pairs if self.fitting or not self.no_pairs else pairs.take(np.arange(0)), lists)
        return self._examples[key]

    def _eval_examples(self, split: Split, limit: int | None, evaluator: Evaluator) -> tuple[GroupExamples, Lists]:
        """Compute the examples of `eval_examples`."""
        samples = self.data.samples.filter(self.data.samples["split"] == split)
        pairs = pair_examples(self.data.groups, self.data.items, samples).draw(limit, self.seed)
        stored = self.data.manifest["candidates"]["n_negatives"]
        if self.n_negatives > stored:
            raise ConfigError(
                f"data.n_negatives={self.n_negatives}, but the data set stores {stored} candidates per list "
                "(candidates.n_negatives); ask for no more, or prepare with more under another data.name"
            )
        sampled = rank_examples(self.data.groups, self.data.items, self.data.candidates, split, self.n_negatives)
        lists = sampled.draw(limit, self.seed)
        if evaluator == "sampled":
            return pairs, lists
        chosen = RankLists(self.data, split, lists.group_id)  # the same lists, whatever is ranked in them
        if evaluator == "full":
            return pairs, self.catalogue_lists(chosen)
        retrieved = self.inputs.retrieved or {}
        if split not in retrieved:
            raise ConfigError(
                f"data.evaluator='rerank': the retriever's lists of the {split} split are missing; start through "
                "`python -m mllm_srec`, which reads them, or call `use(ServedInputs(retrieved={split: lists}))` with "
                "what `pipeline.evaluation.retrieval` returned"
            )
        return pairs, chosen.rerank(retrieved[split], self.n_retrieved)

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """Return the loaders of pairs and of lists of the val split."""
        return self._eval_loaders(*self.eval_examples("val"))

    def test_dataloader(self) -> list[DataLoader[Any]]:
        """Return the loaders of pairs and of lists of the test split."""
        return self._eval_loaders(*self.eval_examples("test"))

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return the loader of the candidate lists of the test split."""
        return self._eval_loaders(*self.eval_examples("test"))[1]

    def _eval_loaders(self, pairs: GroupExamples, lists: Lists) -> list[DataLoader[Any]]:
        """Make loaders of the pairs and of the lists, without groups that were scored before."""
        nothing: frozenset[int] = frozenset()
        scored_pairs, scored_lists = (nothing, nothing) if self.fitting else self.inputs.scored or (nothing, nothing)
        return [self.eval_loader(pairs.without(scored_pairs)), self.lists_loader(lists.without(scored_lists))]

    def batches(
        self,
        dataset: Any,
        collate: Callable[[Any], Any],
        train: bool,
        max_tokens: int | None = None,
        with_epoch: bool = False,
    ) -> DataLoader[Any]:
        """Make a loader of this process's batches, of similar length.

        Args:
            dataset: Training examples, or groups in evaluation, with their `lengths`.
            collate: Function that turns entries of the data set into a batch.
            train: True for random order, starting after the last trained batch; False for every example once.
            max_tokens: Largest sum of lengths of a batch in evaluation; None for no limit.
            with_epoch: Ask the data set for entries (epoch, index) instead of the index.
        """
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        sampler = GroupBatchSampler(
            dataset.lengths,
            self.batch_size if train else self.eval_batch_size,
            shuffle=train,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
            position=self._train_position() if train else lambda: (0, 0),
            max_tokens=max_tokens,
        )
        return DataLoader(
            dataset,
            batch_sampler=EpochBatchSampler(sampler) if with_epoch else sampler,
            collate_fn=collate,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
        )

    def _train_position(self) -> Position:
        """Epoch and batches already trained, from the trainer's own progress, which a checkpoint restores."""

        def position() -> tuple[int, int]:
            if self.trainer is None:
                return 0, 0
            loop = self.trainer.fit_loop
            done = int(loop.epoch_loop.batch_progress.current.processed)  # type: ignore[attr-defined]
            # Not `processed`, which a checkpoint of an epoch's end may or may not have counted already.
            return max(0, loop.epoch_progress.current.ready - 1), done

        return position
