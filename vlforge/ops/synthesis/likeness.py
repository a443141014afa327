"""How alike two texts are, and whether a new one keeps what the old one says."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vlforge.ops.synthesis.replies import UnfitError

_SIGN = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_SIGN}]|[^\W{_SIGN}]+")
_SIGNS = re.compile(rf"[{_SIGN}]")
_SIGN_WEIGHT = 2.5
"""Letters that say as much as one Chinese sign: English translations are so much longer."""
_NUMBER = re.compile(
    r"(?<![A-Za-z\d.])((?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?)(?!\d|[’']?s\b)"
    r"\s*(thousand|million|billion|trillion|万亿|万|萬|亿|億|千|百)?",
    re.IGNORECASE,
)
_TIMES = {
    "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12, "百": 1e2, "千": 1e3,
    "万": 1e4, "萬": 1e4, "亿": 1e8, "億": 1e8, "万亿": 1e12,
}  # fmt: skip
_SPELT = 12
"""Whole numbers up to this one may be spelt out, or be the name of a month."""
_LEAST_LENGTH = 20


def words_of(text: str) -> list[str]:
    """The words in small letters; each Chinese, Japanese and Korean sign is one."""
    return _WORD.findall(text.lower())


def rouge_l(one: Sequence[str], other: Sequence[str]) -> float:
    """F1 of the longest common subsequence of two lists of words, from 0 to 1."""
    if not one or not other:
        return 0.0
    row = [0] * (len(other) + 1)
    for word in one:
        diagonal = 0
        for column, theirs in enumerate(other, 1):
            above = row[column]
            row[column] = diagonal + 1 if word == theirs else max(above, row[column - 1])
            diagonal = above
    return 2 * row[-1] / (len(one) + len(other))


def weight(text: str) -> float:
    """The length of a text in letters, signs of Chinese and its neighbours counted as several."""
    text = "".join(text.split())
    return len(text) + (_SIGN_WEIGHT - 1) * len(_SIGNS.findall(text))


def check_length(new: str, old: str, low: float, high: float) -> None:
    """Refuse a text that is too short or too long beside the old one; short ones may be any.

    Raises:
        UnfitError: tells the ratio.
    """
    ratio = weight(new) / max(weight(old), 1.0)
    if max(weight(old), weight(new)) >= _LEAST_LENGTH and not low <= ratio <= high:
        wrong = f"the reply is {ratio:.2f} times as long as the text ({low} to {high} is right)"
        raise UnfitError(wrong, "length does not fit")


def values_of(text: str) -> set[float]:
    """The numbers of a text, `1.2 million` and `120万` being the same one."""
    found = set()
    for digits, unit in _NUMBER.findall(text):
        plain = float(digits.replace(",", ""))
        found.add(round(plain * _TIMES.get(unit.lower(), 1), 6))
    return found


def check_numbers(new: str, old: str) -> None:
    """Refuse a text that lost numbers; whole ones up to 12 may have become words.

    Raises:
        UnfitError: tells the first few.
    """
    wanted = {v for v in values_of(old) if v > _SPELT or v != int(v)}
    lost = sorted(wanted - values_of(new))
    if lost:
        told = ", ".join(f"{value:g}" if value < 1e6 else f"{value:.0f}" for value in lost[:4])
        raise UnfitError(f"the reply leaves out the numbers {told}", "numbers are lost")
