"""What of a run takes disk space and serves nothing any more.

Three kinds: weights of models that only finished stages went on from, checkpoints from
which nothing will go on, and checkpoints before the last of a stage that is not finished.
Final models, scores, reports and data stay. Of a stage whose weights are freed all else
stays too, `done.json` says what went, and a run that needs it makes it again.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlforge.runs.store import BEGUN, DONE, FREED, read_done, write_json
from vlforge.types import DataError

MODELS = frozenset(("pretrain", "train", "merge", "convert"))
"""Kinds of stages that leave a model."""
WEIGHTS = (".safetensors", ".pdparams", ".bin", ".pt", ".pth")
_CONNECTOR = ("mm_projector", "checkpoint_")
_ADAPTED = "adapted.json"
_MOST_TEXT = 1 << 22


@dataclass(frozen=True)
class Waste:
    """Files of one stage that can go: which, how many bytes that frees, and why."""

    node: str
    what: str
    why: str
    paths: tuple[Path, ...]
    bytes: int
    stage: Path | None = None
    """The finished stage whose weights they are."""


@dataclass
class Found:
    """All that can go, and which weights stay though a stage went on from them, with why."""

    waste: list[Waste] = field(default_factory=list)
    kept: list[tuple[str, str]] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """What freeing all of it gives."""
        return sum(one.bytes for one in self.waste)


@dataclass(frozen=True)
class _Run:
    folder: Path
    nodes: tuple[dict[str, Any], ...]
    store: Path

    def stage(self, node: dict[str, Any]) -> Path | None:
        """Where a finished node lies in the store; None for an unfinished one."""
        place = self.folder / str(node.get("folder"))
        return place.resolve() if place.exists() and read_done(place) is not None else None


def find_waste(folder: Path) -> Found:
    """What can go of a run. Nothing is changed.

    Raises:
        DataError: `folder` is no run.
    """
    run = _read_run(folder)
    found = Found()
    for node in run.nodes:
        _look_at_stage(run, node, found)
    _look_at_partials(run, found)
    return found


def free(found: Found) -> int:
    """Remove it; the bytes that were freed. A kill in between leaves what is whole, whole."""
    freed = 0
    for one in found.waste:
        if one.stage is not None:
            _note(one.stage, [path.relative_to(one.stage) for path in one.paths])
        for path in one.paths:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        freed += one.bytes
    return freed


def _note(stage: Path, names: list[Path]) -> None:
    """Say in `done.json` what goes, before it does."""
    done: dict[str, Any] = json.loads((stage / DONE).read_text(encoding="utf-8"))
    gone = done.setdefault(FREED, {})
    for name in map(str, names):
        digest = done["outputs"].pop(name, None)
        gone[name] = gone.get(name) or digest
    write_json(stage / DONE, done)


def _look_at_stage(run: _Run, node: dict[str, Any], found: Found) -> None:
    """Weights of a model that another was made from."""
    stage = run.stage(node)
    if stage is None or node.get("kind") not in MODELS or not stage.is_relative_to(run.store):
        return
    paths = _weights_of(stage)
    users = [one for one in run.nodes if node["node"] in one.get("needs", ())]
    users = [one for one in users if one.get("kind") != "report"]
    makers = [str(one["node"]) for one in users if one.get("kind") in MODELS]
    if not paths or not makers:
        return
    reason = _still_needed(run, node, stage, users)
    if reason:
        found.kept.append((str(node["node"]), reason))
        return
    why = f"{' and '.join(makers)} went on from it and {'is' if len(makers) == 1 else 'are'} done"
    what = f"weights, {len(paths)} file{'s' * (len(paths) > 1)}"
    found.waste.append(Waste(str(node["node"]), what, why, paths, _freed_by(paths), stage))


def _weights_of(stage: Path) -> tuple[Path, ...]:
    """Files of weights of a finished stage; those of an adapter and of a connector are small."""
    done = read_done(stage) or {}
    if (stage / _ADAPTED).is_file():
        return ()
    names = [*done.get("outputs", {}), *done.get(FREED, {})]
    paths = [stage / name for name in names if name.endswith(WEIGHTS)]
    return tuple(p for p in paths if p.is_file() and not p.name.startswith(_CONNECTOR))


def _still_needed(run: _Run, node: dict[str, Any], stage: Path, users: list[dict[str, Any]]) -> str:
    """Why weights stay; "" where they need not."""
    waiting = [str(one["node"]) for one in users if run.stage(one) is None]
    if waiting:
        return f"{waiting[0]} is not done"
    for other in run.nodes:
        place = run.stage(other)
        is_final = not _went_on(run, other)
        if place is not None and is_final and _names(place / _ADAPTED, stage.name):
            return f"{other['node']} is an adapter of it"
    for graph in sorted(run.store.parent.glob("*/graph.json")):
        if graph.parent.resolve() == run.folder.resolve():
            continue
        if _names(graph, stage.name) or _asks_for(graph.parent / "recipe.yaml", run, node, stage):
            return f"{graph.parent.name} uses it too"
    return ""


def _went_on(run: _Run, node: dict[str, Any]) -> bool:
    """Whether a finished stage made another model of this one."""
    return any(
        node["node"] in one.get("needs", ()) and one.get("kind") in MODELS and run.stage(one)
        for one in run.nodes
    )


def _names(file: Path, word: str) -> bool:
    """Whether a file of text names something."""
    try:
        is_small = file.stat().st_size < _MOST_TEXT
        return is_small and word in file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def _asks_for(recipe: Path, run: _Run, node: dict[str, Any], stage: Path) -> bool:
    """Whether another run's recipe names this stage by its place."""
    inside = f"{run.folder.name}/"
    names = {stage.name, *(f"{inside}{node.get(key)}" for key in ("folder", "stage", "node"))}
    names.add(f"{inside}stages/{node.get('stage')}")
    return any(_names(recipe, name) for name in names)


