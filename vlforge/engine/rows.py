"""Lines of a dataset to rows with a name."""

from __future__ import annotations

import functools
import json
import os
from typing import Any

import msgspec

from vlforge.data.json_lines import as_row, decode
from vlforge.data.roots import place_all
from vlforge.engine.block import READ, Track
from vlforge.engine.config import ProcessConfig
from vlforge.engine.files import Origin
from vlforge.engine.lines import STATS
from vlforge.engine.source import Block
from vlforge.ops.base import look_up
from vlforge.ops.batch import Item
from vlforge.types import DataError, Drop, Row

SUFFIX = "__dj__suffix__"
"""Data-Juicer's field for the end of the name of a row's file."""
_STRINGS = {str}
_TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".csv.zst", ".tsv.zst")


class Reading(msgspec.Struct, frozen=True):
    """How rows are read.

    `text_key` and `image_key` are checked in each row; a row whose `needed_keys`
    are not all there is bad too. Paths in `media_keys` (sound, film) become
    absolute like those of pictures. `confine` refuses rows with pictures outside
    the dataset's folder, `adds_suffix` notes each row's kind of file in it.
    """

    text_key: str
    image_key: str
    needed_keys: tuple[str, ...] = ()
    media_keys: tuple[str, ...] = ()
    confine: bool = False
    adds_suffix: bool = False

    def tracks(self, block: Block) -> list[Track]:
        """One track per line that is not blank; a line that is no row comes dropped."""
        origin, copies, origins = block.origin, block.copies, block.origins
        out = []
        for at, (line, number) in enumerate(zip(block.lines, block.numbers, strict=True)):
            if not line or line.isspace():
                continue
            if origins:
                origin = origins[at]
            uid = f"{origin.fingerprint}-{number - 1}"
            if copies and copies[at]:
                uid = f"{uid}+{copies[at]}"
            out.append(self._track(uid, number, line, origin))
        return out

    def _track(self, uid: str, number: int, data: bytes, origin: Origin) -> Track:
        try:
            row = as_row(decode(data))
        except DataError as error:
            return _not_a_row(uid, number, data, str(error), origin)
        given = row.pop(STATS, None)
        item = Item(uid, number, row, {}, given if isinstance(given, dict) else {})
        text = row.get(self.text_key)
        if type(text) is not str and self.text_key not in row:
            text = look_up(row, self.text_key)
        if not isinstance(text, str):
            what = "no text" if text is None else "text is not a string"
            return _bad(item, what, _told(row, self.text_key, text))
        for key in self.needed_keys:
            if look_up(row, key) is None:
                return _bad(item, "no text", f"{key!r} is missing or null")
        images = row.get(self.image_key)
        if images is not None:
            try:
                row[self.image_key] = self._placed(images, origin)
            except DataError as error:
                return _bad(item, "images are not a list of paths", str(error))
        for key in self.media_keys:
            if key in row and _are_paths(row[key]):
                row[key] = place_all(origin.root, row[key])
        if self.adds_suffix:
            row.setdefault(SUFFIX, origin.suffix)
        if self.confine:
            fault = self._strays(row, origin.root)
            if fault is not None:
                return _bad(item, "image outside the data folder", fault)
        return Track(item)

    def _placed(self, images: Any, origin: Origin) -> list[str]:
        if isinstance(images, str) and origin.suffix in _TABLES:
            images = _cell_paths(images)
        if _are_paths(images) and "" not in images:
            return place_all(origin.root, images)
        from vlforge.data.formats.dj import image_paths

        return image_paths({self.image_key: images}, origin.root, self.image_key)

    def _strays(self, row: Row, root: str) -> str | None:
        """The first path that leads out of `root`, links followed."""
        home = os.path.realpath(root)
        for key in (self.image_key, *self.media_keys):
            for path in row.get(key) or ():
                folder, name = os.path.split(os.path.normpath(path))
                real = os.path.join(_real_folder(folder), name)
                if os.path.islink(real):
                    real = os.path.realpath(real)
                if not real.startswith(home.rstrip(os.sep) + os.sep):
                    return f"{path} is not below {root}; put it there, or set confine: false"
        return None


def reading_of(config: ProcessConfig) -> Reading:
    """How a recipe's rows are read."""
    names = [entry if isinstance(entry, str) else next(iter(entry)) for entry in config.process]
    return Reading(
        config.text_key,
        config.image_key,
        tuple(key for key in config.text_keys if key != config.text_key),
        (config.audio_key, config.video_key),
        config.confine,
        config.add_suffix or "suffix_filter" in names,
    )


def _are_paths(value: Any) -> bool:
    return type(value) is list and set(map(type, value)) <= _STRINGS


@functools.lru_cache(4096)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def _cell_paths(cell: str) -> Any:
    """The paths in a cell of a text table: a JSON list, or one path."""
    if not cell.startswith("["):
        return [cell]
    try:
        return json.loads(cell)
    except ValueError:
        return [cell]


def _not_a_row(uid: str, number: int, data: bytes, error: str, origin: Origin) -> Track:
    item = Item(uid, number, {})
    shown = data[:200].decode("utf-8", "replace").rstrip("\n")
    if not origin.suffix.startswith((".json", ".ndjson")) and data.startswith(b'"'):
        return _bad(item, "broken line", decode(data))
    reason = "broken line" if error.startswith("not JSON") else "not an object"
    return _bad(item, reason, f"{error}: {shown}")


def _told(row: Row, key: str, value: Any) -> str:
    if value is None and key not in row:
        names = ", ".join(map(repr, list(row)[:8])) or "no fields"
        return f"no field {key!r}; it has {names}"
    return f"{key!r} is {value!r:.100}"


def _bad(item: Item, reason: str, value: str) -> Track:
    return Track(item, Drop("read", reason, None, value, None), READ)


def work_track(line: bytes) -> Track:
    """The row that `work_line` wrote."""
    uid, number, row, stats, given = decode(line)
    return Track(Item(uid, number, row, stats, given))
