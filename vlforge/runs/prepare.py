"""From a recipe file to nodes with keys: everything known before work begins."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlforge.data.machine import cores, visible_gpus
from vlforge.data.roots import reroot, set_moved
from vlforge.recipe.graph import Node, expand
from vlforge.recipe.kinds import find_kind
from vlforge.recipe.load import load_recipe
from vlforge.recipe.references import replace_strings, split_reference
from vlforge.recipe.schema import Recipe
from vlforge.recipe.source import Source
from vlforge.recipe.typed import build
from vlforge.runs.environment import choose_device
from vlforge.runs.keys import node_key
from vlforge.runs.launch import Launch, find_launch
from vlforge.runs.store import Store
from vlforge.types import RecipeError, VLForgeError

Change = Callable[[str], str]
_MIXING = ("pretrain", "train")
"""Kinds whose data may be written as PATH#N."""
_PATHS = ("data", "image_root", "path")
"""Settings that are paths even where they look like words."""


@dataclass(frozen=True)
class Choice:
    """What the command line asks of a recipe. `fresh`: nothing finished before is reused."""

    overrides: tuple[str, ...] = ()
    run_dir: Path | None = None
    arms: str | None = None
    seeds: int | None = None
    size: str | None = None
    until: str | None = None
    jobs: int | None = None
    maps: Mapping[str, str] | None = None
    fresh: bool = False
    processes: int | None = None


@dataclass(frozen=True)
class Prepared:
    """A recipe unfolded for one run folder.

    `keys` maps node names to content keys; `is_whole` says that no stage was
    left for later.
    """

    recipe: Recipe
    nodes: tuple[Node, ...]
    keys: Mapping[str, str]
    run_dir: Path
    store: Store
    device: str
    jobs: int
    threads: int
    moved: Mapping[str, str]
    is_whole: bool = True
    fresh: bool = False
    processes: int = 1
    launch: Launch | None = None

    def folder(self, node: str) -> Path:
        """Where the node's finished stage lies, or will lie."""
        return self.store.folder(self.keys[node])

    def settings(self, node: Node) -> Any:
        """The node's settings with real paths in place of `$stage` references."""

        def place(text: str) -> str:
            found = split_reference(text)
            if not found:
                return text
            return str(self.folder(node.inputs[found[0]]) / found[1]).rstrip("/")

        return replace_strings(node.settings, place)


