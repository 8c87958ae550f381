"""`fit`, `validate`, `test`, `predict`: Trainer methods through LightningCLI."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from mllm_srec.cli.experiment import ExperimentCLI
from mllm_srec.cli.parser import NearestNameMixin
from mllm_srec.cli.schema import PROGRAM
from mllm_srec.data.loading.prompt_datamodule import PromptDataModule
from mllm_srec.files.quiet import silence_libraries
from mllm_srec.models.recommender import MLLMRecommender
from mllm_srec.types import ConfigError, MllmSrecError

METHOD_DEFAULTS = {"verbose": False, "return_predictions": False}
"""Of the Trainer's methods: we print results ourselves, and write predictions as they come."""

NOT_OFFERED = frozenset({"weights_only"})
"""Arguments of the Trainer's methods that are no settings: code in a checkpoint is never run."""


class TrainerParser(NearestNameMixin, LightningArgumentParser):
    """Lightning's parser with our errors and defaults."""

    def add_method_arguments(self, *args: Any, **kwargs: Any) -> list[str]:
        """Add a Trainer method's arguments with our defaults."""
        added: list[str] = super().add_method_arguments(*args, **kwargs)
        self.set_defaults({name: value for name, value in METHOD_DEFAULTS.items() if name in added})
        return added


def main(command: str, arguments: list[str]) -> None:
    """Run one Trainer command; only its own parser is built."""
    silence_libraries()
    skipped = LightningCLI.subcommands()[command] | NOT_OFFERED
    attributes = {"subcommands": staticmethod(lambda: {command: skipped}), "typed": tuple(arguments)}
    try:
        with ExitStack() as held:
            one_command = type("OneCommandCLI", (ExperimentCLI,), {**attributes, "held": held})
            one_command(
                model_class=MLLMRecommender,
                datamodule_class=PromptDataModule,
                save_config_callback=None,
                seed_everything_default=0,
                parser_class=TrainerParser,
                parser_kwargs={"prog": PROGRAM},
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
                args=[command, *arguments],
            )
    except MisconfigurationException as error:
        raise ConfigError(str(error)) from error
    except ValueError as error:  # jsonargparse wraps what a baseline says of its settings
        if (own := _own_error(error)) is not None:
            raise own from error
        raise


def _own_error(error: BaseException) -> MllmSrecError | None:
    """The error of ours that another one was raised from."""
    cause = error.__cause__ or error.__context__
    while cause is not None and not isinstance(cause, MllmSrecError):
        cause = cause.__cause__ or cause.__context__
    return cause
