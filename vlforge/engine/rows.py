"""Lines of a dataset to rows with a name."""

from __future__ import annotations

import os
from dataclasses import dataclass

from vlforge.data.formats.dj import image_paths
from vlforge.data.json_lines import as_row, decode
from vlforge.engine.block import READ, Track
from vlforge.engine.config import ProcessConfig
from vlforge.engine.lines import STATS
from vlforge.engine.source import Block
from vlforge.ops.base import look_up
from vlforge.ops.batch import Item
from vlforge.types import DataError, Drop


@dataclass(frozen=True)
class Reading:
    """How rows are read: which fields hold text, pictures and other files."""

    text_key: str
    image_key: str
    confine: bool = False
    needed_keys: tuple[str, ...] = ()
    media_keys: tuple[str, ...] = ()

    def tracks(self, block: Block) -> list[Track]:
        """One track per line that is not blank; a line that is no row comes dropped."""
        return [
            self._track(_uid(block, at), block.numbers[at], line, block.origin.root)
            for at, line in enumerate(block.lines)
            if line and not line.isspace()
        ]

    def _track(self, uid: str, line: int, data: bytes, root: str) -> Track:
        try:
            row = as_row(decode(data))
        except DataError as error:
            shown = data[:200].decode("utf-8", "replace").rstrip("\n")
            reason = "broken line" if str(error).startswith("not JSON") else "not an object"
            return self._bad(Item(uid, line, {}), reason, f"{error}: {shown}")
        given = row.pop(STATS, None)
        item = Item(uid, line, row, {}, given if isinstance(given, dict) else {})
        text = row.get(self.text_key) if self.text_key in row else look_up(row, self.text_key)
        if not isinstance(text, str):
            what = "no text" if text is None else "text is not a string"
            return self._bad(item, what, f"{self.text_key!r} is {text!r:.100}")
        try:
            if row.get(self.image_key) is not None:
                row[self.image_key] = image_paths(row, root, self.image_key)
        except DataError as error:
            return self._bad(item, "images are not a list of paths", str(error))
        return Track(item)

    def _bad(self, item: Item, reason: str, value: str) -> Track:
        return Track(item, Drop("read", reason, None, value, None), READ)


def reading_of(config: ProcessConfig) -> Reading:
    """How a recipe's rows are read."""
    return Reading(config.text_key, config.image_key, config.confine)


def root_of(path: str) -> str:
    """The folder that a dataset lies in."""
    return os.path.dirname(os.path.abspath(path))


def _uid(block: Block, at: int) -> str:
    uid = f"{block.origin.fingerprint}-{block.numbers[at] - 1}"
    copy = block.copies[at] if block.copies else 0
    return f"{uid}+{copy}" if copy else uid


def work_track(line: bytes) -> Track:
    """The row that `work_line` wrote."""
    uid, number, row, stats, given = decode(line)
    return Track(Item(uid, number, row, stats, given))
