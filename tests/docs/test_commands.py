"""Every command in a document is read by its own parser, and every Python block imports what is there."""

import ast
import importlib
import re
from functools import lru_cache

import pytest
from lightning.pytorch.cli import LightningCLI

import mllm_srec
from mllm_srec.__main__ import COMMANDS
from mllm_srec.cli.checks import check_typed
from mllm_srec.cli.commands import clean, rank, summarize
from mllm_srec.cli.commands.trainer import TrainerParser
from mllm_srec.cli.experiment import ExperimentCLI
from mllm_srec.cli.schema import full_parser
from mllm_srec.data.loading.prompt_datamodule import PromptDataModule
from mllm_srec.models.recommender import MLLMRecommender
from tests.docs.documents import DOCUMENTS, ROOT, blocks, command_lines, commands, name_of

WHERE = {tuple(words): name_of(path) for path in DOCUMENTS for words in commands(path.read_text(encoding="utf-8"))}
"""Arguments of every command -> a document that shows it."""
CALLS = [pytest.param(words, id=f"{where}: {' '.join(words)[:60]}") for words, where in WHERE.items()]
ADDED = {"clean": clean.add_flags, "rank": rank.add_flags, "summarize": summarize.add_flags}
"""What commands add to the schema that all share."""


class ParserOnly(ExperimentCLI):
    """Parses, and stops before a checkpoint is read or anything is built."""

    def parse_arguments(self, parser, args):
        LightningCLI.parse_arguments(self, parser, args)

    def before_instantiate_classes(self):
        pass

    def instantiate_classes(self):
        pass

    def _run_subcommand(self, subcommand):
        pass


def parse_trainer_command(command, arguments):
    """Read the arguments of a Trainer method as LightningCLI does."""
    skipped = LightningCLI.subcommands()[command]
    one = type("One", (ParserOnly,), {"subcommands": staticmethod(lambda: {command: skipped})})
    one(
        MLLMRecommender, PromptDataModule, save_config_callback=None, seed_everything_default=0,
        parser_class=TrainerParser, auto_configure_optimizers=False, args=[command, *arguments],
    )  # fmt: skip


def parse(words):
    """Read a command line, as the command would, without running it."""
    if not words or words[0] in {"COMMAND", "--help", "--version"}:
        return
    command, *arguments = words
    assert command in COMMANDS, f"there is no command {command!r}"
    module = importlib.import_module(f"mllm_srec.cli.commands.{COMMANDS[command][0]}")
    arguments = [word for word in arguments if word != "--help"]
    if COMMANDS[command][0] == "trainer":
        parse_trainer_command(command, arguments)
    elif hasattr(module, "_parser"):
        takes_runs = command in {"compare", "analyse"} and not arguments
        module._parser(command).parse_args(["run"] if takes_runs else arguments or default_grid(command))
    else:
        schema_parser(command).parse_args(arguments)


@lru_cache
def schema_parser(command):
    """Parser of a command that takes the schema that all share."""
    parser = full_parser(command, "")
    ADDED.get(command, lambda parser: None)(parser)
    return parser


def default_grid(command):
    """A grid file for a bare `grid`, which a text names without one."""
    return ["--config", "experiments/table3.yaml"] if command == "grid" else []


@pytest.mark.parametrize("words", CALLS)
def test_every_command_is_understood(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    parse(words)


@pytest.mark.parametrize("words", CALLS)
def test_no_command_types_what_does_nothing(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    if not words or words[0] not in {"fit", "test", "run", "prepare"} or {"--help", "-h"} & set(words):
        return
    config = schema_parser("run").parse_args(words[1:])
    check_typed(words[1:], config)


@pytest.mark.parametrize(
    "line",
    [
        "fit --config configs/demo.yaml --model.lora.rank 4",
        "test --config configs/gone.yaml",
        "rank --usr a",
        "summarize --stage images",
        "compare a b --metric hr@10",
        "grid --config experiments/table3.yaml --job 2",
    ],
)
def test_a_wrong_command_is_found(line, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit):
        parse(line.split())
    capsys.readouterr()


def test_documents_hold_commands_of_all_kinds():
    shown = {words[0] for words in WHERE if words}
    assert set(COMMANDS) - {"validate", "predict"} <= shown


def test_the_readme_lists_every_command():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = {
        name for row in re.findall(r"^\| (`[^|]+) \|", text, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    assert listed == set(COMMANDS)


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_scripts_and_their_flags_exist(path):
    for line in command_lines(path.read_text(encoding="utf-8")):
        for script, rest in re.findall(r"python (\w[\w/]*\.py)(.*)", line):
            source = (ROOT / script).read_text(encoding="utf-8")
            assert [flag for flag in re.findall(r"--\w+", rest) if f'"{flag}"' not in source] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_python_blocks_import_public_names(path):
    for block in blocks(path.read_text(encoding="utf-8"), "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("mllm_srec"):
                assert node.module == "mllm_srec", f"{node.module} is not public"
                assert {name.name for name in node.names} <= set(mllm_srec.__all__)


@pytest.mark.parametrize("page", ["docs/python.md", "docs/api/public.md"])
def test_every_public_name_has_its_page(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    shown = set(re.findall(r"`(\w+)`", text)) | {path.rpartition(".")[2] for path in re.findall(r"::: (\S+)", text)}
    assert set(mllm_srec.__all__) - shown == {"__version__"}


@pytest.mark.parametrize("page", ["docs/api/public.md", "docs/api/rooms.md"])
def test_names_of_the_reference_exist(page):
    for name in re.findall(r"::: (\S+)", (ROOT / page).read_text(encoding="utf-8")):
        module, _, attribute = name.rpartition(".")
        if attribute[0].isupper() or page.endswith("public.md"):
            assert hasattr(importlib.import_module(module), attribute), name
        else:
            importlib.import_module(name)
