"""Tells tensorboard, wandb, mlflow, swanlab or trackio what is seen, through accelerate's classes.

A thread of its own talks to them: training never waits for one, and one that fails is told
of once and then left alone. Keys are the libraries' own affair (WANDB_API_KEY and the like
in the environment); nothing of them is written or shown. A stage that goes on continues the
run that it began, whose names stand in `trackers.json`.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import logging
import os
import queue
import re
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from vlforge.types import LogFn, RecipeError, no_log

FOLDER, RUNS = "trackers", "trackers.json"
NAMES = ("tensorboard", "wandb", "mlflow", "swanlab", "trackio")
ROOM = 10_000
"""Values that may wait for a slow tracker; more are not sent."""
CLOSING_S = 30.0
"""How long the end of a stage waits for what is still to be sent."""
LONGEST_WORD = 200
"""Characters of a setting that are sent."""
_SECRET = re.compile(
    r"(?:^|[._-])(?:api_?key|key|secret|password|passwd|credentials?|token)$", re.IGNORECASE
)
_IN_URL = re.compile(
    r"(://)[^/\s@]+@|([?&][^=&\s]*(?:key|token|secret|sig|signature)[^=&\s]*=)[^&\s]+"
)
_SECRET_NAMES = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|PASSWD")


class Tracker(Protocol):
    """What accelerate's trackers can do."""

    def start(self) -> None:
        """Begin or continue the run."""

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Keep settings."""

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        """Keep values of a step."""

    def finish(self) -> None:
        """Bring everything to its place."""


def check_trackers(names: Sequence[str]) -> None:
    """Raise for a tracker whose library is not here.

    Raises:
        RecipeError: says how to install it.
    """
    for name in names:
        if name not in NAMES:
            raise RecipeError(f"trackers: {name!r} is unknown; known: {', '.join(NAMES)}")
        if importlib.util.find_spec(name) is None:
            raise RecipeError(
                f"trackers: {name} is not installed: pip install {name} "
                "(all of them: pip install 'vlforge[trackers]')"
            )


class Trackers:
    """The trackers of one stage, fed by `log`.

    Args:
        names: of `NAMES`.
        project, run: what they show; runs of a project are compared with each other.
        step: steps done before.
        settings: sent once, when a run begins.
    """

    def __init__(
        self,
        names: Sequence[str],
        out: Path,
        *,
        project: str,
        run: str,
        step: int = 0,
        settings: Mapping[str, Any] | None = None,
        log: LogFn = no_log,
    ):
        self._log, self._out = log, out
        self._feeds: list[_Feed] = []
        # Events of the threads: whoever takes them need not be safe to call from several.
        self._said: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        os.environ.setdefault("WANDB_SILENT", "true")
        os.environ.setdefault("WANDB_CONSOLE", "off")
        known = _read(out / RUNS) if step else {}
        logging.getLogger("accelerate.tracking").setLevel(logging.ERROR)
        for name in names:
            about = _About(name, out / FOLDER, project, run, step, known.get(name))
            self._feeds.append(_Feed(about, settings or {}, self._began, self._said))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send values of a step; returns at once."""
        for feed in self._feeds:
            feed.put(dict(values), step)
        self._tell()

    def close(self, wait_s: float = CLOSING_S) -> None:
        """Send what is left, for at most `wait_s` seconds."""
        for feed in self._feeds:
            feed.end()
        for feed in self._feeds:
            feed.join(wait_s)
        self._feeds = []
        self._tell()

    def _tell(self) -> None:
        while not self._said.empty():
            self._log(self._said.get())

    def _began(self, name: str, run_id: str) -> None:
        """Note under which name a run can be continued."""
        with _WRITING:
            path = self._out / RUNS
            text = json.dumps(_read(path) | {name: run_id}, indent=1, sort_keys=True)
            path.write_text(text + "\n")


_WRITING = threading.Lock()


