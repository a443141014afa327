"""A dataset (one file, a folder, several with weights) as blocks of lines, from any block on."""

from __future__ import annotations

import hashlib
import math
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from vlforge.engine.config import ProcessConfig
from vlforge.engine.files import CHUNK_BYTES, Origin
from vlforge.engine.inputs import Part, named_parts, parts_of
from vlforge.engine.mixing import Shuffled, count_rows, count_usable, shares
from vlforge.types import DataError


@dataclass(frozen=True)
class Position:
    """Where a block starts; kept as `astuple(position)`, it is `Position(*kept)` again.

    The number of the block, then, for the source alone: the number of its first
    line in its file (from 1), the bytes before that line, the file, and the rows
    before it in the whole input.
    """

    number: int = 0
    line: int = 1
    offset: int = 0
    part: int = 0
    rows: int = 0


START = Position()


@dataclass(frozen=True)
class Block:
    """Some lines of one file, and where the block after them starts.

    `numbers` are the lines' numbers in their file, from 1. `copies` says of each
    line how often it came before, where the input repeats rows; `origins` names
    the file of each line, where rows of several are shuffled.
    """

    at: Position
    lines: Sequence[bytes]
    numbers: Sequence[int]
    origin: Origin
    next: Position
    copies: Sequence[int] = ()
    origins: Sequence[Origin] = ()


class Source:
    """The rows of an input: the parts one after the other, or some rows of them."""

    def __init__(self, parts: Sequence[Part], config: ProcessConfig):
        self.parts = parts
        self.limit, self.sample, self.seed = config.limit, config.sample, config.seed
        self._repeats = _repeats(parts)

    def fingerprint(self) -> str:
        """12 hex digits of the content: one file's own, else of all files, shares, limit, sample.

        A row's uid begins with that of its file.
        """
        told = [part.origin.fingerprint for part in self.parts]
        told += [
            f"{part.reader.wanted}" for part in self.parts if isinstance(part.reader, Shuffled)
        ]
        if self.limit is not None or self.sample is not None:
            told.append(f"{self.limit} {self.sample} {self.seed}")
        if len(told) == 1:
            return told[0]
        return hashlib.blake2b(" ".join(told).encode(), digest_size=6).hexdigest()

    def roots(self) -> list[str]:
        """The folders that relative picture paths start from."""
        return list(dict.fromkeys(part.origin.root for part in self.parts))

    def row_count(self) -> int | None:
        """Number of rows where that is quickly found, for progress."""
        counts = [part.reader.row_count() for part in self.parts]
        known = [count for count in counts if count is not None]
        total = sum(known) if len(known) == len(counts) else None
        bounds = [n for n in (total, self.limit, self.sample) if n is not None]
        return min(bounds, default=None)

    def blocks(self, rows: int, start: Position = START) -> Iterator[Block]:
        """Blocks of at most `rows` lines, from `start` on.

        Raises:
            DataError: a file cannot be read to its end; says where it stopped.
        """
        whole = self._whole(rows, start)
        if self.limit is None and self.sample is None:
            return whole
        if self._end is not None and start.rows >= self._end:
            return iter(())
        return _joined(self._cut(whole), rows)

    def _whole(self, rows: int, at: Position) -> Iterator[Block]:
        for number in range(at.part, len(self.parts)):
            part, repeat = self.parts[number], self._repeats[number]
            if number != at.part:
                at = replace(at, line=1, offset=0, part=number)
            for chunk in part.reader.chunks(rows, at.line, at.offset):
                after = Position(at.number + 1, chunk.line, chunk.offset, number, at.rows)
                copies = chunk.copies
                if repeat:
                    copies = [repeat + copy for copy in copies or [0] * len(chunk.lines)]
                yield Block(
                    at, chunk.lines, chunk.numbers, part.origin, after, copies, chunk.origins
                )
                at = after

    def _cut(self, blocks: Iterator[Block]) -> Iterator[Block]:
        """The rows that `limit` and `sample` leave; positions count all rows that went by."""
        picks = self._picks
        rows: int | None = None
        for block in blocks:
            rows = block.at.rows if rows is None else rows
            before = rows
            chosen = []
            for at, line in enumerate(block.lines):
                if line.isspace():
                    continue
                if picks is None or _holds(picks, rows):
                    chosen.append(at)
                rows += 1
                if rows == self._end:
                    break
            passed = replace(block.at, rows=before), replace(block.next, rows=rows)
            yield _part_of(block, chosen, *passed)
            if rows == self._end:
                return

    @cached_property
    def _picks(self) -> Sequence[int] | None:
        """The rows of the sample, in order."""
        if self.sample is None:
            return None
        import random

        total = count_rows(self.parts)
        total = total if self.limit is None else min(total, self.limit)
        wanted = min(self.sample, total)
        return array("q", sorted(random.Random(self.seed).sample(range(total), wanted)))

    @property
    def _end(self) -> int | None:
        """Number of rows after which none is wanted."""
        if self._picks is None:
            return self.limit
        return self._picks[-1] + 1 if self._picks else 0


