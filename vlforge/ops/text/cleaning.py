"""Mappers that repair and clean texts, character by character."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from vlforge.ops.base import TextMapper
from vlforge.ops.text.expressions import undressed
from vlforge.types import RecipeError

# Blanks of every width, the zero-width ones, the object mark; line ends are left alone.
_BLANKS = (
    "\t\x84\u00a0\u202f\u205f\u2060\u3000\ufffc" + "".join(map(chr, range(0x2000, 0x200E)))
)  # fmt: skip
_BLANK = re.compile(f"[{_BLANKS}]")
_TO_SPACE = dict.fromkeys(map(ord, _BLANKS), " ")

_NOT_PLAIN_ASCII = re.compile(r"[^\n\t -%'-~]")
"""What ftfy may change: all but printable ASCII without `&`, line feeds and tabs."""

_ASCII_MARKS = {
    '"': "„”“«»「」《》",
    "'": "´’",
    ",": "，、",
    ".": "。",
    ". ": "．",
    "...": "…",
    ":": "∶：",
    ";": "；",
    "?": "？",
    "!": "！",
    "(": "（",
    ")": "）",
    "[": "【",
    "]": "】",
    "<": "〈",
    ">": "〉",
    "%": "％",
    "~": "～",
    "-": "–━►",
    " - ": "—",
}
_TO_ASCII = {ord(mark): plain for plain, marks in _ASCII_MARKS.items() for mark in marks}
_FULL_WIDTH_ONE = ord("１")

_HAN = "\u4e00-\u9fa5"
_HAN_PUNCTUATION = r".， ,\-。%《*》/•、&＆(—)（+）：？!！“”·"

_MAYBE_HAN = re.compile("[\u2e80-\U0010ffff]")
# OpenCC refuses halves of characters, and loses text behind a zero character.
_HALVES = re.compile("([\ud800-\udfff]+)")
_HALVES_AND_ZERO = re.compile("([\0\ud800-\udfff]+)")


@dataclass(frozen=True, kw_only=True)
class FixUnicodeMapper(TextMapper):
    """Repair mojibake, HTML entities, odd widths and control characters by ftfy.

    `normalization` is the Unicode form that the text ends in: NFC (also by
    default), NFKC, NFD or NFKD.
    """

    normalization: str | None = None

    def __post_init__(self) -> None:
        if self._form() not in ("NFC", "NFKC", "NFD", "NFKD"):
            raise RecipeError(
                f"fix_unicode_mapper.normalization is {self.normalization!r}: "
                "take NFC, NFKC, NFD or NFKD"
            )

    def rewrite(self, text: str) -> str:
        """The repaired text; plain ASCII is not even shown to ftfy."""
        if not _NOT_PLAIN_ASCII.search(text):
            return text
        repaired: str = _ftfy()(text, normalization=self._form())
        return repaired

    def _form(self) -> str:
        return (self.normalization or "NFC").upper()


@dataclass(frozen=True, kw_only=True)
class WhitespaceNormalizationMapper(TextMapper):
    """Turn every kind of blank into a space and trim both ends; line ends stay."""

    def rewrite(self, text: str) -> str:
        """The text with plain spaces."""
        text = text.strip()
        return text.translate(_TO_SPACE) if _BLANK.search(text) else text


@dataclass(frozen=True, kw_only=True)
class PunctuationNormalizationMapper(TextMapper):
    """Write full-width and typographic punctuation in ASCII.

    A long dash becomes ` - `, an ellipsis three dots. Data-Juicer also turns the
    full-width digit one into a double quote; here it stays, and `compat:
    data_juicer` brings that back.
    """

    def rewrite(self, text: str) -> str:
        """The text with ASCII punctuation."""
        if text.isascii():
            return text
        return text.translate(self._table)

    @functools.cached_property
    def _table(self) -> dict[int, str]:
        return _TO_ASCII | ({_FULL_WIDTH_ONE: '"'} if self.compat else {})


@dataclass(frozen=True, kw_only=True)
class RemoveSpecificCharsMapper(TextMapper):
    """Delete some characters: those of a string, or of all strings of a list."""

    chars_to_remove: str | list[str] = "◆●■►▼▲▴∆▻▷❖♡□"

    def rewrite(self, text: str) -> str:
        """The text without them."""
        return self._unwanted.sub("", text) if self.chars_to_remove else text

    @functools.cached_property
    def _unwanted(self) -> re.Pattern[str]:
        return re.compile(f"[{re.escape(''.join(self.chars_to_remove))}]+")


@dataclass(frozen=True, kw_only=True)
class RemoveNonChineseCharacterMapper(TextMapper):
    """Delete all characters but Chinese ones (U+4E00 to U+9FA5).

    ASCII letters, ASCII digits, and blanks with the usual Chinese and English
    punctuation stay too while `keep_alphabet`, `keep_number` and `keep_punc` say so.
    """

    keep_alphabet: bool = True
    keep_number: bool = True
    keep_punc: bool = True

    def rewrite(self, text: str) -> str:
        """The text without them."""
        return self._others.sub("", text)

    @functools.cached_property
    def _others(self) -> re.Pattern[str]:
        kept = _HAN + "A-Za-z" * self.keep_alphabet + "0-9" * self.keep_number
        return re.compile(f"[^{kept}{_HAN_PUNCTUATION * self.keep_punc}]+")


@dataclass(frozen=True, kw_only=True)
class ChineseConvertMapper(TextMapper):
    """Convert Chinese between its scripts by OpenCC.

    `mode` names from and to: s simplified, t traditional, tw Taiwan, hk Hong Kong,
    jp Japanese new kanji; a final p also exchanges idioms (twp). Data-Juicer may
    lose what follows a zero character; here it stays, unless `compat: data_juicer`.
    Needs opencc: `pip install 'vlforge[ops]'`.
    """

    mode: Literal[
        "s2t", "t2s", "s2tw", "tw2s", "s2hk", "hk2s", "s2twp", "tw2sp",
        "t2tw", "tw2t", "hk2t", "t2hk", "t2jp", "jp2t",
    ] = "s2t"  # fmt: skip

    def __post_init__(self) -> None:
        _opencc(self.mode)

    def rewrite(self, text: str) -> str:
        """The converted text; one that cannot hold Chinese is not even shown to OpenCC."""
        breaks = _HALVES if self.compat else _HALVES_AND_ZERO
        if not _MAYBE_HAN.search(text) and not (self.compat and "\0" in text):
            return text
        convert = _opencc(self.mode)
        if not breaks.search(text):
            return convert(text)
        parts = breaks.split(text)
        return "".join(part if n % 2 else convert(part) for n, part in enumerate(parts))


@functools.lru_cache(maxsize=64)
def compiled(pattern: str) -> re.Pattern[str]:
    """The expression, over line ends; one written as Python's r'...' loses that dress.

    Raises:
        ValueError: it is no regular expression; says where.
    """
    pattern = undressed(pattern)
    try:
        return re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from None


@functools.cache
def _ftfy() -> Any:
    from ftfy import fix_text

    return fix_text


@functools.cache
def _opencc(mode: str) -> Callable[[str], str]:
    try:
        import opencc
    except ImportError:
        raise RecipeError(
            "chinese_convert_mapper needs opencc: pip install 'vlforge[ops]'"
        ) from None
    convert: Callable[[str], str] = opencc.OpenCC(f"{mode}.json").convert
    return convert
