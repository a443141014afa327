"""Captions as MiniGPT-4's first stage prepares them before any token is made.

Source: Vision-CAIR/MiniGPT-4@22d8888 (BlipCaptionProcessor). Its prompts are in
`minigpt4_templates`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vlforge.types import RecipeError

_MARKS = re.compile(r'[.!"()*#:;~]')
_SPACES = re.compile(r"\s{2,}")


@dataclass(frozen=True)
class BlipCaption:
    """Captions in small letters, without most punctuation, cut to some words.

    The marks `. ! " ( ) * # : ; ~` become blanks, and two or more white spaces one
    blank; a lone tab or line end within stays. Words are what blanks part.

    Args:
        prompt: put before the caption once it is cut.
        max_words: words that are kept.
    """

    prompt: str = ""
    max_words: int = 50

    def __post_init__(self) -> None:
        if self.max_words < 0:
            raise RecipeError(f"max_words is {self.max_words}: take at least 0")

    def __call__(self, caption: str) -> str:
        """The prepared caption."""
        plain = _SPACES.sub(" ", _MARKS.sub(" ", caption.lower()))
        words = plain.rstrip("\n").strip(" ").split(" ")
        return self.prompt + " ".join(words[: self.max_words])
