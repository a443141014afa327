"""Made rows for every format: a caption, a dialogue of two rounds, a small picture."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from data_parts.captions import caption
from PIL import Image

PICTURES = 64
SIDE = 64


class Made(NamedTuple):
    """One row."""

    number: int
    caption: str
    question: str
    answer: str
    picture: str
    """The picture's name."""


def made_rows(count: int) -> Iterator[Made]:
    """Row 0 to `count - 1`, each time the same."""
    for number in range(count):
        said = " ".join(caption(number).split())
        question, answer = f"What can be seen in picture {number}?", f"There is {said}"
        yield Made(number, said, question, answer, f"{number // 10_000:05d}/{number:09d}.jpg")


def content(number: int) -> bytes:
    """The jpeg of a row, about 4 KB: one of a few, with a tail of its own behind its end."""
    return _jpeg(number % PICTURES) + number.to_bytes(8, "big")


@cache
def _jpeg(number: int) -> bytes:
    noise = random.Random(number).randbytes(3 * SIDE * SIDE)
    file = io.BytesIO()
    Image.frombytes("RGB", (SIDE, SIDE), noise).save(file, "jpeg", quality=55)
    return file.getvalue()
