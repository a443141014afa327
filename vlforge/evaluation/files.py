"""The files that an evaluation's steps hand on: JSON, JSON lines, digests."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vlforge.types import DataError

_TIMES = frozenset({"done.json", "timing.json"})
"""Files beside a model that differ from run to run."""
_SLICE = 1 << 16


def read_lines(path: Path, *, mend: bool = False) -> list[dict[str, Any]]:
    """The rows of a file that an evaluation wrote.

    Args:
        mend: cut off a last line that a kill left unfinished.

    Raises:
        DataError: no such file, or a broken line.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; ask first with `vlforge eval run`") from None
    whole = data[: data.rfind(b"\n") + 1]
    if mend and len(whole) < len(data):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    try:
        return [json.loads(line) for line in whole.splitlines()]
    except ValueError as error:
        raise DataError(f"{path}: a broken line ({error}); delete the file and ask again") from None


def read_json(path: Path) -> Any:
    """A JSON file that an evaluation wrote.

    Raises:
        DataError: no such file, or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; was it made by `vlforge eval run`?") from None
    except ValueError as error:
        raise DataError(f"{path}: no JSON ({error})") from None


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object a line, there whole or not at all."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_json(path: Path, value: Any) -> None:
    """An indented JSON file, there whole or not at all."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """A text file, there whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def digest_of(*paths: str | Path | None) -> str:
    """16 hex digits of files' bytes; folders count by their files' names and sizes."""
    digest = hashlib.sha256()
    for path in (Path(path) for path in paths if path):
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file())
            names = (f"{f.relative_to(path).as_posix()}:{f.stat().st_size}\n" for f in files)
            digest.update("".join(names).encode())
            continue
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


def model_identity(folder: Path) -> str:
    """Equal for equal model folders wherever they lie; the given name where there is none.

    Small files count whole, large ones by size and three slices; records of how
    long the training took do not count.
    """
    if not folder.is_dir():
        return str(folder)
    digest = hashlib.sha256()
    files = (p for p in folder.rglob("*") if p.is_file() and p.name not in _TIMES)
    for path in sorted(files):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()}:{size}\n".encode())
        with path.open("rb") as file:
            for start in (0, size // 2, size - _SLICE) if size > 3 * _SLICE else (0,):
                file.seek(start)
                digest.update(file.read(_SLICE if size > 3 * _SLICE else size))
    return digest.hexdigest()[:16]
