"""FLOPs of training, as MFU counts them: what the model asks for, not what was spent.

Products of the encoder, the connector, the decoder and of the output layer on supervised
rows, forward, and backward where gradients pass, with everything left out that no number
depends on (`Lean`) and nothing computed a second time for checkpointing or padding. A
picture whose features were kept costs no encoder.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from vlforge.models.base import PARTS
from vlforge.training.balance import row_costs
from vlforge.training.freezing import parts_of
from vlforge.types import ModelError

if TYPE_CHECKING:
    from vlforge.training.conversations import ConversationData


class Work:
    """FLOPs of rows of one dataset.

    Args:
        learning: names of the parameters that train.
        has_features: whether the encoder's features were computed before.
    """

    def __init__(
        self, cost: Any, data: ConversationData, learning: Collection[str], has_features: bool
    ):
        self._cost, self._rows, self._has_features = cost, data.rows, has_features
        self._train = parts_of(learning, PARTS)

    @classmethod
    def of(
        cls, model: Any, data: ConversationData, learning: Collection[str], has_features: bool
    ) -> Work | None:
        """None where the model's cost is not known."""
        try:
            return cls(model.cost(), data, learning, has_features)
        except (ModelError, AttributeError, KeyError, TypeError):
            return None

    def __call__(self, rows: np.ndarray) -> float:
        """Of these rows together."""
        found = self._rows
        lengths, pictures = found.lengths[rows], found.images.counts[rows]
        seen = lengths - found.texts[rows] + pictures
        costs = row_costs(self._cost, lengths, seen, found.supervised[rows], self._train)
        kept = seen.sum() / max(1, self._cost.image_tokens) * self._cost.vision.flops
        return float(costs.sum() - kept * self._has_features)
