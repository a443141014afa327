"""Repairs of one record that have one right answer; everything else stays as it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from msgspec.structs import replace

from vlforge.data.checking.pictures import is_link, other_extension
from vlforge.data.json_turns import TURN_FIELDS
from vlforge.data.records import MARK, Picture, Record
from vlforge.types import Turn


class Change(NamedTuple):
    """What was done to a record."""

    change: str
    before: str
    after: str


@dataclass(frozen=True)
class Repairs:
    """Which repairs are made beside those that always are."""

    mojibake: bool = False


Said = list[tuple[int, Turn]]
"""Turns with the places that they had."""


def repair_record(record: Record, wanted: Repairs) -> tuple[Record, list[Change]]:
    """The record as it was meant, and what was changed for that."""
    changes: list[Change] = []
    record = _extensions(record, changes)
    record = _words(record, wanted, changes)
    if record.turns:
        record = _turns(record, changes)
    return _marks(record, changes), changes


def _extensions(record: Record, changes: list[Change]) -> Record:
    """Pictures that are not there, where exactly one other extension is."""
    pictures = []
    for picture in record.pictures:
        other = ""
        if picture.content is None and not is_link(picture) and not os.path.isfile(picture.place):
            other = other_extension(picture.place)
        if other:
            path = os.path.splitext(picture.path)[0] + os.path.splitext(other)[1]
            changes.append(Change("extension", picture.path, path))
            picture = Picture(path, picture.root)
        pictures.append(picture)
    return replace(record, pictures=tuple(pictures))


def _words(record: Record, wanted: Repairs, changes: list[Change]) -> Record:
    """Byte order marks inside texts, and mojibake where that is asked for."""
    turns = tuple(Turn(t.role, _clean(t.text, wanted, changes)) for t in record.turns)
    chunks = tuple(_clean(chunk, wanted, changes) for chunk in record.chunks)
    if turns == record.turns and chunks == record.chunks:
        return record
    return replace(record, turns=turns, chunks=chunks)


def _clean(text: str, wanted: Repairs, changes: list[Change]) -> str:
    if text.isascii():
        return text
    clean = text.lstrip("\ufeff")
    if clean != text:
        changes.append(Change("byte order mark", text, clean))
    if wanted.mojibake:
        from ftfy import fix_encoding

        fixed: str = fix_encoding(clean)
        if fixed != clean:
            changes.append(Change("mojibake", clean, fixed))
            clean = fixed
    return clean


def _turns(record: Record, changes: list[Change]) -> Record:
    said: Said = list(enumerate(record.turns))
    steps: tuple[tuple[str, Callable[[Said], Said]], ...] = (
        ("system turn to the front", _system_first),
        ("leading answer dropped", _without_leading_answer),
        ("empty turns at the end dropped", _without_empty_end),
    )
    for name, step in steps:
        after = step(said)
        if after != said:
            changes.append(Change(name, _roles(said), _roles(after)))
            said = after
    if len(said) == len(record.turns) and [at for at, _ in said] == sorted(at for at, _ in said):
        return replace(record, turns=tuple(turn for _, turn in said))
    turns = tuple(turn for _, turn in said)
    return replace(record, turns=turns, extra=_fields(record, [at for at, _ in said]))


def _fields(record: Record, places: list[int]) -> Any:
    """What a format keeps of each turn goes where the turn goes."""
    fields = record.extra.get(TURN_FIELDS)
    if not isinstance(fields, list) or len(fields) != len(record.turns):
        return record.extra
    return {**record.extra, TURN_FIELDS: [fields[at] for at in places]}


def _roles(said: Said) -> str:
    return " ".join(turn.role for _, turn in said)


def _system_first(said: Said) -> Said:
    """One system turn goes to the front; several are left, for nobody knows which counts."""
    places = [k for k, (_, turn) in enumerate(said) if turn.role == "system"]
    if len(places) != 1 or places == [0]:
        return said
    return [said[places[0]], *said[: places[0]], *said[places[0] + 1 :]]


def _without_leading_answer(said: Said) -> Said:
    """Drops an answer before the first question, as LLaVA's training does; its marks move on."""
    first = 1 if said and said[0][1].role == "system" else 0
    if len(said) < first + 2 or said[first][1].role != "assistant":
        return said
    if said[first + 1][1].role != "user":
        return said
    marks = said[first][1].text.count(MARK)
    at, question = said[first + 1]
    if marks:
        head = "\n".join([MARK] * marks)
        question = Turn("user", f"{head}\n{question.text}")
    return [*said[:first], (at, question), *said[first + 2 :]]


def _without_empty_end(said: Said) -> Said:
    """Drops empty turns from the end, with the question that an empty answer leaves alone."""
    kept = list(said)
    while len(kept) > 1 and not kept[-1][1].text.strip() and kept[-1][1].role != "system":
        was_answer = kept.pop()[1].role == "assistant"
        has_more = any(turn.role == "assistant" and turn.text.strip() for _, turn in kept)
        last = kept[-1][1]
        if was_answer and last.role == "user" and has_more and MARK not in last.text:
            kept.pop()
    return kept if any(turn.role == "assistant" for _, turn in kept) else said


def _marks(record: Record, changes: list[Change]) -> Record:
    """Of several marks for one picture the first stays."""
    if len(record.pictures) != 1 or record.marks < 2:
        return record
    before = record.marks
    seen = False
    texts = [turn.text for turn in record.turns] if record.turns else list(record.chunks)
    for at, text in enumerate(texts):
        texts[at] = _with_first_mark(text) if not seen else _without_marks(text)
        seen = seen or MARK in text
    changes.append(Change("repeated image marks", f"{before} marks", "1 mark"))
    if not record.turns:
        return replace(record, chunks=tuple(texts))
    turns = tuple(Turn(t.role, text) for t, text in zip(record.turns, texts, strict=True))
    return replace(record, turns=turns)


def _with_first_mark(text: str) -> str:
    head, mark, tail = text.partition(MARK)
    return head + mark + _without_marks(tail, keeps_start=True)


def _without_marks(text: str, *, keeps_start: bool = False) -> str:
    """The text without marks, and without the line that a mark had for itself."""
    if MARK not in text:
        return text
    parts = text.split(MARK)
    out = parts[0]
    for part in parts[1:]:
        # "a\n<image>\nb" has one line end too many once the mark is gone.
        is_doubled = part[:1] in ("\n", " ") and (not out or out[-1:] in ("\n", " "))
        out += part[1:] if is_doubled and (out or not keeps_start) else part
    return out if keeps_start else out.strip("\n")
