"""Training checkpoints whose pickles also hold objects of the trainer that wrote them.

mmengine puts its loss history beside the weights, DeepSpeed its loss scaler. torch's
restricted unpickler refuses their classes; here each becomes an inert stand-in, so
that the weights are read without the libraries and without running anything. Only
names of the known trainers are let through; whatever else a file asks for refuses it.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

from vlforge.checkpoints.weights import read_pickle

TRAINERS = ("mmengine.", "mmcv.", "addict.", "xtuner.", "deepspeed.", "numpy.")
"""Modules whose classes may stand in a checkpoint; none of them is imported."""
METHODS = ("builtins.getattr", "__builtin__.getattr")
"""How a pickle names the methods of a class, which mmengine's history does."""


class StandIn:
    """An object of a class that is not here; what was in it is forgotten."""

    def __init__(self, *args: Any, **kwargs: Any):
        del args, kwargs

    def __setstate__(self, state: Any) -> None:
        del state


def read_trained(path: Path) -> Any:
    """What a trainer's `.pth` or `.pt` holds, stand-ins where its own objects were.

    Raises:
        ModelError: truncated, no torch file, or a pickle that asks for something else.
    """
    names = _asked_for(path)
    if not names or not all(name.startswith(TRAINERS) or name in METHODS for name in names):
        return read_pickle(path)  # which refuses with the name of what is asked for
    with torch.serialization.safe_globals([(_stand_in(name), name) for name in names]):
        return read_pickle(path)


def _asked_for(path: Path) -> list[str]:
    """Names that the file's pickle asks for beyond plain tensors; nothing is unpickled."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return []
    try:
        return list(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except (OSError, RuntimeError, ValueError, LookupError, EOFError, pickle.UnpicklingError):
        return []


def _stand_in(name: str) -> Any:
    """What is built instead; torch fills entries into plain dictionaries only."""
    if name.endswith("Dict"):
        return OrderedDict
    return type("StandIn", (StandIn,), {})
