"""Checks of settings that cross sections, before anything is built."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from mllm_srec.types import ConfigError

LIMITS = {
    "fit": ("limit_val_batches", "data.max_eval_groups"),
    "validate": ("limit_val_batches", "data.max_test_groups"),
    "test": ("limit_test_batches", "data.max_test_groups"),
    "predict": ("limit_predict_batches", "data.max_test_groups"),
}
"""Command -> the Trainer's limit that would falsify its results, and our setting in its place."""


def check_settings(command: str, config: Any) -> None:
    """Refuse settings that would do silent harm.

    Args:
        command: `fit`, `validate`, `test` or `predict`.
        config: Parsed settings of the command.

    Raises:
        ConfigError: Naming the setting, its value and what to set instead.
    """
    _check_precision(config.trainer.precision)
    _check_limit(command, config.trainer)
    if config.baseline is not None:
        return
    if config.data.pictures.serve == "features" and config.model.finetune == "full":
        raise ConfigError(
            "data.pictures.serve='features' with model.finetune='full': features of a tower that is being trained "
            "would be outdated after one step; set data.pictures.serve to pixels"
        )
    if config.data.prompt.cot and config.summaries.variant in ("none", "vst"):
        raise ConfigError(
            f"data.prompt.cot=true with summaries.variant={config.summaries.variant!r}: the chain is made of "
            "image summaries, item summaries and preferences; set summaries.variant to full, svi, sv or base"
        )


def needs_backbone(config: Any) -> bool:
    """Whether the backbone is looked at: by the recommender, and by baselines that know items by its features.

    Args:
        config: Parsed settings of a command.
    """
    return config.baseline is None or bool(baseline_class(config).needs_features)


def is_trained(config: Any) -> bool:
    """Whether there is anything to train: not zero-shot, and not where counting is all there is.

    Args:
        config: Parsed settings of a command.
    """
    return config.model.finetune != "none" if config.baseline is None else bool(baseline_class(config).trained)


def baseline_class(config: Any) -> Any:
    """The class that `baseline.class_path` names."""
    module, _, name = config.baseline.class_path.rpartition(".")
    return getattr(import_module(module), name)


def _check_precision(precision: Any) -> None:
    if str(precision).endswith("-true") and not str(precision).startswith(("32", "64")):
        raise ConfigError(
            f"trainer.precision={precision!r} would cast LoRA weights and norms to half precision unseen; "
            "use bf16-mixed on a GPU and 32-true on a CPU"
        )


def _check_limit(command: str, trainer: Any) -> None:
    """Batches left out by the Trainer would be missing in results that claim to be whole."""
    limit, ours = LIMITS[command]
    value = trainer[limit]
    none_at_all = command == "fit" and value == 0
    if value is None or none_at_all or (isinstance(value, float) and value == 1.0):
        return
    raise ConfigError(
        f"trainer.{limit}={value:g} would measure a part and call it the whole; set {ours}, which draws whole groups "
        "with the seed and is named in the results"
    )
