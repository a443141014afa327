"""The `split` stage: a dataset in parts that share nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, get_args

from vlforge.data.config import SplitConfig
from vlforge.runs.job import Cost, Job, Upstream
from vlforge.runs.kinds.sizes import count_rows


def run(config: SplitConfig, job: Job) -> None:
    """Write the parts into the stage folder."""
    from vlforge.data.formats.index import detect, find
    from vlforge.data.links import Link, find_links
    from vlforge.data.placing import check_mode
    from vlforge.data.splits import place_parts, write_parts
    from vlforge.data.splitting import divide, parse_part, part_sizes

    check_mode(config.images)
    source, mode = Path(config.data), cast(Any, config.images)
    reader = detect(source) if config.format == "auto" else find(config.format)
    writer = reader if config.to == "auto" else find(config.to)
    wanted = [parse_part(text) for text in config.sizes]
    names = [part.name for part in wanted]
    targets = place_parts(source, names, writer, writer.name == reader.name, job.out)
    links = find_links(
        source,
        reader,
        by=config.by,
        fields=list(config.group),
        links=[link for link in get_args(Link) if link not in config.ignore],
        progress=job.progress,
    )
    sizes = part_sizes(wanted, links.rows)
    seed = job.seed if config.seed == "auto" else config.seed
    part_of = divide(links.groups, links.strata, sizes, seed)
    done = write_parts(source, reader, targets, writer, part_of, images=mode, progress=job.progress)
    written = dict(zip(names, done.written, strict=True))
    job.log({"event": "split", "rows": links.rows, "written": written,
             "dropped": dict(done.dropped)})  # fmt: skip


def estimate(config: SplitConfig, inputs: Mapping[str, Upstream]) -> Cost:
    """Each row is read twice and written once."""
    rows = count_rows(config.data, inputs)
    return Cost(cpu_s=1.0 + rows * 4e-4, disk_mb=rows * 0.05, note=f"about {rows:,} rows")
