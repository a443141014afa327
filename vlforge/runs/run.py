"""Runs a recipe into its folder: reuse what is done, do the rest, keep going after a kill."""

from __future__ import annotations

import errno
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from vlforge.recipe.graph import Node
from vlforge.recipe.source import Source
from vlforge.runs.control import leading
from vlforge.runs.display import Display
from vlforge.runs.environment import describe_environment
from vlforge.runs.follow import follow
from vlforge.runs.launch import Launch, find_launch
from vlforge.runs.plan import plan_nodes
from vlforge.runs.pool import Pool, longest_first
from vlforge.runs.prepare import Choice, Prepared, check_nodes, prepare
from vlforge.runs.reuse import reusable
from vlforge.runs.store import hold, link, read_done, write_json, write_text
from vlforge.runs.worker import Order
from vlforge.types import VLForgeError


class StageFailed(VLForgeError):
    """A stage ended with an error; the run can be continued."""


class Stopped(KeyboardInterrupt):
    """The user stopped the run; `hint` says how to go on."""

    def __init__(self, hint: str):
        super().__init__(hint)
        self.hint = hint


@dataclass(frozen=True)
class RunResult:
    """What a finished run leaves behind."""

    run_dir: Path
    report: Path | None
    nodes_run: int
    nodes_reused: int
    seconds: float


def run_recipe(path: Path | Source, choice: Choice = Choice(), *, quiet: bool = False) -> RunResult:
    """Run every stage that the choice asks for, reusing finished equal ones.

    Raises:
        RecipeError: the recipe is wrong; nothing was started.
        StageFailed: a stage failed; the same command goes on from there.
        Stopped: Ctrl-C, or a signal of a scheduler that is about to take the machine.
    """
    launch = find_launch()
    if launch is not None and launch.rank:
        return _beside(launch, path, choice)
    with leading(launch):
        return _run_alone(path, choice, quiet)


def _beside(launch: Launch, path: Path | Source, choice: Choice) -> RunResult:
    """The result of the run that the first of several processes leads."""
    start = time.monotonic()
    said = follow(launch)
    if said == "stopped":
        raise Stopped("stopped; the same command goes on")
    if said != "done":
        raise StageFailed("the first process says what failed")
    run_dir = prepare(path, choice).run_dir
    report = run_dir / "report.html"
    seconds = time.monotonic() - start
    return RunResult(run_dir, report if report.exists() else None, 0, 0, seconds)


def _run_alone(path: Path | Source, choice: Choice, quiet: bool) -> RunResult:
    prepared = prepare(path, choice)
    check_nodes(prepared.nodes)
    with _stoppable(), _RunFolder(prepared) as folder:
        run = _Run(prepared, folder)
        with Display(len(prepared.nodes), quiet=quiet) as display:
            run.go(display)
    return run.result()


@contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM and SIGUSR1 are as one Ctrl-C, however often they come."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen: list[int] = []

    def take(number: int, frame: object) -> None:
        seen.append(number)
        if len(seen) == 1:
            raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.signal(number, take) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _RunFolder:
    """The run's folder, held by one command at a time."""

    def __init__(self, prepared: Prepared):
        self.prepared = prepared
        self.path = prepared.run_dir

    def __enter__(self) -> _RunFolder:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = hold(self.path)
        except OSError as error:
            raise VLForgeError(
                f"{self.path}: cannot write the run here ({error.strerror}); choose --out FOLDER"
            ) from None
        recipe = self.prepared.recipe
        write_text(self.path / "as_given.yaml", recipe.text)
        write_text(self.path / "recipe.yaml", dump_yaml(recipe.resolved))
        write_json(self.path / "env.json", describe_environment())
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def log(self, node: str, event: Mapping[str, Any]) -> None:
        """Append one event to `log.jsonl`."""
        record = {"time": round(time.time(), 2), "node": node, **event}
        with (self.path / "log.jsonl").open("ab", buffering=0) as file:
            before = file.tell()
            try:
                file.write(msgspec.json.encode(record, enc_hook=str) + b"\n")
            except OSError as error:
                # A full disk may cost a line of the log, not the stage that trains.
                file.truncate(before)
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise


