"""All familiar commands by system: what `vlforge compat` looks through."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

from vlforge.cli.familiar.old import Familiar, OldCommand, Ours
from vlforge.types import RecipeError

SYSTEMS = {
    "data_juicer": "Data-Juicer",
    "better_synth": "Better Synth",
    "mgm": "Mini-Gemini",
    "llava": "LLaVA",
    "mgen_vl": "MGen-VL (PaddleMIX)",
    "minigpt4": "MiniGPT-4",
    "xtuner": "XTuner",
}
"""Modules of this package with a tuple `COMMANDS`, and whose commands they are."""


def familiar() -> Iterator[tuple[str, Familiar]]:
    """(system, command) of every one, in the order of the documentation."""
    for module, system in SYSTEMS.items():
        for command in importlib.import_module(f"vlforge.cli.familiar.{module}").COMMANDS:
            yield system, command


def translate(old: OldCommand) -> Ours:
    """What to run in the old command's place.

    Raises:
        RecipeError: no system's command is known by that name, the nearest is named; or
            what the command needs is missing.
    """
    for _, command in familiar():
        if command.fits(old):
            return command.translate(old)
    from vlforge.recipe.nearest import nearest

    words = (word for _, one in familiar() for word in one.old.split())
    names = {Path(word).name for word in words if "=" not in word and not word.startswith("-")}
    raise RecipeError(
        f"{old.name}: no command that is known here{nearest(old.name, sorted(names))}; "
        "`vlforge list commands` has them all"
    )
