"""LightningCLI on our one schema: `fit`, `validate`, `test` and `predict`, from a parsed configuration to results.

Lightning calls `instantiate_classes` once, between parsing and the Trainer's method. That method is the whole start-up,
in the order in which it is written: check settings, choose the run folder, build what is missing, make the model with
its data, make the Trainer, open the stores, write down what is about to run. Results are `results.ResultWriter`'s.
"""

from __future__ import annotations

import shlex
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger

from mllm_srec.cli.callbacks import make_callbacks
from mllm_srec.cli.checks import (
    check_examples,
    check_settings,
    initial_weights_note,
    needs_backbone,
)
from mllm_srec.cli.cluster import cluster_plugins
from mllm_srec.cli.loggers import make_loggers
from mllm_srec.cli.parser import instantiate, plain
from mllm_srec.cli.progress_lines import on_terminal
from mllm_srec.cli.results import ResultWriter, current_protocol, measured_split
from mllm_srec.cli.run_choice import choose_run, separate_run
from mllm_srec.cli.schema import (
    PROGRAM,
    add_baseline,
    add_config_file,
    add_own_sections,
    dataset_settings,
    link_sections,
    stated_settings,
)
from mllm_srec.cli.stopping import stop_launched
from mllm_srec.cli.words import without_flags
from mllm_srec.data.loading.prompt_datamodule import PromptDataModule
from mllm_srec.data.loading.ranking_datamodule import RankingDataModule, ServedInputs
from mllm_srec.files.atomic import sealed, write_text
from mllm_srec.files.hashing import file_hash, text_hash
from mllm_srec.files.signals import Stopped
from mllm_srec.models.backbone_files import describe_backbone
from mllm_srec.models.lora_targets import check_lora_targets
from mllm_srec.models.ranking_module import RankingModule
from mllm_srec.models.recommender import MLLMRecommender
from mllm_srec.pipeline.build import ensure_prepared, resolve_backbone
from mllm_srec.pipeline.evaluation.retrieval import retrieved_lists
from mllm_srec.pipeline.model_kinds import Experiment, ItemExperiment, PromptExperiment
from mllm_srec.pipeline.runs.checkpoint_files import (
    read_checkpoint,
    readable_to_continue,
    remove_partial,
    whole_checkpoints,
)
from mllm_srec.pipeline.runs.checkpoints import check_processes
from mllm_srec.pipeline.runs.folder import RunFolder
from mllm_srec.pipeline.runs.names import is_first_process, note_weights
from mllm_srec.reports.terminal.preparation import print_prompts

METHOD_ARGUMENTS = ("verbose", "return_predictions")
"""Arguments of the Trainer's methods."""

NOT_SETTINGS = ("config", "ckpt_path", *METHOD_ARGUMENTS)
"""Arguments of one call; `config.yaml` leaves them out, so that every command can read it."""


