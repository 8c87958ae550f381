"""LightningCLI on our one schema: builds what is missing, chooses the run folder, writes and prints results."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger

from mllm_srec.cli.checks import check_settings, is_trained, needs_backbone
from mllm_srec.cli.cluster import cluster_plugins
from mllm_srec.cli.loggers import StartMessage, log_best, make_loggers
from mllm_srec.cli.parser import plain
from mllm_srec.cli.schema import (
    PROGRAM,
    RUNS,
    add_baseline,
    add_config_file,
    add_own_sections,
    candidate_settings,
    link_sections,
    prepare_settings,
    summary_settings,
)
from mllm_srec.data.loading.prompt_datamodule import PromptDataModule
from mllm_srec.data.loading.ranking_datamodule import RankingDataModule
from mllm_srec.files.atomic import write_whole
from mllm_srec.files.hashing import file_hash, text_hash
from mllm_srec.models.backbone_files import describe_backbone
from mllm_srec.models.ranking_module import RankingModule
from mllm_srec.models.recommender import MLLMRecommender
from mllm_srec.pipeline.build import ensure_prepared, folder_lock, resolve_backbone
from mllm_srec.pipeline.evaluation.prediction_writer import PredictionWriter
from mllm_srec.pipeline.evaluation.references import (
    CEILINGS_NOTE,
    protocol,
    reference_metrics,
    references,
    stage_metrics,
)
from mllm_srec.pipeline.evaluation.retrieval import retrieved_lists
from mllm_srec.pipeline.evaluation.wandb_examples import ExampleTable
from mllm_srec.pipeline.model_kinds import Experiment, ItemExperiment, PromptExperiment
from mllm_srec.pipeline.runs.checkpoints import RunCheckpoint, StayStopped, check_resume, read_checkpoint
from mllm_srec.pipeline.runs.folder import RunFolder
from mllm_srec.pipeline.runs.names import (
    WEIGHTS,
    is_first_process,
    new_run,
    note_weights,
    run_for_checkpoint,
    run_of_checkpoint,
)
from mllm_srec.reports.terminal.preparation import print_prompts
from mllm_srec.reports.terminal.results import print_results
from mllm_srec.types import ConfigError, Split

METHOD_ARGUMENTS = ("verbose", "return_predictions", "weights_only")
"""Arguments of the Trainer's methods."""

NOT_SETTINGS = ("config", "ckpt_path", *METHOD_ARGUMENTS)
"""Arguments that say what to do now; `config.yaml` does without them, so that every command can read it."""


