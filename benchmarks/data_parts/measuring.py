"""Running a command and measuring all of its processes."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_TICK = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_LEAST_WAIT_S = 0.02
_SHARE = 0.04
"""The sampler rests so long that it takes at most this share of a core."""


@dataclass(frozen=True)
class Cost:
    """What one run of a command took; processor seconds and memory are of all its processes."""

    wall_s: float
    cpu_s: float
    peak_mb: float


class RunFailed(Exception):
    """A command that was measured ended with an error; carries the end of what it said."""


def measured(
    command: Sequence[str], log: Path, env: Mapping[str, str] | None = None, limit_s: float = 3600
) -> Cost:
    """Run a command in a session of its own.

    Memory is the sum of the proportional set sizes (a page shared by n
    processes counts 1/n in each), sampled as often as costs 4 % of a core at
    most. Processor seconds are those that the kernel reports of the ended
    tree, or the sum of the last samples where children were not waited for.
    """
    with log.open("wb") as said:
        begin = time.perf_counter()
        child = subprocess.Popen(
            command, stdout=said, stderr=subprocess.STDOUT, env=env, start_new_session=True
        )
        sampler = _Sampler(child.pid)
        sampler.start()
        timer = threading.Timer(limit_s, os.killpg, (child.pid, signal.SIGKILL))
        timer.start()
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - begin
        child.returncode = os.waitstatus_to_exitcode(status)
        timer.cancel()
        sampler.stop()
    if child.returncode != 0:
        end = log.read_text("utf-8", "replace")[-1500:]
        raise RunFailed(f"{' '.join(command)} ended with {child.returncode}:\n{end}")
    cpu = max(usage.ru_utime + usage.ru_stime, sum(sampler.cpu_s.values()))
    return Cost(wall, cpu, sampler.peak_kb / 1024)


class _Sampler(threading.Thread):
    """Watches the processes of a session."""

    def __init__(self, session: int):
        super().__init__(daemon=True)
        self.session = session
        self.peak_kb = 0
        self.cpu_s: dict[int, float] = {}
        self._ended = threading.Event()

    def run(self) -> None:
        wait = 0.0
        while not self._ended.wait(wait):
            begin = time.thread_time()
            self._sample()
            wait = max(_LEAST_WAIT_S, (time.thread_time() - begin) / _SHARE)

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()
        self.join()

    def _sample(self) -> None:
        total = 0
        for name in os.listdir("/proc"):
            if name.isdigit():
                total += self._process_kb(int(name))
        self.peak_kb = max(self.peak_kb, total)

    def _process_kb(self, pid: int) -> int:
        """PSS in KiB of a process of the session, 0 of another's or one that has ended."""
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                # The name in brackets may hold blanks; what follows it does not.
                found = file.read().rpartition(b")")[2].split()
            if int(found[3]) != self.session:
                return 0
            self.cpu_s[pid] = (int(found[11]) + int(found[12])) / _TICK
            with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
                lines = [line for line in file if line.startswith(b"Pss:")]
            return int(lines[0].split()[1]) if lines else 0
        except (OSError, IndexError, ValueError):
            return 0


@dataclass
class Costs:
    """Several runs of one command."""

    runs: list[Cost] = field(default_factory=list)

    def median(self, what: str) -> float:
        """The median of `wall_s`, `cpu_s` or `peak_mb`."""
        return statistics.median(getattr(run, what) for run in self.runs)

    def summary(self) -> dict[str, Any]:
        """Medians, and lowest and highest values."""
        found: dict[str, Any] = {"runs": len(self.runs)}
        for what, digits in (("wall_s", 3), ("cpu_s", 3), ("peak_mb", 1)):
            values = [getattr(run, what) for run in self.runs]
            found[what] = round(statistics.median(values), digits)
            found[f"{what}_spread"] = [round(min(values), digits), round(max(values), digits)]
        return found


def ratios(ours: Costs, other: Costs) -> dict[str, float]:
    """How many times more the other took, by medians."""
    return {
        what: round(other.median(what) / ours.median(what), 2)
        for what in ("wall_s", "cpu_s", "peak_mb")
    }
