"""`fit`, `validate`, `test`, `predict`: LightningCLI on our one schema, with a run folder of our own."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger

from mllm_srec.cli.parser import NearestNameMixin, plain
from mllm_srec.cli.quiet import silence_libraries
from mllm_srec.cli.schema import TrackingSettings, add_own_sections, candidate_settings, link_sections, prepare_settings
from mllm_srec.data.prompt_datamodule import PromptDataModule
from mllm_srec.models.backbone import BackboneSettings
from mllm_srec.models.recommender import MLLMRecommender
from mllm_srec.pipeline.build import ensure_prepared, folder_lock, resolve_backbone
from mllm_srec.pipeline.features import extract_features
from mllm_srec.pipeline.predictions import PredictionWriter
from mllm_srec.pipeline.results import protocol, references, stage_metrics
from mllm_srec.pipeline.run_folder import RunFolder, new_run, run_of_checkpoint
from mllm_srec.reports.terminal import print_prompts, print_results
from mllm_srec.types import ConfigError, Split


class TrainerParser(NearestNameMixin, LightningArgumentParser):
    """Lightning's parser with our errors."""


class ExperimentCLI(LightningCLI):
    """LightningCLI whose classes, schema and run folder are fixed.

    Building what is missing happens before the Trainer exists, so that processes started side by side wait for it.
    """

    config: Any
    model: MLLMRecommender
    datamodule: PromptDataModule

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add our sections, and values that are given once and used twice."""
        add_own_sections(parser)
        link_sections(parser)

    def before_instantiate_classes(self) -> None:
        """Check settings that cross sections, choose the run folder and build what is missing."""
        config = self.config[self.subcommand]
        config.weights_only = True  # a checkpoint is data, and is never unpickled as code
        if self.subcommand in ("validate", "test"):
            config.verbose = False  # our own table says it, with references
        _check_precision(config.trainer.precision)
        folder = Path(config.data.root) / config.data.name
        with folder_lock(folder):
            data = ensure_prepared(folder, prepare_settings(config.prepare), candidate_settings(config.candidates))
            config.model.backbone = config.data.backbone = resolve_backbone(config.model.backbone, data)
        self.run = self._choose_run(config)

    def _choose_run(self, config: Any) -> RunFolder:
        """The checkpoint's run folder, or a new one."""
        if config.ckpt_path:
            if not Path(config.ckpt_path).is_file():
                raise ConfigError(f"ckpt_path={config.ckpt_path!r} is no file; give one of a run's checkpoints/")
            run = run_of_checkpoint(config.ckpt_path)
            if run is not None:
                return run
        seed = int(config.seed_everything)
        run = new_run(config.trainer.default_root_dir, config.data.name, config.name, seed)
        if self.subcommand == "fit" and run.config.exists() and not _is_launched_child():
            raise ConfigError(
                f"{run.path} holds a run already; choose another --name, or continue it with "
                f"--ckpt_path {run.checkpoints / 'last.ckpt'}"
            )
        return run

    def instantiate_classes(self) -> None:
        """Make data module, model and Trainer, then the stores that need the backbone's files."""
        super().instantiate_classes()
        with folder_lock(self.datamodule.folder):
            stores = self.datamodule.stores
            print_prompts(asdict(stores.prompts.report))
            if self.datamodule.pictures.serve == "features" and stores.images is not None:
                self._use_features()
        self.run = self._separate_protocols(self.run)
        self.run.create()
        for logger in self.trainer.loggers:
            logger.log_hyperparams({"config": self._resolved()})
        if self.trainer.is_global_zero and not self.run.config.exists():
            self.run.config.write_text(self._dump(), encoding="utf-8")

    def _use_features(self) -> None:
        settings = self.model.settings
        if settings.finetune == "full":
            raise ConfigError(
                "data.pictures.serve='features' with model.finetune='full': features of a tower that is being trained "
                "would be outdated after one step; set data.pictures.serve to pixels"
            )
        frozen = BackboneSettings(settings.name, settings.revision, "none", dtype=settings.dtype, quantization="none")
        if settings.quantization == "nf4":  # the tower is never quantised, and the rest then takes less memory
            frozen = BackboneSettings(settings.name, settings.revision, "none", dtype=settings.dtype)
        images = self.datamodule.stores.images
        if images is not None:
            self.datamodule.use_features(extract_features(images, frozen))

    def _separate_protocols(self, run: RunFolder) -> RunFolder:
        """Another folder, named after what differs, where this stage was measured with another protocol."""
        stage = self._split()
        differing = run.protocol_differences(stage, self._protocol())
        if not differing or self.subcommand == "fit":
            return run
        now = self._protocol()
        parts = [now["evaluator"], now["score"], now["candidates_hash"][:8], f"groups-{now['max_groups'] or 'all'}"]
        label = f"{run.path.name}--{'-'.join(parts)}"
        print(f"{run.path} holds {stage} results of another protocol ({'; '.join(differing)}); writing to {label}")
        return RunFolder(run.path.with_name(label))

    def _protocol(self) -> dict[str, Any]:
        return protocol(self.datamodule, self._split(), self.model.score_kind, fitting=self.subcommand == "fit")

    def _split(self) -> Split:
        return "test" if self.subcommand in ("test", "predict") else "val"

    def _is_dry(self) -> bool:
        """A `fast_dev_run`, which writes nothing."""
        return bool(self.config_init[self.subcommand].trainer.fast_dev_run)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A Trainer with our loggers, checkpoints and prediction writer, unless the user chose loggers."""
        config = self.config_init[self.subcommand]
        if config.trainer.logger in (None, True):
            kwargs["logger"] = self._loggers(config)
        callbacks: list[Any] = [PredictionWriter(self.run.predictions)]
        if self.subcommand == "fit" and config.trainer.enable_checkpointing is not False:
            callbacks.append(
                ModelCheckpoint(
                    self.run.checkpoints,
                    filename="best",
                    monitor="val/auc",
                    mode="max",
                    save_last=True,
                    enable_version_counter=False,
                )
            )
        self.trainer_defaults = {**self.trainer_defaults, "callbacks": callbacks}
        trainer: Trainer = super().instantiate_trainer(**kwargs)
        return trainer

    def _loggers(self, config: Any) -> list[Logger]:
        loggers: list[Logger] = [CSVLogger(self.run.path, name="", version="logs")]
        tracking: TrackingSettings = config.tracking
        if tracking.wandb:
            self.run.create()
            loggers.append(
                WandbLogger(
                    name=self.run.path.name,
                    save_dir=str(self.run.path),
                    project=tracking.project,
                    entity=tracking.entity,
                    offline=tracking.offline,
                    tags=list(tracking.tags),
                )
            )
        return loggers

    def _dump(self) -> str:
        text: str = self.parser.dump(self.config, skip_link_targets=True, skip_none=False, format="yaml")
        return text

    def _resolved(self) -> dict[str, Any]:
        resolved: dict[str, Any] = plain(self.config[self.subcommand])
        return resolved

    # --- after a stage --------------------------------------------------------------------------------------------

    def after_fit(self) -> None:
        """Export the best weights, write the validation results of the best checkpoint and say where they are."""
        if self._is_dry() or not self.trainer.is_global_zero:
            return
        callback = self.trainer.checkpoint_callback
        best = Path(callback.best_model_path) if isinstance(callback, ModelCheckpoint) else None
        if best is not None and best.is_file():
            checkpoint = torch.load(best, weights_only=True, map_location="cpu")
            self.model.load_state_dict(checkpoint["state_dict"], strict=False)
            self.model.results = checkpoint["results"]
        self.model.save_adapter(self.run.adapter)
        self._finish("val")
        if best is not None:
            print(f"best checkpoint by val/auc: {best}\nnext: python -m mllm_srec test --config ... --ckpt_path {best}")

    def after_validate(self) -> None:
        """Write and print the results."""
        self._finish("val")

    def after_test(self) -> None:
        """Write and print the results."""
        self._finish("test")

    def _finish(self, stage: Split) -> None:
        if self._is_dry() or not self.trainer.is_global_zero:
            return
        metrics = stage_metrics(self.model.results, stage)
        info = self.model.loaded.info
        about = {**self._protocol(), "random_backbone": info.random_weights, "backbone": info.name}
        self.run.merge_metrics(stage, metrics, about)
        notes = [f"results, predictions and settings: {self.run.path}"]
        if info.random_weights:
            notes.append("the backbone began with random weights: these numbers say nothing about the method")
        drawn = f", {about['max_groups']} drawn groups of each kind" if about["max_groups"] else ""
        title = f"{self.datamodule.name}, {stage} split, {about['evaluator']}, ties {about['ties']}{drawn}"
        print_results(title, metrics, stage, references(self.datamodule, stage), notes)


def _check_precision(precision: Any) -> None:
    if str(precision).endswith("-true") and not str(precision).startswith(("32", "64")):
        raise ConfigError(
            f"trainer.precision={precision!r} would cast LoRA weights and norms to half precision unseen; "
            "use bf16-mixed on a GPU and 32-true on a CPU"
        )


def _is_launched_child() -> bool:
    """Whether another process of this run made the folder already."""
    return int(os.environ.get("LOCAL_RANK", "0")) > 0 or int(os.environ.get("NODE_RANK", "0")) > 0


def main(command: str, arguments: list[str]) -> None:
    """Run one Trainer command; only its own parser is built."""
    silence_libraries()
    skipped = LightningCLI.subcommands()[command]
    one_command = type("OneCommandCLI", (ExperimentCLI,), {"subcommands": staticmethod(lambda: {command: skipped})})
    one_command(
        model_class=MLLMRecommender,
        datamodule_class=PromptDataModule,
        save_config_callback=None,
        seed_everything_default=0,
        parser_class=TrainerParser,
        parser_kwargs={"prog": "mllm_srec", command: {"prog": f"mllm_srec {command}"}},
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
        args=[command, *arguments],
    )
