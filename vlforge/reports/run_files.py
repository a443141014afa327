"""What the pages read: the nodes of a run and the files of their folders.

Everything is optional. A stage that has not run, a file that was not written and a line that
is not JSON are left out, because a report of half a run is still wanted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from vlforge.types import DataError


@dataclass(frozen=True)
class RunNode:
    """One node of a run's graph: a stage of one arm and seed, with the folder it wrote.

    `arm` is None where the work is the same in every arm; `arms` are all that share the node.
    `seconds` and `peak_mb` are 0 where they were not recorded.
    """

    node: str
    stage: str
    kind: str
    folder: Path
    arm: str | None = None
    arms: tuple[str, ...] = ()
    seed: int | None = None
    needs: tuple[str, ...] = ()
    seconds: float = 0.0
    peak_mb: float = 0.0
    is_reused: bool = False

    @property
    def is_done(self) -> bool:
        """Whether the folder exists, so that there is something to show."""
        return self.folder.is_dir()


@dataclass(frozen=True)
class Run:
    """A run folder as read: its nodes in order, its recipe and its environment."""

    folder: Path
    nodes: tuple[RunNode, ...]
    recipe: Mapping[str, Any] = field(default_factory=dict)
    recipe_text: str = ""
    env: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The recipe's name, or the folder's."""
        return str(self.recipe.get("name") or self.folder.name)

    @property
    def arms(self) -> list[str]:
        """Arms that occur in the graph, in the recipe's order."""
        found = list(dict.fromkeys(arm for n in self.nodes for arm in n.arms))
        wished = [*_names(self.recipe.get("default_arms")), *_names(self.recipe.get("arms"))]
        return [a for a in dict.fromkeys(wished) if a in found] + [
            a for a in found if a not in wished
        ]

    def of_kind(self, *kinds: str) -> list[RunNode]:
        """Finished nodes of these kinds, in the graph's order."""
        return [n for n in self.nodes if n.kind in kinds and n.is_done]

    def stage(self, name: str) -> Mapping[str, Any]:
        """The recipe's settings of a stage, empty where it has none."""
        stages = self.recipe.get("stages")
        found = stages.get(name) if isinstance(stages, Mapping) else None
        return found if isinstance(found, Mapping) else {}

    def ancestors(self, node: RunNode) -> list[RunNode]:
        """Every node that `node` needs, directly or not."""
        by_name = {n.node: n for n in self.nodes}
        seen: dict[str, RunNode] = {}
        todo = list(node.needs)
        while todo:
            name = todo.pop()
            if name in by_name and name not in seen:
                seen[name] = by_name[name]
                todo.extend(by_name[name].needs)
        return list(seen.values())


def read_run(run_dir: Path) -> Run:
    """Read `graph.json`, `recipe.yaml` and `env.json` of a run folder.

    Raises:
        DataError: there is no readable `graph.json`.
    """
    run_dir = Path(run_dir)
    graph = read_json(run_dir / "graph.json")
    if not isinstance(graph, Mapping) or not isinstance(graph.get("nodes"), list):
        raise DataError(f"{run_dir / 'graph.json'}: no list of nodes; give the folder of a run")
    nodes = tuple(_node(run_dir, n) for n in graph["nodes"] if isinstance(n, Mapping))
    text, recipe = recipe_of(run_dir)
    return Run(run_dir, nodes, recipe, text, read_mapping(run_dir / "env.json"))


def recipe_of(run_dir: Path) -> tuple[str, Mapping[str, Any]]:
    """A run's recipe as text and as read; both empty where there is none."""
    text = _text(run_dir / "recipe.yaml")
    return text, _yaml(text)


def read_json(path: Path) -> Any:
    """The value a JSON file holds, or None where it is missing or broken."""
    text = _text(path)
    try:
        return json.loads(text) if text else None
    except ValueError:
        return None


def read_mapping(path: Path) -> dict[str, Any]:
    """The object a JSON file holds, empty where there is none."""
    value = read_json(path)
    return value if isinstance(value, dict) else {}


def read_lines(path: Path, most: int = 200_000) -> Iterator[dict[str, Any]]:
    """Objects of a jsonl file, from its first `most` lines; lines that hold none are left out."""
    try:
        lines = open(path, encoding="utf-8", errors="replace")  # noqa: SIM115
    except OSError:
        return
    with lines:
        for line in islice(lines, most):
            row = _object(line)
            if row is not None:
                yield row


def number(value: Any) -> float | None:
    """`value` as a finite float, or None: JSON of other writers may hold anything."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    value = float(value)
    return value if abs(value) != float("inf") and value == value else None


def shorten(text: str, most: int) -> str:
    """`text` on one line, cut to `most` characters with an ellipsis."""
    text = " ".join(str(text).split())
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def relative(path: Path, page: Path) -> str | None:
    """How a page links to `path`, or None where it lies outside the page's folder."""
    link = os.path.relpath(path, page.parent)
    return None if link.startswith("..") else Path(link).as_posix()


def _object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _node(run_dir: Path, entry: Mapping[str, Any]) -> RunNode:
    name = str(entry.get("node", "?"))
    seed = entry.get("seed")
    needs = entry.get("needs")
    arm = str(entry["arm"]) if entry.get("arm") else None
    shared = [str(a) for a in entry.get("arms") or [] if a] if arm else []
    return RunNode(
        node=name,
        stage=str(entry.get("stage") or name.split("@")[0].split(".s")[0]),
        kind=str(entry.get("kind", "")),
        folder=run_dir / str(entry.get("folder") or name),
        arm=arm,
        arms=tuple(dict.fromkeys([*([arm] if arm else []), *shared])),
        seed=seed if isinstance(seed, int) else None,
        needs=tuple(str(n) for n in needs) if isinstance(needs, list) else (),
        seconds=number(entry.get("seconds")) or 0.0,
        peak_mb=number(entry.get("peak_mb")) or 0.0,
        is_reused=bool(entry.get("reused", False)),
    )


def _names(value: Any) -> list[str]:
    return [str(v) for v in value] if isinstance(value, Mapping | Sequence) else []


def _text(path: Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _yaml(text: str) -> Mapping[str, Any]:
    if not text:
        return {}
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        value = YAML(typ="safe", pure=True).load(text)
    except YAMLError:
        return {}
    return value if isinstance(value, Mapping) else {}
