"""One question of a benchmark, whatever file it came from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import PurePath
from typing import Any


@dataclass(frozen=True)
class Question:
    """What is asked, on which picture, and what counts as right.

    `text` is the whole user turn without image mark. `image` is a path or the
    picture's bytes. `options` are texts by letter (multiple choice), `answers`
    the accepted texts or the one letter. `group` ties rows that are scored or
    resampled together; `labels` are the categories that are reported apart.
    """

    id: str
    text: str
    image: str | bytes | None
    answers: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    group: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    asked: str = ""

    def picture_key(self) -> str:
        """Equal for rows that show the same picture; rows without one go by their group."""
        if isinstance(self.image, bytes):
            return picture_hash(self.image)
        return self.image or self.group or self.id

    def fingerprint(self) -> str:
        """Changes with what the model is shown: the words, and the picture or its file name."""
        shown = self.image
        shown = picture_hash(shown) if isinstance(shown, bytes) else PurePath(shown or "").name
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
