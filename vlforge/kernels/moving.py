"""Tensors on their way to a GPU, without waiting for what it still has to do.

A copy from ordinary memory stands behind all work that was queued, and the process with it:
it would begin the next batch only when the last one is done. From pinned memory the copy is
queued like anything else.
"""

from __future__ import annotations

import torch
from torch import Tensor


def moved(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The same numbers on `device`."""
    target = torch.device(device)
    if target.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(target)
    return tensor.pin_memory().to(target, non_blocking=True)
