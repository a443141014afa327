"""LLaVA's conversations, and the way between them and Data-Juicer's rows.

`{"id", "image", "conversations": [{"from": "human" | "gpt", "value"}]}`, one
JSON array a file (or one object a line). The options of the two converters are
those of Data-Juicer's tools `llava_to_dj` and `dj_to_llava`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from vlforge.data.json_layout import Fields
from vlforge.data.json_lines import as_row, read_values, write_array
from vlforge.data.json_rows import JsonRows, rest_of, with_extra, without
from vlforge.data.json_turns import (
    TURN_FIELDS,
    Paths,
    fields_of,
    picture_values,
    pictures_at,
    pictures_of,
    read_turns,
    turns_from,
    turns_type,
    with_fields,
    write_turns,
)
from vlforge.data.records import Holds, Record, as_turns
from vlforge.data.roots import place_all
from vlforge.types import EOC_TOKEN, LLAVA_IMAGE_TOKEN, DataError, Row, Sample, Turn

_ROLE = re.compile(r"\[\[([^\[\]]*)\]\]: ")


def read(path: str | Path) -> Iterator[Row]:
    """The conversations of a file, streamed.

    Raises:
        DataError: the file cannot be read, or an entry is no object; names both.
    """
    for number, value in read_values(Path(path)):
        if isinstance(value, DataError):
            raise DataError(f"{path}:{number}: {value}")
        try:
            yield as_row(value)
        except DataError as error:
            raise DataError(f"{path}, entry {number}: {error}") from None


def write(path: str | Path, rows: Iterable[Row]) -> int:
    """Write conversations as one JSON array, whole or not at all; gives their number."""
    return write_array(Path(path), rows)


def to_sample(row: Row, root: str, place: str = "") -> Sample:
    """A conversation as turns; a leading system turn is kept.

    Where a row has an image and no `<image>`, the token is put before the first
    question, as LLaVA's training does.

    Raises:
        DataError: no turns, an unknown speaker, or tokens that do not match the images.
    """
    images = row_images(row, root)
    turns = [_turn(entry) for entry in _conversation(row)]
    count = sum(turn.text.count(LLAVA_IMAGE_TOKEN) for turn in turns)
    if images and count == 0:
        first = next((i for i, t in enumerate(turns) if t.role == "user"), 0)
        head = "\n".join([LLAVA_IMAGE_TOKEN] * len(images))
        turns[first] = Turn(turns[first].role, f"{head}\n{turns[first].text}")
        count = len(images)
    if count != len(images):
        raise DataError(f"{count} image tokens but {len(images)} images")
    used = ("id", "image", "images", "conversations")
    extra = {key: value for key, value in row.items() if key not in used}
    return Sample(str(row.get("id", place)), tuple(images), tuple(turns), extra)


def from_sample(sample: Sample) -> Row:
    """A sample as a conversation; `image` is a path, or a list of them where there are several."""
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    row: dict[str, Any] = {"id": sample.id}
    if sample.images:
        row["image"] = sample.images[0] if len(sample.images) == 1 else list(sample.images)
    row["conversations"] = [{"from": names[t.role], "value": t.text} for t in sample.turns]
    return {**row, **sample.extra}


def row_images(row: Row, root: str) -> list[str]:
    """Image paths of a conversation, relative ones below `root`.

    Raises:
        DataError: neither a path nor a list of paths.
    """
    images = row.get("image", row.get("images"))
    if images is None or images == "":
        return []
    listed = images if isinstance(images, list) else [images]
    for image in listed:
        if not isinstance(image, str) or not image:
            raise DataError(f"'image' holds {image!r} where a path is wanted")
    return place_all(root, listed)


def _conversation(row: Row) -> list[Any]:
    turns = row.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise DataError("'conversations' is not a list of turns")
    return turns


def _turn(entry: Any) -> Turn:
    speaker, text = (entry.get("from"), entry.get("value")) if isinstance(entry, dict) else ("", "")
    if not isinstance(text, str):
        raise DataError("a turn's 'value' is not a string")
    if speaker in ("human", "user"):
        return Turn("user", text)
    if speaker in ("gpt", "assistant"):
        return Turn("assistant", text)
    if speaker == "system":
        return Turn("system", text)
    raise DataError(f"a turn is from {speaker!r}, not from human, gpt or system")


@dataclass(frozen=True)
class LlavaToDj:
    """How conversations become rows; names and defaults of Data-Juicer's `llava_to_dj`."""

    str_id: bool = True
    split_chunk: bool = False
    image_broadcast: bool = False
    image_broadcast_pos: Literal["random", "before", "after", "follow"] = "random"
    image_special_token: str = LLAVA_IMAGE_TOKEN
    eoc_special_token: str = EOC_TOKEN
    add_eoc_at_last: bool = True
    sent_separator: str = "\n"
    only_keep_caption: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.image_broadcast and not self.split_chunk:
            raise DataError("image_broadcast repeats the image per chunk: set split_chunk too")

    def __call__(self, row: Row) -> Row:
        """One dj row.

        Raises:
            DataError: an odd number of turns, or the first question has its image
                token neither at its start nor at its end; names the row.
        """
        turns = _conversation(row)
        if len(turns) % 2:
            raise DataError(f"row {row.get('id')!r} has {len(turns)} turns: questions lack answers")
        images = row_images(row, "")
        if images:
            self._check_token(row, str(turns[0]["value"]))
        if self.only_keep_caption:
            turns = [turns[0] | {"value": self.image_special_token}, turns[1]]
        text, count = self._text(turns, bool(images), str(row.get("id")))
        number = row.get("id", "")
        return {
            "id": str(number) if self.str_id else number,
            "text": text,
            "images": images * count if images else [],
        }

    def _check_token(self, row: Row, question: str) -> None:
        token = self.image_special_token
        if not (question.startswith(token) or question.endswith(token)):
            raise DataError(
                f"row {row.get('id')!r}: {token!r} is neither at the start nor at the end of "
                f"the first question: move it, or set image_special_token"
            )

    def _text(self, turns: list[Any], has_image: bool, name: str) -> tuple[str, int]:
        """The text, and how many images it speaks of (0 or 1 per chunk)."""
        at_start = str(turns[0]["value"]).startswith(self.image_special_token)
        pick = random.Random(f"{self.seed}:{name}")
        rounds: list[str] = []
        images = 1
        for first in range(0, len(turns), 2):
            asked, told = turns[first], turns[first + 1]
            question = str(asked["value"])
            if first and has_image and self.image_broadcast:
                question = self._with_token(question, at_start, pick)
                images += 1
            if self.only_keep_caption:
                rounds.append(question + self.sent_separator + str(told["value"]))
                continue
            head = f"[[{asked['from']}]]: {question}"
            rounds.append(f"{head}{self.sent_separator}[[{told['from']}]]: {told['value']}")
        between = f" {self.eoc_special_token}" if self.split_chunk else ""
        text = (between + self.sent_separator).join(rounds)
        return text + (f" {self.eoc_special_token}" if self.add_eoc_at_last else ""), images

    def _with_token(self, question: str, at_start: bool, pick: random.Random) -> str:
        where = self.image_broadcast_pos
        before = {"before": True, "after": False, "follow": at_start}.get(where)
        if before is None:
            before = pick.random() < 0.5
        token = self.image_special_token
        return f"{token}\n{question}" if before else f"{question}\n{token}"


