"""Settings in which a run differs from the command that repeats or continues it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from mllm_srec.data.manifest import read_manifest
from mllm_srec.models.backbone_files import describe_backbone
from mllm_srec.pipeline.runs.folder import RunFolder
from mllm_srec.pipeline.runs.settings import read_settings
from mllm_srec.types import ConfigError

Settings = Mapping[str, Any]

COMPARED = (
    *("seed_everything", "baseline", "model", "data", "summaries", "item_features"),
    *("prepare", "candidates", "trainer"),
)
"""Sections that are compared; the others name, track or point to a run."""

SAME_MODEL = ("seed_everything", "baseline", "model", "item_features")
"""Sections that make a model what it is before it is trained."""

CANDIDATES = ("fit/candidates_hash", "test/candidates_hash")
"""Results that name the data set."""

SAME_RESULTS = (
    *("data.root", "data.num_workers", "data.eval_batch_size", "data.eval_batch_tokens"),
    *("model.activation_checkpointing", "model.scoring", "model.scoring_tokens"),
    *("summaries.clip", "summaries.image.token_budget", "summaries.item.token_budget"),
    *("summaries.preference.token_budget", "item_features.batch_size"),
    *("prepare.reviews", "prepare.metadata", "prepare.users", "prepare.images"),  # the manifest knows their content
    *("trainer.accelerator", "trainer.barebones", "trainer.benchmark", "trainer.default_root_dir"),
    *("trainer.detect_anomaly", "trainer.enable_model_summary", "trainer.enable_progress_bar"),
    *("trainer.inference_mode", "trainer.log_every_n_steps", "trainer.logger", "trainer.num_sanity_val_steps"),
    *("trainer.plugins", "trainer.profiler"),
)
"""Settings that change speed, memory, places and messages, but no result beyond rounding."""

SAME_TRAINING = (
    *("data.max_test_groups", "data.cut_offs", "data.retriever", "data.n_retrieved"),
    *("trainer.max_epochs", "trainer.min_epochs", "trainer.max_steps", "trainer.min_steps", "trainer.max_time"),
    *("trainer.val_check_interval", "trainer.check_val_every_n_epoch", "trainer.limit_val_batches"),
    *("trainer.limit_test_batches", "trainer.limit_predict_batches", "trainer.fast_dev_run", "trainer.callbacks"),
    *("trainer.enable_checkpointing", "trainer.model_registry", "trainer.deterministic", "trainer.strategy"),
    *("trainer.devices", "trainer.num_nodes"),  # what they come to is compared with the checkpoint
)
"""Settings that do not change how a step is trained: a training may go on with others."""

MADE = {"demo": "demo_backbone", "random": "random-"}
"""Backbone that `pipeline.build` finds or makes -> beginning of the name of its folder."""

ALIKE: dict[str, dict[Any, Any]] = {
    "data.pictures.serve": {"pixels": "pictures", "features": "pictures"},
    "trainer.precision": {None: "32-true", 32: "32-true", "32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"},
    "trainer.gradient_clip_algorithm": {None: "norm"},
}
"""Setting -> values that give the same results, under one name."""


def same_training(now: Settings) -> tuple[str, ...]:
    """Return the settings with which a training may go on; a retriever of hard negatives is not among them.

    Args:
        now: Nested settings of the command.
    """
    data = flat(now.get("data") or {})
    hard = data.get("negatives_from") == "hard" and data.get("n_train_negatives", 1) > 1
    return tuple(name for name in SAME_TRAINING if not hard or name not in ("data.retriever", "data.n_retrieved"))


def flat(content: Settings, prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings, dataclasses included, into dotted keys, as on the command line."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        nested = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
        found |= flat(nested, f"{prefix}{key}.") if isinstance(nested, Mapping) else {f"{prefix}{key}": nested}
    return found


def below(key: str, names: Collection[str]) -> bool:
    """Return True if a dotted setting is one of `names`, or of a section among them."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


def changed_settings(
    stored: Settings, now: Settings, defaults: Settings, unread: Collection[str] = ()
) -> dict[str, tuple[Any, Any]]:
    """Compare the settings of a run with those of a command.

    Args:
        stored: Nested settings of the run; one that it does not state is at its default, since it is newer.
        now: Nested settings of the command, all of them stated.
        defaults: The same with nothing given.
        unread: Dotted settings and sections that have no effect on this run.

    Returns:
        Dotted setting -> (value of the run, value now), for those that change results.
    """
    if _class(stored) != _class(now):
        return {"baseline": (_class(stored), _class(now))}  # its arguments are others
    before, current = _completed(flat(stored), flat(defaults)), flat(now)
    return {
        key: (before.get(key), value)
        for key, value in current.items()
        if below(key, COMPARED)
        and not below(key, (*SAME_RESULTS, *unread))
        and not same_value(key, before.get(key), value, now)
    }


def check_unchanged(
    run: RunFolder, now: Settings, defaults: Settings, unread: Collection[str] = (), advice: str = ""
) -> None:
    """Refuse settings that differ from those that a run folder states; a folder without settings is of no run.

    Args:
        run: The run folder.
        now: As for `changed_settings`.
        defaults: As for `changed_settings`.
        unread: As for `changed_settings`.
        advice: What else can be done, after a semicolon.

    Raises:
        ConfigError: Settings differ; each is named with both values.
    """
    if not run.config.exists():
        return
    found = changed_settings(read_settings(run.path), now, defaults, unread)
    if found:
        raise ConfigError(
            f"name={run.path.name!r}: {run.path} holds a run with other settings:\n{_lines(found)}\nGive another "
            f"--name, or set them back (--config {run.config}){advice}"
        )


