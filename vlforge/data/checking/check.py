"""Reads a whole dataset once and tells what is wrong with it; memory holds keys only."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Literal, NamedTuple

from vlforge.data.checking.findings import Findings
from vlforge.data.checking.overlap import Known, NearHashes
from vlforge.data.checking.pictures import PLAIN_MODES, Look, Looking, is_link, key_of, look_at
from vlforge.data.checking.texts import Guess, check_texts, texts_of, words_to_guess
from vlforge.data.records import Fault, Picture, Record
from vlforge.types import DataError, ProgressFn, no_progress

_AT_ONCE = 256
_THREADS = 8
_PER_TASK = 16
_UNSURE = 0.3
"""Below this probability a language is not told."""


class Labels(NamedTuple):
    """What a template and a length make of one record: tokens, and labels and pictures kept."""

    length: int
    labels: int
    kept: int
    images: int
    images_kept: int


Encode = Callable[[Record], Labels | None]
"""None for a record whose pictures cannot be read."""


@dataclass
class Training:
    """A use that the dataset is checked for, and what its texts are there."""

    name: str
    """Whose tokenizer, template and length: a stage, or the words of the command."""
    max_length: int
    encode: Encode
    on_too_long: Literal["cut", "drop", "refuse"] = "cut"
    rows: int = 0
    tokens: int = 0
    longest: int = 0
    labels: int = 0
    kept: int = 0
    cut: int = 0


@dataclass(frozen=True)
class Wanted:
    """What is looked for beside what is always looked for."""

    looking: Looking = field(default_factory=Looking)
    guess: Guess | None = None
    trainings: tuple[Training, ...] = ()
    known: tuple[Known, ...] = ()
    max_samples: int = 0
    finds_alike: bool = False


@dataclass
class Report:
    """What a dataset is and what is wrong with it."""

    findings: Findings = field(default_factory=Findings)
    rows: int = 0
    faults: int = 0
    pictures: int = 0
    """Different files, and pictures in the data."""
    shown: int = 0
    """Pictures, one that several rows show counted each time."""
    without_picture: int = 0
    with_several: int = 0
    conversations: int = 0
    turns: int = 0
    languages: Counter[str] = field(default_factory=Counter)

    @property
    def records(self) -> int:
        """Rows that could be read."""
        return self.rows - self.faults


def check_records(
    found: Iterable[Record | Fault], wanted: Wanted, progress: ProgressFn = no_progress
) -> Report:
    """Check all records of a dataset, in order.

    Args:
        found: what a format reads.
        wanted: what to look for; its `trainings` are counted up.
        progress: told the rows so far.
    """
    check = _Check(wanted)
    report = check.report
    threads = max(1, min(_THREADS, os.cpu_count() or 1))
    with ThreadPoolExecutor(threads) as pool:
        for batch in _batches(iter(found)):
            keys = [_keys(one) for one in batch]
            looks = check.look(batch, keys, pool)
            for one, own in zip(batch, keys, strict=True):
                check.see(one, own, looks)
            progress(report.rows, None, _words(report))
    if not report.records:
        report.findings.add("no_rows", 0, None, f"{report.rows} rows, none can be used")
    if wanted.max_samples and report.records > wanted.max_samples:
        text = f"{report.records:,} rows, {wanted.max_samples:,} allowed"
        report.findings.add("over_budget", 0, None, text)
    progress(report.rows, report.rows, _words(report))
    return report


def _words(report: Report) -> str:
    errors = sum(one.count for one in report.findings.of("error"))
    return f"{errors:,} errors" if errors else "no error"


def _batches(found: Iterator[Record | Fault]) -> Iterator[list[Record | Fault]]:
    while batch := list(islice(found, _AT_ONCE)):
        yield batch


def _keys(one: Record | Fault) -> list[int]:
    return [_picture_key(picture) for picture in one.pictures] if isinstance(one, Record) else []


def _picture_key(picture: Picture) -> int:
    """A key of a picture's file; of its bytes where it has none."""
    if picture.content is not None:
        return key_of(picture.content)
    place = picture.path if is_link(picture) else picture.place
    return key_of(place.encode("utf-8", "surrogatepass"))


