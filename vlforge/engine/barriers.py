"""The end of a pass whose operator must see all rows: what it decides, and the rows that go on.

Rows wait in `work-N`, one line each, with their keys in `beside-N`; the decision
is written down (`chosen-N`, `marks-N`, `groups-N`, `learned-N`), so that a killed run need
not take it again. Memory holds keys and places, never rows.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from vlforge.data.json_lines import decode, encode
from vlforge.engine.block import repeat_of
from vlforge.engine.lines import dropped_line, work_line
from vlforge.engine.outputs import Outputs
from vlforge.engine.source import Position
from vlforge.ops.base import Choice, Chooser, CorpusMapper, Grouper, NearDedup
from vlforge.ops.batch import Context, Item
from vlforge.ops.bind import Bound
from vlforge.types import Drop

DROPPED = "dropped.jsonl"
_AT_ONCE = 1000
_STATS_OF_WORK = 3
"""Where in a line between passes the statistics are."""
_FRAMES_AT_ONCE = 1 << 14


class Barrier:
    """The operator that ends pass `number`, and its files."""

    def __init__(self, bound: Bound, number: int, outputs: Outputs):
        self.bound, self.number, self.outputs = bound, number, outputs

    def settle(self, context: Context) -> tuple[dict[str, int], int]:
        """Decide, write the decision and the dropped rows.

        Args:
            context: gives the operator the models it names.

        Returns:
            Rows dropped per reason, and how many rows there are more than those
            that stay (below 0 where rows are joined, above where some are repeated).
        """
        op: Any = self.bound.op
        for name in ("work", "beside"):
            self.outputs.append(self._name(name), ())
        if isinstance(op, CorpusMapper):
            learned = op.learn(decode(line) for line in lines_of(self._path("beside")))
            self.outputs.append(self._name("learned"), [encode(learned)])
            return {}, 0
        if isinstance(op, Grouper):
            groups = op.groups(self._keys())
            self.outputs.append(self._name("groups"), map(encode, groups))
            return {}, len(groups) - sum(map(len, groups))
        if isinstance(op, NearDedup):
            return self._drop_repeats(op), 0
        assert isinstance(op, Choice)
        order = self._chosen(op, context)
        chosen = set(order)
        if op.mark:
            self._mark(chosen)
            return {}, 0
        self._choose(order)
        return self._drop_unselected(chosen), len(order) - len(chosen)

    def learned(self) -> Any:
        """What a corpus mapper learned."""
        return decode(self._path("learned").read_bytes())

    def blocks(self, rows: int, start: Position) -> Iterator[tuple[list[bytes], Position]]:
        """The rows of the next pass from block `start.number` on, and where the next block is."""
        offsets = _offsets(self._path("work"))
        found = self._order()
        order: Sequence[Any] = range(len(offsets)) if found is None else found
        marks = self._marks()
        with self._path("work").open("rb") as file:
            for number in range(start.number, -(-len(order) // rows)):
                part = order[number * rows : (number + 1) * rows]
                if isinstance(self.bound.op, Grouper):
                    lines = [self._joined(file, offsets, group) for group in part]
                else:
                    lines = [_line_at(file, offsets[place]) for place in part]
                if marks is not None:
                    told = zip(lines, part, strict=True)
                    lines = [_marked(line, marks[0], marks[1][place]) for line, place in told]
                yield lines, Position(number + 1)

    def row_count(self) -> int:
        """Rows of the next pass."""
        order = self._order()
        return sum(1 for _ in lines_of(self._path("work"))) if order is None else len(order)

    def _order(self) -> Sequence[Any] | None:
        """The rows of the next pass, or groups of them; None: all in their order."""
        if isinstance(self.bound.op, CorpusMapper):
            return None
        if isinstance(self.bound.op, Grouper):
            return [decode(line) for line in lines_of(self._path("groups"))]
        order = array("q")
        order.frombytes(self._path("chosen").read_bytes())
        return order

    def _keys(self) -> list[Any]:
        return [decode(line) for line in lines_of(self._path("beside"))]

    def _choose(self, order: Sequence[int]) -> None:
        self.outputs.append_raw(self._name("chosen"), array("q", order).tobytes())

    def _chosen(self, op: Any, context: Context) -> list[int]:
        """The places that a selector takes."""
        if not isinstance(op, Chooser):
            order: list[int] = op.rank(self._keys())
            return order
        frames = self._frames(op)
        return [int(at) for at in op.choose(frames[:, 1:], context)] if len(frames) else []

    def _mark(self, chosen: set[int]) -> None:
        """Let all rows go on, and write down which were chosen."""
        rows = sum(1 for _ in lines_of(self._path("work")))
        self._choose(range(rows))
        marks = bytes(place in chosen for place in range(rows))
        self.outputs.append_raw(self._name("marks"), marks)

    def _marks(self) -> tuple[str, bytes] | None:
        """The statistic that rows get, and the value of each; None where none is asked for."""
        name = getattr(self.bound.op, "mark", "")
        return (name, self._path("marks").read_bytes()) if name else None

    def _frames(self, op: Any) -> Any:
        """[N, width] uint8, the keys beside the rows, each behind a byte that says it is one."""
        import numpy as np

        path = self._path("beside")
        size = path.stat().st_size
        if not size:
            return np.zeros((0, 1), np.uint8)
        rows = sum(1 for _ in lines_of(self._path("work")))
        return np.memmap(path, np.uint8, "r").reshape(rows, size // rows)

    def _drop_unselected(self, chosen: set[int]) -> dict[str, int]:
        drop = Drop(self.bound.name, "not selected")
        gone = (
            (line, drop)
            for place, line in enumerate(lines_of(self._path("work")))
            if place not in chosen
        )
        return self._write_dropped(gone)

    def _drop_repeats(self, op: NearDedup) -> dict[str, int]:
        import numpy as np

        frames = self._frames(op)
        if not len(frames):
            self._choose(())
            return {}
        has_key = _flags(self._path("beside"), frames.shape[1])
        firsts = np.arange(len(frames), dtype=np.int64)
        places = np.flatnonzero(has_key)
        if len(places) == len(frames):
            firsts = np.asarray(op.firsts(frames[:, 1:]), np.int64)
        elif len(places):
            firsts[places] = places[np.asarray(op.firsts(frames[places, 1:]), np.int64)]
        stays = firsts == np.arange(len(frames))
        self.outputs.append_raw(self._name("chosen"), np.flatnonzero(stays).astype("q").tobytes())
        return self._write_dropped(self._repeats(firsts, np.flatnonzero(~stays).tolist()))

    def _repeats(self, firsts: Any, gone: Sequence[int]) -> Iterator[tuple[bytes, Drop]]:
        path = self._path("work")
        offsets = _offsets(path)
        with path.open("rb") as file:
            for place in gone:
                first = decode(_line_at(file, offsets[firsts[place]]))[0]
                yield _line_at(file, offsets[place]), repeat_of(self.bound, first)

    def _write_dropped(self, gone: Iterator[tuple[bytes, Drop]]) -> dict[str, int]:
        reasons: dict[str, int] = {}
        while part := list(islice(gone, _AT_ONCE)):
            lines = []
            for line, drop in part:
                uid, number, row, *_ = decode(line)
                lines.append(dropped_line((uid, row.get("id"), number), drop, row))
                reasons[drop.reason] = reasons.get(drop.reason, 0) + 1
            self.outputs.append(DROPPED, lines)
        return reasons

    def _joined(self, file: Any, offsets: Sequence[int], group: Sequence[int]) -> bytes:
        op: Any = self.bound.op
        rows = [decode(_line_at(file, offsets[place])) for place in group]
        uid, number = rows[0][0], rows[0][1]
        return work_line(Item(f"{uid}+{len(rows)}", number, op.join([row[2] for row in rows])))

    def _name(self, what: str) -> str:
        return f"{what}-{self.number}"

    def _path(self, what: str) -> Path:
        return self.outputs.path(self._name(what))


def _marked(line: bytes, name: str, value: int) -> bytes:
    """A row's line with one more statistic."""
    told = decode(line)
    told[_STATS_OF_WORK][name] = bool(value)
    return encode(told)


def _flags(path: Path, width: int) -> Any:
    """[N] whether each frame of a file has a key; read in pieces, so that memory stays small."""
    import numpy as np

    found = []
    with path.open("rb") as file:
        while piece := file.read(width * _FRAMES_AT_ONCE):
            found.append(np.frombuffer(piece, np.uint8)[::width] != 0)
    return np.concatenate(found)


def lines_of(path: Path) -> Iterator[bytes]:
    """The lines of a file without their ends; none where it is missing."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            yield line[:-1]


def _offsets(path: Path) -> array[int]:
    """Where each line of a file starts."""
    offsets, at = array("q"), 0
    for line in lines_of(path):
        offsets.append(at)
        at += len(line) + 1
    return offsets


def _line_at(file: Any, offset: int) -> bytes:
    file.seek(offset)
    line: bytes = file.readline()
    return line
