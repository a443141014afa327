"""Turns and pictures as JSON: what conversation formats share.

What a turn says beyond its role and its text stays in the record's field
`turn_fields`, one object a turn; a special speaker (`tool`, `tool_call`,
`developer`) is there as `speaker`. What a picture has beyond its path is in
`picture_fields`. A format that has a place for either puts it there.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from vlforge.data.json_rows import rest_of, with_extra
from vlforge.data.placing import suffix_of
from vlforge.data.records import MARK, Picture, Record, Unfit, as_turns
from vlforge.types import DataError, Turn

Paths = str | list[str] | None
"""What names the pictures of a row, for a `Layout`; each may be a link or a `data:` url."""
History = list[tuple[str, str]] | None
"""Earlier rounds, for a `Layout`."""
TURN_FIELDS = "turn_fields"
PICTURE_FIELDS = "picture_fields"
SPEAKERS: dict[str, tuple[Literal["system", "user", "assistant"], str]] = {
    "human": ("user", ""),
    "user": ("user", ""),
    "gpt": ("assistant", ""),
    "assistant": ("assistant", ""),
    "chatgpt": ("assistant", ""),
    "bot": ("assistant", ""),
    "system": ("system", ""),
    "developer": ("system", "developer"),
    "observation": ("user", "tool"),
    "tool": ("user", "tool"),
    "tool_response": ("user", "tool"),
    "function_call": ("assistant", "tool_call"),
    "tool_call": ("assistant", "tool_call"),
}
"""Who speaks under the names that formats use: a role and, for special ones, our name."""
_ROLES = {name: role for name, (role, special) in SPEAKERS.items() if not special}
_decode_bytes = msgspec.json.Decoder(bytes).decode
_encode_bytes = msgspec.json.Encoder().encode
_TAGGED = re.compile(r"<img>(.*?)</img>", re.S)
_MIME = {".jpg": "jpeg", ".tif": "tiff", ".bin": "octet-stream"}
_DATA_URL = re.compile(r"data:[^,]*;base64,", re.I)


class Said(NamedTuple):
    """Turns, and what they hold beside role and text (nothing, or an object a turn)."""

    turns: tuple[Turn, ...]
    fields: list[dict[str, Any]]


def speaker_of(name: Any) -> tuple[Literal["system", "user", "assistant"], str]:
    """The role of a speaker, and our name for a special one.

    Raises:
        DataError: nobody known.
    """
    found = SPEAKERS.get(name) if isinstance(name, str) else None
    if found is None:
        raise DataError(f"a turn has an unknown speaker: {name!r}")
    return found


def read_turns(entries: Any, speaker: str = "from", words: str = "value") -> Said:
    """Turns from a list of objects with a speaker and words each.

    Raises:
        DataError: no list, no turns, an unknown speaker, or words that are no string.
    """
    if not isinstance(entries, list) or not entries:
        raise DataError("the conversation is no list of turns")
    turns: list[Turn] = []
    fields: list[dict[str, Any]] = []
    for entry in entries:
        if not isinstance(entry, dict):
            raise DataError("a turn is no object")
        name, text = entry.get(speaker), entry.get(words)
        found = SPEAKERS.get(name) if isinstance(name, str) else None
        role, special = found or speaker_of(name)
        if not isinstance(text, str):
            raise DataError(f"a turn's {words!r} is no string")
        turns.append(Turn(role, text))
        if special or len(entry) > 2:
            note(fields, len(turns) - 1, special, rest_of(entry, frozenset((speaker, words))))
    return Said(tuple(turns), padded(fields, len(turns)) if fields else fields)


@cache
def turns_type(speaker: str = "from", words: str = "value") -> Any:
    """The type of turns that say nothing but who speaks and what, for a `Layout`."""
    parts = [("who", Literal[tuple(_ROLES)]), ("text", str)]
    keys = {"who": speaker, "text": words}
    turn = msgspec.defstruct("Said", parts, rename=keys, forbid_unknown_fields=True, gc=False)
    return Annotated[list[turn], msgspec.Meta(min_length=1)]  # type: ignore[valid-type]


def turns_from(said: Iterable[Any]) -> tuple[Turn, ...]:
    """Turns of a `turns_type`."""
    return tuple([Turn(_ROLES[one.who], one.text) for one in said])


def note(fields: list[dict[str, Any]], at: int, special: str, rest: dict[str, Any]) -> None:
    """Keep what the turn `at` has beside its role and text."""
    if special or rest:
        fields.extend({} for _ in range(at - len(fields)))
        fields.append({"speaker": special, **rest} if special else rest)


def padded(fields: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """One entry a turn, or none at all."""
    return [*fields, *({} for _ in range(count - len(fields)))] if fields else fields


def with_fields(extra: dict[str, Any], key: str, fields: Sequence[Any]) -> dict[str, Any]:
    """`extra` with one object a turn or picture, where any says something."""
    return {**extra, key: list(fields)} if any(fields) else extra


def fields_of(record: Record, key: str, count: int) -> list[dict[str, Any]]:
    """One object for each of `count` turns or pictures; empty ones where the record has none."""
    found = record.extra.get(key)
    fits = isinstance(found, list) and len(found) == count
    if fits and all(isinstance(one, dict) for one in found or ()):
        return list(found or ())
    return []


def write_turns(
    turns: Sequence[Turn],
    fields: Sequence[Mapping[str, Any]],
    names: Mapping[str, str],
    speaker: str = "from",
    words: str = "value",
) -> list[dict[str, Any]]:
    """Turns as objects; `names` has a name for each role and special speaker."""
    entries: list[dict[str, Any]] = [
        {speaker: names[turn.role], words: turn.text} for turn in turns
    ]
    if not fields:
        return entries
    own = frozenset((speaker, words))
    for entry, more in zip(entries, fields, strict=False):
        rest = dict(more)
        special = rest.pop("speaker", None)
        if isinstance(special, str):
            entry[speaker] = names.get(special, special)
        with_extra(entry, rest, own)
    return entries


class Rounds(NamedTuple):
    """A conversation in rounds: an answer is None where the last question has none."""

    system: str | None
    rounds: list[tuple[str, str | None]]


def rounds_of(record: Record) -> Rounds:
    """Questions and their answers.

    Raises:
        Unfit: the roles do not alternate.
    """
    turns = as_turns(record)
    system = None
    if turns and turns[0].role == "system":
        system, turns = turns[0].text, turns[1:]
    rounds: list[tuple[str, str | None]] = []
    if turns and turns[0].role == "assistant":
        rounds.append(("", turns[0].text))
        turns = turns[1:]
    for at in range(0, len(turns), 2):
        pair = turns[at : at + 2]
        if [turn.role for turn in pair] != ["user", "assistant"][: len(pair)]:
            raise Unfit("questions and answers do not alternate")
        rounds.append((pair[0].text, pair[1].text if len(pair) == 2 else None))
    return Rounds(system, rounds)


def turns_of(
    system: str, rounds: Iterable[tuple[str, str | None]], *, asks: bool
) -> tuple[Turn, ...]:
    """Turns from a system text ("" for none) and rounds.

    A first answer without a question stands alone, unless `asks`: then pictures ask.
    """
    turns = [Turn("system", system)] if system else []
    for question, answer in rounds:
        if question or asks or answer is None:
            turns.append(Turn("user", question))
        if answer is not None:
            turns.append(Turn("assistant", answer))
        asks = True
    return tuple(turns)


def history_of(value: Any) -> list[tuple[str, str | None]]:
    """Earlier rounds: a list of pairs of strings.

    Raises:
        DataError: something else.
    """
    if value is None:
        return []
    if not isinstance(value, list):
        raise DataError("'history' is no list of pairs")
    rounds: list[tuple[str, str | None]] = []
    for pair in value:
        is_pair = isinstance(pair, list) and len(pair) == 2
        if not is_pair or not all(isinstance(text, str) for text in pair):
            raise DataError("'history' is no list of pairs")
        rounds.append((pair[0], pair[1]))
    return rounds


def untagged(turns: tuple[Turn, ...], root: str) -> tuple[tuple[Turn, ...], tuple[Picture, ...]]:
    """Turns with a mark for each picture that Qwen-VL's `<img>PATH</img>` names in them."""
    if not any("<img>" in turn.text for turn in turns):
        return turns, ()
    paths = [path for turn in turns for path in _TAGGED.findall(turn.text)]
    marked = tuple(Turn(turn.role, _TAGGED.sub(MARK, turn.text)) for turn in turns)
    return marked, pictures_of(paths, root)