def prepare(path: Path | Source, choice: Choice) -> Prepared:
    """Load, choose arms and seeds, re-root paths, compute keys. Nothing is written."""
    recipe = load_recipe(path, choice.overrides, size=choice.size)
    nodes = expand(
        recipe,
        arms=_arms(recipe, choice.arms),
        seeds=None if choice.seeds is None else _seeds(choice.seeds),
        until=choice.until,
    )
    nodes = [_with_paths(node, recipe, choice.maps or {}) for node in nodes]
    run_dir = (choice.run_dir or Path("runs") / recipe.name).absolute()
    launch, device = find_launch(), choose_device(recipe.device)
    # Processes that a launcher started have one line to the first of them.
    jobs = 1 if launch else choice.jobs or recipe.jobs
    keys: dict[str, str] = {}
    for node in nodes:
        keys[node.name] = node_key(node, keys)
    return Prepared(
        recipe=recipe,
        nodes=tuple(nodes),
        keys=keys,
        run_dir=run_dir,
        store=Store(run_dir.parent / ".store"),
        device=device,
        jobs=jobs,
        threads=recipe.threads or max(1, cores() // jobs),
        moved=dict(choice.maps or {}),
        is_whole=choice.until is None,
        fresh=choice.fresh,
        processes=_processes(choice.processes, launch, device, jobs),
        launch=launch,
    )


def check_nodes(nodes: Iterable[Node]) -> None:
    """Ask each stage's kind whether its settings can work: an hour later would be too late.

    Raises:
        RecipeError: the stage and what its kind says.
    """
    for node in nodes:
        try:
            check_settings(node)
        except VLForgeError as error:
            raise RecipeError(f"stages.{node.stage}: {error}") from None


def check_settings(node: Node) -> None:
    """What the stage's kind has against its settings, whatever the stages before it leave.

    Raises:
        VLForgeError: what is wrong, and what to give.
    """
    kind = find_kind(node.kind)
    check = getattr(kind.module(), "check", None)
    if check is not None:
        check(build(kind.config_class(), node.settings, lambda *keys: node.name))


def _processes(wanted: int | None, launch: Launch | None, device: str, jobs: int) -> int:
    """How many processes train a stage: as many as a launcher started, as asked, or as GPUs.

    Raises:
        RecipeError: another number than the launcher's, or more than there are GPUs.
    """
    if launch is not None:
        if wanted not in (None, launch.count):
            raise RecipeError(
                f"--processes {wanted}: a launcher started {launch.count}; leave --processes out"
            )
        return launch.count
    gpus = len(visible_gpus()) if device == "cuda" else 0
    if wanted is None:
        return gpus if gpus and jobs == 1 else 1
    if gpus and wanted > gpus:
        raise RecipeError(f"--processes {wanted}: this machine has {gpus} GPUs; one process each")
    if gpus and wanted > 1 and jobs > 1:
        raise RecipeError(
            f"--processes {wanted} and {jobs} jobs: stages side by side would share GPUs; "
            "take --jobs 1"
        )
    return wanted


def _arms(recipe: Recipe, wanted: str | None) -> Iterable[str] | None:
    if wanted is None:
        return None
    if wanted == "all":
        return tuple(recipe.arms) or None
    return tuple(arm.strip() for arm in wanted.split(",") if arm.strip())


def _seeds(count: int) -> tuple[int, ...]:
    if count < 1:
        raise RecipeError(f"--seeds {count}: give how many seeds to run, from 1")
    return tuple(range(count))


def _with_paths(node: Node, recipe: Recipe, maps: Mapping[str, str]) -> Node:
    """Existing relative paths made absolute: from the working folder, else the recipe's."""

    from vlforge.data.detect import files_of_pattern
    from vlforge.training.mixture import spelled_out

    set_moved(maps)

    def absolute(text: str) -> str:
        return found(text) if "/" in text or "." in text or text in maps else text

    def found(text: str) -> str:
        if not text or len(text) > 4096 or "\n" in text or "\0" in text or text.startswith("$"):
            return text
        text = reroot(text)
        for root in (Path.cwd(), Path(recipe.folder)):
            if (root / text).exists():
                return str((root / text).resolve())
            if files_of_pattern(str(root / text)):
                return str(root / text)
            if stage := stage_of_run(root / text):
                return str(stage)
        return text

    settings = spelled_out(node.settings) if node.kind in _MIXING else node.settings
    settings = {key: _located(key, value, found, absolute) for key, value in settings.items()}
    return Node(**{**node.__dict__, "settings": settings})


def stage_of_run(path: Path) -> Path | None:
    """What a run's stage left, named as `runs/photos/align` or `runs/photos/stages/align`.

    Raises:
        RecipeError: the run has several such nodes, or it has not ended there.
    """
    run = path.parent.parent if path.parent.name == "stages" else path.parent
    try:
        nodes = json.loads((run / "graph.json").read_text(encoding="utf-8"))["nodes"]
    except (OSError, ValueError, LookupError):
        return None
    exact = [row for row in nodes if row["node"] == path.name]
    found = exact or [row for row in nodes if row["stage"] == path.name]
    if len(found) > 1:
        several = ", ".join(row["node"] for row in found)
        raise RecipeError(f"{path}: the run has several; name one of {several}")
    if not found:
        return None
    folder = run / found[0]["folder"]
    if not folder.exists():
        raise RecipeError(f"{path}: this stage has not ended; finish its run first")
    return folder.resolve()


def _located(key: str, value: Any, found: Change, absolute: Change) -> Any:
    """A setting with its paths changed by `found`, and what looks like one by `absolute`."""
    if key in _PATHS and isinstance(value, str):
        return found(value)
    if key == "data" and isinstance(value, list):
        return [
            {k: _located(k, v, found, absolute) for k, v in item.items()}
            if isinstance(item, Mapping)
            else replace_strings(item, found)
            for item in value
        ]
    return replace_strings(value, absolute)