def check_resume(
    checkpoint: Settings,
    origin: RunFolder | None,
    now: Settings,
    defaults: Settings,
    unread: Collection[str] = (),
) -> None:
    """Refuse to resume training with settings that the checkpoint would silently override or contradict.

    Optimizer states hold the learning rate and weight decay; the settings of `data` decide the order of the examples.
    The backbone is compared by its weights when the checkpoint is loaded.

    Args:
        checkpoint: Content of the checkpoint.
        origin: Run folder of the checkpoint; None for a checkpoint outside of one.
        now: As for `changed_settings`.
        defaults: As for `changed_settings`.
        unread: As for `changed_settings`.

    Raises:
        ConfigError: Settings differ; each is named with both values.
    """
    if origin is None:
        found = _other_rates(checkpoint, now)
    else:
        may_differ = (*unread, *same_training(now), "model.backbone")
        found = changed_settings(read_settings(origin.path), now, defaults, may_differ)
    if found:
        source = f"--config {origin.config}" if origin is not None else "the settings of its run"
        raise ConfigError(
            f"ckpt_path: a run resumes with the settings that it began with, but these differ:\n{_lines(found)}\n"
            f"Set them back ({source}), or start a new run without --ckpt_path"
        )


def _other_rates(checkpoint: Settings, now: Settings) -> dict[str, tuple[Any, Any]]:
    """Compare what the optimizer of a checkpoint holds with the settings of a command."""
    group = checkpoint["optimizer_states"][0]["param_groups"][0]
    section = "baseline.init_args" if now.get("baseline") else "model"
    rate = group.get("initial_lr", group["lr"])  # a learning-rate schedule changes `lr` and keeps the first value
    before = {f"{section}.lr": rate, f"{section}.weight_decay": group["weight_decay"]}
    current = flat(now)
    return {key: (value, current[key]) for key, value in before.items() if current.get(key, value) != value}


def _lines(found: Mapping[str, tuple[Any, Any]]) -> str:
    return "\n".join(f"  {key}: run {before!r}, now {value!r}" for key, (before, value) in found.items())


def check_same_model(run: RunFolder, now: Settings, defaults: Settings, unread: Collection[str] = ()) -> None:
    """Refuse to measure weights as loaded in the folder of another model: its results would pass for theirs.

    What only changes how a model is measured is a matter of `RunFolder.for_protocol`.

    Args:
        run: The run folder.
        now: As for `changed_settings`.
        defaults: As for `changed_settings`.
        unread: As for `changed_settings`.

    Raises:
        ConfigError: The folder holds a trained model, or one of other settings.
    """
    if run.best.exists():
        raise ConfigError(
            f"name={run.path.name!r}: {run.path} holds a trained model; measure it with --ckpt_path {run.best}, or "
            "give another --name"
        )
    check_unchanged(run, {name: now[name] for name in SAME_MODEL if name in now}, defaults, unread)


def data_changed(run: RunFolder, folder: Path) -> str | None:
    """Say that a data set was prepared anew after a run saw it; None if it was not, or is not there.

    Args:
        run: The run folder.
        folder: Folder of its data set.
    """
    now = (read_manifest(folder) or {}).get("candidates_hash")
    results = run.read_metrics()
    before = next((results[key] for key in CANDIDATES if results.get(key, now) != now), None)
    if now is None or before is None:
        return None
    return (
        f"{run.path} holds a run on other data (candidates {before[:8]}, now {now[:8]}): {folder} was prepared again; "
        f"give another --name, or delete {run.path}"
    )


def _class(settings: Settings) -> str | None:
    """Class of the baseline; None for the recommender."""
    chosen = settings.get("baseline")
    return None if not isinstance(chosen, Mapping) else str(chosen.get("class_path"))


def _completed(stored: dict[str, Any], defaults: Settings) -> dict[str, Any]:
    """Return stored settings with the defaults of those that they do not state in any form."""
    sections = {key[:at] for key in stored for at in range(len(key)) if key[at] == "."}
    return {**{key: value for key, value in defaults.items() if key not in sections}, **stored}


def same_value(key: str, before: Any, now: Any, settings: Settings) -> bool:
    """Return True if two values of a setting give the same results.

    Args:
        key: Dotted setting.
        before: Value of the run.
        now: Value of the command.
        settings: Nested settings of the command.
    """
    if key == "model.backbone":
        return _same_backbone(str(before), str(now), settings["model"].get("revision"))
    names = ALIKE.get(key)
    if names is not None:
        before, now = names.get(before, before), names.get(now, now)
    return bool(_plain(before) == _plain(now))


def _plain(value: Any) -> Any:
    """A value as YAML holds it."""
    return list(value) if isinstance(value, tuple) else value


def _same_backbone(before: str, now: str, revision: str | None) -> bool:
    """Compare backbones by their weights, since a folder may move; one that is gone, by the name of its folder."""
    if before == now:
        return True
    if now in MADE:
        return Path(before).name.startswith(MADE[now])
    if not Path(before).is_dir():
        return Path(before).name == Path(now).name and Path(now).is_dir()
    if not Path(now).is_dir():
        return False
    return describe_backbone(before).fingerprint == describe_backbone(now, revision).fingerprint
