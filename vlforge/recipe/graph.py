"""Unfolds a recipe over arms and seeds into nodes, one for each distinct piece of work."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vlforge.recipe.kinds import find_kind
from vlforge.recipe.load import stage_in_arm
from vlforge.recipe.nearest import nearest
from vlforge.recipe.references import references, replace_strings, split_reference
from vlforge.recipe.schema import Recipe, Stage
from vlforge.types import RecipeError


@dataclass(frozen=True)
class Node:
    """One piece of work: a stage in one arm with one seed, or shared by several.

    `inputs` maps a stage's name, as the settings refer to it, to a node's name.
    `arms` and `seeds` are all that share the node.
    """

    name: str
    stage: str
    kind: str
    number: int
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]
    arms: tuple[str, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class _Copy:
    stage: Stage
    arm: str
    seed: int
    settings: Mapping[str, Any]
    needs: tuple[str, ...]
    signature: str


def expand(
    recipe: Recipe,
    *,
    arms: Iterable[str] | None = None,
    seeds: Iterable[int] | None = None,
    until: str | None = None,
) -> list[Node]:
    """The nodes to run, each after those it needs.

    Copies of a stage that would do the same work are one node. A stage that no
    chosen arm's last stages need is left out, as is all after `until`.
    """
    every_arm = tuple(recipe.arms) or ("",)
    chosen = tuple(arms) if arms is not None else (recipe.default_arms or every_arm)
    for arm in chosen:
        if arm not in every_arm:
            raise RecipeError(
                f"no arm {arm!r}{nearest(arm, recipe.arms)}; arms: {', '.join(recipe.arms)}"
            )
    if until is not None and until not in recipe.stages:
        raise RecipeError(f"--until {until!r}: no such stage{nearest(until, recipe.stages)}")
    chosen_seeds = tuple(seeds) if seeds is not None else recipe.seeds
    order = _order(recipe, every_arm)
    targets = [until] if until else _targets(recipe, every_arm)
    copies = {
        (arm, seed): _copies(recipe, order, arm, seed)
        for arm in dict.fromkeys((*every_arm, *chosen))
        for seed in chosen_seeds
    }
    wanted = [
        (arm, seed, stage)
        for arm in chosen
        for seed in chosen_seeds
        for stage in _ancestors(copies[arm, seed], targets)
    ]
    return _nodes(recipe, order, copies, wanted, every_arm, chosen, chosen_seeds)


def _order(recipe: Recipe, arms: Iterable[str]) -> list[str]:
    """Stages sorted so that each follows all that any arm makes it need; file order else."""
    needs = {name: _needs_of(recipe, name, arms) for name in recipe.stages}
    order: list[str] = []
    while len(order) < len(needs):
        ready = [n for n in needs if n not in order and needs[n] <= set(order)]
        if not ready:
            left = ", ".join(n for n in needs if n not in order)
            raise RecipeError(f"stages wait for each other in a circle: {left}")
        order.append(ready[0])
    return order


def _needs_of(recipe: Recipe, name: str, arms: Iterable[str]) -> set[str]:
    needs: set[str] = set()
    for arm in arms:
        stage = stage_in_arm(recipe, recipe.stages[name], arm)
        needs |= set(references(stage.settings)) | set(stage.needs)
    if recipe.stages[name].kind == "report":
        needs |= {n for n, s in recipe.stages.items() if s.kind != "report"}
    for other in needs:
        if other not in recipe.stages:
            raise RecipeError(f"stage {name!r} refers to ${other}, which is no stage")
    return needs


def _targets(recipe: Recipe, arms: Iterable[str]) -> list[str]:
    """Stages that nothing but a report needs, and the reports."""
    used = set()
    for name, stage in recipe.stages.items():
        if stage.kind != "report":
            used |= _needs_of(recipe, name, arms)
    return [name for name in recipe.stages if name not in used]


def _copies(recipe: Recipe, order: list[str], arm: str, seed: int) -> dict[str, _Copy]:
    done: dict[str, _Copy] = {}
    for name in order:
        stage = stage_in_arm(recipe, recipe.stages[name], arm)
        settings = dict(stage.settings)
        if _seed_setting(stage) == "auto":
            settings["seed"] = seed
        needs = tuple(dict.fromkeys((*references(settings), *stage.needs)))
        signature = _signature(stage, settings, needs, done)
        done[name] = _Copy(stage, arm, seed, settings, needs, signature)
    return done


def _seed_setting(stage: Stage) -> Any:
    """The stage's seed as given or by default; None for a kind that draws nothing."""
    own = find_kind(stage.kind).config_class().__dataclass_fields__.get("seed")
    return stage.settings.get("seed", own.default) if own else None


def _signature(
    stage: Stage, settings: Mapping[str, Any], needs: Iterable[str], done: Mapping[str, _Copy]
) -> str:
    if stage.kind == "report":
        return "report"

    def sign(text: str) -> str:
        found = split_reference(text)
        return f"${done[found[0]].signature}/{found[1]}" if found else text

    body = [
        stage.name,
        stage.kind,
        replace_strings(settings, sign),
        [done[n].signature for n in needs],
    ]
    text = json.dumps(body, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _ancestors(copies: Mapping[str, _Copy], targets: Iterable[str]) -> list[str]:
    found: set[str] = set()
    waiting = [t for t in targets if t in copies]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(copies[name].needs)
    return [name for name in copies if name in found]


def _nodes(
    recipe: Recipe,
    order: list[str],
    copies: Mapping[tuple[str, int], Mapping[str, _Copy]],
    wanted: list[tuple[str, int, str]],
    every_arm: tuple[str, ...],
    chosen: tuple[str, ...],
    seeds: tuple[int, ...],
) -> list[Node]:
    sharers: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for arm, seed, stage in wanted:
        sharers.setdefault((stage, copies[arm, seed][stage].signature), []).append((arm, seed))
    names = {}
    for (stage, signature), users in sharers.items():
        names[stage, signature] = _name(stage, copies, every_arm, *users[0])
    nodes: list[Node] = []
    for stage in order:
        for (name, signature), users in sharers.items():
            if name != stage:
                continue
            arm, seed = users[0]
            copy = copies[arm, seed][stage]
            inputs = {n: names[n, copies[arm, seed][n].signature] for n in copy.needs}
            if copy.stage.kind == "report":
                inputs = {node.name: node.name for node in nodes}
            nodes.append(
                Node(
                    name=names[stage, signature],
                    stage=stage,
                    kind=copy.stage.kind,
                    number=order.index(stage) + 1,
                    settings=copy.settings,
                    inputs=inputs,
                    arms=tuple(dict.fromkeys(a for a, _ in users)),
                    seeds=tuple(dict.fromkeys(s for _, s in users)),
                )
            )
    return nodes


def _name(
    stage: str,
    copies: Mapping[tuple[str, int], Mapping[str, _Copy]],
    every_arm: tuple[str, ...],
    arm: str,
    seed: int,
) -> str:
    """`stage`, `stage@arm`, `stage.s0` or `stage@arm.s0`: what the work depends on."""
    by_arm = {copies[a, seed][stage].signature for a in every_arm if (a, seed) in copies}
    name = f"{stage}@{arm}" if len(by_arm) > 1 else stage
    return f"{name}.s{seed}" if _depends_on_seed(stage, copies[arm, seed]) else name


def _depends_on_seed(stage: str, copies: Mapping[str, _Copy]) -> bool:
    """Whether the run's seed reaches the stage, through its own settings or an input."""
    copy = copies[stage]
    return _seed_setting(copy.stage) == "auto" or any(
        _depends_on_seed(name, copies) for name in copy.needs
    )
