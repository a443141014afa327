"""The families by name: `llava` is `LlavaModel` in `llava.py`, and so on.

A folder's `model_type` is the family's name behind `vlforge_`. Nothing is
imported before it is asked for.
"""

from __future__ import annotations

import functools
import importlib
import re
from pathlib import Path

from vlforge.models.base import VisionLanguageModel
from vlforge.types import ModelError

PREFIX = "vlforge_"
"""What our `model_type`s begin with."""
_CLASS = re.compile(r"^class \w+Model\(VisionLanguageModel\)", re.M)


@functools.cache
def known_families() -> tuple[str, ...]:
    """Names of the families there are."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return tuple(file.stem for file in files if _CLASS.search(file.read_text(encoding="utf-8")))


def find_family(name: str) -> type[VisionLanguageModel]:
    """The model class of a family.

    Raises:
        ModelError: no such family; names those there are.
    """
    if name not in known_families():
        raise ModelError(f"family {name!r} is unknown; known: {', '.join(known_families())}")
    module = importlib.import_module(f"vlforge.models.{name}")
    return getattr(module, "".join(word.capitalize() for word in name.split("_")) + "Model")


def family_of(model_type: object) -> str | None:
    """The family that a `model_type` belongs to; None where it is none of ours."""
    name = str(model_type).removeprefix(PREFIX)
    return name if str(model_type).startswith(PREFIX) and name in known_families() else None
