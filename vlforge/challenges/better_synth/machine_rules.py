"""The rules about this machine, and the cost: what `vlforge plan` says of the folder's recipe."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vlforge.challenges.better_synth.config import PUBLISHED_GIB, Trainer
from vlforge.challenges.verdicts import Verdict, broken, kept, warning
from vlforge.types import VLForgeError

if TYPE_CHECKING:
    from vlforge.recipe.adopt.adopted import AdoptedRecipe
    from vlforge.runs.plan import Plan

_SPARE = 1.2
_LARGE_GIB = 2.0
"""Memory of a stage from which on the contest's own figures hold for the kit's trainer."""


@dataclass(frozen=True)
class Estimate:
    """What the way from the seed to the scores takes: by the plan, on this machine."""

    hours: float
    disk_gib: float
    memory_gib: float
    on_gpu: bool
    wants_gpu: bool

    def line(self) -> str:
        """In words."""
        from vlforge.reports.numbers import figures, seconds

        place = "GPU memory" if self.on_gpu else "memory"
        return (
            f"estimated {seconds(3600 * self.hours)}, {figures(self.disk_gib, 2)} GiB disk, "
            f"{figures(self.memory_gib, 2)} GiB {place}"
        )


def estimate(recipe: AdoptedRecipe, run_dir: Path) -> Estimate | str:
    """The plan's figures of what is left to do; why there are none, if so."""
    from vlforge.recipe.source import MadeSource
    from vlforge.runs.plan import plan_recipe
    from vlforge.runs.prepare import Choice

    try:
        plan = plan_recipe(MadeSource(recipe.tree, recipe.text()), Choice(run_dir=run_dir))
    except (VLForgeError, OSError) as error:
        return " ".join(str(error).split())
    return _figures(plan)


def _figures(plan: Plan) -> Estimate:
    return Estimate(
        hours=plan.minutes / 60,
        disk_gib=plan.disk_gib,
        memory_gib=plan.memory_gib,
        on_gpu=any(row.device == "cuda" for row in plan.rows),
        wants_gpu=any(row.gpu == "needed" and not row.cached for row in plan.rows),
    )


def disk(folder: Path, found: Estimate | str, trainer: Trainer) -> Verdict:
    """Whether the disk holds what the run writes."""
    if isinstance(found, str):
        return _unknown("disk", found)
    wanted, why = found.disk_gib * _SPARE, "the plan"
    if trainer == "kit" and found.memory_gib > _LARGE_GIB:
        wanted, why = max(wanted, PUBLISHED_GIB["disk"]), "the contest"
    stat = os.statvfs(folder)
    free = stat.f_bavail * stat.f_frsize / 2**30
    said = f"{free:.1f} GiB free, {why} asks for {wanted:.1f} GiB"
    if free < wanted:
        return broken("disk", said, "free some space, or take a folder on another disk")
    return kept("disk", said)


def memory(found: Estimate | str, trainer: Trainer) -> Verdict:
    """Whether main memory, and the GPU's, hold the run."""
    from vlforge.runs.environment import gpu_memory

    if isinstance(found, str):
        return _unknown("memory", found)
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpu = gpu_memory() / 2**30
    is_large = found.memory_gib > _LARGE_GIB
    said = f"{ram:.0f} GiB, GPU {gpu:.0f} GiB" if gpu else f"{ram:.0f} GiB, no GPU"
    if is_large and not gpu and found.wants_gpu:
        return broken("memory", f"{said}; at this size a GPU is needed", "run it where one is")
    if trainer == "kit" and is_large:
        told = f"{said}; the kit's trainer asks for {PUBLISHED_GIB['ram']:.0f} and a GPU of " + (
            f"{PUBLISHED_GIB['gpu']:.0f}"
        )
        if ram < PUBLISHED_GIB["ram"] * 0.95 or gpu < PUBLISHED_GIB["gpu"] * 0.9:
            return broken("memory", told, "take a larger machine, or `--trainer vlforge` to try")
        return kept("memory", told)
    has = gpu if found.on_gpu else ram
    told = f"{said}; the plan asks for {found.memory_gib:.1f} GiB"
    if has < found.memory_gib:
        remedy = "give lora or quantise, or take a larger machine (`vlforge plan` advises)"
        return broken("memory", told, remedy)
    return kept("memory", told)


def _unknown(rule: str, why: str) -> Verdict:
    return warning(rule, f"not known yet: {why}", "mend what the other rules say first")
