"""Mappers that repair and clean texts."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Literal

from vlforge.ops.base import TextMapper

# A link starts with a scheme, `www.` or a domain followed by a slash; it goes on over
# characters and balanced parentheses (two deep) and does not end in punctuation.
# Source: J. Gruber, "An improved liberal, accurate regex pattern for matching URLs", 2010.
_LINK_START = r"(?:[a-z][\w-]+:(?:/{1,3}|[a-z0-9%])|www\d{0,3}[.]|[a-z0-9.\-]+[.][a-z]{2,4}/)"
_PARENTHESES = r"\((?:[^\s()<>]|\([^\s()<>]+\))*\)"
_LINK_END = "[^\\s`!()\\[\\]{};:'\".,<>?«»“”‘’]"
LINK = rf"(?i)\b{_LINK_START}(?:[^\s()<>]|{_PARENTHESES})+(?:{_PARENTHESES}|{_LINK_END})"
EMAIL = r"[A-Za-z0-9.\-+_]+@[a-z0-9.\-+_]+\.[a-z]+"

# Blanks of every width, and the zero-width space and joiners; line ends are left alone.
_BLANKS = (
    "\t\u00a0\u1680\u180e" + "".join(map(chr, range(0x2000, 0x200E))) + "\u202f\u205f\u2060\u3000"
)
_TO_SPACE = dict.fromkeys(map(ord, _BLANKS), " ")

_NOT_PLAIN_ASCII = re.compile(r"[^\n\t -%'-~]")
"""What ftfy may change: all but printable ASCII without `&`, line feeds and tabs."""


@dataclass(frozen=True, kw_only=True)
class FixUnicodeMapper(TextMapper):
    """Repair mojibake, HTML entities, odd widths and control characters by ftfy.

    `normalization` is the Unicode form that the text ends in (default NFC).
    """

    normalization: Literal["NFC", "NFKC", "NFD", "NFKD"] | None = None

    def rewrite(self, text: str) -> str:
        """The repaired text; plain ASCII is not even shown to ftfy."""
        if not _NOT_PLAIN_ASCII.search(text):
            return text
        return _ftfy()(text, normalization=self.normalization or "NFC")


@dataclass(frozen=True, kw_only=True)
class WhitespaceNormalizationMapper(TextMapper):
    """Turn every kind of blank into a space and trim both ends; line ends stay."""

    def rewrite(self, text: str) -> str:
        """The text with plain spaces."""
        return text.strip().translate(_TO_SPACE)


@dataclass(frozen=True, kw_only=True)
class CleanLinksMapper(TextMapper):
    """Replace links (http, ftp, www or a domain with a path) by `repl`."""

    pattern: str | None = None
    repl: str = ""

    def __post_init__(self) -> None:
        compiled(self.pattern or LINK)

    def rewrite(self, text: str) -> str:
        """The text without links."""
        if self.pattern is None and not (":" in text or "/" in text or "www" in text.lower()):
            return text
        return compiled(self.pattern or LINK).sub(self.repl, text)


@dataclass(frozen=True, kw_only=True)
class CleanEmailMapper(TextMapper):
    """Replace e-mail addresses by `repl`."""

    pattern: str | None = None
    repl: str = ""

    def __post_init__(self) -> None:
        compiled(self.pattern or EMAIL)

    def rewrite(self, text: str) -> str:
        """The text without addresses."""
        if self.pattern is None and "@" not in text:
            return text
        return compiled(self.pattern or EMAIL).sub(self.repl, text)


@functools.lru_cache(maxsize=64)
def compiled(pattern: str) -> re.Pattern[str]:
    """The expression, over line ends; one written as Python's r'...' loses that dress.

    Raises:
        ValueError: it is no regular expression; says where.
    """
    if len(pattern) > 3 and pattern[:2] in ("r'", 'r"') and pattern[-1] == pattern[1]:
        pattern = pattern[2:-1]
    try:
        return re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from None


@functools.cache
def _ftfy():  # type: ignore[no-untyped-def]
    from ftfy import fix_text

    return fix_text
