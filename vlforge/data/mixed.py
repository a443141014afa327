"""Several datasets read as one, in the order of a mix; what `vlforge mix` writes."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from vlforge.data.mixing import ExactMix, Share, wanted_rows
from vlforge.data.records import Fault, Format, Holds, Record, Writer
from vlforge.data.set_aside import Aside
from vlforge.types import DataError, ProgressFn, no_progress

_TOLD_EVERY = 1000
_FAILS = (UnicodeEncodeError, TypeError, ValueError, OverflowError)


@dataclass(frozen=True)
class Part:
    """A dataset of a mix: how much is wanted of it, and the format that reads it."""

    share: Share
    format: Format

    @property
    def path(self) -> Path:
        """Where it lies."""
        return Path(self.share.path)


@dataclass
class Mixed:
    """Reads several datasets as if they were one: rows that are no records first, then the mix.

    Each dataset is read twice: to count its records, and to set those that the mix
    shows aside in a temporary file in `folder`, from where they come in its order.

    Raises:
        DataError: a dataset cannot be read, holds no records, or would get no row.
    """

    parts: Sequence[Part]
    folder: Path
    total: int | None = None
    temperature: float = 1.0
    seed: int = 0
    progress: ProgressFn = no_progress
    faults: list[Fault] = field(default_factory=list)

    name = "a mix"
    holds = Holds()

    def __post_init__(self) -> None:
        rows = [self._count(part) for part in self.parts]
        shares = [part.share for part in self.parts]
        wanted = wanted_rows(shares, rows, self.total, self.temperature)
        names = tuple(share.path for share in shares)
        self.mix = ExactMix(names, tuple(rows), tuple(wanted), self.seed)

    def recognises(self, path: Path) -> bool:
        """Never: a mix is put together, not found."""
        return False

    def writer(self, path: Path) -> Writer:
        """A mix is written by the format that it is wanted in.

        Raises:
            DataError: always.
        """
        raise DataError(f"cannot write {path}: a mix is only read")

    def read(self, path: Path) -> Iterator[Record | Fault]:
        """The faults of all datasets, then the mixed records; `path` is where they will go."""
        yield from self.faults
        with _Aside(self.folder) as aside:
            places = [
                self._set_aside(part, shown, aside)
                for part, shown in zip(self.parts, self._shown(), strict=True)
            ]
            for pick in self.mix.picks():
                yield aside.record(places[pick.dataset][pick.row])

    def _count(self, part: Part) -> int:
        count = 0
        for found in part.format.read(part.path):
            if isinstance(found, Fault):
                value = f"{part.path}: {found.value}" if found.value else str(part.path)
                self.faults.append(Fault(found.line, found.reason, value))
                continue
            count += 1
            if count % _TOLD_EVERY == 0:
                self.progress(count, None, f"counting {part.path.name}")
        return count

    def _shown(self) -> list[bytearray]:
        """Per dataset, a byte per row that is 1 where the mix shows the row."""
        shown = [bytearray(rows) for rows in self.mix.rows]
        for pick in self.mix.picks():
            shown[pick.dataset][pick.row] = 1
        return shown

    def _set_aside(self, part: Part, shown: bytearray, aside: _Aside) -> array[int]:
        places = array("q", bytes(8 * len(shown)))
        records = (r for r in part.format.read(part.path) if isinstance(r, Record))
        row = 0
        for row, (record, wanted) in enumerate(zip(records, shown, strict=False), 1):
            if wanted:
                places[row - 1] = aside.add(record)
            if row % _TOLD_EVERY == 0:
                self.progress(row, len(shown), f"reading {part.path.name}")
        if row < len(shown):
            raise DataError(f"{part.path} had {len(shown):,} records and has {row:,} now")
        return places


class _Aside:
    """Records set aside in a file, found again by their place; the few it cannot hold in memory."""

    def __init__(self, folder: Path):
        self._pieces = Aside(folder)
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(Record).decode
        self._odd: dict[int, Record] = {}

    def __enter__(self) -> _Aside:
        return self

    def __exit__(self, *_: object) -> None:
        self._pieces.close()

    def add(self, record: Record) -> int:
        """Keep a record; its place."""
        try:
            return self._pieces.add(self._encode(record))
        except _FAILS:
            # Lone surrogates and numbers beyond 64 bits, which JSON may hold.
            place = self._pieces.add(b"")
            self._odd[place] = record
            return place

    def record(self, place: int) -> Record:
        """The record at a place."""
        return self._odd[place] if place in self._odd else self._decode(self._pieces.read(place))
