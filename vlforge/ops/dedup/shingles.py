"""Texts cut into shingles: every run of some tokens, as a slice of one string of bytes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vlforge.types import RecipeError

Tokenization = Literal["space", "punctuation", "character", "sentencepiece"]

_CHARACTERS_AT_ONCE = 1 << 18
_SLICES_AT_ONCE = 1 << 16
_SPACE = 32
_TWO_BYTES, _THREE_BYTES, _FOUR_BYTES = 0x80, 0x800, 0x10000
"""First code points that UTF-8 writes with so many bytes."""


@dataclass(frozen=True)
class Shingles:
    """The shingles of some texts, in order.

    Attributes:
        content: bytes of all texts' tokens, separators between them.
        starts: [S] where each shingle begins in `content`.
        ends: [S] where each ends.
        counts: [R] shingles of each text; 0 where it has fewer tokens than the window.
    """

    content: bytes
    starts: Any
    ends: Any
    counts: Any

    def slices(self) -> Iterator[list[bytes]]:
        """The shingles themselves, some at a time: each is an object of its own."""
        for begin in range(0, len(self.starts), _SLICES_AT_ONCE):
            cut = slice(begin, begin + _SLICES_AT_ONCE)
            ends = self.ends[cut].tolist()
            content = self.content
            yield [content[s:e] for s, e in zip(self.starts[cut].tolist(), ends, strict=True)]


def portions(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Neighbouring texts, so many that their shingles do not fill the memory."""
    begin = size = 0
    for at, text in enumerate(texts):
        size += len(text)
        if size >= _CHARACTERS_AT_ONCE:
            yield texts[begin : at + 1]
            begin, size = at + 1, 0
    if begin < len(texts):
        yield texts[begin:]


def shingles_of(
    texts: Sequence[str], tokenization: Tokenization, window: int, model: str | None = None
) -> Shingles:
    """The runs of `window` tokens of each text, repeats included.

    Words (between blanks) and parts (between punctuation) are joined by one
    blank, characters and sentencepiece's pieces by nothing. `model` is the
    sentencepiece model's file.
    """
    if tokenization == "space":
        tokens = _words(texts)
    elif tokenization == "character":
        tokens = _characters(texts)
    elif tokenization == "punctuation":
        tokens = _parts(texts, punctuation().split, " ")
    else:
        encode = _sentencepiece(model or "").encode
        tokens = _parts(texts, lambda text: encode(text, out_type=str), "")
    return _windows(*tokens, window)


_Tokens = tuple[bytes, Any, Any, Any]
"""Bytes, [T] where tokens begin in them, [T] where they end, [R] tokens per text."""


def _windows(content: bytes, starts: Any, ends: Any, counts: Any, window: int) -> Shingles:
    runs = np.maximum(counts - window + 1, 0)
    first_token = np.cumsum(counts) - counts
    first_run = np.cumsum(runs) - runs
    at = np.arange(int(runs.sum())) + np.repeat(first_token - first_run, runs)
    return Shingles(content, starts[at], ends[at + window - 1], runs)


def _words(texts: Sequence[str]) -> _Tokens:
    rows = [_bytes(" ".join(filter(None, text.split(" ")))) for text in texts]
    content = b"".join(rows)
    lengths = _lengths(rows)
    row_ends = np.cumsum(lengths)
    gaps = np.flatnonzero(np.frombuffer(content, dtype=np.uint8) == _SPACE)
    has_words = lengths > 0
    starts = np.sort(np.concatenate(((row_ends - lengths)[has_words], gaps + 1)))
    ends = np.sort(np.concatenate((row_ends[has_words], gaps)))
    gaps_before = np.searchsorted(gaps, row_ends)
    return content, starts, ends, np.diff(gaps_before, prepend=0) + has_words


def _characters(texts: Sequence[str]) -> _Tokens:
    joined = "".join(texts)
    content = _bytes(joined)
    counts = _lengths(texts)
    if len(content) == len(joined):
        starts = np.arange(len(content))
        return content, starts, starts + 1, counts
    codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    widths = np.ones(len(codes), dtype=np.int64)
    for edge in (_TWO_BYTES, _THREE_BYTES, _FOUR_BYTES):
        widths += codes >= edge
    ends = np.cumsum(widths)
    return content, ends - widths, ends, counts


def _parts(texts: Sequence[str], split: Callable[[str], list[str]], separator: str) -> _Tokens:
    rows = [[_bytes(token) for token in split(text)] for text in texts]
    lengths = _lengths([token for row in rows for token in row])
    counts = _lengths(rows)
    between = separator.encode()
    # Rows follow each other with a separator too, which no shingle reaches.
    content = between.join(token for row in rows for token in row)
    ends = np.cumsum(lengths + len(between)) - len(between)
    return content, ends - lengths, ends, counts


def _lengths(values: Sequence[Any]) -> Any:
    return np.fromiter(map(len, values), dtype=np.int64, count=len(values))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


@functools.cache
def pattern(text: str) -> Any:
    r"""A compiled pattern of the library `regex` (it knows `\p{...}`), or of `re` without it.

    Raises:
        RecipeError: the pattern cannot be read.
    """
    import re

    try:
        import regex
    except ImportError:
        regex = None
    try:
        return (regex or re).compile(text)
    except (re.error, getattr(regex, "error", re.error)) as error:
        hint = "" if regex else "; patterns like \\p{P} need regex: pip install regex"
        raise RecipeError(f"ignore_pattern {text!r} is no pattern: {error}{hint}") from None


@functools.cache
def punctuation() -> Any:
    """The pattern of one punctuation character of any script.

    Raises:
        RecipeError: the library `regex` is not here.
    """
    try:
        import regex
    except ImportError:
        raise RecipeError("tokenization: punctuation needs regex: pip install regex") from None
    return regex.compile(r"\p{P}")


@functools.cache
def _sentencepiece(path: str) -> Any:
    check_sentencepiece(path)
    import sentencepiece

    try:
        return sentencepiece.SentencePieceProcessor(model_file=path)
    except (OSError, RuntimeError) as error:
        raise RecipeError(f"tokenizer_model {path!r} is no sentencepiece model: {error}") from None


def check_sentencepiece(path: str | None) -> None:
    """Refuse tokenization by sentencepiece without the library, or without a model's file.

    Raises:
        RecipeError: names what is missing.
    """
    if not path:
        raise RecipeError("tokenization: sentencepiece needs tokenizer_model, the model's file")
    try:
        import sentencepiece  # noqa: F401
    except ImportError:
        raise RecipeError(
            "tokenization: sentencepiece needs sentencepiece: pip install sentencepiece"
        ) from None
    if not Path(path).is_file():
        raise RecipeError(f"tokenizer_model {path!r} is no file: give a sentencepiece model")
