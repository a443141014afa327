"""Writes a system's folder in small."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from vlforge.data.new_folder import NewFolder
from vlforge.miniatures.config import MiniatureConfig
from vlforge.recipe.nearest import nearest
from vlforge.types import DataError, ProgressFn, RecipeError, no_progress

FEWEST_ROWS, MOST_ROWS = 8, 10_000


@dataclass(frozen=True)
class Miniature:
    """A system: `module` has `write(folder, config)`, `about` is one line for a list."""

    module: str
    about: str


SYSTEMS: Mapping[str, Miniature] = {
    "better_synth": Miniature(
        "vlforge.miniatures.better_synth", "the Better Synth kit: input, solution, toolkit, models"
    ),
    "mgm": Miniature("vlforge.miniatures.mgm", "Mini-Gemini: data/MGM-*, model_zoo/"),
    "llava": Miniature("vlforge.miniatures.llava", "LLaVA-1.5: playground/data, Vicuna, CLIP"),
    "xtuner": Miniature("vlforge.miniatures.xtuner", "XTuner's llava-internlm2-7b: data/, models/"),
    "mgen_vl": Miniature("vlforge.miniatures.mgen_vl", "ad captions in Chinese with MGen-VL"),
    "minigpt4": Miniature("vlforge.miniatures.minigpt4", "MiniGPT-4: both stages' data, weights"),
}
"""The systems that can be written, in the order of the documentation."""


def find_system(name: str) -> Miniature:
    """The system called `name`; a dash for an underscore is taken too.

    Raises:
        RecipeError: there is none; names the nearest.
    """
    found = SYSTEMS.get(name.replace("-", "_"))
    if found is None:
        near = nearest(name, SYSTEMS)
        raise RecipeError(f"no miniature of {name!r}{near}; known: {', '.join(SYSTEMS)}")
    return found


def make_miniature(
    system: str,
    folder: str | Path,
    config: MiniatureConfig | None = None,
    progress: ProgressFn = no_progress,
) -> Path:
    """Write `system`'s folder in small; it appears under its name only when it is whole.

    Returns:
        `folder`.

    Raises:
        RecipeError: no such system, or a number of rows that cannot be.
        DataError: `folder` is there already and not empty.
    """
    found = find_system(system)
    config = config or MiniatureConfig(system=system)  # type: ignore[arg-type]
    config = replace(config, seed=0 if config.seed == "auto" else config.seed)
    if not FEWEST_ROWS <= config.rows <= MOST_ROWS:
        raise RecipeError(f"rows {config.rows}: take {FEWEST_ROWS} to {MOST_ROWS:,}")
    if Path(folder).name in ("", ".."):
        raise DataError(f"{folder} is a folder that is there: name a new one")
    progress(0, None, f"miniature of {system}")
    with NewFolder(Path(folder)) as draft:
        importlib.import_module(found.module).write(draft, config)
    return Path(folder)
