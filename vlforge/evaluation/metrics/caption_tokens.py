"""Captions to tokens, each way by its name; a score is only as good as this is said.

`ptb` is what pycocoevalcap does for English (Stanford's PTB tokeniser, punctuation gone);
`char` is usual for Chinese.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

from vlforge.evaluation.metrics.ptb import ptb_tokens
from vlforge.types import VLForgeError

_RUN = re.compile(r"[A-Za-z0-9]+(?:\.[0-9]+)?|\S")


def characters(text: str) -> str:
    """Every code point that is no white space."""
    return " ".join("".join(text.split()))


def characters_and_words(text: str) -> str:
    """Every code point, runs of ASCII letters and digits kept whole."""
    return " ".join(_RUN.findall(text))


def characters_without_marks(text: str) -> str:
    """Every letter and digit: marks of any script are gone."""
    return " ".join(one for one in "".join(text.split()) if not _is_mark(one))


def jieba_words(text: str) -> str:
    """jieba's words, its default dictionary.

    Raises:
        VLForgeError: jieba is not installed.
    """
    return " ".join(_cut(text))


def jieba_words_without_marks(text: str) -> str:
    """jieba's words but those that are all marks."""
    return " ".join(word for word in _cut(text) if not all(map(_is_mark, word)))


def jieba_then_ptb(text: str) -> str:
    """jieba's words, then as `ptb`."""
    return ptb_tokens(jieba_words(text))


def lowered(text: str) -> str:
    """Small letters, split at white space, marks left where they are."""
    return " ".join(text.lower().split())


def lowered_without_marks(text: str) -> str:
    """Small letters, blanks for marks but the apostrophe, split at white space."""
    return " ".join(re.sub(r"[^\w\s']", " ", text.lower()).split())


def as_it_is(text: str) -> str:
    """VLMEvalKit's way: no tokeniser, case and marks kept."""
    return " ".join(text.split())


TOKENISERS: dict[str, Callable[[str], str]] = {
    "ptb": ptb_tokens,
    "char": characters,
    "char-words": characters_and_words,
    "char-no-marks": characters_without_marks,
    "jieba": jieba_words,
    "jieba-no-marks": jieba_words_without_marks,
    "jieba-ptb": jieba_then_ptb,
    "lower": lowered,
    "lower-no-marks": lowered_without_marks,
    "vlmevalkit": as_it_is,
}


def tokenised(how: str, captions: Sequence[str]) -> list[str]:
    """Captions as tokens, in order; `ptb` looks at the caption that comes next as well."""
    if how == "ptb":
        return list(map(ptb_tokens, captions, [*captions[1:], ""]))
    return list(map(TOKENISERS[how], captions))


def _cut(text: str) -> Iterable[str]:
    try:
        import logging

        import jieba
    except ImportError:
        raise VLForgeError("words of Chinese need jieba: pip install jieba, or take char") from None
    jieba.setLogLevel(logging.WARNING)
    return (word for word in jieba.lcut(text) if word.strip())


def _is_mark(letter: str) -> bool:
    return unicodedata.category(letter)[0] in "PS"