@dataclasses.dataclass(frozen=True)
class _About:
    """Which run of which tracker; `run_id` is that of an earlier start."""

    name: str
    folder: Path
    project: str
    run: str
    step: int
    run_id: str | None

    def make(self) -> tuple[Any, str]:
        """accelerate's tracker, not yet started, and the run's name as far as it is known."""
        from accelerate import tracking

        self.folder.mkdir(parents=True, exist_ok=True)
        run_id = self.run_id or uuid.uuid4().hex[:12]
        resume = {"resume": "allow" if self.run_id else "never"}
        if self.name == "tensorboard":
            # Values behind the checkpoint come a second time; the first ones are hidden.
            purge = {"purge_step": self.step + 1} if self.step else {}
            return tracking.TensorBoardTracker(self.run, self.folder, **purge), run_id
        if self.name == "wandb":
            how = {"name": self.run, "id": run_id, "dir": str(self.folder), **resume}
            return tracking.WandBTracker(self.project, **how), run_id
        if self.name == "mlflow":
            how = {"run_id": self.run_id, "run_name": self.run}
            return tracking.MLflowTracker(self.project, **how), self.run_id or ""
        if self.name == "swanlab":
            folder = self.folder / "swanlab"
            folder.mkdir(exist_ok=True)
            how = {"experiment_name": self.run, "id": run_id, "logdir": str(folder), **resume}
            return tracking.SwanLabTracker(self.project, **how), run_id
        run_id = self.run_id or f"{self.run}-{run_id[:4]}"
        return tracking.TrackioTracker(self.project, name=run_id, **resume), run_id


class _Feed:
    """One tracker in its thread."""

    def __init__(
        self,
        about: _About,
        settings: Mapping[str, Any],
        began: Callable[[str, str], None],
        said: queue.SimpleQueue[dict[str, Any]],
    ):
        self._about, self._settings, self._began, self._said = about, settings, began, said
        self._waiting: queue.Queue[tuple[dict[str, Any], int] | None] = queue.Queue(ROOM)
        self._is_lost = self._is_full = False
        self._thread = threading.Thread(target=self._run, name=about.name, daemon=True)
        self._thread.start()

    def put(self, values: dict[str, Any], step: int) -> None:
        """Hand values over; where none can be taken they are left out."""
        if self._is_lost:
            return
        try:
            self._waiting.put_nowait((values, step))
        except queue.Full:
            if not self._is_full:
                self._warn(f"{ROOM:,} values wait for it; some are left out")
            self._is_full = True

    def end(self) -> None:
        """Nothing comes any more."""
        if not self._is_lost:
            try:
                self._waiting.put_nowait(None)
            except queue.Full:
                self._is_lost = True
                self._warn("it did not take all values")

    def join(self, wait_s: float) -> None:
        """Wait for the end."""
        self._thread.join(wait_s)
        if self._thread.is_alive() and not self._is_lost:
            self._is_lost = True
            self._warn(f"not done {wait_s:.0f} s after the end; what it had not sent is lost")

    def _run(self) -> None:
        try:
            tracker, run_id = self._about.make()
            tracker.start()
            if self._about.name == "mlflow":
                run_id = tracker.tracker.info.run_id
            self._began(self._about.name, run_id)
            self._said.put({"event": "tracker", "tracker": self._about.name, "run": run_id})
            if self._about.run_id is None:
                self._send_settings(tracker)
            while (item := self._waiting.get()) is not None:
                tracker.log(item[0], step=item[1])
            tracker.finish()
        # Whatever a tracker raises is its own affair, not the training's.
        except (Exception, SystemExit) as error:
            self._is_lost = True
            self._warn(f"{type(error).__name__}: {error}")

    def _send_settings(self, tracker: Tracker) -> None:
        if self._about.name == "tensorboard":
            # Its own way makes a second run with a time for its name.
            lines = [f"    {name}: {value}" for name, value in self._settings.items()]
            tracker.log({"settings": "\n".join(lines)}, step=0)
        elif self._settings:
            tracker.store_init_configuration(dict(self._settings))

    def _warn(self, what: str) -> None:
        line = without_secrets(what).strip().splitlines()[0][:200]
        text = f"tracker {self._about.name}: {line}; training goes on without it"
        self._said.put({"event": "warning", "text": text})


def settings_of(config: Any) -> dict[str, Any]:
    """A configuration as flat names and plain values, without anything that looks secret."""
    flat: dict[str, Any] = {}
    _flatten("", dataclasses.asdict(config), flat)
    return flat


def _flatten(prefix: str, value: Any, into: dict[str, Any]) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            _flatten(f"{prefix}.{key}" if prefix else str(key), item, into)
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        for number, item in enumerate(value):
            _flatten(f"{prefix}.{number}", item, into)
    elif _SECRET.search(prefix):
        into[prefix] = "(not shown)"
    elif isinstance(value, bool | int | float):
        into[prefix] = value
    elif value is not None:
        words = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        into[prefix] = without_secrets(words)[:LONGEST_WORD]


def without_secrets(text: str) -> str:
    """`text` without passwords of addresses and without values that the environment keeps."""
    text = _IN_URL.sub(lambda m: f"{m[1]}…@" if m[1] else f"{m[2]}…", text)
    for name, value in os.environ.items():
        if len(value) >= 8 and _SECRET_NAMES.search(name.upper()):
            text = text.replace(value, "…")
    return text


def _read(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
