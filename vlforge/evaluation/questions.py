"""One question of a benchmark, whatever file it came from, and what scoring gives."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import PurePath
from typing import Any

IMAGE_MARK = "<image>"


@dataclass(frozen=True)
class Question:
    """What is asked, on which pictures, and what counts as right.

    `text` is the whole user turn. `images` are paths or the pictures' bytes; they stand
    before the text unless it holds an `<image>` for each. `options` are texts by letter
    (multiple choice), `answers` the accepted texts or the one letter. `group` ties rows that
    are scored or resampled together; `labels` are the categories that are reported apart,
    one or several of a kind. `asked` is the bare question; `facts` what else a benchmark
    knows of it (an answer's type, its precision).
    """

    id: str
    text: str
    images: tuple[str | bytes, ...] = ()
    answers: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    group: str = ""
    labels: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    asked: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def image(self) -> str | bytes | None:
        """The first picture."""
        return self.images[0] if self.images else None

    def picture_key(self) -> str:
        """Equal for rows that show the same first picture; rows without go by their group."""
        image = self.image
        if isinstance(image, bytes):
            return picture_hash(image)
        return image or self.group or self.id

    def labels_of(self, kind: str) -> tuple[str, ...]:
        """The question's categories of one kind; empty ones are none."""
        found = self.labels.get(kind, ())
        return tuple(filter(None, (found,) if isinstance(found, str) else found))

    def fingerprint(self) -> str:
        """Changes with what the model is shown: the words, and the pictures or their file names."""
        shown = "\0".join(
            picture_hash(image) if isinstance(image, bytes) else PurePath(image).name
            for image in self.images
        )
        return hashlib.sha256(f"{self.text}\0{shown}".encode()).hexdigest()[:12]


@lru_cache(maxsize=1024)
def picture_hash(image: bytes) -> str:
    """16 hex digits of a picture file's content."""
    return hashlib.sha256(image).hexdigest()[:16]


@dataclass(frozen=True)
class Score:
    """A benchmark's result.

    `fields` is its part of `metrics.json` (`score` None where the file has no
    answers), `credits` are per question or group, `extracted` what was read from
    each prediction, `problem` what strict scoring does not let pass.
    """

    fields: dict[str, Any]
    credits: dict[str, float]
    extracted: dict[str, str | None]
    problem: str | None = None