def pictures_at(paths: str | list[str] | None, root: str) -> tuple[Picture, ...]:
    """`pictures_of` for `Paths`, which mostly are one path."""
    if paths:
        first = paths if paths.__class__ is str else paths[0]
        if first and ":" not in first and (first is paths or len(paths) == 1):
            return (Picture(first, root),)
    return pictures_of(paths, root)


def pictures_of(value: Any, root: str) -> tuple[Picture, ...]:
    """Pictures from a path, a `data:` url, an object with either, or a list of such.

    Raises:
        DataError: something else.
    """
    if value is None or value == "":
        return ()
    listed = value if isinstance(value, list) else [value]
    return tuple([picture_of(one, root) for one in listed])


def picture_of(value: Any, root: str) -> Picture:
    """One picture, as `pictures_of`."""
    if isinstance(value, str) and value:
        if ":" not in value:
            return Picture(value, root)
        if value[:5].lower() == "data:":
            return Picture(content=_from_url(value))
        if "://" in value[:16]:
            return _linked(value)
        return Picture(value, root)
    if isinstance(value, dict):
        if isinstance(value.get("bytes"), str):
            path = value.get("path")
            return Picture(path if isinstance(path, str) else "", "", decoded(value["bytes"]))
        return picture_of(value.get("path") or value.get("url") or None, root)
    raise DataError(f"no picture's path: {str(value)[:60]!r}")


