"""Reads a recipe file: sizes, overrides, arms and stages checked against their schemas."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vlforge.recipe.kinds import find_kind
from vlforge.recipe.nearest import nearest
from vlforge.recipe.overrides import apply_override, apply_overrides
from vlforge.recipe.references import references
from vlforge.recipe.schema import TOP_KEYS, Recipe, Stage
from vlforge.recipe.source import Source, read_source
from vlforge.recipe.typed import build, lift_short_names
from vlforge.types import RecipeError


def load_recipe(
    given: Path | Source, overrides: Iterable[str] = (), *, size: str | None = None
) -> Recipe:
    """The recipe in a file or a source with its size and overrides applied, every part checked.

    A file with `kind` at the top is a recipe of one stage, named after the kind;
    its settings are overridden by their own names.

    Raises:
        RecipeError: what is wrong, a line each, with file and line.
    """
    source = given if isinstance(given, Source) else read_source(given)
    path = source.path
    tree = source.plain()
    if "kind" in tree and "stages" not in tree:
        stage = str(tree["kind"])
        tree = {"name": path.stem, "stages": {stage: tree}}
        overrides = [_from_the_top(text, stage) for text in overrides]
    before = copy.deepcopy(tree)
    _apply_size(tree, size, source)
    apply_overrides(tree, overrides)
    _check_top(tree, source)
    _check_no_stage_is_half_new(tree["stages"], before.get("stages") or {})
    stages = {name: _stage(name, body, source) for name, body in tree["stages"].items()}
    arms = _arms(tree.get("arms") or {}, stages, tree, source)
    _check_graph(stages, source)
    resolved = {k: v for k, v in tree.items() if k != "sizes"}
    return Recipe(
        name=str(tree.get("name") or path.stem),
        stages=stages,
        arms=arms,
        default_arms=_default_arms(tree, arms, source),
        seeds=_seeds(tree.get("seeds", [0]), source),
        jobs=_count(tree.get("jobs", 1), "jobs", 1, source),
        threads=_count(tree.get("threads", 0), "threads", 0, source),
        device=_device(tree.get("device", "auto"), source),
        description=str(tree.get("description") or before.get("description") or ""),
        folder=str(path.resolve().parent),
        text=source.text,
        resolved=resolved,
    )


def stage_in_arm(recipe: Recipe, stage: Stage, arm: str) -> Stage:
    """`stage` with the arm's overrides applied."""
    settings = copy.deepcopy(dict(stage.settings))
    for dotted, value in recipe.arms.get(arm, {}).items():
        _, name, *rest = dotted.split(".")
        if name == stage.name:
            apply_override(settings, ".".join(rest), value)
    return Stage(stage.name, stage.kind, settings, stage.needs)


def _apply_size(tree: dict[str, Any], size: str | None, source: Source) -> None:
    if size is None or size == "default":
        return
    sizes = tree.get("sizes") or {}
    if size not in sizes:
        known = ", ".join(["default", *sizes])
        raise RecipeError(f"{source.where('sizes')}: no size {size!r}; this recipe has: {known}")
    for dotted, value in (sizes[size] or {}).items():
        apply_override(tree, dotted, value)


def _check_top(tree: Mapping[str, Any], source: Source) -> None:
    for key in tree:
        if key not in TOP_KEYS:
            raise RecipeError(f"{source.where(key)}: unknown key {key!r}{nearest(key, TOP_KEYS)}")
    if not isinstance(tree.get("stages"), dict) or not tree["stages"]:
        raise RecipeError(f"{source.where('stages')}: a recipe needs `stages`, a mapping of names")


def _from_the_top(override: str, stage: str) -> str:
    """`lr=5e-4` as `stages.train.lr=5e-4`, for a file that is one stage."""
    top = override.partition("=")[0].partition(".")[0]
    return override if top in TOP_KEYS else f"stages.{stage}.{override}"


