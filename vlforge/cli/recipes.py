"""Finds the recipe a command names: a path, or the name of one that ships."""

from __future__ import annotations

from pathlib import Path

from vlforge.types import RecipeError

_PACKAGE = Path(__file__).resolve().parent.parent


def shipped_folder() -> Path:
    """Where the shipped recipes are: inside an installed package, or beside a checkout's."""
    installed = _PACKAGE / "_recipes"
    return installed if installed.is_dir() else _PACKAGE.parent / "recipes"


def find_recipe(given: Path) -> Path:
    """`given` where it exists, else the shipped recipe of that name.

    `photos`, `photos.yaml` and `recipes/photos.yaml` all find the shipped one;
    a file of the working folder comes first.

    Raises:
        RecipeError: neither is there; names the nearest file beside it.
    """
    if given.is_dir():
        raise RecipeError(f"{given}: is a folder; name the recipe's YAML file in it")
    if given.exists():
        return given
    name = given.name if given.suffix in (".yaml", ".yml") else f"{given.name}.yaml"
    shipped = shipped_folder() / name
    if str(given.parent) in (".", "recipes") and shipped.is_file():
        return shipped
    raise RecipeError(f"{given}: no such recipe{_nearest(given)}")


def _nearest(given: Path) -> str:
    from vlforge.recipe.nearest import nearest

    beside = [str(p) for pattern in ("*.yaml", "*.yml") for p in given.parent.glob(pattern)]
    shipped = [f"recipes/{p.name}" for p in shipped_folder().glob("*.yaml")]
    return nearest(str(given), [*beside, *shipped]) or "; give the path of a YAML file"
