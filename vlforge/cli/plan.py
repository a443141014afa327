"""`vlforge plan`: what a recipe or a model will cost, before it costs anything."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlforge.cli.options import (
    Arms,
    Jobs,
    Maps,
    Overrides,
    RunFolder,
    Seeds,
    Size,
    Until,
    choose,
)
from vlforge.cli.recipes import our_recipe
from vlforge.cli.show import plain_line, table

PlannedThing = Annotated[
    Path,
    typer.Argument(
        metavar="RECIPE|MODEL",
        help="A recipe, a model's folder, or a published model (mgm-2b, llava-1.5-7b, …).",
        show_default=False,
    ),
]
LoraRank = Annotated[int, typer.Option("--lora", help="Of a model: also with adapters of a rank.")]
LoraTargets = Annotated[
    str, typer.Option(help="Expressions over layer names, by commas; all of the language model.")
]
EXAMPLES = """\b
Examples:
  vlforge plan recipes/quickstart.yaml
  vlforge plan recipes/quickstart.yaml --arms all --seeds 5
  vlforge plan mgm-2b                  a published model, or a model's folder
  vlforge plan qwen-vl-7b --lora 64 --lora-targets '.*attn.c_attn,.*attn.c_proj,.*mlp.w[12]'
"""


def plan(
    recipe: PlannedThing,
    overrides: Overrides = None,
    out: RunFolder = None,
    arms: Arms = None,
    seeds: Seeds = None,
    size: Size = None,
    until: Until = None,
    jobs: Jobs = None,
    maps: Maps = None,
    lora: LoraRank = 0,
    lora_targets: LoraTargets = "",
) -> None:
    """What each stage will take: time, disk, memory, device; of a model: weights and FLOPs."""
    from vlforge.runs.model_plan import is_model

    if is_model(recipe):
        from vlforge.cli.model_plan import show_model_plan

        show_model_plan(recipe, lora, lora_targets)
        return
    from vlforge.reports.numbers import figures, seconds
    from vlforge.runs.plan import plan_recipe

    choice = choose(
        overrides, maps, run_dir=out, arms=arms, seeds=seeds, size=size, until=until, jobs=jobs
    )
    planned = plan_recipe(our_recipe(recipe), choice)
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
    for row in left:
        for line in row.advice:
            plain_line(f"{row.node}: {line}")
    sizes = f"{figures(planned.disk_gib, 2)} GiB disk, {figures(planned.memory_gib, 2)} GiB memory"
    plain_line(
        f"{len(left)} of {len(rows)} stages to run: {seconds(60 * planned.minutes)}, {sizes}"
    )
    plain_line(f"Estimated; {planned.jobs} at a time, threads of each: {planned.threads}")