def _holds(picks: Sequence[int], row: int) -> bool:
    at = bisect_left(picks, row)
    return at < len(picks) and picks[at] == row


def _part_of(block: Block, chosen: Sequence[int], at: Position, after: Position) -> Block:
    def some(values: Sequence[Any]) -> list[Any]:
        return [values[n] for n in chosen] if values else []

    lines, numbers = some(block.lines), some(block.numbers)
    copies, origins = some(block.copies), some(block.origins)
    return Block(at, lines, numbers, block.origin, after, copies, origins)


def _joined(blocks: Iterator[Block], rows: int) -> Iterator[Block]:
    """Small blocks of one file as larger ones, numbered anew."""
    held: Block | None = None
    for block in blocks:
        if held is None:
            held = block
        elif not held.lines:
            held = replace(block, at=held.at, next=replace(block.next, number=held.next.number))
        elif block.origin is held.origin and _fit(held, block, rows):
            held = _both(held, block)
        else:
            yield held
            after = replace(block.next, number=held.next.number + 1)
            held = replace(block, at=held.next, next=after)
    if held is not None and held.lines:
        yield held


def _fit(first: Block, second: Block, rows: int) -> bool:
    size = sum(map(len, first.lines)) + sum(map(len, second.lines))
    return len(first.lines) + len(second.lines) <= rows and size <= CHUNK_BYTES


def _both(first: Block, second: Block) -> Block:
    return replace(
        first,
        lines=[*first.lines, *second.lines],
        numbers=[*first.numbers, *second.numbers],
        copies=[*first.copies, *second.copies],
        origins=[*first.origins, *second.origins],
        next=replace(second.next, number=first.next.number),
    )


def open_source(config: ProcessConfig, note: Callable[[str], None] = lambda _: None) -> Source:
    """The input of a recipe; `note` hears of what a reader of the recipe might not expect.

    Raises:
        DataError: no dataset is named, or one that is not there or cannot be read.
    """
    for name, number in (("limit", config.limit), ("sample", config.sample)):
        if number is not None and number < 1:
            raise DataError(f"{name} is {number}; give the number of rows wanted, from 1")
    named = named_parts(config)
    units = [parts_of(Path(part.path), config, note) for part in named]
    if config.validators:
        from vlforge.engine.validators import check_datasets

        check_datasets(units, config.validators)
    weights = [part.weight for part in named]
    budget = config.dataset.max_sample_num if config.dataset is not None else None
    if config.dataset_path:
        budget = None
    if budget is None and (config.compat == "data_juicer" or set(weights) == {1.0}):
        if set(weights) != {1.0}:
            note("compat: data_juicer reads all rows whatever the weights, as Data-Juicer 1.6.1")
        return Source([part for unit in units for part in unit], config)
    keys = tuple(dict.fromkeys((config.text_key, *config.text_keys)))
    return Source(_mixed(units, weights, budget, keys), config)


def _mixed(
    units: Sequence[list[Part]], weights: Sequence[float], budget: int | None, keys: Sequence[str]
) -> list[Part]:
    if not sum(weights):
        raise DataError("all weights of the dataset are 0; give one that is not")
    counts = [count_usable(unit, keys) for unit in units]
    if budget is None:
        wanted = [math.ceil(rows * weight) for rows, weight in zip(counts, weights, strict=True)]
    else:
        wanted = shares(weights, budget)
    parts: list[Part] = []
    for unit, rows, number in zip(units, counts, wanted, strict=True):
        if number == rows or (number and not rows):
            parts += unit
        elif number:
            parts.append(Part(unit[0].origin, Shuffled(unit, keys, rows, number)))
    return parts


def _repeats(parts: Sequence[Part]) -> list[int]:
    """How often the rows of each part may have come before it, for their names."""
    seen: Counter[str] = Counter()
    out = []
    for part in parts:
        reader = part.reader
        names = (
            {p.origin.fingerprint for p in reader.parts}
            if isinstance(reader, Shuffled)
            else {part.origin.fingerprint}
        )
        out.append(max(seen[name] for name in names))
        times = -(-reader.wanted // reader.rows) if isinstance(reader, Shuffled) else 1
        for name in names:
            seen[name] = out[-1] + times
    return out
