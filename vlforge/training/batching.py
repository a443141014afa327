"""What a train stage's settings make of its rows: their order, their shares, their packs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from vlforge.models.base import PARTS
from vlforge.models.parts.packs import check_packable, wants_one_row
from vlforge.training.averaging import Cut
from vlforge.training.balance import Shares, by_chunks, by_cost, by_turns, row_costs
from vlforge.training.config import TrainConfig
from vlforge.training.contradictions import group_of
from vlforge.training.freezing import parts_of
from vlforge.training.grouping import regroup
from vlforge.training.packing import plan_packs
from vlforge.types import RecipeError

if TYPE_CHECKING:
    from vlforge.training.conversations import ConversationData


@dataclass(frozen=True)
class Batching:
    """How a global batch becomes passes of devices, and a pass a tensor.

    costs: FLOPs of each row [R], where shares are by cost.
    pack_length: tokens of a pack; 0 is as long as the longest row of the pass.
    """

    share: Literal["turns", "chunks", "cost"] = "turns"
    costs: np.ndarray | None = None
    packs: bool = False
    pack_length: int = 0

    @classmethod
    def of(
        cls, config: TrainConfig, model: Any, data: ConversationData, learning: Collection[str]
    ) -> Batching:
        """As a stage says; `learning` names the parameters that train.

        Raises:
            ModelError: a model whose packed samples would mix.
        """
        share: Literal["turns", "chunks", "cost"] = "turns"
        costs, rule = None, group_of(config)
        if rule in ("llava", "mgm") or (rule == "none" and config.loss_mean == "micro_batches"):
            share = "chunks"  # whose means count, so theirs are the rows to be together
        elif rule == "balanced":
            train = parts_of(learning, PARTS)
            rows = data.rows
            seen = rows.lengths - rows.texts + rows.images.counts
            share, costs = (
                "cost",
                row_costs(model.cost(), rows.lengths, seen, rows.supervised, train),
            )
        if config.pack == "isolated":
            check_packable(model.language.get_decoder(), int(data.rows.lengths.max()))
        length = 0 if isinstance(config.pack_length, str) else config.pack_length
        return cls(share, costs, config.pack == "isolated", length)

    def shares(self, rows: np.ndarray, cut: Cut) -> Shares:
        """Places of a global batch by device and pass."""
        if self.costs is not None:
            return by_cost(self.costs[rows].tolist(), cut)
        return by_chunks(cut) if self.share == "chunks" else by_turns(cut)

    def grouped(self, lengths: Sequence[int], attention: str) -> list[list[int]]:
        """The packs of a pass's rows.

        Args:
            lengths: spliced tokens of each row.
            attention: what transformers calls the way it is computed.
        """
        if wants_one_row(attention):
            return [list(range(len(lengths)))]
        return plan_packs(lengths, max(self.pack_length, *lengths))


def in_order(
    config: TrainConfig, order: np.ndarray, data: ConversationData, batch: int, seed: int
) -> np.ndarray:
    """The drawn rows as the stage's rule groups them."""
    rule = group_of(config)
    rows = data.rows
    sizes = rows.texts if rule == "xtuner" else data.words
    signs = np.where(rows.images.counts > 0, 1, -1)
    micro = batch if isinstance(config.micro_batch, str) else config.micro_batch
    return regroup(order, rule, rows.lengths, np.maximum(sizes, 1) * signs, batch, micro, seed)


def crop_seed(config: TrainConfig, model: Any, seed: int) -> int | None:
    """What random parts of pictures are drawn from; None where they are seen whole.

    Raises:
        RecipeError: asked for where pictures are cut into tiles.
    """
    is_on = config.random_crop
    if is_on == "auto":
        is_on = bool(model.crops_in_training) and config.augment is False
    if is_on and model.needs_sizes:
        raise RecipeError("random_crop and image_aspect_ratio anyres: take one of them")
    return seed if is_on else None
