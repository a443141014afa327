"""Query and response as ms-swift has them: `{"system", "query", "response", "history", "images"}`.

Data-Juicer's post-tuning rows are the same with an `instruction` before the query.
"""

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
    untagged,
)
from vlforge.data.records import MARK, Holds, Record
from vlforge.types import DataError, Row

_OWN = frozenset(
    ("id", "system", "instruction", "query", "response", "history", "images", "image")
)  # fmt: skip

_FIELDS = Fields(
    {
        "id": Any, "system": str | None, "query": str | UnsetType,
        "response": str | UnsetType, "history": History, "images": Paths, "image": Paths,
    },
    unset=frozenset(("query", "response")),
    own=_OWN,
)  # fmt: skip


@dataclass(frozen=True)
class QueryResponseFormat(JsonRows):
    """Query, response and the rounds before them.

    An `instruction` opens the first question and stays a field of the record, by
    which it is taken out again. Pictures named inside the texts by
    `<img>PATH</img>` are read too.
    """

    name: ClassVar[str] = "query_response"
    holds: ClassVar[Holds] = Holds(
        conversation=True, several_pictures=True, no_picture=True, extra=True
    )

    def is_mine(self, rows: Sequence[Row]) -> bool:
        """Whether the first row has a query or a response."""
        return isinstance(rows[0].get("query", rows[0].get("response")), str)

    def record(self, row: Row, root: str, line: int) -> Record:
        """One row as a record.

        Raises:
            DataError: neither query nor response, or fields of a wrong type.
        """
        if "query" not in row and "response" not in row:
            raise DataError("neither 'query' nor 'response'")
        images = row.get("images")
        pictures = pictures_of(row.get("image") if images is None else images, root)
        answer = text_of(row, "response") if "response" in row else None
        rounds = [*history_of(row.get("history")), (text_of(row, "query"), answer)]
        instruction = text_of(row, "instruction")
        if instruction:
            first = "\n".join(part for part in (instruction, rounds[0][0]) if part)
            rounds[0] = (first, rounds[0][1])
        turns = turns_of(text_of(row, "system"), rounds, asks=bool(pictures))
        if not pictures:
            turns, pictures = untagged(turns, root)
        extra = rest_of(row, _OWN)
        if instruction:
            extra["instruction"] = instruction
        return Record(row.get("id"), pictures, turns, (), extra, line)

    @property
    def fields(self) -> Fields:
        """Texts, and pictures by their paths; no instruction."""
        return _FIELDS

    def alike(self, row: Any, extra: dict[str, Any], root: str, line: int) -> Record:
        """What `record` gives for a row of `fields`."""
        if row.query is UNSET and row.response is UNSET:
            raise DataError("neither 'query' nor 'response'")
        pictures = pictures_at(row.image if row.images is None else row.images, root)
        answer = None if row.response is UNSET else row.response
        rounds = [*(row.history or ()), (row.query or "", answer)]
        turns = turns_of(row.system or "", rounds, asks=bool(pictures))
        if not pictures:
            turns, pictures = untagged(turns, root)
        return Record(row.id, pictures, turns, (), extra, line)

    def row(self, record: Record) -> Row:
        """One record as a row.

        Raises:
            Unfit: the roles do not alternate.
        """
        system, rounds = rounds_of(record)
        rounds = rounds or [("", None)]
        extra = record.extra
        instruction, first = _opened(rounds[0][0], extra.get("instruction"))
        rounds[0] = (first, rounds[0][1])
        row: Row = {} if record.id is None else {"id": record.id}
        row |= {"system": system} if system else {}
        if instruction:
            row["instruction"] = instruction
            extra = without(extra, "instruction")
        query, answer = rounds[-1]
        row["query"] = query
        row |= {} if answer is None else {"response": answer}
        if len(rounds) > 1:
            row["history"] = [list(pair) for pair in rounds[:-1]]
        if record.pictures:
            row["images"] = picture_values(record.pictures)
        return with_extra(row, extra, _OWN)


def _opened(text: str, head: object) -> tuple[str, str]:
    """The instruction that `text` begins with, and the text without it; marks stay in the text."""
    if not isinstance(head, str) or not head:
        return "", text
    body = text.lstrip()
    marks = 0
    while body.startswith(MARK):
        body = body.removeprefix(MARK).lstrip()
        marks += 1
    if body != head and not body.startswith(f"{head}\n"):
        return "", text
    rest = body.removeprefix(head).removeprefix("\n")
    return head, "\n".join([*[MARK] * marks, *([rest] if rest else [])])