class ExperimentCLI(LightningCLI):
    """LightningCLI whose classes, schema and run folder are fixed.

    Building what is missing happens before the Trainer exists, so that processes started side by side wait for it.
    """

    config: Any
    model: RankingModule
    datamodule: RankingDataModule
    subcommand: str
    experiment: Experiment
    """The recommender, or where the settings name a baseline, that."""
    typed: tuple[str, ...] = ()
    """What was typed behind the command."""

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
        """Parse, and read the checkpoint: Lightning would take settings out of a foreign one, over what was typed."""
        super().parse_arguments(parser, args)
        path = self.config[self.config.subcommand].ckpt_path
        self.checkpoint = read_checkpoint(path) if path else None

    # --- before a stage -------------------------------------------------------------------------------------------

    def before_instantiate_classes(self) -> None:
        """Check settings that cross sections, choose the run folder and build what is missing."""
        config = self.config[self.subcommand]
        self.dry = bool(config.trainer.fast_dev_run)
        check_settings(self.subcommand, config)
        self.run = self._choose_run(config)
        if not self.dry:
            self.run.check_writable()
        folder = Path(config.data.root) / config.data.name
        command = shlex.join([*PROGRAM.split(), "prepare", *self.typed])
        with folder_lock(folder):
            data = ensure_prepared(
                folder, prepare_settings(config.prepare), candidate_settings(config.candidates), command
            )
            if needs_backbone(config):
                config.model.backbone = config.data.backbone = resolve_backbone(config.model.backbone, data)
        if needs_backbone(config):
            describe_backbone(config.model.backbone, config.model.revision)  # an error of ours where it cannot be read

    def _choose_run(self, config: Any) -> RunFolder:
        """The checkpoint's run folder, or a new one."""
        root = Path(config.trainer.default_root_dir)
        origin = run_of_checkpoint(config.ckpt_path) if config.ckpt_path else None
        if self.subcommand == "fit" and self.checkpoint is not None:
            check_resume(self.checkpoint, plain(config), origin)
        if origin is not None:
            checkpoint = Path(config.ckpt_path)
            return run_for_checkpoint(origin, root, RUNS, config.data.name, config.name, checkpoint)
        run = new_run(root, config.data.name, config.name, int(config.seed_everything))
        if self.subcommand == "fit" and is_first_process() and run.holds_work():
            hint = f", or continue it with --ckpt_path {run.last}" if run.last.exists() else ""
            raise ConfigError(f"{run.path} holds a run already; choose another --name{hint}")
        return run

    def instantiate_classes(self) -> None:
        """Make data module, model and Trainer, then the stores that need the backbone's files."""
        super().instantiate_classes()
        with folder_lock(self.datamodule.folder):
            report = self.experiment.open_stores()
        if self.trainer.is_global_zero and report:
            print_prompts(report)
        if not self.dry:
            self._begin_run()

    def _make_experiment(self) -> Experiment:
        """The baseline that the settings name, or the recommender."""
        config, made = self.config[self.subcommand], self.config_init[self.subcommand]
        command = shlex.join([*PROGRAM.split(), "summarize", *self.typed])
        recommender, prompts = cast(MLLMRecommender, self.model), cast(PromptDataModule, self.datamodule)
        if made.baseline is None:
            return PromptExperiment(recommender, prompts, summary_settings(config.summaries), command)
        given = plain(config.baseline).get("init_args") or {}
        return ItemExperiment(
            made.baseline, given, plain(config.data), recommender.settings, prompts.pictures, made.item_features
        )

    def _use_retriever(self) -> None:
        """Give the data module the lists that are reranked."""
        data = self.datamodule
        if data.evaluator == "rerank" and self.subcommand != "fit":
            split = self._split()
            data.retrieved[split] = retrieved_lists(data.retriever, data.data, split, data.n_retrieved)

    def _begin_run(self) -> None:
        """Make the run folder, and note the settings in it and in the logs."""
        if not self.trainer.is_global_zero:
            return
        self.run.create()
        fitting = self.subcommand == "fit"
        if fitting:
            self._training_lock = self.run.occupy()  # held until this process ends
            data = self.datamodule
            facts = {"fit/data": data.name, "fit/candidates_hash": data.data.candidates_hash}
            self.run.merge_metrics("fit", facts, {})
        elif self.checkpoint is not None:
            note_weights(self.run, self._split(), Path(self.config[self.subcommand].ckpt_path))
        settings = self._settings()
        for logger in self.trainer.loggers:  # under one key elsewhere, so that they do not mix with those of a sweep
            logger.log_hyperparams(settings if isinstance(logger, CSVLogger) else {"config": settings})
        if not self.run.config.exists() or (fitting and self.checkpoint is None):
            text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
            self.run.config.write_text(f"# Settings of this run; every command takes them as --config.\n{text}")

    def _settings(self) -> dict[str, Any]:
        """Everything that was set or left at its default, as any command reads it."""
        dumped = yaml.safe_load(self.parser.dump(self.config, skip_link_targets=True, skip_none=False))
        settings = {key: value for key, value in dumped[self.subcommand].items() if key not in NOT_SETTINGS}
        return {**settings, "name": self.run.path.name}

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A Trainer with our loggers, checkpoints and prediction writer, unless the user chose loggers."""
        self.experiment = self._make_experiment()
        self.model, self.datamodule = self.experiment.model, self.experiment.datamodule
        with folder_lock(self.datamodule.folder):  # both decide the protocol, and with it the run folder
            self.experiment.use_inputs()
        self._use_retriever()
        if self.checkpoint is not None:  # before anything is written
            self.experiment.check(self.checkpoint)
        self.run = self._separated(self.run)
        config = self.config_init[self.subcommand]
        if config.trainer.logger in (None, True) and not self.dry:
            kwargs["logger"] = make_loggers(self.run, self.subcommand, config.tracking)
        if self.subcommand != "fit" and not config.trainer.callbacks:
            kwargs["enable_checkpointing"] = False  # else Lightning adds a callback that takes the state of ours
        if not config.trainer.plugins:
            kwargs["plugins"] = cluster_plugins(config.trainer.default_root_dir)
        self.trainer_defaults = {**self.trainer_defaults, "callbacks": self._callbacks(config)}
        trainer: Trainer = super().instantiate_trainer(**kwargs)
        return trainer

    def _callbacks(self, config: Any) -> list[Callback]:
        examples: list[Callback] = [ExampleTable()] if config.tracking.wandb and not self.dry else []
        if self.subcommand != "fit":
            return [] if self.dry else [PredictionWriter(self.run.predictions, self._identity()), *examples]
        if config.trainer.enable_checkpointing is False or self.dry:
            return [StartMessage()]
        folder = self.run.checkpoints
        monitor, patience = self.experiment.monitor, self.experiment.patience
        best = RunCheckpoint(folder, "best", monitor=monitor)
        # Not `save_last`: that one is written only when the best one is, and a kill would lose what came since.
        last = RunCheckpoint(folder, "last")
        stop = [] if patience is None else [EarlyStopping(monitor, patience=patience, mode="max"), StayStopped()]
        return [StartMessage(), *([best, *stop] if config.trainer.limit_val_batches != 0 else []), last, *examples]

    def _identity(self) -> str:
        """Hash of all that decides the scores: an evaluation of the same is continued where it was broken off."""
        config = self.config[self.subcommand]
        weights = file_hash(Path(config.ckpt_path)) if config.ckpt_path else None
        parts = (sorted(self._protocol().items()), weights, *self.experiment.identity(), config.trainer.precision)
        return text_hash(repr((*parts, self.datamodule.data.content_hash)))

    def _separated(self, run: RunFolder) -> RunFolder:
        """Another folder, named after what differs, for other data or another protocol than the run folder's."""
        if self.subcommand == "fit":
            return run
        stage = self._split()
        data = self.datamodule.data
        chosen = run.for_data(str(self.datamodule.name), data.candidates_hash).for_protocol(stage, self._protocol())
        if chosen.path != run.path and is_first_process():
            print(f"{run.path} holds results of other data or another protocol; writing to {chosen.path}")
        return chosen

    def _protocol(self) -> dict[str, Any]:
        path = self.config[self.subcommand].ckpt_path
        if self.subcommand == "fit":
            path = self.run.best if self.run.best.exists() else None
        checkpoint = Path(path).name if path else None
        fitting = self.subcommand == "fit"
        return protocol(self.datamodule, self._split(), self.experiment.score_label, checkpoint, fitting=fitting)

    def _split(self) -> Split:
        return "test" if self.subcommand in ("test", "predict") else "val"

    # --- after a stage --------------------------------------------------------------------------------------------

    def after_fit(self) -> None:
        """Export the best weights, write the validation results of the best checkpoint and say where they are."""
        if self.dry or not self.trainer.is_global_zero:
            return
        results, facts = self.model.results, {"fit/steps": self.trainer.global_step, **self.experiment.tokens("train")}
        best = self.run.best
        if best.exists():
            checkpoint = torch.load(best, weights_only=True, map_location="cpu")
            self.experiment.load_best(checkpoint)
            results, facts["fit/best_step"] = checkpoint["results"], checkpoint["global_step"]
        self.experiment.export(self.run)
        if results:
            log_best(self.trainer.loggers, results)
            self._finish("val", results)
        self.run.merge_metrics("fit", facts, {})
        if best.exists():
            print(f"next: {PROGRAM} test --config {self.run.config} --ckpt_path {best}")

    def after_validate(self) -> None:
        """Write and print the results."""
        self._finish("val", self.model.results)

    def after_test(self) -> None:
        """Write and print the results."""
        self._finish("test", self.model.results)

    def after_predict(self) -> None:
        """Note what the scores were computed with, so that no other protocol takes their place."""
        if not self.dry and self.trainer.is_global_zero:
            self.run.merge_metrics("test", {}, self._protocol())
            self._write_retrieved("test")
            print(f"scores: {self.run.predictions / 'test.parquet'}")

    def _finish(self, stage: Split, results: dict[str, float]) -> None:
        if self.dry or not self.trainer.is_global_zero:
            return
        metrics = stage_metrics(results, stage)
        accuracy, facts = self.experiment.summary_accuracy(), self.experiment.facts()
        metrics |= {f"{stage}/summaries/{name}": value for name, value in accuracy.items()}
        metrics |= self.experiment.tokens(stage)
        beside = references(self.datamodule, stage)
        metrics |= reference_metrics(beside, stage)
        about = {**self._protocol(), **facts}
        if self.checkpoint is not None and self.subcommand != "fit":
            weights = file_hash(Path(self.config[self.subcommand].ckpt_path))
            about |= {"step": self.checkpoint["global_step"], WEIGHTS: weights}
        run = self.run.for_protocol(stage, about)
        run.create()
        run.merge_metrics(stage, metrics, about)
        self._write_retrieved(stage)
        notes = [f"results, predictions and settings: {run.path}"]
        if facts["random_backbone"]:
            notes.append("the backbone began with random weights: these numbers say nothing about the method")
        config = self.config[self.subcommand]
        if config.baseline is not None and self.subcommand != "fit" and self.checkpoint is None and is_trained(config):
            notes.append("no --ckpt_path was given: these are the numbers of initial weights, of no trained model")
        drawn = f", {about['max_groups']} drawn groups of each kind" if about["max_groups"] else ""
        title = f"{self.datamodule.name}, {stage} split, {about['evaluator']}, ties {about['ties']}{drawn}"
        if any(name.startswith("oracle") for name in beside):
            notes.insert(0, CEILINGS_NOTE)
        if accuracy:
            shares = ", ".join(f"{name.replace('/', ' ')} {value:.4f}" for name, value in accuracy.items())
            notes.insert(0, f"summaries against the truth: {shares} (of a preference, chance is 0.5)")
        print_results(title, metrics, stage, beside, notes)

    def _write_retrieved(self, stage: Split) -> None:
        """Keep the lists that were reranked beside the predictions."""
        data = self.datamodule
        if stage in data.retrieved:
            users = data.data.groups.select("group_id", "user_id")
            lists = data.retrieved[stage].join(users, on="group_id", how="left", maintain_order="left")
            write_whole(lists, self.run.predictions / f"{stage}_retrieved.parquet")
