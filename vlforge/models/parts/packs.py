"""Several samples in one row of a batch, each as if it were alone.

A pack lays whole samples end to end. Positions begin anew at each, nobody attends to
another sample, and a sample's first token is never predicted, since what precedes it
belongs to somebody else. So logits, loss and gradients are those of the samples alone.

Shapes: B rows, P packs, L tokens of a pack.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlforge.models.parts.splice import SplicePlan
from vlforge.types import IGNORE_INDEX, ModelError

ATTENDING = ("full_attention", "sliding_attention")
"""Kinds of layers that a mask tells whom they may look at."""


def pack_plan(plan: SplicePlan, packs: Sequence[Sequence[int]]) -> SplicePlan:
    """The rows of a plan laid end to end, as `packs` groups them: [B, …] -> [P, L].

    `segments` numbers the samples of a pack from 1; 0 is padding, which attends to itself
    only. Every row of the plan stands in one pack.
    """
    lengths = plan.lengths.tolist()
    totals = [sum(lengths[row] for row in pack) for pack in packs]
    shape = (len(packs), max(totals))
    # Padding takes any embedding: nothing sees it, and no gradient comes from it.
    source, segments = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    positions, labels = np.zeros(shape, dtype=np.int64), np.full(shape, IGNORE_INDEX)
    given = [tensor.cpu().numpy() for tensor in (plan.source, plan.labels)]
    left = plan.padding_side == "left"
    for place, pack in enumerate(packs):
        start = 0
        for number, row in enumerate(pack, 1):
            length = lengths[row]
            first = plan.mask.shape[1] - length if left else 0
            here, there = slice(start, start + length), slice(first, first + length)
            source[place, here], labels[place, here] = given[0][row, there], given[1][row, there]
            labels[place, start] = IGNORE_INDEX
            positions[place, here] = np.arange(length)
            segments[place, here] = number
            start += length
        positions[place, start:] = np.arange(shape[1] - start)
    arrays = (source, labels, segments > 0, positions, np.asarray(totals), segments)
    made = [torch.from_numpy(array).to(plan.source.device) for array in arrays]
    return replace(
        plan,
        source=made[0],
        labels=made[1],
        mask=made[2],
        positions=made[3],
        lengths=made[4],
        padding_side="right",
        segments=made[5],
        places=None,
    )


def segment_mask(segments: Tensor) -> Tensor:
    """[P, L] -> bool [P, 1, L, L]: whom a token (row) looks at: its own sample, up to itself."""
    same = segments[:, None, :, None] == segments[:, None, None, :]
    return same.tril()


def packed_inputs(decoder: Any, plan: SplicePlan, dtype: torch.dtype) -> dict[str, Tensor | None]:
    """`attention_mask` and `position_ids` with which a decoder keeps samples apart.

    SDPA and plain attention are given a mask; flash and flex attention, which skip what
    a mask would hide, find the samples where positions begin anew.

    Raises:
        ModelError: flash attention and more than one row: it wants all packs in one.
    """
    way = str(decoder.config._attn_implementation)
    mask: Tensor | None = None
    if wants_one_row(way):
        if len(plan.segments if plan.segments is not None else ()) != 1:
            raise ModelError(f"attention {way} takes packs as one row; leave pack_length at auto")
    elif way != "flex_attention":
        assert plan.segments is not None
        mask = segment_mask(plan.segments)
        if way == "eager":
            least = torch.finfo(dtype).min
            mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(
                ~mask, least
            )
    return {"attention_mask": mask, "position_ids": plan.positions}


def wants_one_row(way: str) -> bool:
    """Whether attention of this kind takes packed samples in a single row only."""
    return "flash" in way


def check_packable(decoder: Any, longest: int) -> None:
    """Refuse a language model whose samples would see one another, or be placed wrongly.

    Args:
        longest: tokens of the longest sample.

    Raises:
        ModelError: says why, and to turn packing off.
    """
    reason = _hindrance(decoder.config, longest)
    takes = inspect.signature(decoder.forward).parameters
    if reason is None and "position_ids" not in takes:
        reason = "takes no positions, and packed samples begin at 0 each"
    if reason is not None:
        raise ModelError(f"pack: isolated: {decoder.config.model_type} {reason}; set pack: off")


def _hindrance(config: Any, longest: int) -> str | None:
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if "mrope_section" in rope or "mrope" in str(rope.get("rope_type", rope.get("type"))):
        return "places pictures in two dimensions (mrope), which packs do not carry"
    kinds = set(getattr(config, "layer_types", None) or ()) - set(ATTENDING)
    if kinds:
        return f"has {sorted(kinds)[0]} layers, which remember the sample before"
    if getattr(config, "alibi", False):
        return "weighs distances (ALiBi) across a whole row"
    window = getattr(config, "sliding_window", None)
    if window and longest > window and getattr(config, "use_sliding_window", True):
        return f"looks back {window} tokens and a sample has {longest}"
    return None
