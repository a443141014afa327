"""The layouts, found by their names in this folder's files; none is imported to be found.

`llava_hf` is the class `LlavaHfLayout`.
"""

from __future__ import annotations

import functools
import importlib
import re
from difflib import get_close_matches
from pathlib import Path

from vlforge.checkpoints.checkpoint import Checkpoint, Layout, Parts
from vlforge.checkpoints.weights import open_file
from vlforge.types import ModelError

_CLASS = re.compile(r"^class (\w+)Layout\b(?!\(Protocol)", re.M)
_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


@functools.cache
def places() -> dict[str, tuple[str, str]]:
    """(module, class) of each layout, in alphabetical order."""
    found = {}
    for file in sorted(Path(__file__).parent.glob("*.py")):
        for name in _CLASS.findall(file.read_text(encoding="utf-8")):
            module = f"vlforge.checkpoints.{file.stem}"
            found[_WORD.sub("_", name).lower()] = (module, f"{name}Layout")
    return found


def find(name: str) -> Layout:
    """The layout `name`.

    Raises:
        ModelError: no such layout; the nearest is named.
    """
    place = places().get(name.replace("-", "_"))
    if place is None:
        near = get_close_matches(name, places(), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(places())}"
        raise ModelError(f"unknown layout {name!r}: {hint}")
    layout: Layout = getattr(importlib.import_module(place[0]), place[1])()
    return layout


def match(path: Path) -> Layout | None:
    """The layout that what lies at `path` is in, by its content; None if none knows it.

    Layouts that are `general` (any adapter of peft) are asked last.
    """
    layouts = sorted(map(find, places()), key=lambda one: getattr(one, "general", False))
    return next((layout for layout in layouts if layout.matches(path)), None)


def detect(path: Path) -> Layout:
    """The layout that what lies at `path` is in, by its content.

    Raises:
        ModelError: nothing is there, no layout knows it, or it cannot be read.
    """
    if not path.exists():
        raise ModelError(f"no model at {path}; check the path")
    layout = match(path)
    if layout is not None:
        return layout
    if path.is_file():
        open_file(path)  # a file that is damaged or asks for code says so
    raise ModelError(
        f"{path} is in no layout known here ({', '.join(places())}); name one with --from"
    )


def read_checkpoint(
    path: Path, parts: Parts | None = None, layout: str | None = None
) -> Checkpoint:
    """Open a model in any layout; no weight is read yet.

    Raises:
        ModelError: no such layout, or parts that are missing or do not fit.
    """
    chosen = find(layout) if layout else detect(path)
    return chosen.read(path, parts or Parts())
