"""Models opened to be talked to by many: what the server and the page begin with."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlforge.cli.show import note_line, plain_line

if TYPE_CHECKING:
    from vlforge.serving.talking import Talker


def open_talker(
    name: str, folder: Path, *, parts: Mapping[str, Path | None], waiting: int, **how: Any
) -> Talker:
    """The model in `folder` and its line, its notes and seconds said under its name.

    Args:
        parts: other models that it is put together from, as `Parts` names them.
        waiting: the most requests that stand in line.
        how: as `open_speaker` takes it; `batch` requests are answered together.

    Raises:
        ModelError: it cannot be opened.
    """
    from vlforge.checkpoints.checkpoint import Parts
    from vlforge.inference.speaking import open_speaker
    from vlforge.serving.talking import Talker

    begun = time.perf_counter()
    speaker = open_speaker(folder, parts=Parts(**parts), **how)
    for note in speaker.notes:
        note_line(f"{name}: {note}")
    plain_line(f"Loaded  {name} in {time.perf_counter() - begun:.1f} s")
    return Talker(speaker, name, batch=how["batch"], waiting=waiting)
