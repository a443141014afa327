"""What the tasks over conversations share: counting, sharing out, and whether a dummy is due."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vlforge.models.base import PARTS
from vlforge.training.averaging import Cut
from vlforge.training.balance import Shares
from vlforge.training.batching import Batching

if TYPE_CHECKING:
    import numpy as np

    from vlforge.training.conversations import ConversationData


class RowTask:
    """Next-token loss over the assistant's turns of the rows of `data`.

    `needs_dummy`: the tower or the connector learns, so a batch without pictures runs
    them all the same, for the processes that hold shares of them.
    """

    parts = PARTS

    def __init__(self, model: Any, data: ConversationData, batching: Batching):
        self.data, self.batching = data, batching
        self.longest = max(int(data.rows.lengths.max()), batching.pack_length)
        self.needs_dummy = any(
            parameter.requires_grad
            for part in (model.vision, model.connector)
            for parameter in part.parameters()
        )

    def count(self, rows: np.ndarray) -> int:
        """Supervised tokens."""
        return int(self.data.rows.supervised[rows].sum())

    def tokens(self, rows: np.ndarray) -> tuple[int, int]:
        """Tokens with pictures expanded, and supervised tokens."""
        return int(self.data.rows.lengths[rows].sum()), self.count(rows)

    def share(self, rows: np.ndarray, cut: Cut) -> Shares:
        """Which device sees which rows in which pass."""
        return self.batching.shares(rows, cut)

    @property
    def waited_s(self) -> float:
        """Seconds that batches waited for pictures so far."""
        return self.data.pictures.waited_s