def _check_no_stage_is_half_new(stages: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """A size or an override that names no stage of the file has made one without a kind."""
    for name, body in stages.items():
        if name not in given and not (isinstance(body, dict) and "kind" in body):
            raise RecipeError(f"stages.{name}: no stage {name!r}{nearest(name, given)}")


def _stage(name: str, body: Any, source: Source) -> Stage:
    place = source.where("stages", name)
    if not name.isidentifier():
        raise RecipeError(f"{place}: stage name {name!r} must be a word of letters, digits and _")
    if not isinstance(body, dict) or "kind" not in body:
        raise RecipeError(f"{place}: stage {name!r} needs a `kind`")
    try:
        kind = find_kind(str(body["kind"]))
    except RecipeError as error:
        raise RecipeError(f"{source.where('stages', name, 'kind')}: {error}") from None
    config = kind.config_class()
    settings = {k: v for k, v in body.items() if k not in ("kind", "needs")}
    settings = lift_short_names(config, settings)
    build(config, settings, lambda *keys: source.where("stages", name, *keys))
    _check_operators(name, settings, source)
    needs = body.get("needs") or []
    return Stage(
        name, str(body["kind"]), settings, tuple([needs] if isinstance(needs, str) else needs)
    )


def _check_operators(name: str, settings: Mapping[str, Any], source: Source) -> None:
    """Operators of a `process` list exist and take the parameters given."""
    operators = settings.get("process")
    if not isinstance(operators, list):
        return
    from vlforge.ops.bind import bind
    from vlforge.ops.index import want_custom

    want_custom(settings.get("custom_operator_paths"))
    for number, entry in enumerate(operators):
        try:
            bind([entry])
        except RecipeError as error:
            where = source.where("stages", name, "process", number)
            raise RecipeError(f"{where}: {str(error).removeprefix('process[0]: ')}") from None


def _arms(
    arms: Any, stages: Mapping[str, Stage], tree: Mapping[str, Any], source: Source
) -> dict[str, dict[str, Any]]:
    checked: dict[str, dict[str, Any]] = {}
    for arm, changes in arms.items():
        checked[str(arm)] = dict(changes or {})
        touched = set()
        for dotted in changes or {}:
            parts = dotted.split(".")
            place = source.where("arms", arm, dotted)
            if len(parts) < 3 or parts[0] != "stages":
                raise RecipeError(f"{place}: arm {arm!r}: {dotted!r} is not stages.<stage>.<key>")
            if parts[1] not in stages:
                raise RecipeError(
                    f"{place}: arm {arm!r}: no stage {parts[1]!r}{nearest(parts[1], stages)}"
                )
            touched.add(parts[1])
        recipe = Recipe("", stages, checked)
        for name in touched:
            changed = stage_in_arm(recipe, stages[name], str(arm))
            build(
                find_kind(changed.kind).config_class(),
                changed.settings,
                lambda *keys, arm=arm: source.where("arms", arm),
            )
    return checked


def _check_graph(stages: Mapping[str, Stage], source: Source) -> None:
    for name, stage in stages.items():
        for other in (*references(stage.settings), *stage.needs):
            if other not in stages:
                place = source.where("stages", name)
                raise RecipeError(
                    f"{place}: stage {name!r} refers to ${other}, which is no stage"
                    f"{nearest(other, stages)}"
                )


def _default_arms(
    tree: Mapping[str, Any], arms: Mapping[str, Any], source: Source
) -> tuple[str, ...]:
    wanted = tuple(str(a) for a in tree.get("default_arms") or arms)
    for arm in wanted:
        if arm not in arms:
            where = source.where("default_arms")
            raise RecipeError(f"{where}: no arm {arm!r}{nearest(arm, arms)}")
    return wanted


def _seeds(value: Any, source: Source) -> tuple[int, ...]:
    seeds = [value] if isinstance(value, int) else value
    good = isinstance(seeds, list) and seeds
    if not good or not all(isinstance(s, int) and s >= 0 for s in seeds):
        raise RecipeError(
            f"{source.where('seeds')}: seeds is {value!r}, give a list such as [0, 1]"
        )
    return tuple(dict.fromkeys(seeds))


def _count(value: Any, key: str, least: int, source: Source) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise RecipeError(
            f"{source.where(key)}: {key!r} is {value!r}, give a whole number from {least}"
        )
    return value


def _device(value: Any, source: Source) -> Any:
    if value not in ("auto", "cpu", "cuda"):
        raise RecipeError(f"{source.where('device')}: device is {value!r}; known: auto, cpu, cuda")
    return value
