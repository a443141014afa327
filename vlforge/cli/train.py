"""`vlforge train`: the training stages of a recipe, or a file that is one stage."""

from __future__ import annotations

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
    choose,
)
from vlforge.cli.recipes import our_recipe
from vlforge.cli.run import run_and_say
from vlforge.types import RecipeError

EXAMPLES = """\b
Examples:
  vlforge train recipes/photos.yaml       up to and with its last training stage
  vlforge train align.yaml lr=5e-4        a file with `kind: train` at the top
  vlforge train align.yaml --processes 2  on two of the GPUs; all of them by default
  torchrun --nproc_per_node 8 -m vlforge train align.yaml
"""


def train(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: RunFolder = None,
    arms: Arms = None,
    seeds: Seeds = None,
    size: Size = None,
    jobs: Jobs = None,
    maps: Maps = None,
    fresh: Fresh = False,
    processes: Processes = None,
) -> None:
    """Run a recipe up to its last training stage."""
    from vlforge.recipe.graph import expand
    from vlforge.recipe.load import load_recipe

    path = our_recipe(recipe)
    nodes = expand(load_recipe(path, overrides or (), size=size))
    last = [node.stage for node in nodes if node.kind in ("train", "pretrain")]
    if not last:
        raise RecipeError(f"{path}: no stage of kind train or pretrain; try `vlforge run {path}`")
    choice = choose(
        overrides, maps, run_dir=out, arms=arms, seeds=seeds, size=size, until=last[-1], jobs=jobs,
        fresh=fresh, processes=processes,
    )  # fmt: skip
    run_and_say(path, choice)
