"""Formats whose rows have no place in a file (archives, tables) as one temporary file of lines."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any, BinaryIO

from vlforge.data.json_lines import encode
from vlforge.data.records import Fault, Format, Picture, Record
from vlforge.serving.viewer.index import RowIndex
from vlforge.types import DataError, Turn

_FREE_SHARE = 2
"""Embedded pictures may take one part in this many of the free disk."""


class Spool:
    """Records written once, as they are read, to a folder that goes when the viewer ends."""

    def __init__(self, path: Path, format_: Format):
        self.folder = Path(tempfile.mkdtemp(prefix="vlforge-view-"))
        self._path, self._format = path, format_
        self._lines: BinaryIO = (self.folder / "rows.jsonl").open("wb")
        self._bytes: BinaryIO = (self.folder / "pictures.bin").open("wb")
        self._reader = (self.folder / "pictures.bin").open("rb")
        self._room = shutil.disk_usage(self.folder).free // _FREE_SHARE
        self._is_closed = False
        self.index = RowIndex(self.folder / "rows.jsonl")

    def start(self) -> None:
        """Fill in a thread of its own."""
        threading.Thread(target=self.fill, daemon=True, name="spool").start()

    def fill(self) -> None:
        """Read all records; what stops the reading is noted in the index."""
        try:
            for number, found in enumerate(self._format.read(self._path), 1):
                if self._is_closed:
                    break
                self._add(found, number)
        except (DataError, OSError, ValueError) as error:
            self.index.fault = str(error)
        self._flush()
        self.index.finish()

    def _add(self, found: Record | Fault, number: int) -> None:
        line = encode(self._fault(found) if isinstance(found, Fault) else self._record(found))
        self._lines.write(line + b"\n")
        if number % 256 == 0:
            self._flush()
        self.index.add(len(line) + 1, found.line or number)
        if number % 256 == 0:
            self.index.places.flush()

    def _flush(self) -> None:
        """Rows are found only once they and their pictures can be read."""
        try:
            self._bytes.flush()
            self._lines.flush()
        except (OSError, ValueError) as error:
            self.index.fault = self.index.fault or f"cannot write in {self.folder}: {error}"

    def _fault(self, fault: Fault) -> dict[str, Any]:
        return {"fault": fault.reason, "value": fault.value}

    def _record(self, record: Record) -> dict[str, Any]:
        return {
            "id": record.id,
            "pictures": [self._picture(picture) for picture in record.pictures],
            "turns": [[turn.role, turn.text] for turn in record.turns],
            "chunks": list(record.chunks),
            "extra": dict(record.extra),
        }

    def _picture(self, picture: Picture) -> list[Any]:
        """[path, root] of a file; [path, root, offset, size] of bytes, size -1 without room."""
        if picture.content is None:
            return [picture.path, picture.root]
        at, size = self._bytes.tell(), len(picture.content)
        if at + size > self._room:
            return [picture.path, picture.root, 0, -1]
        self._bytes.write(picture.content)
        return [picture.path, picture.root, at, size]

    def record(self, row: dict[str, Any], root: str, line: int) -> Record:
        """A line of the spool as the record that it was; embedded pictures as their places.

        Raises:
            DataError: the row was none.
        """
        if "fault" in row:
            value = f": {row['value']}" if row["value"] else ""
            raise DataError(f"{row['fault']}{value}")
        return Record(
            row["id"],
            tuple(Picture(entry[0], entry[1]) for entry in row["pictures"]),
            tuple(Turn(role, text) for role, text in row["turns"]),
            tuple(row["chunks"]),
            row["extra"],
            line,
        )

    def content(self, row: dict[str, Any], number: int) -> bytes | None:
        """The bytes of a picture of a line of the spool; None where it is a file.

        Raises:
            DataError: the disk had no room for them.
        """
        entry = row["pictures"][number]
        if len(entry) == 2:
            return None
        if entry[3] < 0:
            raise DataError("no room on disk for this picture: free some and view again")
        return os.pread(self._reader.fileno(), entry[3], entry[2])

    def close(self) -> None:
        """Remove all of it."""
        self._is_closed = True
        shutil.rmtree(self.folder, ignore_errors=True)
