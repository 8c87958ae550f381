"""Results of `fit`, `validate`, `test` and `predict`: written into the run folder, printed beside their references."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from mllm_srec.cli.checks import initial_weights_note
from mllm_srec.cli.loggers import log_best
from mllm_srec.cli.schema import PROGRAM
from mllm_srec.files.atomic import write_table
from mllm_srec.files.hashing import file_hash
from mllm_srec.pipeline.evaluation.references import (
    CEILINGS_NOTE,
    RULES_NOTE,
    protocol,
    reference_metrics,
    references,
    split_metrics,
)
from mllm_srec.pipeline.model_kinds import Experiment
from mllm_srec.pipeline.runs.checkpoint_files import read_checkpoint
from mllm_srec.pipeline.runs.folder import RunFolder
from mllm_srec.pipeline.runs.names import WEIGHTS
from mllm_srec.reports.terminal.results import print_results
from mllm_srec.types import Split


def measured_split(command: str) -> Split:
    """Split that a command measures: `test` for `test` and `predict`, `val` for the others."""
    return "test" if command in ("test", "predict") else "val"


def current_protocol(command: str, config: Any, experiment: Experiment, run: RunFolder) -> dict[str, Any]:
    """Return the protocol of what a command measures.

    Args:
        command: `fit`, `validate`, `test` or `predict`.
        config: Parsed settings of the command.
        experiment: The model with its data.
        run: Run folder of the command; `fit` measures its best checkpoint.
    """
    fitting = command == "fit"
    path = (run.best if run.best.exists() else None) if fitting else config.ckpt_path
    checkpoint = Path(path).name if path else None
    return protocol(experiment.datamodule, measured_split(command), experiment.score_label, checkpoint, fitting=fitting)


@dataclass(frozen=True)
class ResultWriter:
    """Writes and prints the results of one command; to be used by the first process only.

    Attributes:
        command: `fit`, `validate`, `test` or `predict`.
        config: Parsed settings of the command.
        experiment: The model with its data.
        run: Run folder of the command.
        step: Optimizer step of the checkpoint that is measured; None for weights as loaded.
    """

    command: str
    config: Any
    experiment: Experiment
    run: RunFolder
    step: int | None

    def write_fitted(self, trainer: Trainer) -> None:
        """Export the best weights, write the validation results of the best checkpoint and name the next command."""
        results = self.experiment.model.results
        facts = {"fit/steps": trainer.global_step, **self.experiment.tokens("train")}
        best = self.run.best
        if best.exists():
            checkpoint = read_checkpoint(best)
            self.experiment.load_best(checkpoint)
            results, facts["fit/best_step"] = checkpoint["results"], checkpoint["global_step"]
        self.experiment.export(self.run)
        if results:
            log_best(trainer.loggers, results)
            self.write_measured("val", results)
        self.run.merge_metrics("fit", facts, {})
        if best.exists():
            print(f"next: {PROGRAM} test --config {self.run.config} --ckpt_path {best}")

    def write_measured(self, split: Split, results: dict[str, float]) -> None:
        """Write the results of a split into the run folder, and print them beside chance and ceilings.

        Args:
            split: `val` or `test`.
            results: Metrics as the model logged them.
        """
        metrics = split_metrics(results, split)
        accuracy, facts = self.experiment.summary_accuracy(), self.experiment.facts()
        if no_pairs := self.experiment.datamodule.no_pairs:
            facts |= {"no_pairs": no_pairs}
        metrics |= {f"{split}/summaries/{name}": value for name, value in accuracy.items()}
        metrics |= self.experiment.tokens(split)
        beside = references(self.experiment.datamodule, split)
        metrics |= reference_metrics(beside, split)
        about = {**self._protocol(), **facts}
        if self.step is not None and self.command != "fit":
            about |= {"step": self.step, WEIGHTS: file_hash(Path(self.config.ckpt_path))}
        run = self.run.for_protocol(split, about)
        run.create()
        run.merge_metrics(split, metrics, about)
        self._write_retrieved(split)
        notes = self._notes(beside, accuracy, facts)
        print_results(self._title(split, about), metrics, split, beside, notes, about["m"])

    def write_predicted(self) -> None:
        """Store the protocol of the scores, so that results of no other protocol take their place."""
        self.run.merge_metrics("test", {}, self._protocol())
        self._write_retrieved("test")
        print(f"scores: {self.run.predictions / 'test.parquet'}")

    def _protocol(self) -> dict[str, Any]:
        return current_protocol(self.command, self.config, self.experiment, self.run)

    def _title(self, split: Split, about: dict[str, Any]) -> str:
        """Title of the printed table."""
        drawn = f", {about['max_groups']} drawn groups of each kind" if about["max_groups"] else ""
        name = self.experiment.datamodule.name
        return f"{name}, {split} split, {about['evaluator']}, ties {about['ties']}{drawn}"

    def _notes(self, beside: Any, accuracy: Any, facts: dict[str, Any]) -> list[str]:
        """Lines below the printed table: how good the summaries are, what the ceilings are, and any doubts."""
        notes = []
        if accuracy:
            shares = ", ".join(f"{name.replace('/', ' ')} {value:.4f}" for name, value in accuracy.items())
            notes.append(f"summaries against the truth: {shares} (of a preference, chance is 0.5)")
        if any(name.startswith("oracle") for name in beside):
            notes.append(CEILINGS_NOTE)
        if any(name.startswith(("averaging", "recent")) for name in beside):
            notes.append(RULES_NOTE)
        notes += [facts["no_pairs"]] if facts.get("no_pairs") else []
        notes += [facts["probabilities"]] if facts.get("probabilities") else []
        if facts["learns_later_likes"]:
            notes.append(
                "the model learned about each user from train likes that came after the test context, too (random "
                "split): its ceiling is hindsight, not the reader"
            )
        notes.append(f"results, predictions and settings: {self.run.path}")
        if facts["random_backbone"]:
            notes.append("the backbone began with random weights: these numbers say nothing about the method")
        if facts.get("foreign_backbone"):
            notes.append(facts["foreign_backbone"])
        if (note := initial_weights_note(self.command, self.config)) is not None:
            notes.append(note)
        return notes

    def _write_retrieved(self, split: Split) -> None:
        """Keep the reranked lists beside the predictions."""
        datamodule = self.experiment.datamodule
        retrieved = (datamodule.inputs.retrieved or {}).get(split)
        if retrieved is not None:
            users = datamodule.data.groups.select("group_id", "user_id")
            lists = retrieved.join(users, on="group_id", how="left", maintain_order="left")
            write_table(lists, self.run.predictions / f"{split}_retrieved.parquet")
