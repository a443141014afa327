"""Processors and NVIDIA GPUs of this machine; the driver is asked, no torch is loaded."""

from __future__ import annotations

import os
import shutil
import subprocess


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ask_gpus(what: str) -> list[str]:
    """A line about each GPU; none where nothing answers."""
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def visible_gpus() -> list[str]:
    """The GPUs that processes of this one may use, each as `CUDA_VISIBLE_DEVICES` names it."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and not visible.strip():
        return []
    found = [str(number) for number in range(len(ask_gpus("name")))]
    if visible is None:
        return found
    named = [one.strip() for one in visible.split(",") if one.strip() not in ("", "-1")]
    return named[: len(found)]
