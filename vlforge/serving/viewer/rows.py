"""Rows as the page is told of them: plain JSON, nothing of it HTML."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from typing import Any

from vlforge.data.json_lines import encode
from vlforge.data.records import MARK, Record
from vlforge.serving.viewer.compare import Marked, differences, said
from vlforge.serving.viewer.sources import STATS, Fate, Item, counts_of

_MAX_TEXT = 20_000
_MAX_EXTRA = 2_000
_MAX_FIELDS = 60
_MAX_PICTURES = 64


def told(item: Item) -> dict[str, Any]:
    """One row for the page.

    `said` is a list of `{"role", "parts"}`; a part is `{"text", "mark"}` or
    `{"picture": k}` where the k-th picture stands.
    """
    record = item.record
    row: dict[str, Any] = {
        "number": item.number,
        "line": item.line,
        "id": None if record is None or record.id is None else str(record.id),
        "said": [],
        "pictures": [],
        "stats": [],
        "extra": [],
        "fault": None,
        "fate": None if item.fate is None else _fate(item.fate),
    }
    if item.fault is not None:
        row["fault"] = {"reason": item.fault.reason, "value": item.fault.value[:_MAX_EXTRA]}
    if record is None:
        row["stats"] = _stats(item.stats)
        return row
    before, after = _pieces(item)
    row["said"] = _spoken([(role, [[text, ""]]) for role, text in before])
    if after is not None:
        row["said"] = _spoken([("before", after[0]), ("after", after[1])])
    row["pictures"] = [_name(picture.path) for picture in record.pictures[:_MAX_PICTURES]]
    row["picture_count"] = len(record.pictures)
    row["mark_count"] = record.marks
    row["stats"] = _stats({**counts_of(record), **item.stats})
    row["extra"] = _extra(record)
    return row


def _pieces(item: Item) -> tuple[list[tuple[str, str]], tuple[Marked, Marked] | None]:
    if item.after is None or item.record is None:
        return said(item), None
    return said(item), differences("".join(item.record.chunks), item.after)


def told_pair(item: Item, partner: Item | None, *, is_after: bool) -> tuple[Any, Any]:
    """A row and its partner, with the words that differ marked; `is_after`: the row is the newer.

    The partner is None where there is none.
    """
    mine = told(item)
    if partner is None:
        return mine, None
    other = told(partner)
    left, right = said(item), said(partner)
    if item.record is None or partner.record is None:
        return mine, other
    if left == right:
        return mine, other | {"is_same": True}
    marked: tuple[list[Any], list[Any]] = ([], [])
    for place in range(max(len(left), len(right))):
        mine_role, mine_text = left[place] if place < len(left) else ("", "")
        other_role, other_text = right[place] if place < len(right) else ("", "")
        texts = (other_text, mine_text) if is_after else (mine_text, other_text)
        pieces = differences(*texts)
        if place < len(left):
            marked[0].append((mine_role, pieces[is_after]))
        if place < len(right):
            marked[1].append((other_role, pieces[not is_after]))
    mine["said"], other["said"] = _spoken(marked[0]), _spoken(marked[1])
    return mine, other


def _spoken(turns: list[tuple[str, Marked]]) -> list[dict[str, Any]]:
    """Turns whose image marks are numbered through the row."""
    numbers = itertools.count()
    return [{"role": role, "parts": list(_parts(pieces, numbers))} for role, pieces in turns]


def _parts(pieces: Marked, numbers: Iterator[int]) -> Iterator[dict[str, Any]]:
    for text, mark in _whole_marks(pieces):
        for place, words in enumerate(_cut(text).split(MARK)):
            if place:
                yield {"picture": next(numbers)}
            if words:
                yield {"text": words, "mark": mark}


def _whole_marks(pieces: Marked) -> Marked:
    """The pieces; unmarked where a difference would cut an image mark in two."""
    whole = "".join(text for text, _ in pieces)
    if sum(text.count(MARK) for text, _ in pieces) == whole.count(MARK):
        return pieces
    return [[whole, ""]]


def _cut(text: str) -> str:
    if len(text) <= _MAX_TEXT:
        return text
    return f"{text[:_MAX_TEXT]} … ({len(text) - _MAX_TEXT:,} more characters)"


def _fate(fate: Fate) -> dict[str, str]:
    value = "" if fate.value is None else shown(fate.value)
    return {
        "op": fate.op,
        "reason": fate.reason,
        "stat": fate.stat,
        "value": value,
        "bound": fate.bound,
    }


def _stats(stats: Mapping[str, Any]) -> list[list[str]]:
    return [[name, shown(value)] for name, value in list(stats.items())[:_MAX_FIELDS]]


def _extra(record: Record) -> list[list[str]]:
    found = [(name, value) for name, value in record.extra.items() if name != STATS]
    return [[name, shown(value)] for name, value in found[:_MAX_FIELDS]]


def shown(value: Any) -> str:
    """A value in a few words: numbers to four figures, lists by their items."""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e6 else f"{value:,.0f}"
    if isinstance(value, str):
        return value[:_MAX_EXTRA]
    if isinstance(value, list) and all(isinstance(v, int | float) for v in value):
        return ", ".join(shown(v) for v in value[:32])[:_MAX_EXTRA]
    return encode(value)[:_MAX_EXTRA].decode("utf-8", "replace")


def _name(path: str) -> str:
    """The file's name: enough to recognise it, without the folders of this machine."""
    return "" if path.startswith("data:") else os.path.basename(path)[:200]
