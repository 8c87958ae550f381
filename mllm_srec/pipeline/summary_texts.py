"""Written summaries -> the texts that prompts use."""

from __future__ import annotations

from mllm_srec.data.stored_prompts.summary_texts import PreferenceState, SummaryTexts, Visible
from mllm_srec.pipeline.summary_inputs import SummaryInputs
from mllm_srec.pipeline.summary_plan import SummaryPlan
from mllm_srec.prompts.chain import ChainPrompts
from mllm_srec.prompts.summary_templates import IMAGE_PROMPT


def summary_texts(plan: SummaryPlan, inputs: SummaryInputs | None = None) -> SummaryTexts:
    """All texts of a plan.

    Args:
        plan: What was written.
        inputs: Whose texts of items these shall be, so that what it learns later is known here too; None reads them.

    Raises:
        ConfigError: A stage was not run for these settings, data and models; names the command that does.
    """
    inputs = inputs or SummaryInputs(plan)
    if plan.titled:
        return SummaryTexts(plan.identity, "both", inputs.texts("image"), {}, {}, titled=True)
    states: dict[tuple[str, Visible], list[PreferenceState]] = {}
    table = inputs.table("preference").sort("user_id", "visible", "step")
    for user_id, visible, timestamp, order, text in table.select(
        "user_id", "visible", "timestamp", "order", "text"
    ).iter_rows():
        states.setdefault((user_id, visible), []).append(PreferenceState(timestamp, order, text))
    image = plan.plan("image").prompt if "image" in plan.parts else IMAGE_PROMPT
    return SummaryTexts(
        identity=plan.identity,
        modality=plan.settings.modality,
        image=inputs.texts("image"),
        item=inputs.texts("item"),
        preference=states,
        prompts=ChainPrompts(image, plan.plan("item").prompt, plan.plan("preference").prompt),
    )
