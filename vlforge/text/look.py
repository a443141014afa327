"""A row as the model learns it, token by token, for people to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vlforge.text.qwen_tokenizer import bytes_of
from vlforge.types import IGNORE_INDEX, IMAGE_INDEX, LLAVA_IMAGE_TOKEN

State = Literal["context", "learned", "image", "cut"]
"""What becomes of a token: read, learned, a picture, or cut away."""
SPACE = "▁"
"""How a space is shown in a piece."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token, or all that one picture takes.

    at: its first position, pictures expanded; width: positions that it takes.
    piece: its text, a space shown as ▁ and a line feed as \\n.
    """

    at: int
    width: int
    id: int
    piece: str
    state: State


def tokens_of(
    ids: Sequence[int],
    labels: Sequence[int],
    spans: Sequence[tuple[int, int]],
    piece: Callable[[int], str],
    *,
    kept: int | None = None,
) -> list[Token]:
    """Tokens with their places and pieces.

    Args:
        ids, labels: -200 where a picture stands, or pictures expanded.
        spans: (first, past last) position of each picture once expanded.
        kept: positions that are left after cutting; None keeps all.
    """
    ends = dict(spans)
    tokens: list[Token] = []
    at = index = 0
    while index < len(ids):
        end = ends.get(at)
        width = end - at if end is not None else 1
        is_image = end is not None or ids[index] == IMAGE_INDEX
        state: State = "context" if labels[index] == IGNORE_INDEX else "learned"
        if kept is not None and at + width > kept:
            state = "cut"
        elif is_image:
            state = "image"
        shown = LLAVA_IMAGE_TOKEN if is_image else piece(ids[index])
        tokens.append(Token(at, width, ids[index], shown, state))
        index += width if is_image and ids[index] != IMAGE_INDEX else 1
        at += width
    return tokens


def piece_of(tokenizer: Any) -> Callable[[int], str]:
    """How a tokenizer's tokens are shown, each by itself."""

    def piece(token: int) -> str:
        raw = str(tokenizer.convert_ids_to_tokens(token))
        if raw.startswith((SPACE, "<")):
            return _visible(raw)
        text = str(tokenizer.decode([token]))
        if "\ufffd" not in text:
            return _visible(text or raw)
        # Part of a character has no text of its own.
        own = getattr(tokenizer, "token_bytes", None)
        parts = own(token) if own else bytes_of(raw)
        return "".join(f"<0x{part:02X}>" for part in parts) if parts else _visible(raw)

    return piece


def _visible(text: str) -> str:
    shown = text.replace(" ", SPACE)
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in shown
    )


def runs_of(tokens: Sequence[Token]) -> Iterator[tuple[State, list[Token]]]:
    """Neighbours of one state together."""
    run: list[Token] = []
    for token in tokens:
        if run and token.state != run[0].state:
            yield run[0].state, run
            run = []
        run.append(token)
    if run:
        yield run[0].state, run


def first_difference(mine: Sequence[int], theirs: Sequence[int]) -> int | None:
    """The first place where two rows of ids or labels differ; None where they are equal."""
    for place, (a, b) in enumerate(zip(mine, theirs, strict=False)):
        if a != b:
            return place
    return None if len(mine) == len(theirs) else min(len(mine), len(theirs))
