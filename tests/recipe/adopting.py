"""What every adopted recipe has to hold."""

from __future__ import annotations

from pathlib import Path

from vlforge.recipe.adopt.adopted import AdoptedRecipe
from vlforge.recipe.adopt.systems import adopt_file
from vlforge.recipe.load import load_recipe
from vlforge.recipe.schema import Recipe


def adopted(path: Path, out: Path, **changes: str) -> tuple[AdoptedRecipe, Recipe]:
    """The file adopted, written to `out` and read back as a recipe; every line has its origin."""
    made = adopt_file(path, {key.replace("__", "."): value for key, value in changes.items()})
    check_origins(made)
    out.write_text(made.text(), encoding="utf-8")
    return made, load_recipe(out)


def check_origins(made: AdoptedRecipe) -> None:
    """Every line that sets something says where it came from."""
    for line in made.text().splitlines():
        code, mark, origin = line.partition("  # ")
        is_head = code.rstrip().endswith(":") or not code.strip() or line.startswith("#")
        assert is_head or (mark and origin.strip()), line
