"""One schema for every command: its defaults are those of the classes, and it takes every file of configs/."""

import dataclasses
import inspect
from pathlib import Path

import pytest
import yaml

from mllm_srec.cli.experiment import NOT_SETTINGS, ExperimentCLI
from mllm_srec.cli.parser import plain
from mllm_srec.cli.schema import (
    TrackingSettings,
    as_settings,
    full_parser,
    light_parser,
)
from mllm_srec.data.loading.prompt_datamodule import PromptDataModule
from mllm_srec.data.settings import CandidateSettings, DemoSettings, PictureSettings, PrepareSettings
from mllm_srec.models.backbone import LoraSettings
from mllm_srec.models.recommender import MLLMRecommender
from mllm_srec.prompts.decoding import GenerationSettings
from mllm_srec.prompts.packing import PackingSettings
from mllm_srec.prompts.templates import PromptSettings
from mllm_srec.summaries.settings import StageSettings, SummarySettings

FOLDER = Path(__file__).resolve().parents[2] / "configs"
CONFIGS = sorted(set(FOLDER.rglob("*.yaml")) - set((FOLDER / "sweeps").iterdir()))  # those are not for our commands
LINKED = {("data", "backbone"), ("data", "revision"), ("data", "seed"), ("model", "seed")}


@pytest.fixture(scope="module")
def parser():
    return full_parser("prepare", "")


@pytest.fixture(scope="module")
def defaults(parser):
    return plain(parser.parse_args([]))


def class_defaults(cls):
    """Arguments of a class with their defaults: settings classes unfolded, `**kwargs` followed into the base class."""
    parameters = inspect.signature(cls).parameters.values()
    passed_on = class_defaults(cls.__bases__[0]) if any(p.kind is p.VAR_KEYWORD for p in parameters) else {}
    values = {p.name: p.default for p in parameters if p.kind is not p.VAR_KEYWORD}
    return passed_on | {k: dataclasses.asdict(v) if dataclasses.is_dataclass(v) else v for k, v in values.items()}


@pytest.mark.parametrize(("section", "cls"), [("model", MLLMRecommender), ("data", PromptDataModule)])
def test_defaults_of_classes(defaults, section, cls):
    expected = class_defaults(cls)
    assert len(expected) > 10
    for name, value in expected.items():
        if (section, name) not in LINKED:
            assert defaults[section][name] == value, f"{section}.{name}"


@pytest.mark.parametrize(
    ("keys", "settings"),
    [
        (("prepare",), PrepareSettings()),
        (("prepare", "demo"), DemoSettings()),
        (("candidates",), CandidateSettings()),
        (("summaries",), SummarySettings()),
        (("summaries", "preference"), SummarySettings().preference),
        (("summaries", "image", "generation"), GenerationSettings()),
        (("tracking",), TrackingSettings()),
        (("data", "pictures"), PictureSettings()),
        (("data", "prompt"), PromptSettings()),
        (("data", "packing"), PackingSettings()),
        (("model", "lora"), LoraSettings()),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else "",
)
def test_defaults_of_settings(defaults, keys, settings):
    found = defaults
    for key in keys:
        found = found[key]
    found = dataclasses.asdict(found) if dataclasses.is_dataclass(found) else found
    assert found == dataclasses.asdict(settings)


def test_what_we_set_otherwise_than_lightning(defaults):
    trainer = defaults["trainer"]
    assert trainer["default_root_dir"] == "runs"
    assert trainer["use_distributed_sampler"] is False
    assert trainer["enable_model_summary"] is False
    assert (defaults["data"]["root"], defaults["seed_everything"], defaults["name"]) == ("data", 0, None)


def test_the_light_parser_has_the_same_defaults(defaults):
    light = plain(light_parser("prepare", "").parse_args([]))
    for section in ("prepare", "candidates"):
        assert plain(light[section]) == defaults[section]
    location = plain(light["data"])
    location = dataclasses.asdict(location) if dataclasses.is_dataclass(location) else location
    assert location == {"root": "data", "name": "demo"}


def test_values_given_once_reach_both_sections(parser):
    config = parser.parse_args(["--model.backbone", "b", "--model.revision", "r", "--seed_everything", "7"])
    assert (config.data.backbone, config.data.revision, config.data.seed, config.model.seed) == ("b", "r", 7, 7)


@pytest.mark.parametrize("name", ["data.backbone", "data.revision", "data.seed", "model.seed"])
def test_the_second_place_of_a_value_is_refused(parser, name, capsys):
    with pytest.raises(SystemExit):
        parser.parse_args([f"--{name}", "3"])
    message = capsys.readouterr().err
    assert f"model.{name.rpartition('.')[2]}" in message or "seed_everything" in message


def test_sections_become_dataclasses(parser):
    config = parser.parse_args(["--prepare.k_core", "2", "--prepare.demo.n_users", "9", "--prepare.columns.title", "t"])
    settings = as_settings(PrepareSettings, config.prepare)
    assert isinstance(settings, PrepareSettings)
    assert (settings.k_core, settings.demo.n_users, settings.columns.title) == (2, 9, "t")
    candidates = as_settings(CandidateSettings, parser.parse_args(["--candidates.max_users", "5"]).candidates)
    assert candidates == CandidateSettings(max_users=5)


def test_the_summaries_section_becomes_dataclasses(parser):
    config = parser.parse_args(
        ["--summaries.item.generation.sample=true", "--summaries.item.backbone=x", "--data.prompt.cot=true"]
    )
    generation = GenerationSettings(sample=True)
    item = StageSettings(backbone="x", generation=generation)
    assert as_settings(SummarySettings, config.summaries) == SummarySettings(item=item)
    assert as_settings(PromptSettings, config.data.prompt) == PromptSettings(cot=True)


# --- the files of configs/ ----------------------------------------------------------------------------------------


def test_there_are_configurations():
    assert {"demo.yaml", "baby.yaml", "sports.yaml", "beauty.yaml", "toys.yaml"} <= {path.name for path in CONFIGS}


def with_what_it_changes(path):
    """Arguments that read a file; a budget of the demo shop stands on the overlay of the same name."""
    before = [path.parents[1] / path.name] if path.parent.name == "demo" else []
    return [word for file in [*before, path] for word in ("--config", str(file))]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(path.parents[1])))
