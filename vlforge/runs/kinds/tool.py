"""The `tool` stage: another system's converter, its result in the stage's folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vlforge.data.config import ToolConfig
from vlforge.runs.job import Cost, Job, Upstream
from vlforge.runs.kinds.sizes import count_rows


def run(config: ToolConfig, job: Job) -> None:
    """Run the tool; rows that it could not turn lie beside the result with their reasons."""
    from vlforge.data.tool_list import find_tool, run_named

    tool = find_tool(config.tool)
    done = run_named(
        tool, Path(config.source), job.out / config.target_name, config.options, job.progress
    )
    files = {path.name: rows for path, rows in done.files.items()}
    job.log({"event": "tool", "tool": tool.name, "read": done.read, "written": done.written,
             "dropped": dict(done.dropped), "files": files})  # fmt: skip


def estimate(config: ToolConfig, inputs: Mapping[str, Upstream]) -> Cost:
    """Each row is read and written once."""
    rows = count_rows(config.source, inputs)
    return Cost(cpu_s=1.0 + rows * 2e-4, disk_mb=rows * 0.05, note=f"about {rows:,} rows")