class ExperimentCLI(LightningCLI):
    """LightningCLI whose classes, schema and run folder are fixed.

    Building what is missing happens before the Trainer exists, so that processes started side by side wait for it.
    """

    config: Any
    settings: Any
    """Parsed settings of the command."""
    run: RunFolder
    model: RankingModule
    datamodule: RankingDataModule
    subcommand: str
    experiment: Experiment
    """The recommender with its prompts, or the baseline that the settings name with its sequences."""
    typed: tuple[str, ...] = ()
    """Arguments as they were typed after the command."""
    held: ExitStack
    """What is released when the command ends, such as the lock of a run folder that is trained in."""

    # --- the command line -----------------------------------------------------------------------------------------

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Make a parser with our `--config`, which names file and key in its errors."""
        parser = self.parser_class(**kwargs)
        add_config_file(parser)
        return parser

    def setup_parser(self, *args: Any, **kwargs: Any) -> None:
        """Make the parsers; the usage shows the command as it is typed."""
        super().setup_parser(*args, **kwargs)
        for command, parser in self._subcommand_parsers.items():
            parser.prog = f"{PROGRAM} {command}"

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add our sections, and values that are given once and used twice."""
        add_own_sections(parser)
        add_baseline(parser)
        link_sections(parser)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, and read the checkpoint here: Lightning would let its settings replace those that were typed."""
        super().parse_arguments(parser, args)
        settings = self.config[self.config.subcommand]
        self.checkpoint: dict[str, Any] | None = None
        if settings.ckpt_path and self.config.subcommand == "fit":
            path, self.checkpoint, other = readable_to_continue(Path(settings.ckpt_path))
            settings.ckpt_path = str(path)
            if other and is_first_process():
                print(other, flush=True)
        elif settings.ckpt_path:
            self.checkpoint = read_checkpoint(settings.ckpt_path)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Add what is not a setting: a checkpoint is read as weights, and nothing in it is run."""
        return {**super()._prepare_subcommand_kwargs(subcommand), "weights_only": True}

    # --- the start-up ---------------------------------------------------------------------------------------------

    def instantiate_classes(self) -> None:
        """Prepare the run: everything between the parsed configuration and the Trainer's method, in this order."""
        self.settings = self.config[self.subcommand]
        self.dry = bool(self.settings.trainer.fast_dev_run)
        check_settings(self.subcommand, self.settings, self.typed)
        if is_first_process() and (note := initial_weights_note(self.subcommand, self.settings)) is not None:
            print(note, file=sys.stderr, flush=True)
        self.run = choose_run(self.subcommand, self._parser(self.subcommand), self.settings, self.checkpoint)
        self._build_missing()
        self.experiment = self._make_experiment()
        self.model, self.datamodule = self.experiment.model, self.experiment.datamodule
        self._give_inputs()
        check_examples(self.subcommand, self.datamodule, self.model)
        if self.subcommand != "fit":
            self.run = separate_run(self.run, measured_split(self.subcommand), self.datamodule, self._protocol())
        self.trainer = self._make_trainer()
        if self.subcommand == "fit" and self.checkpoint is not None:
            check_processes(self.checkpoint, self.trainer.world_size)
        self._open_stores()
        if self.trainer.is_global_zero and not self.dry:
            self._begin_run()

    def _build_missing(self) -> None:
        """Prepare the demo shop if it is missing and resolve the backbone's name, one process at a time.

        Raises:
            ConfigError: A real data set is not prepared, or the backbone cannot be read.
        """
        config = self.settings
        folder, prepare, candidates = dataset_settings(config)
        command = shlex.join([*PROGRAM.split(), "prepare", *self.typed])
        data = ensure_prepared(folder, prepare, candidates, command)
        if needs_backbone(config):
            config.model.backbone = config.data.backbone = resolve_backbone(config.model.backbone, data)
        if needs_backbone(config):
            describe_backbone(config.model.backbone, config.model.revision)  # an error of ours where it cannot be read
        if config.baseline is None and config.model.finetune == "lora":
            check_lora_targets(config.model.backbone, config.model.revision, config.model.lora.target_modules)

    def _make_experiment(self) -> Experiment:
        """Make the recommender with its prompts, or the baseline that the settings name."""
        config = self.settings
        self.config_init = instantiate(self.parser, self.config)
        made = self.config_init[self.subcommand]
        command = shlex.join([*PROGRAM.split(), "summarize", *self.typed])
        recommender, prompts = cast(MLLMRecommender, made.model), cast(PromptDataModule, made.data)
        if made.baseline is None:
            return PromptExperiment(recommender, prompts, made.summaries, command)
        given = plain(config.baseline).get("init_args") or {}
        return ItemExperiment(
            made.baseline, given, plain(config.data), recommender.settings, prompts.pictures, made.item_features
        )

    def _give_inputs(self) -> None:
        """Give model and data what was computed before: summaries, item features, retrieved lists.

        They are part of the protocol and decide the run folder. A checkpoint is compared with the model here, before
        anything is written.
        """
        data = self.datamodule
        self.experiment.use_inputs(training=self.subcommand == "fit")
        if data.evaluator == "rerank" and self.subcommand != "fit":
            split = measured_split(self.subcommand)
            lists = retrieved_lists(data.retriever, data.data, split, data.n_retrieved)
            data.use(ServedInputs(retrieved={split: lists}))
        if self.checkpoint is not None:
            self.experiment.check(self.checkpoint)

    def _make_trainer(self) -> Trainer:
        """Make the Trainer with our loggers, checkpoints and prediction writer, unless the user chose loggers."""
        config = self.config_init[self.subcommand]
        chosen: dict[str, Any] = {}
        if config.trainer.logger in (None, True) and not self.dry:
            chosen["logger"] = make_loggers(self.run, self.subcommand, config.tracking)
        if self.subcommand != "fit" and not config.trainer.callbacks:
            chosen["enable_checkpointing"] = False  # else Lightning adds a callback that takes the state of ours
        if not on_terminal():
            chosen["enable_progress_bar"] = False  # `ProgressLines` say the same in lines
        if not config.trainer.plugins:
            chosen["plugins"] = cluster_plugins(config.trainer.default_root_dir)
        identity = self._identity() if self.subcommand != "fit" and not self.dry else None
        callbacks = make_callbacks(self.subcommand, config, self.experiment, self.run, identity)
        self.trainer_defaults = {**self.trainer_defaults, "callbacks": callbacks}
        trainer: Trainer = self.instantiate_trainer(**chosen)
        trainer.strategy.checkpoint_io = whole_checkpoints(trainer.strategy.checkpoint_io)
        return trainer

    def _open_stores(self) -> None:
        """Open the stores of prompts, pictures and features, which are built where they are missing."""
        report = self.experiment.open_stores()
        if self.trainer.is_global_zero and report:
            print_prompts(report)

    def _begin_run(self) -> None:
        """Make the run folder, and write the settings into it and into the logs."""
        self.run.create()
        fitting = self.subcommand == "fit"
        if fitting:
            self.held.callback(self.run.occupy().release)
            remove_partial(self.run.checkpoints)
            data = self.datamodule
            facts = {"fit/data": data.name, "fit/candidates_hash": data.data.candidates_hash}
            self.run.begin_training(facts)
        elif self.checkpoint is not None:
            note_weights(self.run, measured_split(self.subcommand), Path(self.settings.ckpt_path))
        settings = self._resolved_settings()
        for logger in self.trainer.loggers:  # under one key elsewhere, so that they do not mix with those of a sweep
            logger.log_hyperparams(settings if isinstance(logger, CSVLogger) else {"config": settings})
        if fitting or not self.run.config.exists():  # a training that goes on may do so with more epochs
            text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
            text = f"# Settings of this run; every command takes them as --config.\n{text}"
            write_text(sealed(text), self.run.config)

    def _run_subcommand(self, subcommand: str) -> None:
        """Run the Trainer's method; one that is told to stop says how it goes on."""
        try:
            super()._run_subcommand(subcommand)
        except Stopped as stop:
            stop_launched(self.trainer)
            raise Stopped(stop.number, self._how_to_go_on()) from None

    def _how_to_go_on(self) -> str | None:
        """Sentence on how what was begun goes on in this run folder; None if nothing was begun."""
        command, words = self.subcommand, list(self.typed)
        if self.dry:
            return "a trial leaves nothing; the same command starts again"
        if command == "fit" and self.run.last.exists():
            kept = f"{self.run.last} holds step {self.trainer.global_step}"
            words = [*without_flags(words, ["ckpt_path"]), "--ckpt_path", str(self.run.last)]
        elif command == "fit":
            lost = "without checkpoints (trainer.enable_checkpointing=false) nothing of it is kept"
            return f"{lost}; the same command starts again" if not self.trainer.checkpoint_callbacks else None
        else:
            kept = "what is scored is kept"
            if self.settings.ckpt_path is None and self.settings.name is None:
                words += ["--name", self.run.path.name]
        return f"{kept}; go on with\n  {shlex.join([*PROGRAM.split(), command, *words])}"

    # --- what identifies a measurement ------------------------------------------------------------------------------

    def _resolved_settings(self) -> dict[str, Any]:
        """Every setting, given or left at its default, in the form that any command reads."""
        return {**self._stated_settings(), "name": self.run.path.name}

    def _stated_settings(self) -> dict[str, Any]:
        stated = stated_settings(self.parser, self.config)[self.subcommand]
        return {key: value for key, value in stated.items() if key not in NOT_SETTINGS}

    def _protocol(self) -> dict[str, Any]:
        return current_protocol(self.subcommand, self.settings, self.experiment, self.run)

    def _identity(self) -> str:
        """Hash of everything that decides the scores: an interrupted evaluation of the same is continued."""
        path = self.settings.ckpt_path
        weights = file_hash(Path(path)) if path else None
        precision = self.settings.trainer.precision
        parts = (sorted(self._protocol().items()), weights, *self.experiment.identity(), precision)
        return text_hash(repr((*parts, self.datamodule.data.content_hash)))

    # --- results, after the Trainer's method ------------------------------------------------------------------------

    @property
    def _results(self) -> ResultWriter | None:
        """Writer of the results; None for dry runs and on all processes but the first."""
        if self.dry or not self.trainer.is_global_zero:
            return None
        step = None if self.checkpoint is None else int(self.checkpoint["global_step"])
        return ResultWriter(self.subcommand, self.settings, self.experiment, self.run, step)

    def after_fit(self) -> None:
        """Export the best weights, write and print their validation results."""
        if (results := self._results) is not None:
            results.write_fitted(self.trainer)

    def after_validate(self) -> None:
        """Write and print the results."""
        if (results := self._results) is not None:
            results.write_measured("val", self.model.results)

    def after_test(self) -> None:
        """Write and print the results."""
        if (results := self._results) is not None:
            results.write_measured("test", self.model.results)

    def after_predict(self) -> None:
        """Write what the scores were computed with."""
        if (results := self._results) is not None:
            results.write_predicted()
