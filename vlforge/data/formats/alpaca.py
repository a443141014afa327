"""Alpaca's instructions: `{"instruction", "input", "output", "history", "system", "images"}`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from msgspec import UnsetType

from vlforge.data.json_layout import UNSET, Fields
from vlforge.data.json_rows import JsonRows, rest_of, text_of, with_extra, without
from vlforge.data.json_turns import (
    History,
    Paths,
    history_of,
    picture_values,
    pictures_at,
    pictures_of,
    rounds_of,
    turns_of,
)
from vlforge.data.records import Holds, Record
from vlforge.types import DataError, Row, Turn

_OWN = frozenset(
    ("id", "instruction", "input", "output", "history", "system", "images", "image")
)  # fmt: skip

_FIELDS = Fields(
    {
        "id": Any, "instruction": str | UnsetType, "input": str | None,
        "output": str | UnsetType, "history": History, "system": str | None,
        "images": Paths, "image": Paths,
    },
    unset=frozenset(("instruction", "output")),
)  # fmt: skip


@dataclass(frozen=True)
class AlpacaFormat(JsonRows):
    """Alpaca's instructions; an `input` is the second part of the question.

    A record keeps `input` as a field, by which the question is taken apart again.
    """

    name: ClassVar[str] = "alpaca"
    holds: ClassVar[Holds] = Holds(
        conversation=True, several_pictures=True, no_picture=True, extra=True
    )

    def is_mine(self, rows: Sequence[Row]) -> bool:
        """Whether the first row has an instruction and no query."""
        return "instruction" in rows[0] and not {"query", "response"} & rows[0].keys()

    def record(self, row: Row, root: str, line: int) -> Record:
        """One row as a record.

        Raises:
            DataError: neither instruction nor output, or fields of a wrong type.
        """
        if "instruction" not in row and "output" not in row:
            raise DataError("neither 'instruction' nor 'output'")
        images = row.get("images")
        pictures = pictures_of(row.get("image") if images is None else images, root)
        asked, given = text_of(row, "instruction"), text_of(row, "input")
        answer = text_of(row, "output") if "output" in row else None
        rounds = [*history_of(row.get("history")), (_question(asked, given), answer)]
        turns = turns_of(text_of(row, "system"), rounds, asks=bool(pictures))
        extra = rest_of(row, _OWN)
        if given:
            extra["input"] = given
        return Record(row.get("id"), pictures, turns, (), extra, line)

    @property
    def fields(self) -> Fields:
        """Texts, and pictures by their paths."""
        return _FIELDS

    def alike(self, row: Any, extra: dict[str, Any], root: str, line: int) -> Record:
        """What `record` gives for a row of `fields`."""
        if row.instruction is UNSET and row.output is UNSET:
            raise DataError("neither 'instruction' nor 'output'")
        pictures = pictures_at(row.image if row.images is None else row.images, root)
        asked, given = row.instruction or "", row.input
        question = _question(asked, given) if given else asked
        answer = None if row.output is UNSET else row.output
        if row.history or row.system or not question or answer is None:
            rounds = [*(row.history or ()), (question, answer)]
            turns = turns_of(row.system or "", rounds, asks=bool(pictures))
        else:
            turns = (Turn("user", question), Turn("assistant", answer))
        if given:
            extra["input"] = given
        return Record(row.id, pictures, turns, (), extra, line)

    def row(self, record: Record) -> Row:
        """One record as a row.

        Raises:
            Unfit: the roles do not alternate.
        """
        system, rounds = rounds_of(record)
        question, answer = rounds[-1] if rounds else ("", None)
        extra = record.extra
        asked, given = parted(question, extra.get("input"))
        if given:
            extra = without(extra, "input")
        row: Row = {} if record.id is None else {"id": record.id}
        row |= {"instruction": asked, "input": given}
        row |= {} if answer is None else {"output": answer}
        row |= {"system": system} if system else {}
        if len(rounds) > 1:
            row["history"] = [list(pair) for pair in rounds[:-1]]
        if record.pictures:
            row["images"] = picture_values(record.pictures)
        return with_extra(row, extra, _OWN)


def _question(asked: str, given: str) -> str:
    return "\n".join([part for part in (asked, given) if part])


def parted(text: str, tail: Any) -> tuple[str, str]:
    """`text` without the `tail` that it ends in, and the tail; ("text", "") where it does not."""
    if not isinstance(tail, str) or not tail:
        return text, ""
    if text == tail:
        return "", tail
    return (text.removesuffix(f"\n{tail}"), tail) if text.endswith(f"\n{tail}") else (text, "")
