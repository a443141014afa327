"""The environment record of a run, and which device it may use."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

from vlforge import __version__
from vlforge.data.machine import ask_gpus, cores
from vlforge.runs.keys import library_versions
from vlforge.types import RecipeError


def describe_environment() -> dict[str, Any]:
    """Versions, processor, memory, accelerators: what results may depend on."""
    return {
        "vlforge": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": cores(),
        "memory_gib": _memory_gib(),
        "accelerators": accelerators(),
        "libraries": library_versions(),
        "command": ["vlforge", *sys.argv[1:]],
    }


def accelerators() -> list[str]:
    """Names of the NVIDIA GPUs, without loading torch."""
    return ask_gpus("name")


def gpu_memory() -> float:
    """Bytes of the smallest NVIDIA GPU here, without loading torch; 0 where there is none."""
    told = [float(line.split()[0]) for line in ask_gpus("memory.total") if line[:1].isdigit()]
    return min(told, default=0.0) * 2**20


def choose_device(wanted: str) -> str:
    """`auto` is cuda where there is a GPU; asking for an absent one is an error."""
    found = accelerators()
    if wanted == "cuda" and not found:
        raise RecipeError("device is 'cuda', but no NVIDIA GPU answers; use device=auto or cpu")
    if wanted == "auto":
        return "cuda" if found else "cpu"
    return wanted


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _memory_gib() -> float:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError):
        return 0.0