def test_every_file_is_short_and_read_whole(parser, path):
    assert len(path.read_text().splitlines()) <= 40
    config = plain(parser.parse_args(with_what_it_changes(path)))
    for section, values in yaml.safe_load(path.read_text()).items():
        for name, value in values.items() if isinstance(values, dict) else ():
            if not isinstance(value, dict):
                found = config[section][name]
                assert (list(found) if isinstance(found, tuple) else found) == value, f"{section}.{name}"


ABLATIONS = {
    "base": {"variant": "base"}, "sv": {"variant": "sv"}, "svi": {"variant": "svi"}, "full": {"variant": "full"},
    "titles": {"variant": "none"}, "text": {"modality": "text"}, "image": {"modality": "image"},
    "reviews": {"use_reviews": True}, "cot": {"cot": True}, "cot_article": {"cot": True, "cot_order": "article"},
}  # fmt: skip


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_is_a_small_overlay_that_changes_one_thing(parser, name):
    path = next(file for file in CONFIGS if file.parent.name == "ablation" and file.stem == name)
    assert len(path.read_text().splitlines()) <= 10
    base = next(file for file in CONFIGS if file.name == "baby.yaml")
    plain_config = parser.parse_args(["--config", str(base)])
    config = parser.parse_args(["--config", str(base), "--config", str(path)])
    expected, prompt = (
        as_settings(SummarySettings, plain_config.summaries),
        as_settings(PromptSettings, plain_config.data.prompt),
    )
    changes = ABLATIONS[name]
    if "cot" in changes:
        prompt = dataclasses.replace(prompt, **changes)
    else:
        expected = dataclasses.replace(expected, **changes)
    assert as_settings(SummarySettings, config.summaries) == expected
    assert as_settings(PromptSettings, config.data.prompt) == prompt


def test_every_overlay_is_tested():
    assert {file.stem for file in CONFIGS if file.parent.name == "ablation"} == set(ABLATIONS)


class ParserOnly(ExperimentCLI):
    """Stops before anything is built."""

    def before_instantiate_classes(self):
        pass

    def instantiate_classes(self):
        pass

    def _run_subcommand(self, subcommand):
        pass


@pytest.fixture(scope="module")
def parse():
    """Function that parses a Trainer command's arguments."""
    from lightning.pytorch.cli import LightningCLI

    from mllm_srec.cli.commands.trainer import NOT_OFFERED, TrainerParser

    def parse(command, *arguments):
        skipped = LightningCLI.subcommands()[command] | NOT_OFFERED
        cls = type("One", (ParserOnly,), {"subcommands": staticmethod(lambda: {command: skipped})})
        cli = cls(
            MLLMRecommender, PromptDataModule, save_config_callback=None, seed_everything_default=0,
            parser_class=TrainerParser, auto_configure_optimizers=False, args=[command, *arguments],
        )  # fmt: skip
        return plain(cli.config[command])

    return parse


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_every_file_is_read_alike_by_every_command(parser, parse, command):
    arguments = [word for path in CONFIGS for word in with_what_it_changes(path)]  # later files win: each is checked
    found, expected = parse(command, *arguments), plain(parser.parse_args(arguments))
    for key in (*NOT_SETTINGS, "config"):
        found.pop(key, None)
        expected.pop(key, None)
    assert found == expected


def test_defaults_of_the_trainer_methods(parse):
    assert "weights_only" not in parse("fit")
    assert parse("test")["verbose"] is False
    assert parse("predict")["return_predictions"] is False


@pytest.mark.parametrize("value", ["true", "false"])
def test_a_truth_value_is_no_seed(value, capsys):
    with pytest.raises(SystemExit):
        full_parser("run", "").parse_args(["--seed_everything", value])
    assert f"seed_everything={value}: not a seed; give a whole number" in capsys.readouterr().err


def test_one_seed_serves_data_and_model():
    config = full_parser("run", "").parse_args(["--seed_everything", "7"])
    assert (config.data.seed, config.model.seed) == (7, 7)
