"""Checks across sections of the settings, before anything is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mllm_srec.cli.devices import check_devices
from mllm_srec.cli.parser import plain
from mllm_srec.cli.schema import baseline_class
from mllm_srec.cli.words import typed_names
from mllm_srec.pipeline.runs.effects import ineffective, without_effect
from mllm_srec.types import ConfigError, Split

if TYPE_CHECKING:
    from mllm_srec.data.loading.ranking_datamodule import RankingDataModule
    from mllm_srec.models.ranking_module import RankingModule

LIMITS = {
    "fit": ("limit_val_batches", "data.max_eval_groups"),
    "validate": ("limit_val_batches", "data.max_test_groups"),
    "test": ("limit_test_batches", "data.max_test_groups"),
    "predict": ("limit_predict_batches", "data.max_test_groups"),
}
"""Command -> the Trainer's limit that would falsify its results, and our setting to use instead."""


def check_settings(command: str, config: Any, typed: Sequence[str] = ()) -> None:
    """Refuse combinations of settings that would do silent harm.

    Args:
        command: `fit`, `validate`, `test` or `predict`.
        config: Parsed settings of the command.
        typed: Arguments as they were typed; see `check_typed`.

    Raises:
        ConfigError: A setting contradicts another; the message names both and what to set instead.
    """
    check_typed(typed, config)
    if not config.trainer.default_root_dir:
        raise ConfigError(
            f"trainer.default_root_dir={config.trainer.default_root_dir!r}: names no folder for runs; leave it out, or "
            "give one such as runs"
        )
    if command == "fit":
        _check_trains(config)
    check_devices(config.trainer)
    _check_precision(config.trainer.precision)
    _check_limit(command, config.trainer)
    if config.baseline is not None:
        return
    if config.data.pictures.serve == "features" and config.model.finetune == "full":
        raise ConfigError(
            "data.pictures.serve='features': model.finetune='full' trains the vision tower, whose features would "
            "be outdated after one step; set data.pictures.serve to pixels"
        )
    if config.data.prompt.cot and config.summaries.variant in ("none", "vst"):
        raise ConfigError(
            f"summaries.variant={config.summaries.variant!r}: the chain of thought (data.prompt.cot=true) is made of "
            "image summaries, item summaries and preferences; set summaries.variant to full, svi, sv or base"
        )
    _check_model(config.model)


def check_typed(arguments: Sequence[str], config: Any) -> None:
    """Refuse settings that were typed and would do nothing; in a file they may serve another model.

    Args:
        arguments: What was typed.
        config: Parsed settings of the command.

    Raises:
        ConfigError: There is one; the message says why, and what to set instead.
    """
    for name, reason in without_effect(typed_names(arguments), plain(config), reads_features(config)).items():
        raise ConfigError(f"{name}: would have no effect: it {reason}")


def check_examples(command: str, data: RankingDataModule, model: RankingModule) -> None:
    """Refuse a command that would have nothing to work on, before a backbone is loaded.

    Args:
        command: `fit`, `validate`, `test` or `predict`.
        data: The data module, with its inputs.
        model: The model that is trained or measured.

    Raises:
        ConfigError: The train split holds no example, or none that the loss learns from, or the measured split no
            candidate list.
    """
    if command == "fit":
        if not data.n_train_examples:
            raise ConfigError(
                f"{data.folder}: there is nothing to train on; no example of its train split is left by "
                "data.negatives and data.balance, see prepare_report.json beside the tables"
            )
        objective = getattr(model, "objective", None)
        if objective is not None and objective.ranks and not getattr(data, "n_comparable", 0):
            raise ConfigError(
                f"model.loss={objective.loss!r}: ranks the targets of a context, and no context of training has a "
                "liked one and another; set data.negatives to sampled or both, or raise data.n_train_negatives"
            )
        return
    split: Split = "test" if command in ("test", "predict") else "val"
    _, lists = data.eval_examples(split)
    if not len(lists):
        raise ConfigError(
            f"{data.folder}: lists of no user can be measured; its {split} split holds no liked item: prepare it with "
            "another prepare.split, or from users with more likes"
        )


def _check_trains(config: Any) -> None:
    """Refuse to fit where no weight could change: an untouched model would pass for a trained one."""
    if not is_trained(config):
        if config.baseline is None:
            raise ConfigError("model.finetune='none': leaves nothing to train; use `test` for zero-shot, or set lora")
        name = baseline_class(config).__name__
        raise ConfigError(f"baseline={name!r}: has nothing to train; use `test`, or `run`, which skips `fit`")
    for name in ("max_epochs", "max_steps", "limit_train_batches"):
        if config.trainer[name] == 0:
            raise ConfigError(f"trainer.{name}=0: leaves nothing to train; give more, or use `test`")


def _check_model(model: Any) -> None:
    """Make the recommender without its weights: what it says of its settings would come after the data are built."""
    from mllm_srec.models.backbone import LoraSettings
    from mllm_srec.models.objective import AddedLosses
    from mllm_srec.models.recommender import MLLMRecommender

    lora = model.lora if isinstance(model.lora, LoraSettings) else LoraSettings(**plain(model.lora))
    added = model.added_losses
    added = added if isinstance(added, AddedLosses) else AddedLosses(**plain(added))
    MLLMRecommender(**{**plain(model), "lora": lora, "added_losses": added})


def needs_backbone(config: Any) -> bool:
    """Return True if the backbone is read: by the recommender, or by a baseline that uses its features of items.

    Args:
        config: Parsed settings of a command.
    """
    return config.baseline is None or reads_features(config)


def reads_features(config: Any) -> bool:
    """Return True if these settings choose a baseline that reads features of items.

    Args:
        config: Parsed settings of a command.
    """
    return config.baseline is not None and bool(baseline_class(config).needs_features)


def is_trained(config: Any) -> bool:
    """Return True if the model has weights to train: not for zero-shot, nor for baselines that only count.

    Args:
        config: Parsed settings of a command.
    """
    return config.model.finetune != "none" if config.baseline is None else bool(baseline_class(config).trained)


def initial_weights_note(command: str, config: Any) -> str | None:
    """Return a line that says that weights are measured which nothing has trained; None where that is not so.

    It stands before the work and beside its results.

    Args:
        command: `fit`, `validate`, `test` or `predict`.
        config: Parsed settings of the command.
    """
    if command == "fit" or config.ckpt_path is not None or not is_trained(config):
        return None
    weights = "of the backbone as it was loaded, without training" if config.baseline is None else "that are random"
    return f"no --ckpt_path is given: `{command}` measures initial weights, {weights}"


def unread_settings(config: Any) -> tuple[str, ...]:
    """Return dotted settings and sections that have no effect beside the others.

    Args:
        config: Parsed settings of a command.
    """
    return tuple(ineffective(plain(config), reads_features(config)))


def _check_precision(precision: Any) -> None:
    if str(precision).endswith("-true") and not str(precision).startswith(("32", "64")):
        raise ConfigError(
            f"trainer.precision={precision!r}: would silently cast LoRA weights and norms to half precision; use "
            "bf16-mixed on a GPU and 32-true on a CPU"
        )


def _check_limit(command: str, trainer: Any) -> None:
    """Refuse limits of the Trainer: the batches that it leaves out would be missing in complete-looking results."""
    limit, ours = LIMITS[command]
    value = trainer[limit]
    none_at_all = command == "fit" and value == 0
    if value is None or none_at_all or (isinstance(value, float) and value == 1.0):
        return
    raise ConfigError(
        f"trainer.{limit}={value:g}: would measure a part and report it as the whole; set {ours}, which draws complete "
        "groups with the seed and is named in the results"
    )
