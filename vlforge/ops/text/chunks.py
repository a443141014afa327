"""Cutting long texts into several rows."""

from __future__ import annotations

import functools
import os
import re
from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

from vlforge.ops.base import Grown, RowMapper, replaced
from vlforge.ops.batch import Batch
from vlforge.types import Drop, ModelError, RecipeError, Row


@dataclass(frozen=True, kw_only=True)
class TextChunkMapper(RowMapper):
    """Cut a text into several rows, at a pattern, at a length or both.

    With `split_pattern` alone (a regular expression, default an empty line) the
    text is cut wherever it matches, and parts that are blank are left out. With
    `max_len` alone it is cut every `max_len - overlap_len` characters, so that
    neighbours share `overlap_len`. With both, the text is cut at the last match
    within the next `max_len` characters, and by force, with the overlap, where
    there is none. New rows carry the other fields along; a text of which nothing
    is left is dropped.

    `tokenizer` is a folder with a `tokenizer.json`: `max_len` and `overlap_len`
    then count its tokens, special ones not counted, and parts are cut from the
    text itself. With `compat: data_juicer` parts are decoded from their tokens,
    special ones counted and included. Names of tokenizers that would have to be
    downloaded are refused.
    """

    max_len: int | None = None
    split_pattern: str | None = r"\n\n"
    overlap_len: int = 0
    tokenizer: str | None = None

    def __post_init__(self) -> None:
        if self.max_len is None and self.split_pattern is None:
            raise RecipeError("text_chunk_mapper needs max_len, split_pattern or both")
        if self.max_len is not None and self.max_len < 1:
            raise RecipeError(f"text_chunk_mapper.max_len is {self.max_len}, not 1 or more")
        if self.overlap_len < 0:
            raise RecipeError(f"text_chunk_mapper.overlap_len is {self.overlap_len}, below 0")
        if self.max_len is not None and self.overlap_len >= self.max_len:
            raise RecipeError(
                f"text_chunk_mapper.overlap_len {self.overlap_len} is not below "
                f"max_len {self.max_len}"
            )
        _pattern(self.split_pattern)
        if self.tokenizer is not None:
            object.__setattr__(self, "tokenizer", os.path.abspath(self.tokenizer))
            _backend(self.tokenizer)

    def apply(self, batch: Batch) -> list[Grown | Row | Drop]:
        out: list[Grown | Row | Drop] = []
        for item, text in zip(batch.items, batch.texts(self.text_key), strict=True):
            chunks = self.chunks(text)
            if not chunks:
                out.append(Drop("", "no text to cut"))
            elif len(chunks) == 1:
                is_whole = chunks[0] == text
                out.append(item.row if is_whole else replaced(item.row, self.text_key, chunks[0]))
            else:
                rows = (replaced(item.row, self.text_key, chunk) for chunk in chunks)
                out.append(Grown(False, tuple(rows)))
        return out

    def chunks(self, text: str) -> list[str]:
        """The parts of a text, in order."""
        if self.max_len is None:
            parts = _pattern(self.split_pattern).split(text)
            return [part for part in parts if part is not None and part.strip()]
        if self.tokenizer is not None and self.compat == "data_juicer":
            return self._decoded(text, self.max_len, _backend(self.tokenizer))
        ruler = _Ruler(text, self.tokenizer)
        if ruler.left(0) <= self.max_len:
            return [text]
        if self.split_pattern is None:
            return self._windows(ruler, self.max_len)
        return self._at_matches(ruler, self.max_len)

    def _windows(self, ruler: _Ruler, size: int) -> list[str]:
        chunks, at = [], 0
        while at < len(ruler.text):
            chunks.append(ruler.text[at : ruler.reach(at, size)])
            at = ruler.reach(at, size - self.overlap_len)
        return chunks

    def _at_matches(self, ruler: _Ruler, size: int) -> list[str]:
        chunks, at, text = [], 0, ruler.text
        while ruler.left(at) > size:
            head = text[at : ruler.reach(at, size)]
            match = _last_match(_pattern(self.split_pattern), head)
            if match is None:
                at = ruler.reach(at, size - self.overlap_len)
            else:
                head, at = head[: match.start()], at + match.end()
            if head.strip():
                chunks.append(head)
        return [*chunks, text[at:]] if at < len(text) else chunks

    def _decoded(self, text: str, size: int, backend: Any) -> list[str]:
        """Data-Juicer's way with tokens: what is cut off is decoded, and encoded again."""
        chunks: list[str] = []
        while len(ids := backend.encode(text).ids) > size:
            decode = functools.partial(backend.decode, skip_special_tokens=False)
            if self.split_pattern is None:
                starts = range(0, len(ids), size - self.overlap_len)
                return [decode(ids[start : start + size]) for start in starts]
            head = decode(ids[:size])
            match = _last_match(_pattern(self.split_pattern), head)
            left = text[match.end() :] if match else decode(ids[size - self.overlap_len :])
            head = head[: match.start()] if match else head
            if head.strip():
                chunks.append(head)
            if len(left) >= len(text):
                break
            text = left
        return [*chunks, text]


class _Ruler:
    """Lengths in a text, counted in characters or in the tokens of a tokenizer."""

    def __init__(self, text: str, tokenizer: str | None):
        self.text = text
        self._ends: list[int] | None = None
        if tokenizer is not None:
            found = _backend(tokenizer).encode(text, add_special_tokens=False).offsets
            self._ends = [end for _, end in found]
            self._ends[-1:] = [len(text)] if text else []

    def left(self, at: int) -> int:
        """How much of the text comes after character `at`."""
        if self._ends is None:
            return len(self.text) - at
        return len(self._ends) - bisect_right(self._ends, at)

    def reach(self, at: int, length: int) -> int:
        """The character where `length` (1 or more) ends that starts at `at`."""
        if self._ends is None:
            return min(at + length, len(self.text))
        last = bisect_right(self._ends, at) + length - 1
        return self._ends[last] if last < len(self._ends) else len(self.text)


def _last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """The last match in a text, unless nothing would be cut off there."""
    last = None
    for last in pattern.finditer(text):  # noqa: B007
        pass
    return last if last is not None and last.end() else None


@functools.cache
def _pattern(text: str | None) -> re.Pattern[str]:
    try:
        return re.compile(text or "")
    except re.error as error:
        raise RecipeError(
            f"text_chunk_mapper.split_pattern {text!r} is no regular expression: {error}"
        ) from None


@functools.cache
def _backend(folder: str) -> Any:
    """The tokenizer of a folder."""
    where = f"text_chunk_mapper.tokenizer {folder}"
    if not os.path.isfile(os.path.join(folder, "tokenizer.json")):
        raise RecipeError(f"{where} is no folder with a tokenizer.json: download one and name it")
    from vlforge.text.tokenizers import load_tokenizer

    try:
        return load_tokenizer(folder).backend  # type: ignore[attr-defined]
    except (ImportError, ModelError) as error:
        raise RecipeError(f"{where} cannot be read: {error}") from None
