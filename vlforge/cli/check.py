"""`vlforge check`: reads a recipe and its data for what would fail later."""

from __future__ import annotations

from collections import Counter

import typer

from vlforge.cli.options import (
    Arms,
    Maps,
    Overrides,
    RecipeFile,
    RunFolder,
    Seeds,
    Size,
    Until,
    choose,
)
from vlforge.cli.recipes import find_recipe
from vlforge.cli.show import plain_line

EXAMPLES = """\b
Examples:
  vlforge check recipes/photos.yaml
  vlforge check recipe.yaml stages.align.data=other.jsonl
"""


def check(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: RunFolder = None,
    arms: Arms = None,
    seeds: Seeds = None,
    size: Size = None,
    until: Until = None,
    maps: Maps = None,
) -> None:
    """Look for what would fail later: files, labels, budgets.

    The exit code is 2 where something is wrong.
    """
    from vlforge.runs.check import check_recipe

    path = find_recipe(recipe)
    choice = choose(overrides, maps, run_dir=out, arms=arms, seeds=seeds, size=size, until=until)
    findings = check_recipe(path, choice)
    for found in findings:
        plain_line(f"{found.level:<8}{found.where}: {found.text}")
    levels = Counter(found.level for found in findings)
    plain_line(f"{path}: {levels['error']} errors, {levels['warning']} warnings")
    if levels["error"]:
        raise typer.Exit(2)
    plain_line(f"Next    vlforge run {path}")