def _linked(url: str) -> Picture:
    if url.startswith("file://"):
        from urllib.parse import unquote

        return Picture(unquote("/" + url.removeprefix("file://").partition("/")[2]))
    return Picture(url)


def _from_url(url: str) -> bytes:
    head = _DATA_URL.match(url)
    if head is None:
        raise DataError("a picture's data: url is not in base64")
    return decoded(url[head.end() :])


def decoded(text: str) -> bytes:
    """The bytes of a picture in base64, line breaks in it allowed.

    Raises:
        DataError: it is none, or empty.
    """
    try:
        content = from_base64(text.encode())
    except ValueError:
        try:
            content = binascii.a2b_base64("".join(text.split()), strict_mode=True)
        except ValueError as error:
            raise DataError(f"a picture is not base64: {error}") from None
    if not content:
        raise DataError("a picture is empty")
    return content


def from_base64(text: bytes) -> bytes:
    """The bytes that base64 stands for; ValueError where it is none.

    msgspec, which has it as strings of JSON, is four times as fast as the standard library.
    """
    if b"\\" not in text:
        try:
            return _decode_bytes(b'"' + text + b'"')
        except msgspec.DecodeError:
            pass
    return binascii.a2b_base64(text, strict_mode=True)


def encoded(content: bytes) -> str:
    """The bytes of a picture in base64."""
    return _encode_bytes(content)[1:-1].decode("ascii")


def picture_values(pictures: Sequence[Picture]) -> list[str]:
    """Paths; a `data:` url for a picture that has bytes."""
    return [
        picture.path if picture.content is None else data_url(picture.content)
        for picture in pictures
    ]


def data_url(content: bytes) -> str:
    """The picture as a `data:` url."""
    suffix = suffix_of(content)
    kind = _MIME.get(suffix, suffix[1:])
    return f"data:image/{kind};base64,{encoded(content)}"
