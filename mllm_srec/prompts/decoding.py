"""How an answer is decoded: the settings that the summary stages take and that generation follows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from mllm_srec.types import ConfigError


@dataclass(frozen=True)
class GenerationSettings:
    """How a summary is decoded; nothing is inherited from a model's own files.

    Args:
        max_new_tokens: Longest summary; one that reaches it is marked as cut off.
        sample: Draw tokens instead of taking the most likely one; each summary has its own seed, so that it does not
            depend on what else is in its batch.
        temperature: Of the draw, above 0.
        top_p: Smallest set of tokens with this probability that is drawn from; in (0, 1].
        seed: Seed of the draws.
    """

    max_new_tokens: int = 200
    sample: bool = False
    temperature: float = 0.6
    top_p: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers without a meaning."""
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens={self.max_new_tokens} leaves no summary; give at least 1")
        if not (self.temperature > 0 and 0 < self.top_p <= 1):
            raise ConfigError(
                f"temperature={self.temperature}, top_p={self.top_p}; give a temperature above 0 and a share in (0, 1]"
            )

    def identity(self) -> dict[str, Any]:
        """What decides a text, for content addresses: settings of a draw count only where there is one."""
        if self.sample:
            return asdict(self)
        return {"max_new_tokens": self.max_new_tokens, "sample": False}
