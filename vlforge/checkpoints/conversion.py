"""From one layout to another: what fits is known before a byte is written."""

from __future__ import annotations

import shutil
from pathlib import Path

from vlforge.checkpoints.checkpoint import Checkpoint, Layout, Writing
from vlforge.data.new_folder import NewFolder
from vlforge.types import ModelError

ROOM = 1.02
"""Tokenizer files and indexes take a little more than the weights."""


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
