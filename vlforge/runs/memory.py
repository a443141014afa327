"""Peak memory of a process and of a family of processes, from /proc."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path


def reset_peak() -> None:
    """Start this process's high-water mark anew (Linux; elsewhere nothing)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> float:
    """High-water mark of this process's resident memory, MB; 0 where it is not told."""
    return _status_mb("self", "VmHWM")


def resident_mb(pids: Iterable[int]) -> float:
    """Resident memory of the processes together, MB."""
    return sum(_status_mb(str(pid), "VmRSS") for pid in pids)


def _status_mb(pid: str, key: str) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    for line in lines:
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    return 0.0
