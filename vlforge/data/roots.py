"""Where pictures lie: relative paths below their data file, moved folders re-rooted.

`--map OLD=NEW` of a run is a setting of the whole process: data files written
before a move still name the old folders.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping, Sequence

_has_drive = re.compile(r"[A-Za-z]:[\\/]").match
_moved: dict[str, str] = {}


def set_moved(maps: Mapping[str, str]) -> None:
    """From now on in this process, paths at or below a key are taken below its value."""
    _moved.clear()
    _moved.update({old.rstrip("/"): new.rstrip("/") for old, new in maps.items()})


def moved() -> dict[str, str]:
    """What `set_moved` was last told: for processes that this one starts."""
    return dict(_moved)


def reroot(path: str) -> str:
    """`path`, or where it lies after the move."""
    for old, new in _moved.items():
        if path == old or path.startswith(old + "/"):
            return new + path[len(old) :]
    return path


def place_all(root: str, paths: Sequence[str]) -> list[str]:
    """The absolute paths of pictures that a data file below `root` names."""
    full = [_place(root, path) for path in paths]
    return [reroot(path) for path in full] if _moved else full


def _place(root: str, path: str) -> str:
    first = path[:1]
    if first == "/" or not root or (path[1:2] == ":" and _has_drive(path)):
        return path
    full = f"{root}{path}" if root[-1] == os.sep else f"{root}{os.sep}{path}"
    return _above(root, full, path) if first == "." and path.startswith("..") else full


def _above(root: str, full: str, path: str) -> str:
    """A path that leaves `root`; a run's stage is a link, and its rows name what lies
    beside the folder that it leads to."""
    plain, real = os.path.normpath(full), _real(root)
    if real == root or os.path.exists(plain):
        return plain
    behind = os.path.normpath(os.path.join(real, path))
    return behind if os.path.exists(behind) else plain


@functools.lru_cache(maxsize=64)
def _real(folder: str) -> str:
    return os.path.realpath(folder)