@dataclass(frozen=True)
class DjToLlava:
    """How rows become conversations; names and defaults of Data-Juicer's `dj_to_llava`.

    `original` maps ids (as strings) to the conversations that the rows were made
    from; `restore_questions` takes the first question from there.
    """

    keep_only_first_image: bool = True
    eoc_special_token: str = EOC_TOKEN
    image_special_token: str = LLAVA_IMAGE_TOKEN
    sent_separator: str = "\n"
    restore_questions: bool = False
    original: Mapping[str, Row] | None = None

    def __post_init__(self) -> None:
        if self.restore_questions and self.original is None:
            raise DataError("restore_questions needs the original file: give original_llava_ds")

    def __call__(self, row: Row) -> Row:
        """One conversation.

        Raises:
            DataError: several distinct images, unpaired turns, or an id that the
                original lacks; names the row.
        """
        images = list(dict.fromkeys(row.get("images") or []))
        number = row.get("id", "")
        if len(images) > 1:
            raise DataError(f"row {number!r} has {len(images)} different images, LLaVA takes one")
        text = str(row.get("text", ""))
        if self.restore_questions:
            number, turns = self._restored(number, text)
        else:
            turns = self._turns(number, text)
        out: Row = {"id": number, "conversations": turns}
        return out | {"image": images[0]} if images else out

    def _restored(self, number: Any, text: str) -> tuple[Any, list[dict[str, str]]]:
        assert self.original is not None
        source = self.original.get(str(number))
        if source is None:
            raise DataError(f"row {number!r} is not in the original file: check its ids")
        answer = self._clean(text).replace(self.image_special_token, "").strip()
        question = dict(_conversation(source)[0])
        return source.get("id", number), [question, {"from": "gpt", "value": answer}]

    def _turns(self, number: Any, text: str) -> list[dict[str, str]]:
        parts = _ROLE.split(text)
        if not parts[0].strip():
            parts = parts[1:]
        if len(parts) % 4 or not parts:
            raise DataError(f"row {number!r} has {len(parts)} pieces: questions lack answers")
        turns = []
        for at in range(0, len(parts), 2):
            said = self._clean(parts[at + 1])
            if at and self.keep_only_first_image:
                said = self._without_token(said)
            turns.append({"from": parts[at], "value": said})
        return turns

    def _clean(self, text: str) -> str:
        """Without the separators and end-of-chunk tokens that follow a turn."""
        text = text.strip()
        while True:
            shorter = text.removesuffix(self.eoc_special_token).removesuffix(self.sent_separator)
            shorter = shorter.strip()
            if shorter == text:
                return text
            text = shorter

    def _without_token(self, text: str) -> str:
        token = self.image_special_token
        text = text.removeprefix(token + "\n").removesuffix("\n" + token)
        return text.replace(token, "")


