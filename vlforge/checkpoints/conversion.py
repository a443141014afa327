"""From one layout to another: what fits is known before a byte is written."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from vlforge.checkpoints.checkpoint import Checkpoint, Layout, Writing, expected
from vlforge.data.new_folder import NewFolder
from vlforge.types import ModelError

ROOM = 1.02
"""Tokenizer files and indexes take a little more than the weights."""


@dataclass(frozen=True)
class Fit:
    """How a checkpoint's tensors fit the model that its configuration describes.

    used: (where it was read, our name) of each tensor with a place.
    missing: our names of weights that nothing gives.
    extra: where tensors without a place were read.
    misshapen: (where, shape there, shape asked for).
    """

    used: tuple[tuple[str, str], ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    misshapen: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    @property
    def is_whole(self) -> bool:
        """Whether a model can be made of it."""
        return not (self.missing or self.extra or self.misshapen)


def fit_of(checkpoint: Checkpoint) -> Fit:
    """Hold names and shapes against the family's model; no weight is read."""
    wanted = expected(checkpoint.config)
    weights = checkpoint.weights
    return Fit(
        used=tuple((lazy.where, name) for name, lazy in weights.items() if name in wanted),
        missing=tuple(name for name in wanted if name not in weights),
        extra=tuple(lazy.where for name, lazy in weights.items() if name not in wanted),
        misshapen=tuple(
            (lazy.where, lazy.shape, wanted[name])
            for name, lazy in weights.items()
            if name in wanted and lazy.shape != wanted[name]
        ),
    )


def size_of(checkpoint: Checkpoint, how: Writing) -> int:
    """Bytes of all weights as they will be written."""
    return sum(lazy.nbytes for lazy in how.cast(checkpoint.weights).values())


def check(checkpoint: Checkpoint, target: Path, layout: Layout, how: Writing) -> None:
    """Refuse what would not come to a good end.

    Raises:
        ModelError: weights that are missing or do not fit, or too little room on the disk.
    """
    checkpoint.check()
    if not getattr(layout, "is_part", False):
        check_room(target, int(size_of(checkpoint, how) * ROOM))


def write(checkpoint: Checkpoint, target: Path, layout: Layout, how: Writing) -> dict[str, int]:
    """Write a checkpoint in a layout; the folder appears when it is complete.

    Returns:
        Bytes of each file written, by its name in the folder.

    Raises:
        ModelError: a layout that cannot hold the model.
        DataError: the target is there already.
    """
    with NewFolder(target) as draft:
        layout.write(checkpoint, draft, how)
        files = [file for file in sorted(draft.rglob("*")) if file.is_file()]
        return {str(file.relative_to(draft)): file.stat().st_size for file in files}


def check_room(target: Path, needed: int) -> None:
    """Refuse what the disk cannot hold.

    Raises:
        ModelError: fewer than `needed` bytes are free where `target` will be.
    """
    folder = next(path for path in (target, *target.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ModelError(
            f"{target} takes {needed / 1e9:.1f} GB and {folder} has {free / 1e9:.1f} GB left; "
            "make room, name another disk, or take --dtype bf16"
        )
