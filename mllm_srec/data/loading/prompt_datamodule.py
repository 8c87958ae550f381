"""LightningDataModule that serves precomputed prompts together with image tensors."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any, Literal

from torch.utils.data import DataLoader

from mllm_srec.data.loading.candidate_lists import RankLists
from mllm_srec.data.loading.examples import GroupExamples, pair_examples, select_train_rows
from mllm_srec.data.loading.prompt_batches import (
    DrawnPromptDataset,
    ListCollator,
    ListDataset,
    PromptCollator,
    PromptDataset,
    PromptStores,
)
from mllm_srec.data.loading.ranking_datamodule import Lists, RankingDataModule, ServedInputs
from mllm_srec.data.loading.train_negatives import NegativesFrom, TrainNegatives, check_train_negatives
from mllm_srec.data.pictures.feature_store import FeatureStore
from mllm_srec.data.pictures.image_store import build_image_store, load_image_processor
from mllm_srec.data.settings import PictureSettings
from mllm_srec.data.stored_prompts.store import build_prompt_store
from mllm_srec.data.stored_prompts.summary_texts import SummaryTexts
from mllm_srec.files.hashing import text_hash
from mllm_srec.prompts.encoding import load_encoder
from mllm_srec.prompts.packing import PackingSettings, PromptGroup
from mllm_srec.prompts.templates import PromptSettings
from mllm_srec.types import ConfigError, Split


class PromptDataModule(RankingDataModule):
    """Serves train pairs, and for evaluation the pairs (AUC) and the candidate lists (HR, Recall, NDCG, MRR).

    Args:
        root: Folder of all data sets.
        name: Folder of this data set below `root`.
        backbone: Hub name or folder whose tokenizer and image processor are used; linked to `model.backbone`.
        revision: Revision of the hub model; linked to `model.revision`.
        prompt: Wording and fields of the prompt.
        pictures: How pictures reach the model.
        packing: How groups become rows.
        max_length: Tokens of a prompt with its longest target; the oldest history gives way (borrowed: 512-1024).
        batch_size: Training groups (contexts) per device and step.
        eval_batch_size: Groups per device and step in evaluation.
        eval_batch_tokens: Tokens per device and step in evaluation; a longer list is a step of its own.
        n_train_negatives: Negatives beside each like in training. With 1 it is the stored one; more are drawn anew each
            epoch, in the same batches, and no user gets an item of their train split.
        negatives_from: What more negatives are drawn from: the `catalogue`, the user's `disliked` items of the train
            split, or `hard`, the first `n_retrieved` items of `retriever`.
        negatives: Stored negatives trained on: sampled ones (the article's 1:1), disliked items, or both.
        balance: `all`, or `cap` to no more negatives than positives.
        **shared: Settings of `RankingDataModule`: evaluation, limits and loading.

    Raises:
        ConfigError: The data set is not prepared, or settings contradict each other.
    """

    def __init__(
        self,
        root: str = "data",
        name: str = "demo",
        backbone: str = "Qwen/Qwen2-VL-7B-Instruct",
        revision: str | None = None,
        prompt: PromptSettings = PromptSettings(),  # noqa: B008 - frozen, and jsonargparse shows its fields
        pictures: PictureSettings = PictureSettings(),  # noqa: B008
        packing: PackingSettings = PackingSettings(),  # noqa: B008
        max_length: int = 1024,
        batch_size: int = 8,
        eval_batch_size: int = 8,
        eval_batch_tokens: int = 65_536,
        negatives: Literal["sampled", "explicit", "both"] = "sampled",
        balance: Literal["all", "cap"] = "all",
        n_train_negatives: int = 1,
        negatives_from: NegativesFrom = "catalogue",
        **shared: Any,
    ) -> None:
        super().__init__(root, name, batch_size, eval_batch_size, **shared)
        self.backbone, self.revision = backbone, revision
        if prompt.phrases.items_only and pictures.serve != "none":
            raise ConfigError(
                f"data.pictures.serve={pictures.serve!r} with data.prompt.wording={prompt.wording!r}, which shows no "
                "pictures; set data.pictures.serve to none"
            )
        self.prompt, self.pictures, self.packing, self.max_length = prompt, pictures, packing, max_length
        self.eval_batch_tokens, self.negatives, self.balance = eval_batch_tokens, negatives, balance
        check_train_negatives(n_train_negatives, negatives_from, balance)
        if n_train_negatives > 1 and negatives_from == "disliked" and prompt.phrases.disliked:
            raise ConfigError(
                f"data.negatives_from='disliked': data.prompt.wording={prompt.wording!r} shows disliked items, so that "
                "the answer could be read there; set data.negatives_from to catalogue or hard"
            )
        self.n_train_negatives, self.negatives_from = n_train_negatives, negatives_from
        self._stores: PromptStores | None = None

    @property
    def stores(self) -> PromptStores:
        """Prompts and pictures; opened on first use, built where they are missing."""
        if self._stores is None:
            self._stores = self._open_stores()
        return self._stores

    @property
    def summaries(self) -> SummaryTexts | None:
        """Summaries that prompts are made of; None where they are made of titles."""
        return self.inputs.summaries

    @property
    def shows_pictures(self) -> bool:
        """True if prompts hold pictures: they are served, and summaries are not made of texts alone."""
        return self.pictures.serve != "none" and (self.summaries is None or self.summaries.modality != "text")

    def _open_stores(self) -> PromptStores:
        encoder = load_encoder(self.backbone, self.revision)
        images = None
        if self.shows_pictures:
            processor = load_image_processor(self.backbone, self.revision, self.pictures)
            images = build_image_store(self.folder, processor, self.data.items)
        features = None
        if self.pictures.serve == "features" and self.inputs.features is not None:
            features = FeatureStore(self.inputs.features)
        prompts = build_prompt_store(self.data, encoder, images, self.prompt, self.max_length, self.summaries)
        return PromptStores(prompts, images, features, encoder)

    def use(self, inputs: ServedInputs) -> None:
        """Serve inputs that were computed elsewhere; see `RankingDataModule.use`.

        Raises:
            ConfigError: Summaries are given after the prompts were opened without them.
        """
        if self._stores is not None and inputs.summaries is not None:
            raise ConfigError(
                f"summaries={inputs.summaries.identity!r}: the prompts were opened before, without these summaries; "
                "call `use` right after the data module is made, before `stores`, `setup` or a loader"
            )
        super().use(inputs)
        if self._stores is not None and inputs.features is not None:
            self._stores.features = FeatureStore(inputs.features)

    def setup(self, stage: str) -> None:
        """Open the stores in this process, before any loader is made."""
        if self.pictures.serve == "features" and self.shows_pictures and self.inputs.features is None:
            raise ConfigError(
                "data.pictures.serve='features': the extracted features are missing; start through "
                "`python -m mllm_srec`, which extracts them, or call `use(ServedInputs(features=folder))` with the "
                "folder that `pipeline.features.pictures` returned"
            )
        _ = self.stores

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint stores about the prompts that it was trained on."""
        inputs = {
            "min_pixels": self.pictures.min_pixels,
            "max_pixels": self.pictures.max_pixels,
            "max_length": self.max_length,
            "summaries": self.summaries.identity if self.summaries else None,
        }
        return {
            "tokenizer": self.stores.encoder.fingerprint(),
            "version": self.prompt.version,
            "prompt": {**self.prompt.recorded(), **inputs},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare the stored prompts with the current ones: warn of another wording, refuse another tokenizer.

        Raises:
            ConfigError: The checkpoint was trained with another tokenizer.
        """
        now = self.state_dict()
        if state_dict["tokenizer"] != now["tokenizer"]:
            raise ConfigError(
                f"the checkpoint was trained with another tokenizer than that of {self.backbone!r}; "
                "give model.backbone as in the config.yaml of its run folder"
            )
        if state_dict != now:
            warnings.warn(
                f"the checkpoint was trained on other prompts: {state_dict['version']} {state_dict['prompt']}, "
                f"now {now['version']} {now['prompt']}",
                stacklevel=2,
            )

    def train_examples(self) -> GroupExamples:
        """Return the training groups that `negatives`, `balance` and `max_train_groups` leave."""
        samples = self.data.samples.filter(self.data.samples["split"] == "train")
        rows = select_train_rows(samples, self.negatives, self.balance, self.seed)
        return pair_examples(self.data.groups, self.data.items, rows).draw(self.max_train_groups, self.seed)

    @property
    def n_train_examples(self) -> int:
        """Number of training contexts."""
        return len(self.train_examples())

    @property
    def draws_hard(self) -> bool:
        """True if negatives of training are drawn from a retriever's lists."""
        return self.n_train_negatives > 1 and self.negatives_from == "hard"

    def drawn_negatives(self) -> TrainNegatives | None:
        """Return what draws more negatives in training; None where the stored ones are all."""
        if self.n_train_negatives == 1:
            return None
        lists = (self.n_retrieved, self.inputs.hard)
        return TrainNegatives.of(self.data, self.n_train_negatives, self.negatives_from, self.seed, *lists)

    @property
    def n_comparable(self) -> int:
        """Number of training contexts with a liked target and another one, from which losses that rank learn."""
        examples, drawn = self.train_examples(), self.drawn_negatives()
        n_others = examples.sizes - examples.n_positives  # (G,)
        if drawn is not None:
            n_others = n_others + drawn.n_drawn(examples)
        return int(((examples.n_positives > 0) & (n_others > 0)).sum())

    @property
    def left_out(self) -> str:
        """Sentence on contexts with fewer negatives than `n_train_negatives`; empty if there are none."""
        drawn = self.drawn_negatives()
        if drawn is None:
            return ""
        examples = self.train_examples()
        n_negatives = examples.sizes - examples.n_positives + drawn.n_drawn(examples)  # (G,)
        n_short = int(((examples.n_positives > 0) & (n_negatives < self.n_train_negatives)).sum())
        if not n_short:
            return ""
        return f"{n_short:,} contexts have fewer than {self.n_train_negatives} negatives, since {drawn.scarce}"

    def n_tokens(self, split: Split) -> int:
        """Count the tokens of the prompts that the running command shows, with pictures and without padding.

        A context counts once, since its targets share it.

        Args:
            split: `train` for the prompts of one epoch, the first where targets are drawn anew; `val` or `test` for
                pairs and lists.
        """
        if split == "train":
            stored = PromptDataset(self.train_examples(), self.stores, train=True)
            drawn = self.drawn_negatives()
            return int(stored.lengths.sum()) + (0 if drawn is None else DrawnPromptDataset(stored, drawn).n_more(0))
        pairs, lists = self.eval_examples(split)
        shown: list[Any] = [self.eval_loader(pairs).dataset, self.lists_loader(lists).dataset]
        return sum(int(dataset.lengths.sum()) for dataset in shown)

    @property
    def inputs_label(self) -> str:
        """Version and settings of the prompt, short: `table1-article-v1/5f2c81ab`."""
        pictures = replace(self.pictures, serve="none" if self.pictures.serve == "none" else "pixels")
        summaries = self.summaries.identity if self.summaries else None
        settings = repr((self.prompt, self.max_length, pictures, summaries))  # features give what pixels do
        return f"{self.prompt.version}/{text_hash(settings)[:8]}"

    @property
    def no_pairs(self) -> str:
        """Sentence on why prompts of lists have no AUC of pairs; empty for prompts of single targets."""
        if self.prompt.layout == "pointwise":
            return ""
        return (
            "no AUC of pairs and no calibration: a prompt of a list scores its candidates against each other, and "
            "single targets not at all; the layout pointwise asks about them one by one"
        )

    def catalogue_lists(self, lists: RankLists) -> GroupExamples:
        """Lists of the whole catalogue, written out."""
        return lists.full()

    def train_dataloader(self) -> DataLoader[PromptGroup]:
        """Shuffled pair groups; a resumed run starts behind the last trained batch."""
        return self._loader(self.train_examples(), train=True)

    def eval_loader(self, examples: Lists) -> DataLoader[PromptGroup]:
        """Make a loader of groups without answers.

        Raises:
            TypeError: The lists are not expanded.
        """
        if not isinstance(examples, GroupExamples):
            raise TypeError(f"prompts need lists that are written out, got {type(examples).__name__}")
        return self._loader(examples, train=False)

    def lists_loader(self, examples: Lists) -> DataLoader[Any]:
        """Make a loader of candidate lists; with `layout: listwise`, one prompt holds many candidates."""
        if self.prompt.layout == "pointwise" or not isinstance(examples, GroupExamples):
            return self.eval_loader(examples)
        dataset = ListDataset(examples, self.stores, self.prompt, self.seed)
        collate = ListCollator(dataset, self.packing)
        return self.batches(dataset, collate, train=False, max_tokens=self.eval_batch_tokens)

    def _loader(self, examples: GroupExamples, train: bool) -> DataLoader[PromptGroup]:
        dataset = PromptDataset(examples, self.stores, train)
        collate = PromptCollator(self.stores, self.packing)
        if train and (drawn := self.drawn_negatives()) is not None:
            return self.batches(DrawnPromptDataset(dataset, drawn), collate, train, with_epoch=True)
        return self.batches(dataset, collate, train, None if train else self.eval_batch_tokens)
