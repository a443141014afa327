"""What a recipe says, typed: stages, arms, seeds, sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class ReportConfig:
    """The run's page: every stage of the run, its scores and samples.

    `baseline` is the arm that the others are compared with (default: the first).
    """

    title: str = ""
    baseline: str = ""


@dataclass(frozen=True)
class Stage:
    """One step: its kind, its settings as given, and the stages it waits for."""

    name: str
    kind: str
    settings: Mapping[str, Any]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """One YAML file, checked.

    `arms` maps an arm's name to dotted overrides of `stages`. `jobs` stages run
    side by side, each with `threads` threads (0: the cores shared out evenly).
    """

    name: str
    stages: Mapping[str, Stage]
    arms: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    default_arms: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    jobs: int = 1
    threads: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    description: str = ""
    folder: str = "."
    text: str = ""
    resolved: Mapping[str, Any] = field(default_factory=dict)


TOP_KEYS = (
    "name", "description", "stages", "arms", "default_arms", "seeds", "sizes", "jobs", "threads",
    "device",
)  # fmt: skip
