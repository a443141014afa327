"""Which system a file belongs to, and that system's way of becoming a recipe of ours.

Each module named here has `recognises(foreign)` and `adopt_foreign(foreign)`; a module
that knows configurations by name has `built_in(name)` too. Nothing of a file is executed.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlforge.recipe.adopt.adopted import AdoptedRecipe, Foreign, read_foreign
from vlforge.types import RecipeError


@dataclass(frozen=True)
class System:
    """A system whose files are adopted: their endings, and what they are."""

    module: str
    name: str
    endings: tuple[str, ...]
    reads: str

    def code(self) -> Any:
        """The module that reads its files."""
        return importlib.import_module(f"vlforge.recipe.adopt.{self.module}")


SYSTEMS = (
    System("data_juicer_recipe", "Data-Juicer", (".yaml", ".yml", ".txt"),
           "a YAML file with `process`, or the table that it prints"),
    System("train_script", "Mini-Gemini, LLaVA and Better Synth", (".sh", ".bash", ".py"),
           "a shell script that starts their train_mem.py"),
    System("xtuner", "XTuner", (".py",), "a LLaVA configuration, or the name of one it ships"),
    System("minigpt4", "MiniGPT-4", (".yaml", ".yml"),
           "a YAML file with `model` (arch: mini_gpt4), `datasets` and `run`"),
    System("paddlemix", "PaddleMIX", (".json",), "the JSON that supervised_finetune.py is given"),
)  # fmt: skip


def adopt_file(path: Path, changes: Mapping[str, str] | None = None) -> AdoptedRecipe:
    """A file of another system, or a configuration that one knows by name, as a recipe.

    Args:
        changes: by the file's own keys, as that system's command line changes them.

    Raises:
        RecipeError: no system knows it, or with file and line what is wrong in it.
    """
    if not path.exists():
        for system in SYSTEMS:
            named = getattr(system.code(), "built_in", None)
            foreign = named(str(path)) if named else None
            if foreign is not None:
                adopted = Foreign(foreign.path, foreign.text, dict(changes or {}))
                return _adopted(system, adopted)
    foreign = read_foreign(path, changes or {})
    found = system_of(foreign)
    if found is None:
        known = "; ".join(f"{one.name}: {one.reads}" for one in SYSTEMS)
        raise RecipeError(f"{path}: no system's file that is known here. Known are {known}")
    return _adopted(found, foreign)


def system_of(foreign: Foreign) -> System | None:
    """The system whose file it is, by its ending and what it says."""
    for system in SYSTEMS:
        if foreign.path.suffix.lower() in system.endings and system.code().recognises(foreign):
            return system
    return None


def is_built_in(name: str) -> bool:
    """Whether a system knows a configuration of that name."""
    named = (getattr(system.code(), "built_in", None) for system in SYSTEMS)
    return any(one(name) is not None for one in named if one)


def _adopted(system: System, foreign: Foreign) -> AdoptedRecipe:
    adopted: AdoptedRecipe = system.code().adopt_foreign(foreign)
    return adopted
