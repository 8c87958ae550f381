"""Settings of decoding: `summaries.<stage>.generation`, which `models/generation.py` follows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from mllm_srec.types import ConfigError


@dataclass(frozen=True)
class GenerationSettings:
    """How a summary is decoded; a model's own `generation_config.json` is ignored.

    Args:
        max_new_tokens: Tokens of the longest summary; one that reaches them is marked as cut off.
        sample: Sample tokens instead of taking the most likely one; each summary has its own seed, so that it does not
            depend on the rest of its batch.
        temperature: Temperature of sampling, above 0.
        top_p: Probability of the smallest set of tokens that is sampled from, in (0, 1].
        seed: Seed of sampling.
    """

    max_new_tokens: int = 200
    sample: bool = False
    temperature: float = 0.6
    top_p: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens={self.max_new_tokens}: leaves no summary; give at least 1")
        if not (self.temperature > 0 and 0 < self.top_p <= 1):
            raise ConfigError(
                f"temperature={self.temperature}, top_p={self.top_p}: out of range; give a temperature above 0 and a "
                "probability in (0, 1]"
            )

    def identity(self) -> dict[str, Any]:
        """Return what decides a text, for content addresses: settings of sampling count only if `sample` is true."""
        if self.sample:
            return asdict(self)
        return {"max_new_tokens": self.max_new_tokens, "sample": False}
