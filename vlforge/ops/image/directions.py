"""Words about the sides of a picture, in English and Chinese: found, and swapped."""

from __future__ import annotations

import functools
import re
from typing import Literal

Direction = Literal["horizontal", "vertical"]

_PAIRS: dict[str, tuple[tuple[str, str], ...]] = {
    "horizontal": (
        ("left", "right"), ("leftmost", "rightmost"), ("leftward", "rightward"),
        ("leftwards", "rightwards"), ("lefthand", "righthand"), ("west", "east"),
        ("western", "eastern"), ("clockwise", "counterclockwise"),
        ("clockwise", "anticlockwise"),
    ),
    "vertical": (
        ("top", "bottom"), ("topmost", "bottommost"), ("above", "below"), ("over", "under"),
        ("upper", "lower"), ("up", "down"), ("upward", "downward"), ("upwards", "downwards"),
        ("uppermost", "lowermost"), ("north", "south"), ("northern", "southern"),
        ("clockwise", "counterclockwise"), ("clockwise", "anticlockwise"),
    ),
}  # fmt: skip
_CHINESE = {
    "horizontal": (("左", "右"), ("西", "东"), ("逆时针", "顺时针")),
    "vertical": (("上", "下"), ("顶", "底"), ("北", "南"), ("逆时针", "顺时针")),
}
_ALONE = {
    "horizontal": (),
    "vertical": ("beneath", "underneath", "overhead", "ceiling", "sky", "upside"),
}
"""Words that tell of a side and have no other to swap with."""
_TOGETHER = ("左右", "上下", "东西", "西东")
"""About, roughly, a thing: no sides."""


def speaks_of_sides(text: str, direction: Direction) -> bool:
    """Whether a text has words that a mirrored picture would make wrong."""
    return _finder(direction, with_alone=True).search(text) is not None


def with_sides_swapped(text: str, direction: Direction) -> str:
    """The text with each such word in place of its other; how it is written is kept."""
    others = _others(direction)

    def other(found: re.Match[str]) -> str:
        word = found[0]
        if word in _TOGETHER:
            return word
        new = others[word.lower()]
        if word.isupper() and len(word) > 1:
            return new.upper()
        return new.capitalize() if word[:1].isupper() else new

    return _finder(direction, with_alone=False).sub(other, text)


@functools.cache
def _others(direction: Direction) -> dict[str, str]:
    found: dict[str, str] = {}
    for one, other in (*_PAIRS[direction], *_CHINESE[direction]):
        found.setdefault(one, other)
        found.setdefault(other, one)
    return found


@functools.cache
def _finder(direction: Direction, with_alone: bool) -> re.Pattern[str]:
    words = {word for pair in _PAIRS[direction] for word in pair}
    words |= set(_ALONE[direction]) if with_alone else set()
    signs = {sign for pair in _CHINESE[direction] for sign in pair}
    together = () if with_alone else _TOGETHER
    english = "|".join(sorted(words, key=len, reverse=True))
    chinese = "|".join((*together, *sorted(signs, key=len, reverse=True)))
    return re.compile(rf"(?<![a-z])(?:{english})(?![a-z])|{chinese}", re.I)
