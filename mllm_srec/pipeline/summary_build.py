"""Summaries for a command that uses them: made on the demo shop where they are missing, asked for elsewhere."""

from __future__ import annotations

from mllm_srec.data.stored_prompts.summary_texts import SummaryTexts
from mllm_srec.pipeline.summarize import Summarizer, summary_trainer
from mllm_srec.pipeline.summary_plan import STAGE_OF, SummaryPlan
from mllm_srec.pipeline.summary_texts import summary_texts
from mllm_srec.summaries.settings import STAGES, Stage
from mllm_srec.summaries.views import read_view
from mllm_srec.types import ConfigError


def missing_stages(plan: SummaryPlan) -> list[Stage]:
    """Stages that have not been written for exactly these settings, data, pictures and models."""
    missing = {STAGE_OF[part] for part in plan.parts if read_view(plan.folder(part), plan.view(part)) is None}
    return [stage for stage in STAGES if stage in missing]


def ensure_summaries(plan: SummaryPlan, command: str) -> SummaryTexts:
    """The texts of a plan; on the demo shop, what is missing is written first, by this process alone.

    Args:
        plan: What is needed.
        command: The command that would write them, for the error.

    Raises:
        ConfigError: They are missing on a real data set, where writing them may take hours.
    """
    if missing := missing_stages(plan):
        if plan.data.manifest["prepare"]["source"] != "demo":
            raise ConfigError(
                f"summaries.variant={plan.settings.variant!r} needs summaries of the stages {', '.join(missing)}, "
                "which are not there for these settings, data and models. It may take long, so they are never made by "
                f"themselves; first run\n  {command}\nor set summaries.variant to none"
            )
        Summarizer(plan, summary_trainer(accelerator="auto", devices=1)).run(missing)
    return summary_texts(plan)
