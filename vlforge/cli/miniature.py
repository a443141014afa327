"""`vlforge miniature`: a known system's whole folder in small, to try things out on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlforge.cli.show import plain_line, shown_path, table
from vlforge.types import RecipeError

EXAMPLES = """\b
Examples:
  vlforge miniature                                what can be written
  vlforge miniature better_synth kit               the whole kit, a few megabytes
  vlforge miniature mgm mgm --rows 64 --seed 1
  vlforge run recipes/mgm_2b.yaml --size tiny      writes one by itself and runs on it
"""


def miniature(
    system: Annotated[
        str | None, typer.Argument(metavar="SYSTEM", help="Whose folder.", show_default=False)
    ] = None,
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="A new folder.", show_default=False)
    ] = None,
    rows: Annotated[int, typer.Option(metavar="N", help="Pictures of the training data.")] = 24,
    seed: Annotated[int, typer.Option(metavar="N", help="Equal seeds write equal data.")] = 0,
) -> None:
    """Write a system's folder in small: original layout and formats, made data, random weights.

    Its scores mean nothing; it shows in seconds whether recipes, commands and scripts
    that are meant for the real folder run. Without DIR it lists the systems.
    """
    from vlforge.miniatures.config import MiniatureConfig
    from vlforge.miniatures.make import SYSTEMS, find_system, make_miniature

    if system is None:
        table(("system", "what is written"), [(n, found.about) for n, found in SYSTEMS.items()])
        return
    find_system(system)
    if folder is None:
        raise RecipeError(f"name the new folder: vlforge miniature {system} DIR")
    config = MiniatureConfig(system=system, rows=rows, seed=seed)  # type: ignore[arg-type]
    made = make_miniature(system, folder, config)
    files = [path for path in made.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files) / 2**20
    plain_line(f"{shown_path(made)}: {len(files)} files, {size:.1f} MiB")
