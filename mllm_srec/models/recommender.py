"""The recommender: a multimodal LLM that answers "will this user like this item next?" with Yes or No."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler

from mllm_srec.metrics.calibration import yes_no_mass
from mllm_srec.models.backbone import (
    Backbone,
    BackboneSettings,
    Dtype,
    Finetune,
    LoraSettings,
    Quantization,
    load_backbone,
)
from mllm_srec.models.checkpoint import check_identity, check_keys, identity
from mllm_srec.models.export import export_weights
from mllm_srec.models.losses import LossOn, label_everything, response_loss
from mllm_srec.models.objective import AddedLosses, LossName, Objective
from mllm_srec.models.prefix_cache import answer_states
from mllm_srec.models.ranking_module import RankingModule, Scored
from mllm_srec.models.scoring import (
    ScoreKind,
    ScoringLayout,
    gather_answers,
    list_scores,
    literal_score,
    log_normalizer,
    score,
    yes_no_logits,
)
from mllm_srec.prompts.encoding import load_encoder
from mllm_srec.types import CandidateBatch, ConfigError, PackedBatch


class MLLMRecommender(RankingModule):
    """MLLM-SRec's recommender (article, section on supervised fine-tuning).

    Args:
        backbone: Hub name or folder of a multimodal model; `demo` is the small one shipped for the demo shop, `random`
            builds a small untrained one for the data set.
        revision: Revision of a hub model.
        finetune: `lora` (the article's QLoRA), `full`, or `none` for zero-shot.
        lora: Settings of the adapters.
        quantization: `nf4` with double quantisation, or `none`.
        dtype: Type of unquantised weights; `auto` is bfloat16 on a GPU and float32 on a CPU.
        activation_checkpointing: Trade computation for memory in the language layers.
        scoring: Way of computing a list, which changes its scores by rounding only: `packed` runs the rows of training,
            with a mask, and repeats the context where a list takes several rows; `cached` computes every token once and
            lets all candidates share the keys and values of their context.
        scoring_tokens: Tokens of one forward pass of `cached`; fewer take less memory. Null is 1,024 on a CPU, whose
            caches hold no more, and 8,192 on a GPU.
        score: `logit` ranks by `z_yes - z_no`; `literal` is Eq. 4 on full-vocabulary probabilities. Listwise prompts
            (`data.prompt.layout: listwise`) rank by the probabilities of their letters instead.
        loss: What is trained: the answer (`response`, the article's Eq. 3), or the order of the targets of a context by
            their scores `z_yes - z_no`: `pairwise` (log-sigmoid of differences), `listwise` (softmax over the targets),
            `dpo` and `softmax_dpo` (both against the model with its adapters off). Losses that rank gain from
            `data.n_train_negatives` above 1.
        added_losses: Weights of other losses that are added to it.
        dpo_beta: Beta of both forms of DPO: the larger, the closer the scores stay to those without adapters.
        loss_on: Tokens that `response` trains on: those of the response (default), or `all` but those of pictures,
            which is the literal reading of the article's Eq. 3; the prefix then counts once per row.
        lr: Learning rate of AdamW (borrowed; the article states none).
        weight_decay: Weight decay of AdamW.
        warmup_steps: Steps over which the rate rises to `lr`, where it stays.
        seed: Seed of adapters and dropout; equal to `seed_everything`.
    """

    def __init__(
        self,
        backbone: str = "Qwen/Qwen2-VL-7B-Instruct",
        revision: str | None = None,
        finetune: Finetune = "lora",
        lora: LoraSettings = LoraSettings(),  # noqa: B008 - frozen, and jsonargparse shows its fields
        quantization: Quantization = "nf4",
        dtype: Dtype = "auto",
        activation_checkpointing: bool = False,
        scoring: ScoringLayout = "packed",
        scoring_tokens: int | None = None,
        score: ScoreKind = "logit",
        loss: LossName = "response",
        added_losses: AddedLosses = AddedLosses(),  # noqa: B008
        dpo_beta: float = 0.1,
        loss_on: LossOn = "response",
        lr: float = 2e-5,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(probabilities=True)
        self.seed = seed
        if scoring_tokens is not None and scoring_tokens < 1:
            raise ConfigError(
                f"scoring_tokens={scoring_tokens}: must be at least 1; give more, or null for a default by device"
            )
        _check_optimizer(lr, weight_decay, warmup_steps)
        # Not save_hyperparameters: hyper-parameters in a checkpoint would silently replace what the user typed.
        self.settings = BackboneSettings(
            name=backbone,
            revision=revision,
            finetune=finetune,
            lora=lora,
            quantization=quantization,
            dtype=dtype,
            activation_checkpointing=activation_checkpointing,
            seed=seed,
        )
        self.objective = Objective(loss, added_losses, dpo_beta)
        if self.objective.has_reference and finetune != "lora":
            raise ConfigError(
                f"model.finetune={finetune!r}: DPO compares the model with itself without adapters, and it has none; "
                "set it to lora, or choose another model.loss"
            )
        self.scoring, self.scoring_tokens, self.loss_on = scoring, scoring_tokens, loss_on
        self.score_kind, self.lr, self.weight_decay, self.warmup_steps = score, lr, weight_decay, warmup_steps
        self.backbone: Backbone | None = None
        self.strict_loading = False  # checkpoints hold trained weights only; on_load_checkpoint compares the keys

    def configure_model(self) -> None:
        """Load the backbone on this process's own device; Lightning may call this several times."""
        if self.backbone is not None:
            return
        device = self.trainer.strategy.root_device if self._trainer is not None else torch.device("cpu")
        self.attach(load_backbone(self.settings, device))

    def attach(self, backbone: Backbone) -> None:
        """Use a loaded backbone; reads the ids of Yes and No from its tokenizer."""
        encoder = load_encoder(self.settings.name, self.settings.revision)
        self.yes_id, self.no_id, self.image_token_id = encoder.yes_id, encoder.no_id, encoder.image_token_id
        self.backbone = backbone
        self.train(self.training)  # transformers hands models over in evaluation mode, which would switch dropout off

    @property
    def loaded(self) -> Backbone:
        """The loaded backbone.

        Raises:
            ConfigError: It is not loaded yet.
        """
        if self.backbone is None:
            raise ConfigError("the backbone is not loaded yet; call configure_model() first, or use a Trainer")
        return self.backbone

    def train(self, mode: bool = True) -> MLLMRecommender:
        """Switch dropout; the frozen vision tower stays in evaluation mode."""
        super().train(mode)
        if self.backbone is not None and self.settings.finetune != "full":
            self.backbone.vision_tower.eval()
        return self

    # --- one step -------------------------------------------------------------------------------------------------

    def yes_no(self, batch: PackedBatch) -> torch.Tensor:
        """Compute the float32 logits of Yes and No `(B, C, 2)`."""
        hidden = self._answers(batch)  # (B, C, D)
        return yes_no_logits(hidden, self.loaded.lm_head, self.yes_id, self.no_id)

    def score_candidates(self, batch: CandidateBatch) -> torch.Tensor:
        """Score every candidate of a `PackedBatch`: `(B, C)` float32."""
        return self.scored(batch)["scores"]

    def scored(self, batch: CandidateBatch, with_mass: bool = False) -> Scored:
        """Score a `PackedBatch`, with logits of Yes and No and, on request, the probability mass on both.

        Candidates of listwise prompts have scores only.
        """
        packed = cast(PackedBatch, batch)
        hidden = self._answers(packed)  # (B, C, D), or (B, P, D) of lists
        head = self.loaded.lm_head
        if "places" in packed:
            return {"scores": list_scores(hidden, head, packed)}
        logits = yes_no_logits(hidden, head, self.yes_id, self.no_id)  # (B, C, 2)
        literal = self.score_kind == "literal"
        scores = literal_score(hidden, head, self.yes_id, self.no_id) if literal else score(logits)  # (B, C)
        found: Scored = {"scores": scores, "logits": logits}
        if with_mass:
            found["mass"] = yes_no_mass(logits, log_normalizer(hidden, head))  # (B, C)
        return found

    def _answers(self, batch: PackedBatch) -> torch.Tensor:
        """Compute the hidden states that predict the first response token `(B, C, D)`."""
        if self.scoring == "cached":
            return answer_states(self.loaded, batch, self.scoring_tokens)
        return gather_answers(self.loaded(batch), batch["answer_index"])

    def trained_on(self, batch: PackedBatch) -> PackedBatch:
        """Return the batch with labels on the tokens that `loss_on` names."""
        return label_everything(batch, self.image_token_id) if self.loss_on == "all" else batch

    def training_step(self, batch: PackedBatch, batch_idx: int) -> torch.Tensor:
        """Compute the loss of a batch; loss and accuracy of the first response token are logged apart."""
        objective, pictures = self.objective, None
        reference: torch.Tensor | None = None
        if objective.has_reference:
            pictures = self.loaded.pictures(batch)  # encoded once for both passes
            reference = self._reference(batch, pictures)  # (B, C)
        hidden = self.loaded(batch, pictures)  # (R, T, D)
        parts: dict[str, torch.Tensor] = {}
        apart: dict[str, torch.Tensor] = {}
        if "response" in objective.weights:
            parts["response"], apart = response_loss(hidden, self.loaded.lm_head, self.trained_on(batch))
        if objective.ranks:
            parts |= objective.ranking_losses(self._packed_scores(hidden, batch), reference, batch)
        if len(parts) > 1:
            apart |= {f"loss_{name}": part.detach() for name, part in parts.items()}
        loss = objective.total(parts)
        n_groups = len(batch["group_id"])
        self.log("train/loss", loss, prog_bar=True, batch_size=n_groups)
        self.log_dict({f"train/{name}": value for name, value in apart.items()}, batch_size=n_groups)
        return loss

    def _packed_scores(self, hidden: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """Compute `z_yes - z_no` `(B, C)` of all targets from the hidden states `(R, T, D)` of their rows."""
        answers = gather_answers(hidden, batch["answer_index"])  # (B, C, D)
        return score(yes_no_logits(answers, self.loaded.lm_head, self.yes_id, self.no_id))

    @torch.no_grad()
    def _reference(self, batch: PackedBatch, pictures: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Compute the scores `(B, C)` of the same rows by the same weights with adapters and dropout off."""
        training = self.training
        self.eval()
        try:
            with self.loaded.without_adapters():
                return self._packed_scores(self.loaded(batch, pictures), batch)
        finally:
            self.train(training)

    # --- optimiser and checkpoints --------------------------------------------------------------------------------

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build AdamW over the trained weights, with a constant rate after a linear warm-up."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        if not trained:
            raise ConfigError("finetune='none': leaves nothing to train; use `test` for zero-shot, or set it to lora")
        optimizer = torch.optim.AdamW(trained, lr=self.lr, weight_decay=self.weight_decay)
        warmup = max(1, self.warmup_steps)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warmup))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep trained weights only, with the identity of what they belong to."""
        super().on_save_checkpoint(checkpoint)
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        state: Mapping[str, torch.Tensor] = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: value for name, value in state.items() if name in trained}
        checkpoint["mllm_srec"] = identity(self.settings, self.loaded.info)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights of another backbone, and keys that do not fit one to one."""
        info = self.loaded.info
        check_identity(checkpoint.get("mllm_srec"), identity(self.settings, info), info.earlier_fingerprint)
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        check_keys(set(checkpoint["state_dict"]), trained)
        super().on_load_checkpoint(checkpoint)

    def save_adapter(self, folder: Path) -> None:
        """Write the trained weights as an adapter of PEFT, or as a whole backbone where `finetune` is `full`."""
        export_weights(self.loaded, folder)


def _check_optimizer(lr: float, weight_decay: float, warmup_steps: int) -> None:
    """Refuse settings of the optimiser that it would refuse after everything was built, or that train nothing.

    Raises:
        ConfigError: A value is out of range.
    """
    if not 0 < lr < math.inf:
        raise ConfigError(f"model.lr={lr}: must be above 0; give a rate such as 2e-5, or set model.finetune to none")
    if not 0 <= weight_decay < math.inf:
        raise ConfigError(f"model.weight_decay={weight_decay}: must be at least 0; give 0 for none")
    if warmup_steps < 0:
        raise ConfigError(f"model.warmup_steps={warmup_steps}: must be at least 0; give 0 for none")
