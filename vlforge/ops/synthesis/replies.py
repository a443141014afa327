"""What a model replied, read as what it was asked for."""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")
_FENCE = re.compile(r"```(?:json|JSON)?\s*\n(.*?)```", re.DOTALL)
_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)
_LONGEST = 200_000
"""Characters of a reply that are looked at."""


class UnfitError(Exception):
    """A reply that is not what was asked for; the text tells the model what is wrong.

    `reason` is that of the row's drop record where it is about more than the form.
    """

    def __init__(self, wrong: str, reason: str = ""):
        super().__init__(wrong)
        self.reason = reason


def said(text: str) -> str:
    """A reply without the thinking that some models write before it."""
    return _THOUGHT.sub("", text[:_LONGEST]).strip()


def json_in(text: str, kind: type[T]) -> T:
    """The JSON value of a reply, bare, fenced or between other words, as `kind` wants it.

    Args:
        kind: a msgspec Struct, or a plain type such as `list[str]`.

    Raises:
        UnfitError: there is none, or it has other fields or types.
    """
    text = said(text)
    wrong = ""
    for candidate in (text, *(match.strip() for match in _FENCE.findall(text)), *_inside(text)):
        try:
            value = json.loads(candidate)
        except (ValueError, RecursionError):
            continue
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            wrong = wrong or f"the JSON does not fit: {error}"
    raise UnfitError(wrong or "the reply holds no JSON")


def _inside(text: str) -> list[str]:
    """The outermost object and the outermost list that stand between other words."""
    found = []
    for begin, end in ("{}", "[]"):
        first, last = text.find(begin), text.rfind(end)
        if 0 <= first < last:
            found.append(text[first : last + 1])
    return sorted(found, key=len, reverse=True)


def matched(text: str, pattern: str) -> Any:
    """The first find of a regular expression in a reply, `.` taking line ends too.

    Raises:
        UnfitError: there is none.
    """
    found = re.search(pattern, said(text), re.DOTALL)
    if found is None:
        raise UnfitError("the reply does not have the form that was asked for")
    return found
