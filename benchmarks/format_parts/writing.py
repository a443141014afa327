"""Writes one dataset in one way and says what it took, as JSON: a command of its own.

python -m format_parts.writing ours|plain FORMAT PATH

`PATH` is the same dataset, from which our records come; they wait in memory.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from .layouts import FILES_PER_ROW, LAYOUTS
from .made import content, made_rows
from .plain import READERS, total

UNWRITTEN = {
    "img2dataset": "ours writes parquet and statistics beside the tars",
    "cc_sbu_align": "copies pictures",
    **dict.fromkeys(FILES_PER_ROW, "two small files a row"),
}
"""Formats that are not compared in writing, and why."""
OPTIONS = {"messages": {"content": "marks"}}


def write_ours(name: str, source: Path, target: Path) -> float:
    """Seconds that our writer takes for the records of `source`."""
    from vlforge.data.formats.index import find

    records = list(find(name).read(source))
    format_ = find(name, **OPTIONS.get(name, {}))
    begin = time.perf_counter()
    with format_.writer(target) as writer:
        for record in records:
            writer.write(record)  # type: ignore[arg-type]  # a fault would end this
    return time.perf_counter() - begin


def write_plain(name: str, count: int, target: Path) -> float:
    """Seconds that the plain way takes for the made rows."""
    rows = list(made_rows(count))
    for number in range(64):
        content(number)
    if name in ("parquet", "hf_dataset"):
        import pyarrow.parquet  # noqa: F401
    begin = time.perf_counter()
    LAYOUTS[name][1](target, iter(rows))
    return time.perf_counter() - begin


def main() -> None:
    """One line of JSON; what was written is read the plain way and counted."""
    how, name, source = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    count = int(source.parent.name.rpartition("_")[2])
    with tempfile.TemporaryDirectory(dir=source.parent.parent) as folder:
        target = Path(folder) / source.name
        if how == "ours":
            wall = write_ours(name, source, target)
        else:
            wall = write_plain(name, count, target)
        found = total(READERS[name](target))
    print(json.dumps({"wall_s": wall, **found._asdict()}))


if __name__ == "__main__":
    main()
