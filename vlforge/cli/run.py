"""`vlforge run`: a recipe becomes a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vlforge.cli.follow import next_command
from vlforge.cli.options import (
    Arms,
    Fresh,
    Jobs,
    Maps,
    Overrides,
    Processes,
    RecipeFile,
    RunFolder,
    Seeds,
    Size,
    Until,
    choose,
)
from vlforge.cli.recipes import our_recipe
from vlforge.cli.show import plain_line, shown_path

if TYPE_CHECKING:
    from vlforge.runs.prepare import Choice

EXAMPLES = """\b
Examples:
  vlforge run recipes/photos.yaml
  vlforge run recipes/quickstart.yaml stages.align.lr=5e-4 --seeds 3
  vlforge run recipes/quickstart.yaml --until filter      only the data
  vlforge run recipe.yaml --arms raw,refined --out runs/second
  vlforge run recipe.yaml --fresh                         nothing is reused
  vlforge run recipe.yaml --map /old/images=/new/images   the data has moved
"""


def run(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: RunFolder = None,
    arms: Arms = None,
    seeds: Seeds = None,
    size: Size = None,
    until: Until = None,
    jobs: Jobs = None,
    maps: Maps = None,
    fresh: Fresh = False,
    processes: Processes = None,
) -> None:
    """Run a recipe, or what is left of it.

    Finished stages are reused, also those of other runs beside this one; a stopped
    training goes on from its last checkpoint.
    """
    choice = choose(
        overrides, maps, run_dir=out, arms=arms, seeds=seeds, size=size, until=until, jobs=jobs,
        fresh=fresh, processes=processes,
    )  # fmt: skip
    run_and_say(our_recipe(recipe), choice)


def run_and_say(recipe: Path, choice: Choice) -> None:
    """`run_recipe`, then the lines that say what was done and where the result is."""
    from vlforge.reports.numbers import seconds
    from vlforge.runs.run import run_recipe

    result = run_recipe(recipe, choice)
    done = f"{result.nodes_run} stages run, {result.nodes_reused} reused"
    plain_line(f"{done}, {seconds(result.seconds)}")
    if result.report:
        plain_line(f"Report  {shown_path(result.report)}")
    else:
        plain_line(f"Result  {shown_path(result.run_dir)}")
    following = next_command(result.run_dir)
    if following:
        plain_line(f"Next    {following}")
