"""PaddleMIX's ChatML json: `{"id", "conversations": [[question, answer]], "image": base64}`.

Beside it lies `chat_template.json`, which says how a round becomes text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from vlforge.data.json_layout import Fields
from vlforge.data.json_rows import JsonRows, RowWriter, rest_of, text_of, with_extra
from vlforge.data.json_turns import decoded, encoded, rounds_of, turns_of
from vlforge.data.records import MARK, Holds, Picture, Record, Unfit
from vlforge.types import DataError, Row

PROMPT = "请描述图片内容。"
TEMPLATE = "chat_template.json"
_OWN = frozenset(("id", "conversations", "image", "system"))
_FIELDS = Fields(
    {
        "id": Any, "image": bytes | None, "system": str | None,
        "conversations": Annotated[list[tuple[str, str]], Meta(min_length=1)],
    },
    needed=frozenset(("conversations",)),
)  # fmt: skip


@dataclass(frozen=True)
class ChatmlPaddleFormat(JsonRows):
    """PaddleMIX's ChatML json, one picture in base64 before the first question.

    Args:
        prompt: the question of a caption that has none.
    """

    prompt: str = PROMPT

    name: ClassVar[str] = "chatml_paddle"
    holds: ClassVar[Holds] = Holds(conversation=True, no_picture=True, extra=True, embedded=True)

    def is_mine(self, rows: Sequence[Row]) -> bool:
        """Whether the first row has rounds that are lists."""
        rounds = rows[0].get("conversations")
        return bool(isinstance(rounds, list) and rounds and isinstance(rounds[0], list))

    def record(self, row: Row, root: str, line: int) -> Record:
        """One row as a record.

        Raises:
            DataError: no rounds, or an image that is not base64.
        """
        image = text_of(row, "image")
        content = decoded(image) if image else b""
        rounds = _rounds(row.get("conversations"))
        told = (row.get("id"), content, text_of(row, "system"), rounds)
        return _record(*told, rest_of(row, _OWN), line)

    @property
    def fields(self) -> Fields:
        """Questions with their answers, and a picture in base64."""
        return _FIELDS

    def alike(self, row: Any, extra: dict[str, Any], root: str, line: int) -> Record:
        """What `record` gives for a row of `fields`."""
        return _record(row.id, row.image or b"", row.system or "", row.conversations, extra, line)

    def row(self, record: Record) -> Row:
        """One record as a row.

        Raises:
            Unfit: a picture elsewhere than in the first question, or without its bytes.
        """
        system, rounds = rounds_of(record)
        asked = [list(_told(pair)) for pair in rounds]
        if record.pictures:
            if len(record.pictures) > 1:
                raise Unfit(f"{len(record.pictures)} pictures where the format holds one")
            if not rounds or rounds[0][0].count(MARK) != 1:
                raise Unfit("the picture does not stand in the first question")
            asked[0][0] = _without_mark(asked[0][0]) or self.prompt
        row: Row = {} if record.id is None else {"id": record.id}
        row["conversations"] = asked
        for picture in record.pictures:
            row["image"] = encoded(picture.read())
        row |= {"system": system} if system else {}
        return with_extra(row, record.extra, _OWN)

    def writer(self, path: Path) -> RowWriter:
        """Writes a new file at `path`, and `chat_template.json` beside it where there is none."""
        return _Writer(path, self)


class _Writer(RowWriter):
    def __init__(self, path: Path, format_: JsonRows):
        super().__init__(path, format_)
        self._folder = path.parent

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        super().__exit__(kind, error, trace)
        if kind is None and not (self._folder / TEMPLATE).exists():
            write_template(self._folder)


def write_template(folder: Path) -> None:
    """Write `chat_template.json`: a round of a user's question and the bot's answer.

    Raises:
        DataError: it cannot be written.
    """
    rounds = [
        f"<|im_start|>{role}\n{{{{{slot}}}}}<|im_end|>\n"
        for role, slot in (("user", "user"), ("assistant", "bot"))
    ]
    path = folder / TEMPLATE
    try:
        path.write_text(json.dumps({"conversation": rounds}, indent=4) + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from None


def _record(
    number: Any,
    image: bytes,
    system: str,
    rounds: list[tuple[str, str | None]],
    extra: dict[str, Any],
    line: int,
) -> Record:
    pictures: tuple[Picture, ...] = ()
    if image:
        pictures = (Picture(content=image),)
        question, answer = rounds[0]
        rounds[0] = (f"{MARK}\n{question}" if question else MARK, answer)
    turns = turns_of(system, rounds, asks=bool(pictures))
    return Record(number, pictures, turns, (), extra, line)


def _rounds(value: Any) -> list[tuple[str, str | None]]:
    """The rounds; the empty one that PaddleMIX appends when it reads is passed over."""
    if not isinstance(value, list):
        raise DataError("'conversations' is no list of rounds")
    listed = value[:-1] if value and value[-1] == [""] else value
    rounds: list[tuple[str, str | None]] = []
    for pair in listed:
        is_round = isinstance(pair, list) and len(pair) in (1, 2)
        if not is_round or not all(isinstance(text, str) for text in pair):
            raise DataError("a round is no question and answer")
        rounds.append((pair[0], pair[1] if len(pair) == 2 else None))
    if not rounds:
        raise DataError("'conversations' is empty")
    return rounds


def _told(pair: tuple[str, str | None]) -> tuple[str, ...]:
    return (pair[0],) if pair[1] is None else (pair[0], pair[1])


def _without_mark(question: str) -> str:
    before, _, after = question.partition(MARK)
    return before.removesuffix("\n") + after.removeprefix("\n")
