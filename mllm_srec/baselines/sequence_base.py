"""What SASRec and the GRU encoder share: a vector of every prefix of a sequence, scored by its product with items."""

from __future__ import annotations

from torch import Tensor, nn

from mllm_srec.baselines.base import DotProductRecommender
from mllm_srec.types import ItemBatch, TrainBatch


class SequenceEncoder(DotProductRecommender):
    """Base of models that predict, at every position of a sequence, the item that follows.

    Items are read and scored by the same vectors. A subclass makes `items` in `build`, and implements `encode` and
    `loss`.
    """

    items: nn.Embedding  # (N + 1, D)

    def encode(self, history: Tensor) -> Tensor:
        """Vector of every prefix of the histories.

        Args:
            history: `(B, S)` item numbers, padded on the left, S at most `max_history`.

        Returns:
            `(B, S, D)`: at position t what items 1..t say of the next one.
        """
        raise NotImplementedError(f"{type(self).__name__} has no encode(history) -> (B, S, D)")

    def query(self, batch: ItemBatch) -> Tensor:
        """Vectors of the latest positions `(B, D)`."""
        return self.encode(batch["history"][:, -self.max_history :])[:, -1]

    def item_vectors(self) -> Tensor:
        """Embeddings of the items `(N + 1, D)`, the same that histories are read with."""
        return self.items.weight

    def steps(self, batch: TrainBatch) -> tuple[Tensor, Tensor]:
        """What is read and what follows it: item numbers `(B, S)` each, 0 where there is nothing to learn from."""
        history = batch["history"][:, -self.max_history - 1 :]  # (B, S + 1)
        return history[:, :-1], history[:, 1:]
