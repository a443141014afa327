"""What the command line does, from Python: recipes, and single training stages.

    from vlforge import Recipe, train

    stage = train(model="runs/align/train", data="llava.json", template="v1", epochs=1)
    run = Recipe.load("recipes/photos.yaml", {"stages.align.lr": 5e-4}).run(out="runs/photos")

Both make the same run folders as `vlforge run`, reuse what is finished and go on with
what was stopped. Importing this reads no torch; the work is done in processes of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlforge.cli.recipes import our_recipe
from vlforge.recipe.load import load_recipe
from vlforge.recipe.source import MadeSource, Source
from vlforge.runs.check import Finding, check_recipe
from vlforge.runs.plan import Plan, plan_recipe
from vlforge.runs.prepare import Choice
from vlforge.runs.run import dump_yaml, run_recipe
from vlforge.types import RecipeError

Overrides = Mapping[str, Any] | Iterable[str]
"""`{"stages.align.lr": 5e-4}`, or as on the command line `["stages.align.lr=5e-4"]`."""
_LOADED_WITH = ("overrides", "size")
"""What `Recipe.load` is told, and a run no more."""


@dataclass(frozen=True)
class Stage:
    """What a finished stage left.

    `summary` is its `summary.json`, `metrics` the lines of its `metrics.jsonl`; both are
    empty where a kind of stage has none.
    """

    folder: Path
    summary: Mapping[str, Any]
    metrics: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Run:
    """A finished run; `run["align"]` is what its stage `align` left."""

    folder: Path
    report: Path | None
    seconds: float

    def __getitem__(self, name: str) -> Stage:
        """A stage by its name, or a node's where there are arms or seeds.

        Raises:
            KeyError: there is none, or there are several; names them.
        """
        nodes = json.loads((self.folder / "graph.json").read_text(encoding="utf-8"))["nodes"]
        found = [node for node in nodes if node["node"] == name]
        found = found or [node for node in nodes if node["stage"] == name]
        if len(found) != 1:
            names = ", ".join(node["node"] for node in found or nodes)
            raise KeyError(f"{name!r}: {len(found) or 'no'} such nodes; name one of {names}")
        return _stage(self.folder / found[0]["folder"])


class Recipe:
    """A recipe: read from a file, or made of stages.

    Args:
        stages: each stage's settings with its `kind`, as in YAML; `$align` is what the
            stage `align` leaves.
        more: what else stands at the top of a recipe: `arms`, `seeds`, `jobs`, `device`.

    Raises:
        RecipeError: settings that do not fit the schema; names them.
    """

    def __init__(self, stages: Mapping[str, Mapping[str, Any]], name: str = "recipe", **more: Any):
        tree = _plain({"name": name, **more, "stages": stages})
        self._set(MadeSource(tree, dump_yaml(tree)), (), None)

    @classmethod
    def load(
        cls, path: str | Path, overrides: Overrides = (), *, size: str | None = None
    ) -> Recipe:
        """The recipe at `path`, or the shipped one of that name, with settings changed.

        Raises:
            RecipeError: it cannot be read or does not fit; names file and line.
        """
        made = cls.__new__(cls)
        made._set(our_recipe(Path(path)), _as_typed(overrides), size)
        return made

    def _set(self, source: Path | Source, overrides: tuple[str, ...], size: str | None) -> None:
        self._source, self._overrides, self._size = source, overrides, size
        self._checked = load_recipe(source, overrides, size=size)

    @property
    def name(self) -> str:
        """Its name, which is its run folder's too."""
        return self._checked.name

    @property
    def settings(self) -> Mapping[str, Any]:
        """All of it as it will run, as plain values."""
        return self._checked.resolved

    def check(self, **choice: Any) -> list[Finding]:
        """What would fail later, errors and doubts: see `vlforge check`."""
        return check_recipe(self._source, self._choice(choice))

    def plan(self, **choice: Any) -> Plan:
        """What each stage will take, before anything is done: see `vlforge plan`."""
        return plan_recipe(self._source, self._choice(choice))

    def run(self, out: str | Path | None = None, *, quiet: bool = False, **choice: Any) -> Run:
        """Run it, or what is left of it.

        Args:
            out: the run's folder; `runs/<name>` by default.
            choice: as the options of `vlforge run`: `arms`, `seeds`, `until`, `jobs`,
                `processes`, `maps` and `fresh`.

        Raises:
            StageFailed: a stage failed; the same call goes on from there.
            KeyboardInterrupt: Ctrl-C; training stages have written a checkpoint.
        """
        where = None if out is None else Path(out)
        choice = self._choice({**choice, "run_dir": where})
        done = run_recipe(self._source, choice, quiet=quiet)
        return Run(done.run_dir, done.report, done.seconds)

    def _choice(self, wanted: Mapping[str, Any]) -> Choice:
        known = [name for name in Choice.__dataclass_fields__ if name not in _LOADED_WITH]
        unknown = set(wanted) - set(known)
        if unknown:
            raise RecipeError(f"{min(unknown)!r} is no choice of a run; known: {', '.join(known)}")
        return Choice(overrides=self._overrides, size=self._size, **wanted)


def train(
    model: str | Path | Mapping[str, Any],
    data: Any,
    *,
    out: str | Path | None = None,
    name: str = "train",
    device: str = "auto",
    threads: int = 0,
    processes: int | None = None,
    fresh: bool = False,
    quiet: bool = False,
    **settings: Any,
) -> Stage:
    """Train one stage; what it left.

    The same call again gives the finished stage, or goes on with a stopped one.

    Args:
        model: a model's folder, a run's stage (`runs/photos/align`), or the parts to
            assemble, `{"vision": ..., "language": ...}`.
        data: a dataset, or several.
        out: the run's folder; `runs/<name>` by default.
        processes: how many train it together; one for each GPU by default.
        fresh: nothing that was finished or stopped is reused.
        settings: those of a train stage, see docs/stages.md; `lr` and other settings of
            the optimiser by their own names.

    Raises:
        RecipeError: settings that cannot work.
        StageFailed: the stage failed; the same call goes on from its last checkpoint.
    """
    stage = {"kind": "train", "model": model, "data": data, **settings}
    recipe = Recipe({"train": stage}, name, device=device, threads=threads)
    return recipe.run(out, quiet=quiet, fresh=fresh, processes=processes)["train"]


def _stage(folder: Path) -> Stage:
    summary, metrics = folder / "summary.json", folder / "metrics.jsonl"
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.is_file() else []
    return Stage(
        folder=folder,
        summary=json.loads(summary.read_text(encoding="utf-8")) if summary.is_file() else {},
        metrics=tuple(json.loads(line) for line in lines),
    )


def _as_typed(overrides: Overrides) -> tuple[str, ...]:
    if isinstance(overrides, Mapping):
        return tuple(f"{key}={json.dumps(_plain(value))}" for key, value in overrides.items())
    return tuple(overrides)


def _plain(value: Any) -> Any:
    """Values as YAML has them."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
