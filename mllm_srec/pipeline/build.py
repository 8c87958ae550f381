"""Builds the missing inputs of a command, before any Trainer exists; each is built by one process at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

from rich.console import Console

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.manifest import check_manifest
from mllm_srec.data.settings import CandidateSettings, PrepareSettings
from mllm_srec.files.folders import atomic_folder, build_lock
from mllm_srec.files.hashing import text_hash
from mllm_srec.prompts.builder import ItemText, item_text
from mllm_srec.prompts.templates import PromptSettings, prompt_texts
from mllm_srec.summaries.settings import STAGES, SummarySettings
from mllm_srec.types import ConfigError

RANDOM_BACKBONE = "random"
"""Value of `model.backbone` for a small untrained model that is made for the data set."""
DEMO_BACKBONE = "demo"
"""Value of `model.backbone` for the small pretrained model of the demo shop that comes with the package."""
DEMO_FOLDER = Path(__file__).parents[1] / "demo_backbone"


def _say(message: str) -> None:
    Console(stderr=True, soft_wrap=True).print(message, markup=False, highlight=False)


def ensure_prepared(
    folder: Path, prepare: PrepareSettings, candidates: CandidateSettings, command: str
) -> PreparedDataset:
    """Open the prepared data set; a missing demo shop is prepared first.

    Args:
        folder: Folder of the data set.
        prepare: Settings of the preparation.
        candidates: Settings of the candidate lists.
        command: The command that prepares a real data set, for the error message.

    Raises:
        ConfigError: A real data set is missing, or was prepared with other settings.
    """
    if not check_manifest(folder, prepare, candidates):
        if prepare.source != "demo":
            raise ConfigError(
                f"{folder}: holds no prepared data set; preparing one can take long and is never started "
                f"automatically; first run\n  {command}"
            )
        from mllm_srec.data.prepare import prepare_dataset

        with build_lock(folder):
            if not check_manifest(folder, prepare, candidates):  # another process may have been faster
                _say(f"preparing the demo shop in {folder}")
                prepare_dataset(folder, prepare, candidates)
    return PreparedDataset.open(folder)


@cache  # said once
def _warn_of_other_data(name: str, source: str) -> None:
    """Say before anything is computed that a backbone, as its files tell, cannot know the data."""
    from mllm_srec.models.backbone_files import MADE_FOR, made_for_other_data

    try:
        config = json.loads((Path(name) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # of a hub model, or damaged, which is told when it is read
        return
    if note := made_for_other_data(Path(name).name, config.get(MADE_FOR), source):
        _say(f"warning: {note}")


def resolve_backbone(name: str, data: PreparedDataset) -> str:
    """Return the folder or hub name of a backbone.

    Args:
        name: A folder, a hub name, `demo` for the shipped model, or `random` for an untrained one, which is made below
            the data set's folder if it is missing.
        data: The prepared data set.
    """
    if name != RANDOM_BACKBONE:
        given = str(Path(name).expanduser()) if name.startswith("~") else name
        found = str(DEMO_FOLDER) if name == DEMO_BACKBONE else given
        _warn_of_other_data(found, data.manifest["prepare"]["source"])
        return found
    from mllm_srec.models.random_backbone import RandomBackboneSettings, build_random_backbone

    settings = RandomBackboneSettings()
    folder = data.folder / "backbones" / f"random-{text_hash(f'{settings} {data.content_hash}')[:12]}"
    if not (folder / "config.json").exists():
        with build_lock(folder):
            if not (folder / "config.json").exists():  # another process may have been faster
                _say(f"making a small backbone of random weights in {folder}")
                with atomic_folder(folder) as partial:
                    build_random_backbone(partial, _texts(data), settings)
    return str(folder)


def resolve_stages(settings: SummarySettings, data: PreparedDataset) -> SummarySettings:
    """Return the settings with the backbone of every stage as a folder or hub name; null stays null."""
    chosen = {stage: settings.stage(stage) for stage in STAGES}
    resolved = {
        stage: replace(own, backbone=resolve_backbone(own.backbone, data))
        for stage, own in chosen.items()
        if own.backbone is not None
    }
    return replace(settings, **resolved)  # type: ignore[arg-type]


def _texts(data: PreparedDataset) -> Iterator[str]:
    """Yield every text that prompts of this data set are made of, for the tokenizer of the random backbone."""
    fields = PromptSettings(brand=True, categories=True, description=True)
    for row in data.items.iter_rows(named=True):
        yield item_text(ItemText(row["title"], row["brand"] or "", row["categories"], row["description"]), fields)
    if data.users is not None:
        yield from data.users["profile"]
    yield from prompt_texts()