class _Check:
    """One pass: what was seen so far, as keys."""

    def __init__(self, wanted: Wanted):
        self.wanted = wanted
        self.report = Report()
        self._contents: dict[int, int] = {}
        self._bad: dict[int, str] = {}
        self._hashes: dict[int, int] = {}
        self._lines: dict[int, int] = {}
        self._looks = NearHashes()
        self._rows: dict[int, int] = {}
        self._ids: set[int] = set()

    def look(
        self,
        batch: Sequence[Record | Fault],
        keys: Sequence[Sequence[int]],
        pool: ThreadPoolExecutor,
    ) -> dict[int, Look]:
        """Looks at the batch's pictures that were not seen before, by key."""
        new: dict[int, Picture] = {}
        for one, own in zip(batch, keys, strict=True):
            for key, picture in zip(own, getattr(one, "pictures", ()), strict=True):
                if key not in self._contents and key not in self._bad:
                    new.setdefault(key, picture)
        pictures = list(new.values())
        looking = self.wanted.looking

        def look_at_some(start: int) -> list[Look]:
            return [look_at(picture, looking) for picture in pictures[start : start + _PER_TASK]]

        some = pool.map(look_at_some, range(0, len(pictures), _PER_TASK))
        return dict(zip(new, chain.from_iterable(some), strict=True))

    def see(self, one: Record | Fault, keys: Sequence[int], looks: dict[int, Look]) -> None:
        """One record, or what is none."""
        self.report.rows += 1
        if isinstance(one, Fault):
            self.report.faults += 1
            said = f"{one.reason}: {one.value}" if one.value else one.reason
            self.report.findings.add("bad_row", one.line, None, said)
            return
        self._count(one)
        for kind, said in check_texts(one):
            self._tell(kind, one, said)
        seen = self._pictures(one, keys, looks)
        self._repeats(one, keys, seen)
        self._language(one)
        for training in self.wanted.trainings:
            self._labels(one, training)
        for known in self.wanted.known:
            for kind, said, at in known.leaks(one, seen):
                self._tell(kind, one, said, at)

    def _tell(self, kind: str, record: Record, said: str, at: int = 0) -> None:
        picture = record.pictures[at] if at < len(record.pictures) else None
        has_file = picture is not None and picture.content is None and not is_link(picture)
        place = picture.place if picture is not None and has_file else ""
        self.report.findings.add(kind, record.line, record.id, said, place)

    def _count(self, record: Record) -> None:
        report = self.report
        report.shown += len(record.pictures)
        report.without_picture += not record.pictures
        report.with_several += len(record.pictures) > 1
        report.conversations += bool(record.turns)
        report.turns += len(record.turns)

    def _pictures(self, record: Record, keys: Sequence[int], looks: dict[int, Look]) -> list[Look]:
        """What is wrong with the record's pictures; gives what was seen of each."""
        seen = []
        for at, (key, picture) in enumerate(zip(keys, record.pictures, strict=True)):
            is_new = key not in self._contents and key not in self._bad
            if is_new:
                look = looks[key]
                self._remember(key, look)
                self._new_picture(record, at, look)
            else:
                look = self._look_again(key, picture)
            if look.kind:
                self._tell(look.kind, record, look.said, at)
            seen.append(look)
        return seen

    def _look_again(self, key: int, picture: Picture) -> Look:
        """What is still known of a picture that an earlier row showed."""
        kind = self._bad.get(key)
        if kind:
            return Look(kind, picture.path)
        return Look("", "", self._contents[key], self._hashes.get(key))

    def _remember(self, key: int, look: Look) -> None:
        self.report.pictures += 1
        if look.kind:
            self._bad[key] = look.kind
            return
        self._contents[key] = look.content
        if look.hash is not None and self.wanted.known:
            self._hashes[key] = look.hash

    def _new_picture(self, record: Record, at: int, look: Look) -> None:
        if look.kind:
            return
        shown = record.pictures[at].path or "in the data"
        if look.is_turned:
            self._tell("turned_image", record, shown, at)
        if look.mode and look.mode not in PLAIN_MODES:
            self._tell("odd_mode", record, f"{look.mode}: {shown}", at)
        if look.content:
            first = self._lines.setdefault(look.content, record.line)
            if first != record.line:
                self._tell("repeated_image", record, f"{shown}, as in line {first}", at)
                return
        if look.hash is not None and self.wanted.finds_alike:
            if self._looks.has_near(look.hash):
                self._tell("alike_image", record, shown, at)
            self._looks.add(look.hash)

    def _repeats(self, record: Record, keys: Sequence[int], looks: Sequence[Look]) -> None:
        shown = [look.content or key for key, look in zip(keys, looks, strict=True)]
        key = key_of(repr((texts_of(record), shown)).encode("utf-8", "replace"))
        first = self._rows.setdefault(key, record.line)
        if first != record.line:
            said = " ".join(texts_of(record))
            self._tell("repeated_row", record, f"as line {first}: {said}")
        if record.id is None or record.id == "":
            return
        key = key_of(repr(record.id).encode("utf-8", "replace"))
        if key in self._ids:
            self._tell("repeated_id", record, str(record.id))
        self._ids.add(key)

    def _language(self, record: Record) -> None:
        words = words_to_guess(record) if self.wanted.guess else ""
        if not words or self.wanted.guess is None:
            return
        language, score = self.wanted.guess(words)
        self.report.languages[language if score >= _UNSURE else ""] += 1

    def _labels(self, record: Record, training: Training) -> None:
        """Whether the labels survive; a record whose marks are wrong was told of before."""
        if record.marks and record.marks != len(record.pictures):
            return
        if not any(text.strip() for text in texts_of(record)):
            return
        try:
            found = training.encode(record)
        except DataError as error:
            self._tell("not_encoded", record, f"{training.name}: {error}")
            return
        if found is None:
            return
        training.rows += 1
        training.tokens += found.length
        training.longest = max(training.longest, found.length)
        training.labels += found.labels
        training.kept += found.kept
        training.cut += found.length > training.max_length
        if found.length > training.max_length and training.on_too_long != "cut":
            kind = "left_out" if training.on_too_long == "drop" else "refused"
            self._tell(kind, record, f"{training.name}: {found.length} tokens")
            return
        what = f"{training.name}: {found.length} tokens cut to {training.max_length}"
        if found.labels and not found.kept:
            self._tell("labels_lost", record, f"{what}, none of {found.labels} labels left")
        elif found.kept < found.labels:
            self._tell("labels_cut", record, f"{what}, {found.kept} of {found.labels} labels left")
        if found.images_kept < found.images:
            self._tell("image_cut", record, what)
