"""What decides the numbers of a batch, by name, of a stage as it was settled.

Settings say what was asked for; these say what became of it ("auto", what a family does
of itself, what the model's processor says), so that a checkpoint is not taken up by a
stage whose batches would be others.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, is_dataclass
from typing import Any

import numpy as np

from vlforge.training.batching import Batching


def task_digest(task: Any) -> dict[str, Any]:
    """Names and plain values; equal for tasks that give equal batches for equal rows.

    data: ids, labels, and which pictures stand where.
    batch.*: how a global batch is shared and packed.
    pixels.*: how pictures are fitted, cropped, changed and normalised.

    Args:
        task: a `ConversationTask`, or one that has some of its `data`, `batching`, `augment`.
    """
    found: dict[str, Any] = {}
    data, batching = getattr(task, "data", None), getattr(task, "batching", None)
    if data is not None:
        found["data"] = data.fingerprint()
        pictures = data.pictures
        found["pixels.crop_seed"] = getattr(pictures, "crop_seed", None)
        found |= _plain("pixels.processor", getattr(pictures, "processor", None))
    if isinstance(batching, Batching):
        costs = batching.costs
        found["batch.share"] = batching.share
        found["batch.costs"] = None if costs is None else _digest(costs)
        found["batch.packs"] = [batching.packs, batching.pack_length]
    return found | _plain("pixels.augment", getattr(task, "augment", None))


def _digest(numbers: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(numbers).tobytes()).hexdigest()


def _plain(name: str, value: Any) -> dict[str, Any]:
    if is_dataclass(value) and not isinstance(value, type):
        return {f"{name}.{key}": str(one) for key, one in asdict(value).items()}
    return {name: None if value is None else type(value).__name__}
