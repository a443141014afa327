"""Reads one dataset in one way and says what it took, as JSON: a command of its own.

python -m format_parts.reading ours|plain|decode|make|bytes|peer FORMAT PATH
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .plain import READERS, Rows, Sum, total


def read_ours(name: str, path: Path) -> Rows:
    """What the plain reader looks at, of every record of the format."""
    from vlforge.data.formats.index import find
    from vlforge.data.records import MARK, Fault

    head, mark = f"{MARK}\n", f"{MARK} "
    for record in find(name).read(path):
        if isinstance(record, Fault):
            raise SystemExit(f"{name}: {path}:{record.line}: {record.reason} {record.value}")
        if record.turns:
            text = record.turns[-1].text
        elif len(record.chunks) == 1:
            text = record.chunks[0].removeprefix(head)
        else:
            text = "".join(record.chunks).replace(mark, "")
        if not record.pictures:
            yield text, record.extra["url"]
            continue
        picture = record.pictures[0]
        yield text, picture.path if picture.content is None else picture.content


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


def rows_of(path: Path) -> int:
    """The number that the folder of a made dataset ends with."""
    return int(path.parent.name.rpartition("_")[2])


def way_of(how: str, name: str, path: Path) -> Callable[[], Sum]:
    """What is timed; all that has to be imported for it is."""
    if how != "peer" and name in ("parquet", "hf_dataset"):
        import pyarrow.parquet  # noqa: F401
    if how == "bytes":
        return lambda: (read_bytes(path), Sum(0, 0, 0))[1]
    if how == "decode":
        from .decoding import decode_alone

        return lambda: (decode_alone(name, path), Sum(0, 0, 0))[1]
    if how == "make":
        from .decoding import make_alone

        rows = rows_of(path)
        make_alone(name, path, 1)
        return lambda: make_alone(name, path, rows)
    if how == "peer":
        from .peers import reader_of

        reader = reader_of(name)
        return lambda: total(reader(path))
    if how == "ours":
        next(read_ours(name, path))
        return lambda: total(read_ours(name, path))
    return lambda: total(READERS[name](path))


def peak_mb() -> float:
    """The most memory this process has had; Linux counts its parent's into `ru_maxrss`."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """One line of JSON."""
    how, name, path = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    run = way_of(how, name, path)
    before = resource.getrusage(resource.RUSAGE_SELF)
    begin = time.perf_counter()
    found = run()
    wall = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    told: dict[str, Any] = {"wall_s": wall, "cpu_s": cpu, "peak_mb": peak_mb(), **found._asdict()}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
