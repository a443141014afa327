"""`vlforge plan`: what a recipe will cost, before it costs anything."""

from __future__ import annotations

from vlforge.cli.options import (
    Arms,
    Jobs,
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
from vlforge.cli.show import plain_line, table

EXAMPLES = """\b
Examples:
  vlforge plan recipes/quickstart.yaml
  vlforge plan recipes/quickstart.yaml --arms all --seeds 5
"""


def plan(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: RunFolder = None,
    arms: Arms = None,
    seeds: Seeds = None,
    size: Size = None,
    until: Until = None,
    jobs: Jobs = None,
    maps: Maps = None,
) -> None:
    """What each stage will take: time, disk, memory, device."""
    from vlforge.reports.numbers import figures, seconds
    from vlforge.runs.plan import plan_recipe

    choice = choose(
        overrides, maps, run_dir=out, arms=arms, seeds=seeds, size=size, until=until, jobs=jobs
    )
    planned = plan_recipe(find_recipe(recipe), choice)
    rows = [
        (
            row.node,
            row.kind,
            row.device,
            "reused" if row.cached else seconds(60 * row.minutes),
            figures(row.disk_gib, 2),
            figures(row.memory_gib, 2),
        )
        for row in planned.rows
    ]
    table(("stage", "kind", "device", "time", "disk GiB", "memory GiB"), rows, right=(3, 4, 5))
    left = [row for row in planned.rows if not row.cached]
    sizes = f"{figures(planned.disk_gib, 2)} GiB disk, {figures(planned.memory_gib, 2)} GiB memory"
    plain_line(
        f"{len(left)} of {len(rows)} stages to run: {seconds(60 * planned.minutes)}, {sizes}"
    )
    plain_line(f"Estimated; {planned.jobs} at a time, threads of each: {planned.threads}")
