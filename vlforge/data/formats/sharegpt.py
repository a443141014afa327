"""ShareGPT conversations as LLaMA-Factory and as ms-swift write them.

LLaMA-Factory: `{"conversations": [{"from", "value"}], "system", "tools", "images"}`.
ms-swift: `{"system", "conversation": [{"human", "assistant"}], "images"}`. Reading
knows both, row by row, and Qwen-VL's `<img>PATH</img>` inside the texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from vlforge.data.json_layout import Fields
from vlforge.data.json_rows import JsonRows, rest_of, text_of, with_extra, without
from vlforge.data.json_turns import (
    TURN_FIELDS,
    Paths,
    Said,
    fields_of,
    picture_values,
    pictures_at,
    pictures_of,
    read_turns,
    rounds_of,
    turns_from,
    turns_of,
    turns_type,
    untagged,
    with_fields,
    write_turns,
)
from vlforge.data.records import Holds, Record, as_turns
from vlforge.types import DataError, Row, Turn

_OWN = frozenset(("id", "conversations", "conversation", "system", "images", "image"))


@dataclass(frozen=True)
class SharegptFormat(JsonRows):
    """ShareGPT conversations, in one of two flavours.

    Args:
        flavour: what is written, `llama_factory` or `ms_swift`; both are read.
        from_key: names the speaker of a turn (LLaMA-Factory's `role_tag`).
        value_key: holds a turn's words (its `content_tag`).
        human_role: the user's name in what is written.
        assistant_role: the assistant's.
    """

    flavour: Literal["llama_factory", "ms_swift"] = "llama_factory"
    from_key: str = "from"
    value_key: str = "value"
    human_role: str = "human"
    assistant_role: str = "gpt"

    name: ClassVar[str] = "sharegpt"
    holds: ClassVar[Holds] = Holds(
        conversation=True, several_pictures=True, no_picture=True, extra=True
    )

    def __post_init__(self) -> None:
        if self.flavour not in ("llama_factory", "ms_swift"):
            raise DataError(f"flavour is {self.flavour!r}: take llama_factory or ms_swift")

    def is_mine(self, rows: Sequence[Row]) -> bool:
        """Whether the first row has turns of one of the flavours."""
        for key in ("conversations", "conversation"):
            turns = rows[0].get(key)
            if isinstance(turns, list) and turns and isinstance(turns[0], dict):
                return True
        return False

    def record(self, row: Row, root: str, line: int) -> Record:
        """One row as a record.

        Raises:
            DataError: no turns, an unknown speaker, or images that are no paths.
        """
        images = row.get("images")
        pictures = pictures_of(row.get("image") if images is None else images, root)
        is_rounds = "conversation" in row and "conversations" not in row
        said = self._rounds(row) if is_rounds else self._turns(row)
        turns = said.turns
        if not pictures:
            turns, pictures = untagged(turns, root)
        extra = with_fields(rest_of(row, _OWN), TURN_FIELDS, said.fields)
        return Record(row.get("id"), pictures, turns, (), extra, line)

    @property
    def fields(self) -> Fields:
        """Turns of plain speakers, pictures by their paths."""
        turns = turns_type(self.from_key, self.value_key)
        return Fields(
            {"id": Any, "conversations": turns, "system": str | None,
             "images": Paths, "image": Paths},
            needed=frozenset(("conversations",)),
            own=_OWN,
        )  # fmt: skip

    def alike(self, row: Any, extra: dict[str, Any], root: str, line: int) -> Record:
        """What `record` gives for a row of `fields`."""
        pictures = pictures_at(row.image if row.images is None else row.images, root)
        turns = turns_from(row.conversations)
        if row.system:
            turns = (Turn("system", row.system), *turns)
        if not pictures:
            turns, pictures = untagged(turns, root)
        return Record(row.id, pictures, turns, (), extra, line)

    def _turns(self, row: Row) -> Said:
        entries = row.get("conversations")
        first = entries[0] if isinstance(entries, list) and entries else None
        is_messages = isinstance(first, dict) and self.from_key not in first and "role" in first
        keys = ("role", "content") if is_messages else (self.from_key, self.value_key)
        turns, fields = read_turns(entries, *keys)
        system = text_of(row, "system")
        if system:
            return Said((Turn("system", system), *turns), [{}, *fields] if fields else fields)
        return Said(turns, fields)

    def _rounds(self, row: Row) -> Said:
        entries = row["conversation"]
        if not isinstance(entries, list) or not entries:
            raise DataError("the conversation is no list of rounds")
        rounds: list[tuple[str, str | None]] = []
        for entry in entries:
            if not isinstance(entry, dict):
                raise DataError("a round is no object")
            answer = text_of(entry, "assistant") if "assistant" in entry else None
            rounds.append((text_of(entry, "human"), answer))
        asks = bool(row.get("images"))
        return Said(turns_of(text_of(row, "system"), rounds, asks=asks), [])

    def row(self, record: Record) -> Row:
        """One record as a row.

        Raises:
            Unfit: ms-swift's rounds have no place for turns that do not alternate.
        """
        row: Row = {} if record.id is None else {"id": record.id}
        extra = record.extra
        if self.flavour == "ms_swift":
            system, rounds = rounds_of(record)
            row |= {"system": system} if system else {}
            row["conversation"] = [_round(question, answer) for question, answer in rounds]
        else:
            extra = self._conversation(record, row)
        if record.pictures:
            row["images"] = picture_values(record.pictures)
        return with_extra(row, extra, _OWN)

    def _conversation(self, record: Record, row: Row) -> Mapping[str, Any]:
        """Add the turns to `row`; gives what is left of `extra`."""
        turns = as_turns(record)
        fields = fields_of(record, TURN_FIELDS, len(turns))
        extra = without(record.extra, TURN_FIELDS) if fields else record.extra
        has_system = bool(turns) and turns[0].role == "system" and not any(fields[:1])
        system = turns[0].text if has_system else ""
        if system:
            turns, fields = turns[1:], fields[1:]
        names = {
            "system": "system",
            "user": self.human_role,
            "assistant": self.assistant_role,
            "tool": "observation",
            "tool_call": "function_call",
        }
        row["conversations"] = write_turns(turns, fields, names, self.from_key, self.value_key)
        row |= {"system": system} if system else {}
        return extra


def _round(question: str, answer: str | None) -> dict[str, str]:
    return {"human": question} if answer is None else {"human": question, "assistant": answer}
