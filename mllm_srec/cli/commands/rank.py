"""`rank`: recommendations for one person on the terminal, or for all users as a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_srec.cli.parser import plain
from mllm_srec.cli.schema import PROGRAM, dataset_settings, full_parser, light_parser
from mllm_srec.files.quiet import silence_libraries
from mllm_srec.files.signals import Stopped
from mllm_srec.types import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import jsonargparse

    from mllm_srec.pipeline.ranking.new_items import NewItem
    from mllm_srec.pipeline.ranking.ranker import RankedList, Ranker

DESCRIPTION = (
    "Rank items for a person by the probability that they will like them: all items that the person has not met, or of "
    "a large catalogue those that a retriever found. Prints history, preference and the best items (--user), or writes "
    "the lists of all users (--output). Without --config the settings are those of the checkpoint's run."
)
FLAGS: dict[str, dict[str, Any]] = {
    "user": {
        "type": str | None,
        "default": None,
        "help": "Id of a user: prints their history, preference and best items.",
    },
    "output": {
        "type": str | None,
        "default": None,
        "help": "File for the lists of all users, or of --user, ending in .parquet or .csv. Run again, it continues.",
    },
    "top_k": {"type": int, "default": 10, "help": "Number of items of a list."},
    "max_items": {
        "type": int,
        "default": 1000,
        "help": "Largest catalogue that is ranked completely; of a larger one, a retriever chooses so many items.",
    },
    "retriever": {
        "type": str,
        "default": "popularity",
        "help": "Finds the --max_items items of a larger catalogue: popularity, the folder of a run whose "
        "test split was evaluated with data.evaluator=full, or a Parquet file with columns user_id, item_id and rank.",
    },
    "new_item": {
        "action": "append",
        "type": str,
        "help": "An item that the data set does not hold, ranked beside the others: a JSON object with title, brand, "
        "categories, description, image (a picture file) and item_id, each optional, or a file with one a line. May be "
        "given several times.",
    },
}
"""Flags of this command, by name."""


def main(command: str, arguments: list[str]) -> None:
    """Rank for one user or for all."""
    if {"-h", "--help"} & set(arguments):
        light = light_parser(command, DESCRIPTION)
        light.add_argument("--ckpt_path", type=str | None, default=None, help="Checkpoint of a run.")
        add_flags(light)
        light.parse_args(["--help"])
    silence_libraries()
    parser = full_parser(command, DESCRIPTION)
    add_flags(parser)
    config = _parsed(parser, arguments)
    flags = {name: config[name] for name in FLAGS}
    _check(flags)
    from mllm_srec.pipeline.ranking.new_items import read_new_items

    new_items = read_new_items(flags["new_item"] or [])
    ranker = _open(config, flags, arguments)
    if flags["user"] is not None:
        ranker.person(flags["user"])  # refuse an unknown user before summaries are written
    ranker.add(new_items)
    if ranker.run.arrivals is not None:
        ranker.run.arrivals.release()  # the memory of those models is the recommender's from here on
    if flags["user"] is not None:
        _print(ranker, ranker.rank(flags["user"], new_items=new_items, top_k=None), flags["top_k"])
    if flags["output"] is not None:
        users = ranker.user_ids if flags["user"] is None else [flags["user"]]
        _write(ranker, Path(flags["output"]), users, new_items, flags["top_k"])


def add_flags(parser: jsonargparse.ArgumentParser) -> None:
    """Add the flags of this command alone."""
    for name, options in FLAGS.items():
        parser.add_argument(f"--{name}", **options)


def _parsed(parser: jsonargparse.ArgumentParser, arguments: list[str]) -> Any:
    """Parse settings and flags; without --config, the settings are those of the checkpoint's run."""
    from mllm_srec.pipeline.runs.names import run_of_checkpoint

    config = parser.parse_args(arguments)
    origin = run_of_checkpoint(config.ckpt_path) if config.ckpt_path and not config.config else None
    return config if origin is None else parser.parse_args(["--config", str(origin.config), *arguments])


def _open(config: Any, flags: dict[str, Any], arguments: Sequence[str]) -> Ranker:
    """Open the ranker of these settings.

    Raises:
        ConfigError: The data set is not prepared, or was prepared with other settings, or a typed setting does nothing.
    """
    from mllm_srec.cli.checks import check_settings
    from mllm_srec.pipeline.build import ensure_prepared
    from mllm_srec.pipeline.ranking.loaded_run import load_run
    from mllm_srec.pipeline.ranking.ranker import Ranker

    check_settings("predict", config, arguments)
    folder, prepare, candidates = dataset_settings(config)
    command = f"{PROGRAM} prepare --config ..."
    ensure_prepared(folder, prepare, candidates, command)
    return Ranker(load_run(plain(config)), config.ckpt_path, max_items=flags["max_items"], retriever=flags["retriever"])


def _check(flags: dict[str, Any]) -> None:
    """Check the flags before anything is loaded."""
    from mllm_srec.pipeline.ranking.all_users import check_output

    if flags["user"] is None and flags["output"] is None:
        raise ConfigError("user, output: neither is given; set --user ID for one person, or --output FILE for all")
    for name in ("top_k", "max_items"):
        if flags[name] < 1:
            raise ConfigError(f"{name}={flags[name]}: must be at least 1; give a positive number")
    if flags["output"] is not None:
        check_output(Path(flags["output"]))


def _print(ranker: Ranker, ranked: RankedList, top_k: int) -> None:
    """Print a person's history and preference, their best items, and the new items at any rank."""
    from mllm_srec.reports.terminal.ranked import print_list, print_person

    person = ranked.person
    history = [(item_id, ranker.prompts.row(item_id)["title"]) for item_id in person.history]
    print_person(person.user_id, history, person.body.preference, len(person.body.items), ranked.n_dropped)
    rows = [row for row in ranked.table.to_dicts() if row["rank"] <= top_k or row["new"]]
    print_list(rows, ranked.source, ranked.n_ranked)
    _warn(ranker)


def _write(ranker: Ranker, path: Path, users: Sequence[str], new_items: Sequence[NewItem], top_k: int) -> None:
    from mllm_srec.pipeline.ranking.all_users import write_lists

    covered = [user_id for user_id in users if ranker.chooser.covers(user_id)]
    print(f"ranking for {len(covered):,} users: {ranker.chooser.source}", flush=True)
    if len(covered) < len(users):
        print(f"{len(users) - len(covered):,} users are left out: the retriever has no list for them", flush=True)
    try:
        table = write_lists(ranker, path, covered, new_items, top_k)
    except Stopped as stop:
        raise Stopped(stop.number, "finished lists are kept; the same command goes on from there") from None
    print(f"{table.height:,} rows: {path}")
    _warn(ranker)


def _warn(ranker: Ranker) -> None:
    from mllm_srec.models.backbone_files import describe_backbone, foreign_note
    from mllm_srec.models.objective import probabilities_note

    settings = ranker.run.model.settings
    info = describe_backbone(settings.name, settings.revision)
    if (note := foreign_note(info, ranker.data.manifest["prepare"]["source"])) is not None:
        print(note)
    if info.random_weights:
        print("the backbone began with random weights: these lists say nothing about the method")
    note = probabilities_note(ranker.run.model.objective, ranker.run.datamodule.n_train_negatives)
    if settings.finetune != "none" and note is not None:
        print(note)
