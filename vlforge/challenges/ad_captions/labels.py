"""The contest's text file as `train.json` and `val.json`, no picture on both sides."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vlforge.challenges.ad_captions.layout import Kit
from vlforge.challenges.ad_captions.sides import Look, Looks, Sides, looked_at
from vlforge.data.convert import Drops
from vlforge.data.formats.chatml_paddle import PROMPT, ChatmlPaddleFormat
from vlforge.data.formats.tsv_base64 import TsvBase64Format
from vlforge.data.json_lines import open_data
from vlforge.data.records import MARK, Fault, Record, caption_of
from vlforge.types import DataError, ProgressFn, Turn, no_progress

RECEIPT = "split.json"
DROPPED = "dropped.jsonl"
VAL_EVERY, MOST_VAL = 20, 1000
"""One picture of 20 is asked about later, as in PaddleMIX's tool, and at most about 1,000."""
_TOLD_EVERY = 100
_SAMPLED_LINES = 1000


@dataclass
class Halves:
    """What became of the rows; `dropped` counts those in neither half by their reasons."""

    source: str
    fingerprint: str
    val_every: int
    prompt: str
    train: int = 0
    val: int = 0
    copies: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    """Bytes of the files."""


def halve(
    kit: Kit, *, val_every: int = 0, prompt: str = PROMPT, progress: ProgressFn = no_progress
) -> tuple[Halves, bool]:
    """Write both halves of the data, unless they are there; whether they were written now.

    Copies of a picture, of other size and compression too, are on one side. Rows that
    cannot be read, and pictures that are damaged or cut off, are listed in `dropped.jsonl`.

    Raises:
        DataError: no data, no good row, or halves of other making that share pictures.
    """
    from vlforge.runs.keys import fingerprint

    source = kit.tsv()
    every = val_every or usual_val_every(source)
    wanted = Halves(source.name, fingerprint(source), every, prompt)
    before = read_receipt(kit)
    if before is not None and _is_same(before, wanted, kit):
        return before, False
    if before is None and kit.train.exists():
        return _given(kit, wanted, progress), False
    return _write(kit, source, wanted, progress), True


def usual_val_every(source: Path) -> int:
    """One of 20, or of more where that would be more than about 1,000 rows."""
    read = lines = 0
    with open_data(source) as file:
        for line in file:
            read, lines = read + len(line), lines + 1
            if lines == _SAMPLED_LINES:
                break
    rows = source.stat().st_size * lines // max(read, 1)
    return max(VAL_EVERY, rows // MOST_VAL)


def read_receipt(kit: Kit) -> Halves | None:
    """What was noted when the halves were written; None where nothing was."""
    try:
        return Halves(**json.loads((kit.data / RECEIPT).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _is_same(before: Halves, wanted: Halves, kit: Kit) -> bool:
    told = (before.fingerprint, before.val_every, before.prompt)
    if told != (wanted.fingerprint, wanted.val_every, wanted.prompt):
        return False
    return before.sizes == _sizes(kit)


def _sizes(kit: Kit) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in (kit.train, kit.val) if path.is_file()}


def _write(kit: Kit, source: Path, done: Halves, progress: ProgressFn) -> Halves:
    sides, dropped = Sides(done.val_every), Counter[str]()
    (kit.data / RECEIPT).unlink(missing_ok=True)
    with ExitStack() as stack:
        drops = stack.enter_context(Drops(kit.data / DROPPED))
        halves = {
            side: stack.enter_context(ChatmlPaddleFormat().writer(path))
            for side, path in (("train", kit.train), ("val", kit.val))
        }
        for number, (found, fault, look) in enumerate(_rows(source)):
            side = sides.of(look) if look is not None else None
            if fault is None and side is None:
                fault = Fault(_line_of(found), "a copy of pictures in train and in val")
            if fault is not None:
                dropped[fault.reason] += 1
                drops.add(fault, found)
                continue
            assert isinstance(found, Record)
            halves[str(side)].write(_as_round(found, done.train + done.val, done.prompt))
            done.train += side == "train"
            done.val += side == "val"
            if number % _TOLD_EVERY == 0:
                progress(number, None, f"{done.train:,} train, {done.val:,} val")
        if not (done.train and done.val):
            raise DataError(
                f"{source}: {done.train} rows to learn and {done.val} to ask about; the contest's "
                "file has id, base64 and caption in each line"
            )
    done.copies, done.dropped, done.sizes = sides.copies, dict(dropped), _sizes(kit)
    text = json.dumps(asdict(done), indent=1, ensure_ascii=False) + "\n"
    (kit.data / RECEIPT).write_text(text, encoding="utf-8")
    return done


def _rows(source: Path) -> Iterator[tuple[Record | Fault, Fault | None, Look | None]]:
    """Each row with what is wrong with it, or with what its picture looks like."""
    for found, look in looked_at(TsvBase64Format().read(source), _content):
        if isinstance(found, Fault):
            yield found, found, None
        elif not isinstance(look, Look):
            yield found, Fault(found.line, "a picture cannot be decoded", str(look)), None
        elif not _caption(found):
            yield found, Fault(found.line, "no caption", str(found.id)), None
        else:
            yield found, None, look


def _content(found: Record | Fault) -> bytes | None:
    return found.pictures[0].read() if isinstance(found, Record) else None


def _caption(record: Record) -> str:
    return caption_of(record).strip() if record.chunks else ""


def _line_of(found: Record | Fault) -> int:
    return found.line


def _as_round(record: Record, number: int, prompt: str) -> Record:
    """The row as PaddleMIX's tool names it, its picture before the question."""
    turns = (Turn("user", f"{MARK}\n{prompt}"), Turn("assistant", caption_of(record)))
    return Record(f"identity_{number}", record.pictures, turns, (), {}, record.line)


def _given(kit: Kit, wanted: Halves, progress: ProgressFn) -> Halves:
    """Halves that another tool wrote: taken where they share no picture.

    Raises:
        DataError: they do.
    """
    if not kit.val.is_file():
        raise DataError(
            f"{kit.val} is not there beside {kit.train.name}; move {kit.train} away and both "
            "are made"
        )
    shared, rows = shared_pictures(kit.train, kit.val, progress)
    if shared:
        raise DataError(
            f"{kit.train} shows {len(shared):,} pictures of {kit.val.name} (the first: "
            f"{shared[0]}), so that scores would be of what was learned; move both away and "
            "they are made apart"
        )
    wanted.train, wanted.val = rows
    wanted.sizes = _sizes(kit)
    return wanted


def shared_pictures(
    train: Path, val: Path, progress: ProgressFn = no_progress
) -> tuple[list[Any], tuple[int, int]]:
    """Ids of the rows of `train` whose picture, or a copy of it, is in `val`; rows of both."""
    contents: set[bytes] = set()
    looks = Looks()
    rows = [0, 0]
    for _, look in looked_at(ChatmlPaddleFormat().read(val), _content_or_none):
        rows[1] += 1
        if isinstance(look, Look):
            contents.add(look.content)
            looks.add(look.appearance)
    shared = []
    for found, look in looked_at(ChatmlPaddleFormat().read(train), _content_or_none):
        rows[0] += 1
        if isinstance(look, Look) and (look.content in contents or looks.has(look.appearance)):
            shared.append(found.id if isinstance(found, Record) else found.line)
        if rows[0] % _TOLD_EVERY == 0:
            progress(rows[0], None, "looking for pictures on both sides")
    return shared, (rows[0], rows[1])


def _content_or_none(found: Record | Fault) -> bytes | None:
    return found.pictures[0].read() if isinstance(found, Record) and found.pictures else None
