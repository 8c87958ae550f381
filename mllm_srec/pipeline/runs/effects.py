"""Settings that would change nothing beside the others, such as the recommender's learning rate beside a baseline.

One table says so to everybody: who types such a setting is told, since they expect something of it, a grid leaves it
out of the rows that do not read it, and two runs that differ in nothing else are the same. A configuration file may
hold such settings, since it serves models of every kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

from mllm_srec.data.settings import PrepareSettings
from mllm_srec.summaries.settings import STAGES, SummarySettings

Settings = Mapping[str, Any]
Found = Iterator[tuple[str, str]]

OF_ANY_MODEL = frozenset({"model.backbone", "model.revision", "model.quantization", "model.dtype"})
"""Settings of the backbone, whose features of pictures and texts baselines may read."""

PROMPT_DATA = (
    *("prompt", "packing", "max_length", "eval_batch_tokens"),
    *("negatives", "balance", "n_train_negatives", "negatives_from"),
)
"""Settings of the section `data` that are about prompts."""

OFF = {"summaries.variant": "none", "data.pictures.serve": "none"}
"""Settings that may be typed with this value even where it changes nothing, since it says that there is nothing."""

TRAINING = (
    *("model.lr", "model.weight_decay", "model.warmup_steps", "model.activation_checkpointing"),
    *("model.loss", "model.added_losses", "model.dpo_beta", "model.loss_on"),
    *("data.n_train_negatives", "data.negatives_from"),
)
"""Settings that are about training of the recommender."""


LOSSES = ("response", "pairwise", "listwise", "dpo", "softmax_dpo")
"""Names of the recommender's losses, as of `model.loss`."""


def ineffective(settings: Settings, reads_features: bool) -> dict[str, str]:
    """Return dotted settings and sections that have no effect, each with the reason and what to do.

    Args:
        settings: All settings, nested; those that are not stated are at their defaults.
        reads_features: True if the baseline of these settings reads features of items; nothing without a baseline.
    """
    found: dict[str, str] = {}
    for rule in RULES:
        found.update(rule(settings, reads_features))
    return found


def without_effect(names: Iterable[str], settings: Settings, reads_features: bool) -> dict[str, str]:
    """Return those of some settings that would do nothing, each with the reason and what to do.

    Args:
        names: Dotted names of the settings in question.
        settings: As for `ineffective`.
        reads_features: As for `ineffective`.
    """
    reasons = ineffective(settings, reads_features)
    found = {}
    for name in names:
        key = next((key for key in reasons if name == key or name.startswith(f"{key}.")), None)
        if key is not None and OFF.get(name, object()) != stated_value(settings, name):
            found[name] = reasons[key]
    return found


def stated_value(settings: Any, name: str, default: Any = None) -> Any:
    """Return a setting by its dotted name, from mappings or dataclasses, or its default where it is not stated."""
    at = settings
    for key in name.split("."):
        at = at.get(key) if isinstance(at, Mapping) else getattr(at, key, None)
    return default if at is None else at


def _beside_a_baseline(settings: Settings, reads_features: bool) -> Found:
    """Settings of the recommender, of prompts and of summaries, which no baseline reads, and of features."""
    baseline = settings.get("baseline")
    if not isinstance(baseline, Mapping):
        yield "item_features", "is about vectors of items, which only baselines read; leave it out, or choose one"
        return
    model = str(baseline.get("class_path")).rpartition(".")[2]
    own = baseline.get("init_args") or {}
    for name in settings.get("model") or ():
        if f"model.{name}" not in OF_ANY_MODEL:
            instead = f"does not read it; set baseline.init_args.{name}"
            instead = instead if name in own else "has nothing of the kind; leave it out"
            yield f"model.{name}", f"is of the recommender, and {model} {instead}"
    for name in (*PROMPT_DATA, "backbone", "revision"):
        yield f"data.{name}", f"is about prompts, which {model} does not read; leave it out"
    yield "summaries", f"is about summaries, which {model} does not read; leave it out"
    if not reads_features:
        for name in (*sorted(OF_ANY_MODEL), "data.pictures", "item_features"):
            yield name, f"is about pictures and texts of items, and {model} reads neither; leave it out"
    elif stated_value(settings, "item_features.text", "backbone") == "backbone":
        yield "item_features.text_revision", "is of a sentence encoder, and item_features.text is backbone"


def _of_training(settings: Settings, reads_features: bool) -> Found:
    """Settings of training where the recommender is not trained, of adapters where it has none, and of its lists."""
    if settings.get("baseline") is not None:
        return
    finetune = stated_value(settings, "model.finetune", "lora")
    if finetune != "lora":
        yield "model.lora", f"is about adapters, and model.finetune={finetune} has none; set model.finetune to lora"
    if finetune == "none":
        for name in TRAINING:
            yield name, "is about training, and model.finetune=none trains nothing; leave it out"
    if stated_value(settings, "model.scoring", "packed") != "cached":
        yield "model.scoring_tokens", "is about cached prefixes; set model.scoring to cached"


