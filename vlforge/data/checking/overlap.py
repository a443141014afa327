"""Keys of pictures and questions: what stands twice, and what is in another dataset."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from vlforge.data.checking.pictures import Look, Looking, key_of, look_at
from vlforge.data.checking.texts import texts_of
from vlforge.data.records import MARK, Picture, Record

NEAR_BITS = 3
"""Of 64 bits, in which perceptual hashes of one picture's copies differ at most."""
_FEWEST_WORDS = 4
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+")
_PROMPTS = re.compile(
    r"\n(?:Answer (?:the question|with)|Reference OCR token:|请直接回答|Please answer).*", re.S
)
"""What benchmarks' prompts put below the question itself."""


class NearHashes:
    """64-bit hashes, found again where at most `bits` of them differ.

    Cut into `bits + 1` pieces, two such hashes are equal in one piece at least, so only
    those that share a piece are compared.
    """

    def __init__(self, bits: int = NEAR_BITS) -> None:
        self.bits = bits
        self._width = 64 // (bits + 1)
        self._all: set[int] = set()
        self._bands: list[dict[int, list[int]]] = [{} for _ in range(bits + 1)]

    def __len__(self) -> int:
        return len(self._all)

    def add(self, number: int) -> None:
        """Keep a hash."""
        if number in self._all:
            return
        self._all.add(number)
        for at, band in enumerate(self._bands):
            band.setdefault(self._piece(number, at), []).append(number)

    def has_near(self, number: int) -> bool:
        """Whether a hash like this was added."""
        return self.nearest(number) is not None

    def nearest(self, number: int) -> int | None:
        """The hash that differs in the fewest bits; None where none is within reach."""
        if number in self._all:
            return number
        alike = (
            other
            for at, band in enumerate(self._bands)
            for other in band.get(self._piece(number, at), ())
            if (other ^ number).bit_count() <= self.bits
        )
        return min(alike, key=lambda other: ((other ^ number).bit_count(), other), default=None)

    def _piece(self, number: int, at: int) -> int:
        return number >> (at * self._width) & ((1 << self._width) - 1)


def normalised(text: str) -> str:
    """The words of a question alone: no marks, case, punctuation, widths or prompt below it."""
    plain = unicodedata.normalize("NFKC", _PROMPTS.sub("", text.replace(MARK, " ").strip()))
    return " ".join(_WORD.findall(plain.casefold()))


def question_keys(record: Record) -> Iterator[tuple[int, str]]:
    """Keys of a record's questions (of a document: of its text), short ones left out."""
    texts = [turn.text for turn in record.turns if turn.role == "user"] or texts_of(record)
    for text in texts:
        plain = normalised(text)
        if plain.count(" ") + 1 >= _FEWEST_WORDS:
            yield key_of(plain.encode("utf-8", "replace")), text


@dataclass
class Known:
    """Another dataset by the keys of its pictures and questions; nothing else of it is kept."""

    name: str
    rows: int = 0
    contents: set[int] = field(default_factory=set)
    looks: NearHashes = field(default_factory=NearHashes)
    questions: set[int] = field(default_factory=set)
    pairs: set[int] = field(default_factory=set)
    """Keys of a picture and a question together."""

    def add(self, record: Record, looks: Iterable[Look]) -> None:
        """One record of it and what was seen of its pictures."""
        self.rows += 1
        asked = [key for key, _ in question_keys(record)]
        self.questions.update(asked)
        for look in looks:
            if look.kind:
                continue
            self.contents.add(look.content)
            if look.hash is not None:
                self.looks.add(look.hash)
            self.pairs.update(look.content ^ key for key in asked)

    def leaks(self, record: Record, looks: Iterable[Look]) -> Iterator[tuple[str, str, int]]:
        """(kind, what was seen, which picture) of everything that is in both."""
        asked = list(question_keys(record))
        in_both = [(key, text) for key, text in asked if key in self.questions]
        for at, look in enumerate(looks):
            if look.kind:
                continue
            shown = _shown(record.pictures[at])
            pair = next((t for key, t in in_both if look.content ^ key in self.pairs), None)
            if pair is not None:
                yield "leaked_sample", f"in {self.name}: {shown}, {pair}", at
            elif look.content in self.contents:
                yield "leaked_image", f"in {self.name}: {shown}", at
            elif look.hash is not None and self.looks.has_near(look.hash):
                yield "leaked_look", f"in {self.name}: {shown}", at
        kind = "shared_question" if record.pictures else "leaked_question"
        for _, text in in_both[:1]:
            yield kind, f"in {self.name}: {text}", 0


def _shown(picture: Picture) -> str:
    return picture.path or "a picture in the data"


def learn(name: str, records: Iterable[Record], how: Looking) -> Known:
    """Read another dataset into its keys."""
    known = Known(name)
    for record in records:
        known.add(record, [look_at(picture, how) for picture in record.pictures])
    return known
