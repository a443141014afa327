"""Texts with marks of pictures, chunks and speakers, whose words alone are given to a model."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vlforge.ops.batch import Context
from vlforge.types import LLAVA_IMAGE_TOKEN

_SPEAKER = r"^\[\[\w+\]\]: ?"
_LETTER = re.compile(r"[^\W\d_]")


def stretches(text: str, context: Context) -> list[str]:
    """A text cut into words and marks in turn; joined they are the text again.

    Stretches of words with a letter stand at even places, what has to stay as it is, white
    space around the words too, at odd ones.
    """
    marks = "|".join(map(re.escape, (context.image_token, context.eoc_token, LLAVA_IMAGE_TOKEN)))
    parts = re.split(rf"({marks}|{_SPEAKER})", text, flags=re.MULTILINE)
    found = [""]
    for at, part in enumerate(parts):
        words = part.strip()
        if at % 2 or not _LETTER.search(words):
            _add_mark(found, part)
            continue
        before, _, after = part.partition(words)
        _add_mark(found, before)
        if len(found) % 2 == 0:
            found.append("")
        found[-1] = words
        _add_mark(found, after)
    return found


def _add_mark(found: list[str], part: str) -> None:
    """Put what stays as it is behind what there is."""
    if not part:
        return
    if len(found) % 2:
        found.append(part)
    else:
        found[-1] += part


def rejoined(parts: Sequence[str], words: Sequence[str]) -> str:
    """The text with new words at the places of those that are not empty."""
    left = iter(words)
    return "".join(next(left) if at % 2 == 0 and part else part for at, part in enumerate(parts))
