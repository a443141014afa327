"""Data-Juicer's converters of post-tuning dialogues, both ways, with its options and defaults.

A dj dialogue is `{"system", "instruction", "query", "response", "history"}` with
pairs of strings in `history`; the other side is Alpaca, LLaMA-Factory's or
ms-swift's ShareGPT, or messages. Each converter takes a row and gives a row, and
raises `DataError` for one that it cannot turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vlforge.types import DataError, Row

Pair = tuple[Any, Any]


@dataclass(frozen=True)
class AlpacaToDj:
    """`input` becomes `query`, `output` becomes `response`, everything else stays.

    `multimodal_keys` are made lists; a row without one of them is an error.
    """

    input_key: str = "input"
    output_key: str = "output"
    multimodal_keys: str | Sequence[str] | None = None

    def __call__(self, row: Row) -> Row:
        """One dj row."""
        out = {key: row[key] for key in row if key not in (self.input_key, self.output_key)}
        for key, given in (("query", self.input_key), ("response", self.output_key)):
            if given in row:
                out[key] = row[given]
        return _with_lists(out, self.multimodal_keys)


@dataclass(frozen=True)
class DjToAlpaca:
    """`query` becomes `input`, `response` becomes `output`; fields that are empty go."""

    input_key: str = "input"
    output_key: str = "output"

    def __call__(self, row: Row) -> Row:
        """One row of Alpaca."""
        out = _filled(row, ("query", "response"))
        for key, given in ((self.input_key, "query"), (self.output_key, "response")):
            if given in row:
                out[key] = row[given]
        return out


@dataclass(frozen=True)
class LlamaFactorySharegptToDj:
    """Turns become a question, an answer and the rounds before them; roles are not looked at.

    One turn of the system and one instruction are taken out, wherever they stand.
    `compat: data_juicer` takes the second one from the place it had before the first
    one was gone, as Data-Juicer does: a question is lost then.
    """

    conversations_key: str = "conversations"
    from_key: str = "from"
    value_key: str = "value"
    system_role: str = "system"
    instruction_role: str = "instruction"
    multimodal_keys: str | Sequence[str] | None = None
    compat: Literal["", "data_juicer"] = ""

    def __call__(self, row: Row) -> Row:
        """One dj row."""
        said = [self._turn(entry) for entry in _list(row, self.conversations_key)]
        taken = {}
        for role, name in ((self.system_role, "system"), (self.instruction_role, "instruction")):
            places = [at for at, (speaker, _) in enumerate(said) if speaker == role]
            if len(places) > 1:
                raise DataError(f"{len(places)} turns are the {name}'s, one is allowed")
            taken[name] = places[0] if places else None
        values = [value for _, value in said]
        out = {key: value for key, value in row.items() if key != self.conversations_key}
        for name, place in taken.items():
            out[name] = "" if place is None else values[place]
        for gone, place in enumerate(sorted(at for at in taken.values() if at is not None)):
            at = place if self.compat else place - gone
            if at >= len(values):
                raise DataError("the system and the instruction have no turns after them")
            del values[at]
        return _with_lists(out | _as_rounds(values), self.multimodal_keys)

    def _turn(self, entry: Any) -> Pair:
        keys = (self.from_key, self.value_key)
        if not isinstance(entry, dict) or not all(key in entry for key in keys):
            raise DataError(f"a turn has no {keys[0]!r} and {keys[1]!r}")
        return entry[self.from_key], entry[self.value_key]


@dataclass(frozen=True)
class DjToLlamaFactorySharegpt:
    """System, instruction, the rounds of `history`, question and answer become turns.

    An empty system, instruction or answer is no turn; other fields that are empty go.
    """

    conversations_key: str = "conversations"
    from_key: str = "from"
    value_key: str = "value"
    human_role: str = "user"
    assistant_role: str = "assistant"
    system_role: str = "system"
    instruction_role: str = "instruction"

    def __call__(self, row: Row) -> Row:
        """One row of ShareGPT."""
        before = [
            (role, row[key])
            for role, key in ((self.system_role, "system"), (self.instruction_role, "instruction"))
            if row.get(key, "") != ""
        ]
        pairs = _history(row)
        said = [
            (role, value)
            for pair in pairs
            for role, value in zip((self.human_role, self.assistant_role), pair, strict=True)
        ]
        last = [(self.human_role, _query(row))]
        if row.get("response", "") != "":
            last.append((self.assistant_role, row["response"]))
        out = _filled(row, ("system", "instruction", "query", "response", "history"))
        out[self.conversations_key] = [
            {self.from_key: role, self.value_key: value} for role, value in before + said + last
        ]
        return out


@dataclass(frozen=True)
class MessagesToDj:
    """As `LlamaFactorySharegptToDj`, from `messages` of role and content."""

    messages_key: str = "messages"
    role_key: str = "role"
    content_key: str = "content"
    system_role: str = "system"
    instruction_role: str = "instruction"
    multimodal_keys: str | Sequence[str] | None = None
    compat: Literal["", "data_juicer"] = ""

    def __call__(self, row: Row) -> Row:
        """One dj row."""
        return LlamaFactorySharegptToDj(
            self.messages_key, self.role_key, self.content_key,
            self.system_role, self.instruction_role, self.multimodal_keys, self.compat,
        )(row)  # fmt: skip


@dataclass(frozen=True)
class DjToMessages:
    """As `DjToLlamaFactorySharegpt`, into `messages` of role and content."""

    messages_key: str = "messages"
    role_key: str = "role"
    content_key: str = "content"
    human_role: str = "user"
    assistant_role: str = "assistant"
    system_role: str = "system"
    instruction_role: str = "instruction"

    def __call__(self, row: Row) -> Row:
        """One row of messages."""
        return DjToLlamaFactorySharegpt(
            self.messages_key, self.role_key, self.content_key,
            self.human_role, self.assistant_role, self.system_role, self.instruction_role,
        )(row)  # fmt: skip


@dataclass(frozen=True)
class MsSwiftSharegptToDj:
    """Rounds become a question, an answer and the rounds before them."""

    conversation_key: str = "conversation"
    human_key: str = "human"
    assistant_key: str = "assistant"
    system_key: str = "system"
    instruction_key: str = "instruction"
    multimodal_keys: str | Sequence[str] | None = None

    def __call__(self, row: Row) -> Row:
        """One dj row."""
        rounds = [self._round(entry) for entry in _list(row, self.conversation_key)]
        names = {self.system_key: "system", self.instruction_key: "instruction"}
        out = {names.get(key, key): row[key] for key in row if key != self.conversation_key}
        out |= _as_rounds([value for pair in rounds for value in pair])
        return _with_lists(out, self.multimodal_keys)

    def _round(self, entry: Any) -> Pair:
        keys = (self.human_key, self.assistant_key)
        if not isinstance(entry, dict) or not all(key in entry for key in keys):
            raise DataError(f"a round has no {keys[0]!r} and {keys[1]!r}")
        return entry[self.human_key], entry[self.assistant_key]


@dataclass(frozen=True)
class DjToMsSwiftSharegpt:
    """The rounds of `history`, question and answer become rounds; other fields stay."""

    conversation_key: str = "conversation"
    human_key: str = "human"
    assistant_key: str = "assistant"
    system_key: str = "system"
    instruction_key: str = "instruction"

    def __call__(self, row: Row) -> Row:
        """One row of ms-swift."""
        names = {"system": self.system_key, "instruction": self.instruction_key}
        used = ("query", "response", "history")
        out = {names.get(key, key): row[key] for key in row if key not in used}
        pairs = [*_history(row), (_query(row), row.get("response", ""))]
        out[self.conversation_key] = [
            {self.human_key: asked, self.assistant_key: told} for asked, told in pairs
        ]
        return out


def _as_rounds(values: list[Any]) -> Row:
    """Values that alternate between question and answer, as a dj dialogue."""
    count = len(values)
    if not count:
        return {"query": "", "response": "", "history": []}
    before = (count - 1) // 2 * 2
    last = [*values[before:], ""]
    history = [values[at : at + 2] for at in range(0, before, 2)]
    return {"query": last[0], "response": last[1], "history": history}


def _list(row: Row, key: str) -> list[Any]:
    found = row.get(key)
    if not isinstance(found, list):
        raise DataError(f"{key!r} is no list of turns")
    return found


def _history(row: Row) -> list[Pair]:
    """The rounds before the last; none where the row does not speak of them."""
    found = row.get("history")
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(p, list) and len(p) == 2 for p in found):
        raise DataError("'history' is no list of pairs")
    return [(pair[0], pair[1]) for pair in found]


def _query(row: Row) -> Any:
    if "query" not in row:
        raise DataError("no 'query'")
    return row["query"]


def _filled(row: Row, used: Sequence[str]) -> Row:
    """The other fields that are not empty."""
    return {key: value for key, value in row.items() if value and key not in used}


def _with_lists(row: Row, keys: str | Sequence[str] | None) -> Row:
    """The row with some fields last and as lists."""
    for key in [keys] if isinstance(keys, str) and keys else keys or ():
        if key not in row:
            raise DataError(f"no {key!r}, which multimodal_keys names")
        value = row.pop(key)
        row[key] = value if isinstance(value, list) else [value]
    return row
