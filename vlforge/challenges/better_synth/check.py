"""`check`: every rule, before any hour is spent, and what the whole way will cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlforge.challenges.better_synth import rules
from vlforge.challenges.better_synth.config import Trainer
from vlforge.challenges.better_synth.data_rules import contamination, training_data
from vlforge.challenges.better_synth.folder import Kit
from vlforge.challenges.better_synth.machine_rules import Estimate, disk, estimate, memory
from vlforge.challenges.better_synth.own_recipe import own_recipe
from vlforge.challenges.better_synth.solution import read_solution
from vlforge.challenges.verdicts import Verdict, broken
from vlforge.types import ProgressFn, RecipeError, VLForgeError, no_progress

RUN_FOLDER = "output/vlforge"


@dataclass(frozen=True)
class Asked:
    """What the command line says of a check or a run.

    published: the recipe whose stages are taken. recipe: the solution's, where there are
    several. data: rows that were processed already.
    """

    published: Path
    trainer: Trainer
    recipe: str | None = None
    data: Path | None = None
    experiment: str | None = None
    contamination: bool = False


@dataclass(frozen=True)
class Checked:
    """The verdicts in the order of the rules, and the estimate or why there is none."""

    verdicts: tuple[Verdict, ...]
    estimate: Estimate | str

    @property
    def broken(self) -> list[Verdict]:
        """The rules that are broken."""
        return [one for one in self.verdicts if one.verdict == "broken"]

    def cost_line(self) -> str:
        """The estimate in a line."""
        if isinstance(self.estimate, str):
            return "not known yet"
        return self.estimate.line()

    def as_values(self) -> dict[str, Any]:
        """For JSON."""
        told = None if isinstance(self.estimate, str) else asdict(self.estimate)
        return {"verdicts": [asdict(one) for one in self.verdicts], "estimate": told}


def check_kit(kit: Kit, asked: Asked, progress: ProgressFn = no_progress) -> Checked:
    """All rules. Nothing is written."""
    gpus = gpus_here()
    verdicts: list[Verdict] = []
    steps: tuple[tuple[str, Callable[[], list[Verdict]]], ...] = (
        ("files", lambda: rules.common_rules(kit, asked.trainer, asked.recipe)),
        ("batch", lambda: [rules.global_batch(kit, gpus)]),
        ("models", lambda: [rules.models(kit), *_solution_models(kit, asked)]),
        ("benchmarks", lambda: [rules.evaluation_files(kit)]),
        ("rows", lambda: training_data(kit, asked.data, asked.recipe)),
        ("overlap", lambda: [contamination(kit, asked.recipe, always=asked.contamination)]),
    )
    for number, (name, look) in enumerate(steps):
        progress(number, len(steps) + 1, name)
        try:
            verdicts += look()
        except VLForgeError as error:
            verdicts.append(broken(name, str(error), "mend what it says"))
    progress(len(steps), len(steps) + 1, "plan")
    found = _estimate(kit, asked, gpus)
    verdicts += [disk(kit.folder, found, asked.trainer), memory(found, asked.trainer)]
    return Checked(tuple(verdicts), found)


def _solution_models(kit: Kit, asked: Asked) -> list[Verdict]:
    """Nothing is processed where the rows are given."""
    return [] if asked.data else [rules.solution_models(kit, asked.recipe)]


def _estimate(kit: Kit, asked: Asked, gpus: int) -> Estimate | str:
    try:
        solution = None if asked.data else read_solution(kit.folder, asked.recipe)
        recipe = own_recipe(kit, asked.published, solution, gpus, asked.data, asked.experiment)
    except RecipeError as error:
        return " ".join(str(error).split())
    return estimate(recipe, kit.at(RUN_FOLDER) / recipe.tree["name"])


def gpus_here() -> int:
    """GPUs that train side by side; a processor counts as one."""
    from vlforge.data.machine import visible_gpus

    return max(1, len(visible_gpus()))
