"""Texts that a language model learns alone, and which of their characters it must foresee.

A line `{"text": "USER: ... ASSISTANT: red</s>", "supervised": [[24, 31]]}` is
context but for the named character spans; a line without `supervised` is learned
whole. A text that closes itself, with the end-of-sequence token or a line feed,
gets no further end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlforge.training.tokenizer import read_texts
from vlforge.types import IGNORE_INDEX, DataError

Span = tuple[int, int]
EncodedRow = tuple[list[int], list[int], tuple[int, ...], int]
"""ids, labels, no pictures, length: as `TokenRows.of` takes it."""


@dataclass(frozen=True, slots=True)
class Text:
    """One text. `supervised` are character spans, end excluded; None is all of it."""

    text: str
    supervised: tuple[Span, ...] | None = None


def read_marked_texts(path: Path, format_name: str = "auto") -> Iterator[Text]:
    """The texts of any file that `read_texts` takes, with the spans that json lines mark.

    Raises:
        DataError: a file or line that cannot be read; spans that are no pairs in the text.
    """
    if path.suffix != ".jsonl" or not _marks_spans(path):
        yield from (Text(text) for text in read_texts(path, format_name))
        return
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _marked(line, f"{path} line {number}")


def encode_texts(texts: Sequence[Text], tokenizer: Any, longest: int) -> list[EncodedRow]:
    """Ids and labels per text: begin token, text, end token, cut at `longest` tokens.

    A token is supervised where its characters touch a span.
    """
    encoded = tokenizer(
        [text.text for text in texts], add_special_tokens=False, return_offsets_mapping=True
    )
    rows = []
    for text, found, offsets in zip(
        texts, encoded["input_ids"], encoded["offset_mapping"], strict=True
    ):
        ids = [tokenizer.bos_token_id, *found]
        labels = [ids[0] if text.supervised is None else IGNORE_INDEX]
        labels += [
            token if _touches(offset, text.supervised) else IGNORE_INDEX
            for token, offset in zip(found, offsets, strict=True)
        ]
        if not text.text.endswith(("\n", tokenizer.eos_token)):
            ids.append(tokenizer.eos_token_id)
            labels.append(tokenizer.eos_token_id)
        rows.append((ids[:longest], labels[:longest], (), len(ids[:longest])))
    return rows


def _touches(offset: Span, spans: tuple[Span, ...] | None) -> bool:
    return spans is None or any(offset[0] < end and start < offset[1] for start, end in spans)


def _marks_spans(path: Path) -> bool:
    """Whether the first line has `supervised`; a dataset's row has none."""
    try:
        with path.open(encoding="utf-8") as file:
            first = json.loads(next((line for line in file if line.strip()), "null"))
    except (OSError, ValueError):
        return False
    return isinstance(first, dict) and "text" in first and "supervised" in first


def _marked(line: str, where: str) -> Text:
    try:
        fields = json.loads(line)
        text, spans = fields["text"], fields.get("supervised")
        marked = None if spans is None else tuple((int(a), int(b)) for a, b in spans)
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{where}: not a text with [[start, end], ...] spans") from None
    if not isinstance(text, str):
        raise DataError(f"{where}: its text is not a string")
    for start, end in marked or ():
        if not 0 <= start < end <= len(text):
            raise DataError(f"{where}: span [{start}, {end}] is not within 0..{len(text)}")
    return Text(text, marked)