_OWN = frozenset(("id", "image", "images", "conversations"))
_FIELDS = Fields(
    {"id": Any, "conversations": turns_type(), "image": Paths, "images": Paths},
    needed=frozenset(("conversations",)),
)
_SHAREGPT = ("images", "system", "tools", "videos", "audios")
_NAMES = {
    "system": "system",
    "user": "human",
    "assistant": "gpt",
    "tool": "observation",
    "tool_call": "function_call",
}


@dataclass(frozen=True)
class LlavaFormat(JsonRows):
    """LLaVA's conversations: `{"id", "image", "conversations": [{"from", "value"}]}`.

    `image` is a path, or a list where there are several; a row without it is text only.
    """

    name: ClassVar[str] = "llava"
    holds: ClassVar[Holds] = Holds(
        conversation=True, several_pictures=True, no_picture=True, extra=True
    )

    def is_mine(self, rows: Sequence[Row]) -> bool:
        """Whether the rows are turns of human and gpt, without ShareGPT's other fields."""
        turns = rows[0].get("conversations")
        first = turns[0] if isinstance(turns, list) and turns else None
        if not isinstance(first, dict) or first.get("from") not in ("human", "gpt", "system"):
            return False
        has_image = any("image" in row for row in rows)
        return has_image or not any(key in row for row in rows for key in _SHAREGPT)

    def record(self, row: Row, root: str, line: int) -> Record:
        """One row as a record.

        Raises:
            DataError: no turns, an unknown speaker, or images that are no paths.
        """
        turns, fields = read_turns(row.get("conversations"))
        image = row.get("image")
        pictures = pictures_of(row.get("images") if image is None else image, root)
        extra = rest_of(row, _OWN)
        if fields:
            extra = with_fields(extra, TURN_FIELDS, fields)
        return Record(row.get("id"), pictures, turns, (), extra, line)

    @property
    def fields(self) -> Fields:
        """Turns of plain speakers, pictures by their paths."""
        return _FIELDS

    def alike(self, row: Any, extra: dict[str, Any], root: str, line: int) -> Record:
        """What `record` gives for a row of `fields`."""
        image = row.images if row.image is None else row.image
        pictures = pictures_at(image, root)
        return Record(row.id, pictures, turns_from(row.conversations), (), extra, line)

    def row(self, record: Record) -> Row:
        """One record as a row."""
        row: Row = {} if record.id is None else {"id": record.id}
        paths = picture_values(record.pictures)
        if paths:
            row["image"] = paths[0] if len(paths) == 1 else paths
        turns = as_turns(record)
        fields = fields_of(record, TURN_FIELDS, len(turns)) if record.extra else []
        row["conversations"] = write_turns(turns, fields, _NAMES)
        extra = without(record.extra, TURN_FIELDS) if fields else record.extra
        return with_extra(row, extra, _OWN)
