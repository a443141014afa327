"""Finds the recipe a command names: a path, one that ships, or another system's file."""

from __future__ import annotations

from pathlib import Path

from vlforge.types import RecipeError

_MOST_SETTINGS = 1 << 20
"""Bytes; files of settings are smaller."""
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
    found = shipped_recipe(given)
    if found is None:
        raise RecipeError(f"{given}: no such recipe{_nearest(given)}")
    return found


def our_recipe(given: Path) -> Path:
    """`find_recipe`, with another system's file adopted.

    What such a file, or a configuration that a system knows by name, amounts to is written
    to `runs/NAME.yaml`.

    Raises:
        RecipeError: as `find_recipe`, or what is wrong in the file.
    """
    from vlforge.recipe.adopt.systems import is_built_in

    if not given.exists() and shipped_recipe(given) is None and is_built_in(str(given)):
        return adopted_recipe(given)
    path = find_recipe(given)
    return adopted_recipe(path) if _is_foreign(path) else path


def says_stages(path: Path) -> bool:
    """Whether a file is a recipe of ours: YAML with `stages`, or with the `kind` of one."""
    from vlforge.recipe.adopt.printed_table import is_printed_table
    from vlforge.recipe.source import read_source

    if is_printed_table(path) or not _names_stages(path):
        return False
    tree = read_source(path).plain()
    return "stages" in tree or "kind" in tree


def is_other_systems(path: Path) -> bool:
    """Whether another system's settings lie there, and no dataset that is named like them."""
    from vlforge.recipe.adopt.adopted import read_foreign
    from vlforge.recipe.adopt.systems import system_of

    if not path.is_file() or path.stat().st_size > _MOST_SETTINGS:
        return False
    try:
        return system_of(read_foreign(path, {})) is not None
    except RecipeError:
        return False


def shipped_recipe(given: Path) -> Path | None:
    """The shipped recipe that a path or a name means; None where there is none."""
    name = given if given.suffix in (".yaml", ".yml") else given.with_name(f"{given.name}.yaml")
    parts = name.parts[1:] if name.parts[:1] == ("recipes",) else name.parts
    if name.is_absolute() or ".." in parts:
        return None
    shipped = shipped_folder().joinpath(*parts)
    return shipped if shipped.is_file() else None


def _is_foreign(path: Path) -> bool:
    """Whether a system knows the file as its own; what none knows is to be a recipe of ours."""
    from vlforge.recipe.adopt.adopted import read_foreign
    from vlforge.recipe.adopt.systems import system_of

    if path.suffix.lower() in (".yaml", ".yml") and says_stages(path):
        return False
    return system_of(read_foreign(path, {})) is not None


def _names_stages(path: Path) -> bool:
    """Whether the words stand anywhere in the file; most recipes need not be read for that."""
    try:
        content = path.read_bytes()
    except OSError:
        return True
    return b"stages" in content or b"kind" in content or b"\\" in content


def adopted_recipe(given: Path) -> Path:
    """The recipe that a foreign file amounts to, written to `runs/NAME.yaml` and said.

    Raises:
        RecipeError: no system's file, or what is wrong in it.
    """
    from vlforge.cli.show import note_line, shown_path
    from vlforge.recipe.adopt.systems import adopt_file

    adopted = adopt_file(given)
    out = Path("runs") / f"{adopted.tree['name']}.yaml"
    write_recipe(adopted.text(), out, given)
    note_line(f"{adopted.system}'s {given.name} is {shown_path(out)} here; edit that from now on")
    for note in adopted.notes:
        note_line(note)
    if adopted.unused:
        keys = ", ".join(one.key for one in adopted.unused)
        note_line(f"without a counterpart, see the recipe's end: {keys}")
    return out


def write_recipe(text: str, out: Path, given: Path) -> None:
    """Put a recipe's text at `out`, whole or not at all.

    Raises:
        RecipeError: `out` is `given` or cannot be written.
    """
    if out.absolute() == given.absolute():
        raise RecipeError(f"{out}: is the file that is read; name another with -o")
    from vlforge.runs.store import write_text

    try:
        write_text(out, text)
    except OSError as error:
        raise RecipeError(f"{out}: cannot be written ({error.strerror or error})") from None


def _nearest(given: Path) -> str:
    from vlforge.recipe.nearest import nearest

    beside = [str(p) for pattern in ("*.yaml", "*.yml") for p in given.parent.glob(pattern)]
    shipped = [f"recipes/{p.name}" for p in shipped_folder().glob("*.yaml")]
    return nearest(str(given), [*beside, *shipped]) or "; give the path of a YAML file"
