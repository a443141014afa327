"""`vlforge quickstart`: the whole loop on a small rendered world."""

from __future__ import annotations

from pathlib import Path

from vlforge.cli.options import Arms, Jobs, Overrides, RunFolder, Seeds, Size, choose
from vlforge.cli.recipes import find_recipe
from vlforge.cli.run import run_and_say

EXAMPLES = """\b
Examples:
  vlforge quickstart                      raw against refined data
  vlforge quickstart --arms all --seeds 3 every arm, three seeds
  vlforge quickstart --size tiny          a smoke test, its scores mean nothing
"""


def quickstart(
    overrides: Overrides = None,
    out: RunFolder = None,
    arms: Arms = None,
    seeds: Seeds = None,
    size: Size = None,
    jobs: Jobs = None,
) -> None:
    """The whole loop in small, on two CPU cores.

    Renders a world, dirties it, trains on raw and on refined data, scores both.
    """
    choice = choose(overrides, run_dir=out, arms=arms, seeds=seeds, size=size, jobs=jobs)
    run_and_say(find_recipe(Path("recipes/quickstart.yaml")), choice)