def _look_at_partials(run: _Run, found: Found) -> None:
    """Checkpoints of stages that were begun here and are not finished under their key."""
    current = {str(node.get("key")) for node in run.nodes}
    for file in sorted((run.store / BEGUN).glob("*.json")):
        note, partial = _read(file), run.store / f"{file.stem}.partial"
        if not isinstance(note, dict) or not _is_of(note, run.folder) or not partial.is_dir():
            continue
        node, is_done = str(note.get("node")), (run.store / file.stem).is_dir()
        if file.stem in current and not is_done:
            found.waste += _older(node, partial)
            continue
        why = "the stage is done" if is_done else "begun with other settings, data or code than now"
        files = tuple(path for path in partial.rglob("*") if _is_own(path))
        paths = (partial, file)
        found.waste.append(Waste(node, "an unfinished stage", why, paths, _freed_by(files)))


def _is_of(note: dict[str, Any], run: Path) -> bool:
    """Whether a stage was begun by this run, which may have been moved since."""
    place = Path(str(note.get("run_dir")))
    if place.resolve() == run.resolve():
        return True
    return place.name == run.name and not place.exists()


def _is_own(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _older(node: str, partial: Path) -> list[Waste]:
    """Checkpoints before the last, and what a kill left of one."""
    steps = sorted((partial / "checkpoint").glob("step-*"))
    old = (*steps[:-1], *(partial / "checkpoint").glob("draft"))
    if not old:
        return []
    files = tuple(path for place in old for path in place.rglob("*") if _is_own(path))
    what = f"{len(old)} checkpoint{'s' * (len(old) > 1)}"
    return [Waste(node, what, f"it goes on from {steps[-1].name}", old, _freed_by(files))]


def _freed_by(files: tuple[Path, ...]) -> int:
    """Bytes that go with these files; one that has another name too frees nothing."""
    stats = [path.stat() for path in files]
    return sum(one.st_size for one in stats if one.st_nlink == 1)


def _read_run(folder: Path) -> _Run:
    graph = _read(folder / "graph.json")
    if not isinstance(graph, dict) or not isinstance(graph.get("nodes"), list):
        raise DataError(f"{folder}: holds no run (graph.json); give a folder such as runs/photos")
    store = folder.absolute().parent / ".store"
    return _Run(folder, tuple(graph["nodes"]), store.resolve())


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
