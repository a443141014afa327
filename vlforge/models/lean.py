"""What a model's loss leaves out and what its backward pass makes again, switched on it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from vlforge.models.config import Lean
from vlforge.models.parts.last_rows import last_rows
from vlforge.models.parts.recompute import set_recompute
from vlforge.models.parts.vision import VisionTower


def apply_lean(model: Any, lean: Lean, recompute: Collection[str] = ()) -> dict[str, int]:
    """Set the switches on a model of our families, whatever was set before.

    Args:
        recompute: `vision`, `language`: whose layers are computed twice.

    Returns:
        How many layers of each part are computed twice.
    """
    if model.last_rows is not None:
        model.last_rows.remove()
    decoder = model.language.get_decoder()
    model.lean = lean
    takes_rows = lean.takes_last_rows(int(decoder.config.hidden_size))
    model.last_rows = last_rows(decoder) if takes_rows else None
    for module in model.modules():
        if isinstance(module, VisionTower):
            module.runs_unused = not lean.unused_layers
    return set_recompute(model, recompute, model.last_rows)
