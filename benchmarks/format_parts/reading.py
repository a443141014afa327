"""Reads one dataset in one way and says what it took, as JSON: a command of its own.

python -m format_parts.reading ours|plain|bytes FORMAT PATH
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from .plain import READERS, Sum


def warm_up(how: str, name: str, path: Path) -> None:
    """Import what reading imports: starts are measured elsewhere."""
    if how == "ours":
        from vlforge.data.formats.index import find

        next(iter(find(name).read(path)))
    elif name in ("parquet", "hf_dataset"):
        import pyarrow.parquet  # noqa: F401


def peak_mb() -> float:
    """The most memory this process has had; Linux counts its parent's into `ru_maxrss`."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def read_ours(name: str, path: Path, found: Sum) -> None:
    """Every record of the format, as `vlforge convert` gets it."""
    from vlforge.data.formats.index import find
    from vlforge.data.records import MARK, Fault

    for record in find(name).read(path):
        if isinstance(record, Fault):
            raise SystemExit(f"{name}: {path}:{record.line}: {record.reason} {record.value}")
        if record.turns:
            text = record.turns[-1].text
        else:
            text = "".join(chunk.replace(MARK, "").strip() for chunk in record.chunks)
        picture = record.pictures[0] if record.pictures else None
        seen: str | bytes = record.extra["url"] if picture is None else picture.path
        found.add(text, seen if picture is None or picture.content is None else picture.content)


def files_of(path: Path) -> Iterator[Path]:
    """The file, or those below the folder."""
    if path.is_file():
        yield path
    else:
        yield from sorted(p for p in path.rglob("*") if p.is_file())


def read_bytes(path: Path) -> None:
    """All bytes, looked at by nobody: what the disk takes."""
    block = bytearray(1 << 20)
    for one in files_of(path):
        with one.open("rb", buffering=0) as file:
            while file.readinto(block):
                pass


def main() -> None:
    """One line of JSON."""
    how, name, path = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    found = Sum()
    warm_up(how, name, path)
    before = resource.getrusage(resource.RUSAGE_SELF)
    begin = time.perf_counter()
    if how == "ours":
        read_ours(name, path, found)
    elif how == "plain":
        READERS[name](path, found)
    else:
        read_bytes(path)
    wall = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    told = {"wall_s": wall, "cpu_s": cpu, "peak_mb": peak_mb(), **asdict(found)}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
