"""Checkpoints inside a stage: enough to go on after a kill and end with the same bytes.

A checkpoint is a folder `step-N` with the trainable weights, the optimiser's moments and
a small state file. It is written beside, brought to the disk and renamed, so that it is
there whole or not at all; its state file holds the sums of the others, and one that no
longer agrees is passed over. Numbers are safetensors; no pickles.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vlforge.checkpoints.weights import Lazy, open_file, write_safetensors
from vlforge.training.devices import Devices
from vlforge.training.identity import Facts, difference
from vlforge.types import LogFn, ModelError, no_log

WEIGHTS, MOMENTS, STATE = "weights.safetensors", "moments.safetensors", "state.json"
DRAFT = "draft"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Progress:
    """How far a run is; `seconds` is what it took so far."""

    step: int
    tokens: int = 0
    supervised: int = 0
    seconds: float = 0.0
    scaler: dict[str, Any] | None = None


@dataclass(frozen=True)
class Best:
    """The step whose weights had the least `score`."""

    step: int
    score: float


class Keeper:
    """Writes the checkpoints of one run into `folder`, keeps the newest, finds them again.

    Args:
        facts: a checkpoint of a run with other ones is not taken up.
        keep_last: how many stay.
        keep_best: whether `offer` keeps weights.
        log: is told in one line what is passed over, not used, or could not be written.
    """

    def __init__(
        self,
        folder: Path,
        facts: Facts,
        module: nn.Module,
        optimiser: torch.optim.Optimizer,
        devices: Devices,
        *,
        keep_last: int = 1,
        keep_best: bool = False,
        log: LogFn = no_log,
    ):
        self.folder, self.module, self.optimiser = folder, module, optimiser
        self.devices = devices
        self.facts: dict[str, Any] = json.loads(json.dumps(facts))
        self.keep_last, self.keep_best, self._log = keep_last, keep_best, log
        self.best: Best | None = None

    def latest(self) -> Progress | None:
        """How far the newest checkpoint is that is whole and of this run, to the main process.

        Raises:
            ModelError: another process does not see it.
        """
        devices = self.devices
        found = self._latest_here() if devices.is_main else None
        if devices.count == 1:
            return found
        told = torch.tensor(found.step + 1.0 if found else 0.0, device=devices.device)
        step = int(devices.total(told)) - 1
        if step < 0 or found:
            return found
        place = self._place(step)
        if not (place / STATE).is_file():
            raise ModelError(f"{place} is not on this machine; all machines need one shared folder")
        self.best = self._find_best(step)
        return Progress(**_read_state(place)["progress"])

    def _latest_here(self) -> Progress | None:
        others = []
        for place in _newest_first(self.folder, "step-"):
            state = self._state_of(place)
            other = difference(state["facts"], self.facts) if state else ""
            if state is not None and not other:
                self.best = self._find_best(_number(place))
                return Progress(**state["progress"])
            if other:
                others.append(f"the checkpoint of step {_number(place)} is not used: {other}")
        for text in others[:1]:
            self._say(text)
        return None

    def load(self, progress: Progress) -> None:
        """Put weights and moments back where `save` took them."""
        place = self._place(progress.step)
        self.devices.put_weights(self.module, open_file(place / WEIGHTS))
        self.devices.put_moments(self.module, self.optimiser, open_file(place / MOMENTS))

    def begin_anew(self) -> None:
        """Remove all checkpoints, saying so where there are any."""
        found = _newest_first(self.folder, "step-")
        if found:
            self._say(f"begins anew (resume: false); step {_number(found[0])} is given up")
        if self.devices.is_main:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.devices.wait()

    def save(self, progress: Progress) -> bool:
        """Write `step-N` and remove what is older than the last `keep_last`.

        Where the disk is full the older ones stay and False comes back.
        """
        files = {
            WEIGHTS: self.devices.weights(self.module),
            MOMENTS: self.devices.moments(self.module, self.optimiser),
        }
        target = self._place(progress.step)
        if not self._write(target, files, {"progress": asdict(progress)}):
            return False
        there = _newest_first(self.folder, "step-")
        # What is further than this run has come is damaged or another run's.
        later = [place for place in there if _number(place) > progress.step]
        for old in (*later, *there[len(later) + max(1, self.keep_last) :]):
            shutil.rmtree(old, ignore_errors=True)
        return True

    def offer(self, score: float, progress: Progress) -> bool:
        """Keep the present weights where `score` is the least so far; whether it was."""
        if not self.keep_best or math.isnan(score):
            return False
        if self.best is not None and score >= self.best.score:
            return False
        best = Best(progress.step, score)
        weights = self.devices.weights(self.module)
        target = self.folder / f"best-{progress.step:08d}"
        if not self._write(target, {WEIGHTS: weights}, {"best": asdict(best)}):
            return False
        self.best = best
        for old in _newest_first(self.folder, "best-"):
            if old != target:
                shutil.rmtree(old, ignore_errors=True)
        return True

    def say_full(self, place: Path, size: str = "") -> None:
        """Tell that no checkpoint could be written, and what to do."""
        self._say(
            f"no space for a checkpoint in {place}{size}: free some; training goes on, the one "
            "before stays, and the next is tried in its turn"
        )

    def put_best(self) -> Best | None:
        """Give the module the best weights; None where none were kept."""
        if self.best is not None:
            place = self.folder / f"best-{self.best.step:08d}"
            self.devices.put_weights(self.module, open_file(place / WEIGHTS))
        return self.best

    def _place(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _say(self, text: str) -> None:
        self._log({"event": "warning", "text": text})

    def _state_of(self, place: Path) -> dict[str, Any] | None:
        """What a whole checkpoint says of itself; a damaged one is told and passed over."""
        try:
            state = _read_state(place)
            sums, _ = state["sums"], state["facts"]
            wrong = [name for name in sums if _sum(place / name) != sums[name]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            wrong = [STATE if not isinstance(error, OSError) else str(error)]
        if not wrong:
            return state
        self._say(f"{place}: {wrong[0]} is damaged; the checkpoint before it is taken")
        return None

    def _find_best(self, step: int) -> Best | None:
        """The best so far, of those that this run had come to at `step`."""
        if not self.keep_best:
            return None
        for place in _newest_first(self.folder, "best-"):
            state = self._state_of(place) if _number(place) <= step else None
            if state is not None and not difference(state["facts"], self.facts):
                return Best(**state["best"])
        return None

    def _write(
        self, target: Path, files: Mapping[str, Mapping[str, Lazy]], state: Mapping[str, Any]
    ) -> bool:
        """All processes bring a folder to the disk, which the main one writes; whether it did."""
        joined = {(file, name): lazy for file, part in files.items() for name, lazy in part.items()}
        is_written = False
        with self.devices.gathering(joined) as read:
            if self.devices.is_main:
                parts = {file: {n: read[file, n] for n in part} for file, part in files.items()}
                is_written = self._bring(target, parts, state)
        return self.devices.agreed(is_written)

    def _bring(
        self, target: Path, files: Mapping[str, Mapping[str, Lazy]], state: Mapping[str, Any]
    ) -> bool:
        """Bring a folder of these files to the disk under its name, whole or not at all."""
        needed = sum(lazy.nbytes for weights in files.values() for lazy in weights.values())
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _check_room(self.folder, needed)
            with _draft(self.folder / DRAFT) as draft:
                for name, weights in files.items():
                    write_safetensors(weights, draft / name)
                sums = {name: _sum(draft / name) for name in files}
                _write_state(draft, {**state, "facts": self.facts, "sums": sums})
                for file in (*files, STATE):
                    _to_disk(draft / file)
                _to_disk(draft)
                shutil.rmtree(target, ignore_errors=True)
                draft.rename(target)
            _to_disk(self.folder)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            self.say_full(self.folder, f" ({needed / 2**20:,.1f} MiB)")
            return False
        return True


def is_full(error: OSError) -> bool:
    """Whether a disk, a quota or a limit had no room."""
    return error.errno in _FULL


def _newest_first(folder: Path, prefix: str) -> list[Path]:
    return sorted(folder.glob(f"{prefix}*"), reverse=True)


def _number(place: Path) -> int:
    return int(place.name.rpartition("-")[2])


def _check_room(folder: Path, needed: int) -> None:
    """A disk that cannot hold it is not filled to the brim first."""
    if shutil.disk_usage(folder).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


@contextmanager
def _draft(folder: Path) -> Iterator[Path]:
    """An empty folder that is gone afterwards, unless it was given another name."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_state(place: Path, state: Mapping[str, Any]) -> None:
    """The state with a sum of its own: a changed byte might still be JSON."""
    text = json.dumps(state)
    own = hashlib.sha256(text.encode()).hexdigest()
    (place / STATE).write_text(f'{text[:-1]}, "own": "{own}"}}')


def _read_state(place: Path) -> dict[str, Any]:
    """Raises ValueError or KeyError for a damaged one."""
    text = (place / STATE).read_text()
    state: dict[str, Any] = json.loads(text)
    own = state.pop("own")
    written = f"{text[: text.rindex(', ')]}}}"
    if hashlib.sha256(written.encode()).hexdigest() != own:
        raise ValueError(f"{place / STATE} does not agree with its sum")
    return state


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
