"""The `process` stage of a recipe, in Data-Juicer's words. Light to import."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ProcessConfig:
    """Read a dataset, run operators over it, write what is kept.

    Names and defaults follow Data-Juicer 1.x recipes; `process` is its list of
    `{operator: parameters}`. `export_path` may be empty inside a run, where the
    stage folder is the place. `seed` is of all that operators draw.
    """

    dataset_path: str
    export_path: str = ""
    process: tuple[str | dict[str, dict[str, Any] | None], ...] = ()
    np: int = 0
    text_key: str = "text"
    image_key: str = "images"
    image_special_token: str = "<__dj__image>"
    eoc_special_token: str = "<|__dj__eoc|>"
    keep_stats_in_res_ds: bool = False
    skip_op_error: bool = True
    open_tracer: bool = True
    trace_num: int = 10
    op_fusion: bool = True
    project_name: str = "vlforge"
    seed: int = 42
    extra: dict[str, Any] = field(default_factory=dict)
