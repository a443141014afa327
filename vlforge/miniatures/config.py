"""What a miniature is: which system, how many rows, which seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

System = Literal["better_synth", "mgm", "llava", "xtuner", "mgen_vl", "minigpt4"]


@dataclass(frozen=True)
class MiniatureConfig:
    """A system's whole folder in small: made data, benchmarks and random weights.

    Layout, file names and formats are the system's own, so that what is written for
    the real folder runs on it. The scores mean nothing.

    system: whose folder. rows: pictures of the training data; text-only rows and
    benchmarks come on top. seed: equal settings write equal data and weights; "auto"
    is the run's.
    """

    system: System
    rows: int = 24
    seed: int | Literal["auto"] = 0
