"""Recommendations from Python: ranked lists and histories of people with the model of a run folder.

People and items may be new to the data set:

ranker = Ranker.open("runs/demo/first")
mug = NewItem("red mug", image="mug.png")
print(ranker.rank("u0007", new_items=[mug]).table)
print(ranker.rank(History(["i0003", mug]), items=["i0001", "i0002"]).table)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, Self

import numpy as np
import polars as pl

from mllm_srec.data.stored_prompts.summary_texts import SummaryTexts
from mllm_srec.data.tables.popularity import POPULARITY
from mllm_srec.files.quiet import quiet_libraries
from mllm_srec.pipeline.ranking.candidates import CandidateChooser
from mllm_srec.pipeline.ranking.loaded_run import LoadedRun, load_run
from mllm_srec.pipeline.ranking.new_items import NewItem
from mllm_srec.pipeline.ranking.people import History, Person, check_user, people_now
from mllm_srec.pipeline.ranking.prompts import RankPrompts
from mllm_srec.pipeline.ranking.scorer import Scorer
from mllm_srec.pipeline.runs.checkpoint_files import read_checkpoint
from mllm_srec.pipeline.runs.folder import RunFolder
from mllm_srec.pipeline.runs.settings import read_settings
from mllm_srec.types import ConfigError, DataError

LIST_SCHEMA: dict[str, pl.DataType] = {
    "user_id": pl.String(),
    "rank": pl.Int64(),  # from 1
    "item_id": pl.String(),
    "title": pl.String(),
    "score": pl.Float32(),  # by `model.score`
    "probability": pl.Float32(),  # of a like, in [0, 1]
    "held_out": pl.Boolean(),  # True: liked in the test split, which neither training nor context shows
    "new": pl.Boolean(),  # True: not an item of the data set
}
"""Columns of a ranked list; items with equal scores keep the order in which they were given."""

HISTORY_SCHEMA: dict[str, type[pl.DataType]] = {
    "item_id": pl.String,
    "title": pl.String,
    "picture": pl.String,
    "image_summary": pl.String,
    "item_summary": pl.String,
    "since": pl.Boolean,
}
"""Columns of `history_table`."""


@dataclass(frozen=True)
class RankedList:
    """Items ranked for one person, best first.

    Attributes:
        person: The person with history, preference and later items.
        table: Table with columns `LIST_SCHEMA`, at most `top_k` rows.
        source: Description of the ranked items.
        n_ranked: Number of ranked items.
        n_dropped: Number of oldest history lines for which the prompt had no room.
    """

    person: Person
    table: pl.DataFrame
    source: str
    n_ranked: int
    n_dropped: int


class Ranker:
    """Ranks items for people with the model of a run.

    All interactions of a user in the splits train and val are visible; the preference is that after their last full
    window, and items of these interactions are not recommended. Prompts equal those of the prompt store token for
    token. New items get summaries and picture features when they are added, from the run's own models and settings; a
    `History` gets a preference. The model is loaded when first needed. Several threads may use one ranker: they take
    turns at the model and at adding new items, and get the scores that each would get alone.

    Args:
        run: Loaded settings and data of the run.
        checkpoint: File of the fine-tuned weights; None only for `model.finetune: none`.
        max_items: Largest catalogue that is ranked completely; of a larger one, the items of `retriever` are ranked.
        retriever: Retriever of a larger catalogue, see `CandidateChooser`.
        device: Device of the model; None takes a GPU if there is one and the run did not ask for the CPU.

    Raises:
        ConfigError: The checkpoint is missing or unreadable, the retriever is unknown, or the run has listwise prompts.
    """

    def __init__(
        self,
        run: LoadedRun,
        checkpoint: Path | str | None,
        *,
        max_items: int = 1000,
        retriever: str = POPULARITY,
        device: str | None = None,
    ) -> None:
        if checkpoint is None and run.model.settings.finetune != "none":
            raise ConfigError(
                f"model.finetune={run.model.settings.finetune!r}: needs fine-tuned weights; give a run's checkpoint "
                "(--ckpt_path), or set model.finetune to none to rank with the untrained backbone"
            )
        if run.datamodule.prompt.layout == "listwise":
            raise ConfigError(
                "data.prompt.layout='listwise': gives scores within a list and no probabilities; set it to pointwise "
                "in the run's config.yaml to rank for people"
            )
        self.run, self.data, self._device = run, run.datamodule.data, device
        self.checkpoint = None if checkpoint is None else Path(checkpoint)
        self._weights = None if checkpoint is None else _read_weights(Path(checkpoint))
        self.chooser = CandidateChooser(self.data, max_items, retriever)
        self.prompts = RankPrompts(run.datamodule, run.arrivals)
        self._scorer: Scorer | None = None
        self._loading = Lock()

    @classmethod
    @quiet_libraries()
    def open(
        cls,
        folder: Path | str,
        checkpoint: Path | str | None = None,
        *,
        data_root: Path | str | None = None,
        **options: Any,
    ) -> Self:
        """Open a finished run.

        Args:
            folder: Run folder.
            checkpoint: Checkpoint of the run; None takes the best one.
            data_root: Replacement of `data.root` in its settings, which may be relative to another folder.
            options: Further arguments of the class.

        Raises:
            ConfigError: The folder is not a run folder, or its data set or summaries are missing.
        """
        run = load_run(read_settings(folder, data_root))
        best = RunFolder(Path(folder)).best
        if checkpoint is None and (run.model.settings.finetune != "none" or best.exists()):
            checkpoint = best
        return cls(run, checkpoint, **options)

    # --- people and items ------------------------------------------------------------------------------------------

    @cached_property
    def user_ids(self) -> list[str]:
        """All users of the data set, sorted by id."""
        return sorted(self.data.interactions["user_id"].unique().to_list())

    @property
    def scorer(self) -> Scorer:
        """The model with its weights, loaded on first use."""
        with self._loading, quiet_libraries():
            if self._scorer is None:
                self._scorer = Scorer(self.run, self._weights, self._device)
            return self._scorer

    @quiet_libraries()
    def add(self, items: Sequence[NewItem]) -> list[str]:
        """Add new items, make their summaries and tokens, and return their ids.

        Raises:
            DataError: A picture cannot be used, or an id is taken.
        """
        return self.prompts.add(items)

    @quiet_libraries()
    def person(self, who: str | History) -> Person:
        """Return the history and preference of a user as of now, or of a new person.

        Args:
            who: Id of a user, or the history of a new person.

        Raises:
            DataError: The user or an item of the history is unknown.
        """
        if isinstance(who, History):
            return self._newcomer(who)
        check_user(who, self.user_ids)
        return self._people([who])[0]

    def _people(self, user_ids: Sequence[str]) -> list[Person]:
        prompt = self.run.datamodule.prompt
        return people_now(self.data.interactions, user_ids, self._texts, self._max_history, prompt)

    def _newcomer(self, history: History) -> Person:
        """Make a person of a history; a preference is written now if prompts contain one."""
        item_ids = self._ids(history.items)
        if len(set(item_ids)) < len(item_ids):
            raise DataError(f"items={item_ids}: an item occurs twice in the history; keep only its earliest position")
        table, texts = history.interactions(item_ids), self._texts
        if texts is not None and self.run.arrivals is not None:
            states = self.run.arrivals.preferences(table)
            texts = SummaryTexts(**{**vars(texts), "preference": {(history.user_id, "train_val"): states}})
        return people_now(table, [history.user_id], texts, self._max_history, self.run.datamodule.prompt)[0]

    @property
    def _texts(self) -> SummaryTexts | None:
        return self.run.datamodule.summaries

    @property
    def _max_history(self) -> int:
        return int(self.data.manifest["prepare"]["max_history"])

    # --- lists -----------------------------------------------------------------------------------------------------

    def rank(
        self,
        who: str | History,
        items: Sequence[str | NewItem] | None = None,
        *,
        new_items: Sequence[NewItem] = (),
        top_k: int | None = 10,
    ) -> RankedList:
        """Rank items for one person.

        Args:
            who: Id of a user, or the history of a new person.
            items: Items to rank; None takes those of `max_items` and `retriever` without the user's interactions.
            new_items: New items, ranked together with these.
            top_k: Length of the list; None keeps all ranked items.

        Raises:
            DataError: A user or item is unknown, or a picture cannot be used.
            ConfigError: `top_k` is below 1.
        """
        if top_k is not None and top_k < 1:
            raise ConfigError(f"top_k={top_k}: must be at least 1; give the length of a list, or None for all")
        person = self.person(who)  # first, so that an unknown user fails before anything is loaded
        return self._ranked(who, person, items, self.add(new_items), top_k)

    def rank_all(
        self, user_ids: Sequence[str], new_items: Sequence[NewItem] = (), top_k: int | None = 10
    ) -> Iterator[RankedList]:
        """Yield the lists of many users, one after another; see `rank`."""
        added = self.add(new_items)
        for person in self._people(user_ids):
            yield self._ranked(person.user_id, person, None, added, top_k)

    @quiet_libraries()
    def _ranked(
        self,
        who: str | History,
        person: Person,
        items: Sequence[str | NewItem] | None,
        added: Sequence[str],
        top_k: int | None,
    ) -> RankedList:
        chosen = self.chooser.choose(person.user_id, person.seen) if items is None else self._ids(items)
        item_ids = list(dict.fromkeys([*chosen, *(item_id for item_id in added if item_id not in person.seen)]))
        profile = who.profile if isinstance(who, History) else self.data.profiles.get(who)
        context = self.prompts.context(person, profile, item_ids)
        targets = self.prompts.targets(item_ids, context.middle_ids)
        scores, probabilities = self.scorer.score(context.prefix_ids, targets)  # (N,) each
        best = np.argsort(-scores, kind="stable")[:top_k]
        table = self._table(person, [item_ids[index] for index in best], scores[best], probabilities[best])
        source = self.chooser.source if items is None else f"{len(items):,} named items"
        return RankedList(person, table, source, len(item_ids), context.n_dropped)

    def _ids(self, items: Sequence[str | NewItem]) -> list[str]:
        """Return the ids of items, after adding the new ones."""
        new = [item for item in items if isinstance(item, NewItem)]
        id_of = dict(zip(new, self.add(new), strict=True))
        ids = [id_of[item] if isinstance(item, NewItem) else item for item in items]
        for item_id in ids:
            self.prompts.row(item_id)  # refuses an unknown id
        return ids

    def _table(
        self, person: Person, item_ids: Sequence[str], scores: np.ndarray, probabilities: np.ndarray
    ) -> pl.DataFrame:
        columns = {
            "user_id": [person.user_id] * len(item_ids),
            "rank": range(1, len(item_ids) + 1),
            "item_id": list(item_ids),
            "title": [self.prompts.row(item_id)["title"] for item_id in item_ids],
            "score": scores,
            "probability": probabilities,
            "held_out": [item_id in person.held_out for item_id in item_ids],
            "new": [item_id not in self.prompts.index for item_id in item_ids],
        }
        return pl.DataFrame(columns, schema=LIST_SCHEMA)


def _read_weights(path: Path) -> dict[str, Any]:
    """Read a checkpoint of the recommender.

    Raises:
        ConfigError: It is one of a baseline, or of another program.
    """
    checkpoint = read_checkpoint(path)
    if missing := {"state_dict", "PromptDataModule"} - set(checkpoint):
        raise ConfigError(
            f"ckpt_path={str(path)!r}: is no checkpoint of the recommender (it has no {', '.join(sorted(missing))}); "
            "give one from the checkpoints/ of the run"
        )
    return checkpoint


def history_table(ranker: Ranker, person: Person) -> pl.DataFrame:
    """Build the table of a person's history, oldest first.

    Args:
        ranker: Ranker of the run.
        person: Person of `ranker.person`.

    Returns:
        Columns of `HISTORY_SCHEMA`: `picture` is a file, or null; a summary is null if the run has none of its stage;
        `since` marks items after the preference, which are listed in the prompt.
    """
    texts, folder = ranker.run.datamodule.summaries, ranker.data.folder
    pictures = dict(ranker.data.items.select("item_id", "image").iter_rows())
    rows = []
    for item_id in person.history:
        picture = pictures.get(item_id)
        rows.append(
            {
                "item_id": item_id,
                "title": ranker.prompts.row(item_id)["title"],
                "picture": None if picture is None else str(folder / picture),
                "image_summary": None if texts is None else texts.image.get(item_id),
                "item_summary": None if texts is None else texts.item.get(item_id),
                "since": item_id in person.body.items,
            }
        )
    return pl.DataFrame(rows, schema=HISTORY_SCHEMA, orient="row")