class _Run:
    """The state of one pass over the graph."""

    def __init__(self, prepared: Prepared, folder: _RunFolder):
        self.prepared = prepared
        self.folder = folder
        self.nodes = {node.name: node for node in prepared.nodes}
        self.reused: dict[str, bool] = {}
        self.started = time.monotonic()
        self.fresh_since = time.time() if prepared.fresh else 0.0
        self.running: set[str] = set()
        self.in_steps: set[str] = set()
        self.plan = {row.node: row for row in plan_nodes(prepared)}
        self.pool: Pool | None = None

    def go(self, display: Display) -> None:
        """Run to the end, or to the first failure."""
        write_json(self.folder.path / "plan.json", [row.__dict__ for row in self.plan.values()])
        self._unlink_stale()
        self._write_graph()
        finished = reusable(self.prepared, self.fresh_since)
        for name in self.nodes:
            if name in finished:
                self._finished(name, 0.0, True, display)
        try:
            self._work(display)
        except KeyboardInterrupt:
            self._end_early(display)
            self._close(at_once=True)
            raise Stopped(f"stopped; the same command continues {self.folder.path}") from None
        except BaseException:
            self._close(at_once=True)
            raise
        self._close()
        self._write_timing()

    def result(self) -> RunResult:
        """What was done."""
        report = self.folder.path / "report.html"
        reused = sum(self.reused.values())
        return RunResult(
            run_dir=self.folder.path,
            report=report if report.exists() else None,
            nodes_run=len(self.reused) - reused,
            nodes_reused=reused,
            seconds=time.monotonic() - self.started,
        )

    def _work(self, display: Display) -> None:
        pool = self.pool = Pool(self.prepared.jobs, self.prepared.threads)
        running = self.running
        while len(self.reused) < len(self.nodes):
            for name in self._ready(running):
                if not pool.free():
                    break
                running.add(name)
                display.start(name)
                pool.submit(self._order(self.nodes[name]))
            for name, message in pool.events(0.25):
                self._take(name, message, display)

    def _take(self, name: str, message: tuple[Any, ...], display: Display) -> None:
        """What a worker says."""
        if message[0] == "progress":
            display.progress(name, *message[1:])
        elif message[0] == "log":
            if message[1].get("event") == "fit":
                self.in_steps.add(name)
            self.folder.log(name, message[1])
            display.log(name, message[1])
        elif message[0] == "failed":
            self._fail(name, *message[1:])
        elif message[0] == "stopped":
            # Its process was told by a signal of its own.
            display.log(name, {"event": "warning", "text": message[1]})
            raise KeyboardInterrupt
        else:
            self.running.discard(name)
            self._finished(name, message[1], message[3], display)

    def _end_early(self, display: Display) -> None:
        """Let stages that train end with a checkpoint; another Ctrl-C does not wait for it."""
        waiting = self.running & self.in_steps
        if self.pool is None or not waiting:
            return
        text = "ends after this step, with a checkpoint; Ctrl-C again ends at once"
        for name in sorted(waiting):
            display.log(name, {"event": "warning", "text": text})
        try:
            self.pool.ask_to_stop(waiting)
            while waiting & self.pool.nodes():
                for name, message in self.pool.events(0.25):
                    self._take_last(name, message, display)
        except KeyboardInterrupt:
            return

    def _take_last(self, name: str, message: tuple[Any, ...], display: Display) -> None:
        """What a worker says that was asked to end."""
        if message[0] in ("stopped", "failed"):
            self.folder.log(name, {"event": message[0], "text": message[1]})
            display.log(name, {"event": "warning", "text": message[1]})
        else:
            self._take(name, message, display)

    def _ready(self, running: set[str]) -> list[str]:
        ready = [
            name
            for name, node in self.nodes.items()
            if name not in self.reused
            and name not in running
            and all(other in self.reused for other in node.inputs.values())
        ]
        inputs = {name: tuple(node.inputs.values()) for name, node in self.nodes.items()}
        return longest_first(ready, inputs, lambda name: self.plan[name].minutes * 60)

    def _order(self, node: Node) -> Order:
        prepared = self.prepared
        if node.kind == "report":
            self._write_graph()
        return Order(
            node=node.name,
            kind=node.kind,
            key=prepared.keys[node.name],
            settings=prepared.settings(node),
            inputs={name: prepared.keys[name] for name in node.inputs.values()},
            seed=node.seeds[0],
            store=prepared.store.root,
            run_dir=prepared.run_dir,
            device=prepared.device,
            threads=prepared.threads,
            moved=prepared.moved,
            fresh_since=self.fresh_since,
            processes=prepared.processes,
            launch=prepared.launch,
        )

    def _finished(self, name: str, seconds: float, reused: bool, display: Display) -> None:
        self.reused[name] = reused
        node = self.nodes[name]
        link(self._link_path(node), self.prepared.folder(name))
        if not reused:
            self.folder.log(name, {"event": "done", "seconds": seconds})
        display.finish(name, seconds, reused)
        if node.kind == "report":
            for file in ("report.html", "scores.json"):
                made = self.prepared.folder(name) / file
                if made.exists():
                    write_text(self.folder.path / file, made.read_text(encoding="utf-8"))
        self._write_graph()

    def _fail(self, name: str, line: str, trace: str) -> None:
        self.folder.log(name, {"event": "failed", "error": line, "traceback": trace})
        raise StageFailed(f"stage {name}: {line}  (log: {self.folder.path / 'log.jsonl'})")

    def _link_path(self, node: Node) -> Path:
        return self.folder.path / f"{node.number:02d}-{node.name}"

    def _unlink_stale(self) -> None:
        """Take away links of nodes that this recipe no longer has."""
        if not self.prepared.is_whole:
            return
        wanted = {self._link_path(node).name for node in self.nodes.values()}
        for path in self.folder.path.iterdir():
            if path.is_symlink() and path.name not in wanted and path.name[:2].isdigit():
                path.unlink()

    def _write_graph(self) -> None:
        rows = [self._graph_row(node) for node in self.nodes.values()]
        recipe = self.prepared.recipe
        graph = {"name": recipe.name, "description": recipe.description, "nodes": rows}
        write_json(self.folder.path / "graph.json", graph)

    def _graph_row(self, node: Node) -> dict[str, Any]:
        key = self.prepared.keys[node.name]
        done = read_done(self.prepared.folder(node.name)) if node.name in self.reused else None
        return {
            "node": node.name,
            "stage": node.stage,
            "arm": node.arms[0] if "@" in node.name else "",
            "arms": list(node.arms),
            "seed": node.seeds[0],
            "seeds": list(node.seeds),
            "kind": node.kind,
            "key": key,
            "folder": self._link_path(node).name,
            "needs": list(node.inputs.values()),
            "seconds": done["seconds"] if done else None,
            "peak_mb": done["peak_mb"] if done else None,
            "reused": self.reused.get(node.name, False),
        }

    def _write_timing(self) -> None:
        peak = self.pool.peak_mb if self.pool else 0.0
        done = [read_done(self.prepared.folder(name)) for name in self.nodes]
        stages = sum(d["seconds"] for d in done if d)
        timing = {
            "seconds": round(time.monotonic() - self.started, 1),
            "peak_mb": round(peak, 1),
            "stage_seconds": round(stages, 1),
            "nodes_run": sum(not r for r in self.reused.values()),
            "nodes_reused": sum(self.reused.values()),
        }
        write_json(self.folder.path / "timing.json", timing)

    def _close(self, *, at_once: bool = False) -> None:
        if self.pool is not None:
            self.pool.close(at_once=at_once)


def dump_yaml(data: Mapping[str, Any]) -> str:
    """Plain YAML text of `data`, keys in their order."""
    import io

    from ruamel.yaml import YAML

    out = io.StringIO()
    writer = YAML()
    writer.default_flow_style = False
    writer.width = 100
    writer.dump(dict(data), out)
    return out.getvalue()
