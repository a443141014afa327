"""Several runs beside each other: which series there are, and how far each run is."""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlforge.reports import numbers
from vlforge.reports.run_files import Run, RunNode, read_json, read_mapping, read_run, recipe_of
from vlforge.reports.training_view import TRAINING
from vlforge.types import DataError

_TONES = 6


@dataclass(frozen=True)
class Side:
    """One of the runs that are compared, under its letter.

    unfinished: nodes that have not ended; of those that train, what is there so far is read.
    """

    letter: str
    run: Run
    unfinished: tuple[str, ...]
    has_begun: bool = True

    @property
    def state(self) -> str:
        """`finished`, or how many of its stages are."""
        if not self.has_begun:
            return "no stage has finished"
        stages = [n for n in self.run.nodes if n.kind != "report"]
        left = len(self.unfinished)
        return f"{len(stages) - left} of {len(stages)} stages finished" if left else "finished"


@dataclass(frozen=True)
class Series:
    """A run, or one arm of a run with several: what gets a colour and a column."""

    side: Side
    arm: str | None
    label: str
    tone: int

    @property
    def nodes(self) -> list[RunNode]:
        """The run's nodes that this arm has, alone or with others."""
        return [n for n in self.side.run.nodes if not n.arms or self.arm in n.arms]

    def of_stage(self, stage: str, *kinds: str) -> list[RunNode]:
        """Its nodes of a stage that hold something."""
        return [n for n in self.nodes if n.stage == stage and n.kind in kinds and n.is_done]

    @property
    def trained(self) -> list[RunNode]:
        """The nodes whose training its scores rest on; all that train where none is scored."""
        mine = self.nodes
        scored = [n for n in mine if n.kind == "evaluate"]
        above = {one.node for n in scored for one in self.side.run.ancestors(n)}
        training = [n for n in mine if n.kind in TRAINING and n.is_done]
        return [n for n in training if n.node in above] or training


def read_sides(folders: Sequence[Path]) -> list[Side]:
    """The runs, lettered in the order given.

    Raises:
        DataError: fewer than two, one given twice, or a folder that holds no run.
    """
    if len(folders) < 2:
        raise DataError("give two runs or more, such as runs/raw runs/clean")
    if len(folders) > len(string.ascii_uppercase):
        raise DataError(f"{len(folders)} runs: at most {len(string.ascii_uppercase)} fit a page")
    places = [folder.resolve() for folder in folders]
    twice = next((f for k, f in enumerate(folders) if places[k] in places[:k]), None)
    if twice is not None:
        raise DataError(f"{twice}: is given twice")
    return [
        _side(letter, folder)
        for letter, folder in zip(string.ascii_uppercase, folders, strict=False)
    ]


def series_of(sides: Sequence[Side]) -> list[Series]:
    """Every run, or every arm of those that have several."""
    found: list[Series] = []
    for side in sides:
        arms: Sequence[str | None] = side.run.arms or [None]
        for arm in arms:
            label = side.letter if len(arms) == 1 else f"{side.letter} {arm}"
            found.append(Series(side, arm, label, len(found) % _TONES))
    return found


def stages_of(series: Sequence[Series], *kinds: str) -> list[str]:
    """Names of stages of these kinds that hold something anywhere, in the graphs' order."""
    found = (n.stage for one in series for n in one.nodes if n.kind in kinds and n.is_done)
    return list(dict.fromkeys(found))


def alike(
    series: Sequence[Series], stage: str, *kinds: str
) -> Iterator[tuple[list[Series], list[RunNode]]]:
    """Series of a stage with their nodes; those that share all folders come as one."""
    groups: dict[tuple[Path, ...], tuple[list[Series], list[RunNode]]] = {}
    for one in series:
        nodes = one.of_stage(stage, *kinds)
        key = tuple(sorted({node.folder.resolve() for node in nodes}))
        if key:
            groups.setdefault(key, ([], nodes))[0].append(one)
    yield from groups.values()


def joint_label(series: Sequence[Series], sign: str = " = ") -> str:
    """`A = B`, what equal series are called together; all arms of a run are the run."""
    by_side: dict[str, list[Series]] = {}
    for one in series:
        by_side.setdefault(one.side.letter, []).append(one)
    words = []
    for letter, some in by_side.items():
        is_whole = len(some) == max(1, len(some[0].side.run.arms))
        words += [letter] if is_whole else [one.label for one in some]
    return sign.join(words)


def by_value(series: Sequence[Series], values: Mapping[str, float]) -> str:
    """`1,600 with A and B, 800 with C`: a count of each series that has one, in words."""
    groups: dict[float, list[Series]] = {}
    for one in series:
        if one.label in values:
            groups.setdefault(values[one.label], []).append(one)
    told = (f"{numbers.count(v)} with {joint_label(some, ', ')}" for v, some in groups.items())
    return "; ".join(told)


def _side(letter: str, folder: Path) -> Side:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give the folder of a run, as runs/quickstart")
    if not (folder / "graph.json").is_file():
        return _begun(letter, folder)
    run = read_run(folder)
    unfinished = tuple(n.node for n in run.nodes if not n.is_done and n.kind != "report")
    keys = _keys(read_json(folder / "graph.json"))
    nodes = tuple(_as_far_as_it_is(n, keys.get(n.node, ""), run) for n in run.nodes)
    return Side(letter, replace(run, nodes=nodes), unfinished)


def _begun(letter: str, folder: Path) -> Side:
    """A run of which nothing has ended: its recipe is all there is."""
    if not (folder / "recipe.yaml").is_file():
        raise DataError(
            f"{folder}: holds no run (graph.json); give a folder such as runs/quickstart"
        )
    text, recipe = recipe_of(folder)
    return Side(letter, Run(folder, (), recipe, text, read_mapping(folder / "env.json")), (), False)


def _keys(graph: Mapping[str, Any]) -> dict[str, str]:
    nodes = (n for n in graph["nodes"] if isinstance(n, Mapping))
    return {str(n.get("node")): str(n.get("key") or "") for n in nodes}


def _as_far_as_it_is(node: RunNode, key: str, run: Run) -> RunNode:
    """A node that trains, with the folder that it is still writing."""
    if node.is_done or node.kind not in TRAINING or not key:
        return node
    done = (n.folder.resolve().parent for n in run.nodes if n.is_done)
    for store in dict.fromkeys([*done, run.folder.parent / ".store"]):
        partial = store / f"{key}.partial"
        if partial.is_dir():
            return replace(node, folder=partial)
    return node