def _of_another_loss(settings: Settings, reads_features: bool) -> Found:
    """Settings of losses and negatives that are not trained."""
    if settings.get("baseline") is not None or stated_value(settings, "model.finetune", "lora") == "none":
        return
    loss = stated_value(settings, "model.loss", "response")
    trained = {loss, *(name for name in LOSSES if stated_value(settings, f"model.added_losses.{name}", 0))}
    if "response" not in trained:
        yield "model.loss_on", f"is about the response, and model.loss={loss} does not train it; add the response"
    if not trained & {"dpo", "softmax_dpo"}:
        yield "model.dpo_beta", f"is about DPO, and model.loss={loss} is another loss; set it to dpo or softmax_dpo"
    if stated_value(settings, "data.n_train_negatives", 1) == 1:
        yield "data.negatives_from", "is about negatives beside the stored one; set data.n_train_negatives to 2 or more"


def _of_prompts(settings: Settings, reads_features: bool) -> Found:
    """Settings of another layout of prompts than the chosen one."""
    if settings.get("baseline") is not None:
        return
    if stated_value(settings, "data.prompt.layout", "pointwise") == "pointwise":
        for name in ("list_size", "list_shuffles"):
            yield f"data.prompt.{name}", "is about lists in prompts; set data.prompt.layout to listwise"
    if not stated_value(settings, "data.prompt.cot", False):
        yield "data.prompt.cot_order", "is about the chain of thought; set data.prompt.cot to true"
    if stated_value(settings, "data.pictures.serve", "pixels") == "none" and "image" not in _stages(settings):
        for name in ("min_pixels", "max_pixels"):
            yield f"data.pictures.{name}", "is about pictures, and data.pictures.serve=none shows none"


def _of_summaries(settings: Settings, reads_features: bool) -> Found:
    """Settings of stages that the variant of the summaries does without."""
    if settings.get("baseline") is not None:
        return
    variant, stages = stated_value(settings, "summaries.variant", SummarySettings.variant), _stages(settings)
    reason = f"is about what summaries.variant={variant} does without; choose another variant, or leave it out"
    names: list[str] = [stage for stage in STAGES if stage not in stages]
    names += [] if "preference" in stages else ["window", "step", "max_windows", "use_reviews"]
    names += [] if stages else ["modality", "clip"]
    for name in names:
        yield f"summaries.{name}", reason


def _stages(settings: Settings) -> set[str]:
    """Stages of summaries that the settings need."""
    variant: Any = stated_value(settings, "summaries.variant", SummarySettings.variant)
    modality: Literal["both", "text", "image"] = stated_value(settings, "summaries.modality", "both")
    reviews = variant != "vst" and bool(stated_value(settings, "summaries.use_reviews", False))
    modality = "both" if variant == "vst" else modality
    return {part if part != "caption" else "image" for part in SummarySettings(variant, modality, reviews).parts}


def _of_lists(settings: Settings, reads_features: bool) -> Found:
    """Settings of retrieved lists where nothing is retrieved, neither to be ranked nor as hard negatives."""
    hard = stated_value(settings, "data.negatives_from", "catalogue") == "hard"
    if hard and settings.get("baseline") is None and stated_value(settings, "data.n_train_negatives", 1) > 1:
        return
    if stated_value(settings, "data.evaluator", "sampled") != "rerank":
        for name in ("retriever", "n_retrieved"):
            yield f"data.{name}", "is about lists of a retriever; set data.evaluator to rerank"


def _of_preparation(settings: Settings, reads_features: bool) -> Found:
    """Settings of `prepare` that the source, the split or the kind of corruption does not read."""
    source = stated_value(settings, "prepare.source", PrepareSettings.source)
    if source == "demo":
        for name in ("reviews", "metadata", "users", "images", "columns"):
            yield f"prepare.{name}", "is about raw files, and prepare.source=demo has none; set prepare.source"
    else:
        yield "prepare.demo", f"is about the demo shop, and prepare.source is {source}; leave it out"
        if source != "tables":
            for name in ("users", "columns"):
                yield f"prepare.{name}", f"is read with prepare.source=tables only, and it is {source}; leave it out"
    if (split := stated_value(settings, "prepare.split", PrepareSettings.split)) != "random":
        yield "prepare.seed", f"is about drawing, and prepare.split={split} draws nothing; set prepare.split to random"
    if stated_value(settings, "prepare.corruption.kind", "none") == "none":
        for name in ("strength", "share", "seed"):
            yield f"prepare.corruption.{name}", "is about pictures made worse; set prepare.corruption.kind"


def _of_tracking(settings: Settings, reads_features: bool) -> Found:
    """Settings of a tracker that is not used."""
    if not stated_value(settings, "tracking.wandb", False):
        for name in ("project", "entity", "offline", "tags"):
            yield f"tracking.{name}", "is about Weights & Biases; set tracking.wandb to true"


RULES: tuple[Callable[[Settings, bool], Found], ...] = (
    _beside_a_baseline,
    _of_training,
    _of_another_loss,
    _of_prompts,
    _of_summaries,
    _of_lists,
    _of_preparation,
    _of_tracking,
)
