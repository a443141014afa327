"""What a micro-batch's summed loss is multiplied by, so that gradients are the wanted mean.

`tokens`: every supervised token of the global batch counts the same, however the
batch is cut. `micro_batches`: the mean of the micro-batches' own means, in which a
short answer among short ones counts more; transformers' Trainer up to 4.45 with
DistributedDataParallel, so LLaVA, Mini-Gemini and Qwen-VL. `lavis`: as that, but
accumulated micro-batches add up, MiniGPT-4's loss is not divided by their number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

LossMean = Literal["tokens", "micro_batches", "lavis"]


@dataclass(frozen=True)
class Cut:
    """A global batch of `rows` rows over `devices`, in micro-batches of at most `micro` rows."""

    rows: int
    devices: int
    micro: int

    @property
    def passes(self) -> int:
        """Forward passes of the device with most rows; all devices run as many."""
        return math.ceil(math.ceil(self.rows / self.devices) / self.micro)

    @property
    def micro_batches(self) -> int:
        """Micro-batches that hold a row, over all devices."""
        shares = (len(range(rank, self.rows, self.devices)) for rank in range(self.devices))
        return sum(math.ceil(share / self.micro) for share in shares)


def loss_weight(rule: LossMean, cut: Cut, whole: int, own: int) -> float:
    """The factor of a micro-batch's summed loss before its backward pass.

    Devices' gradients are averaged afterwards, which the factor makes up for.

    Args:
        whole: supervised tokens of the global batch.
        own: those of the micro-batch.
    """
    if rule == "tokens":
        return cut.devices / max(1, whole)
    if rule == "micro_batches":
        return cut.devices / cut.micro_batches / max(1, own)
    return cut.devices * cut.passes / cut.micro_batches / max(1, own)


def shown_weight(rule: LossMean, cut: Cut, weight: float) -> float:
    """The factor with which a micro-batch's summed loss adds to the loss that is shown."""
    return weight / cut.devices / (cut.passes if rule == "lavis" else 1)
